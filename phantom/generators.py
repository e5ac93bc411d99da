"""Which generator makes which studies: found by the channels' names, so that a card of any name gets its phantoms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from contract.cards import Card
from contract.errors import OncoduetError
from phantom import bpmri
from phantom.cohort import CasePlan, Population
from phantom.study import PhantomStudy


class Draw(Protocol):
    """Draw one study of a population; the same generator state gives the same study."""

    def __call__(
        self, *, plan: CasePlan, population: Population, lesion_value: int, rng: np.random.Generator
    ) -> PhantomStudy:
        """The study; ``lesion_value`` marks lesions in its label map."""
        ...


@dataclass(frozen=True)
class Generator:
    """How the studies of one kind of imaging are made."""

    draw: Draw
    case_column: str
    """The marksheet's column that says YES or NO."""


GENERATORS: Mapping[frozenset[str], Generator] = {
    frozenset({"t2w", "adc", "hbv"}): Generator(bpmri.draw_study, case_column="case_csPCa"),
}


def generator_for(card: Card) -> Generator:
    """The generator of a card's channels.

    Raises
    ------
    OncoduetError
        No generator makes these channels.
    """
    generator = GENERATORS.get(frozenset(card.channel_names))
    if generator is None:
        known = " or ".join(", ".join(sorted(channels)) for channels in GENERATORS)
        raise OncoduetError(
            f"card {card.name!r}: expected the channels {known} for phantoms, found {', '.join(card.channel_names)}"
        )
    return generator
