"""The generator of a card's studies, found by the channels' names, so that a card of any name has phantoms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from contract.card import Card
from contract.errors import OncoduetError
from phantom import abdomen, ct, mri, prostate
from phantom.cohort import CasePlan, LesionVolumes, Population
from phantom.study import LabelValues, PhantomStudy


class Draw(Protocol):
    """Draw one study of a population; the same generator state gives the same study."""

    def __call__(
        self, *, plan: CasePlan, population: Population, values: LabelValues, rng: np.random.Generator
    ) -> PhantomStudy:
        """The study; ``values`` are those of its label map."""
        ...


@dataclass(frozen=True)
class Generator:
    """How the studies of one kind of imaging are made, and shown on the sample sheet."""

    draw: Draw
    case_column: str
    """Marksheet column that says whether a case has a lesion, YES or NO."""
    volumes: LesionVolumes
    windows_by_channel: Mapping[str, tuple[float, float]]
    """Values shown as black and as white, by channel; a channel without a unit is absent and shown by its own range."""
    shown_volume_ml: float
    """The sheet shows lesions of about this volume."""
    shown_distractor: str
    """The kind of distractor that is most like a lesion."""


GENERATORS: Mapping[frozenset[str], Generator] = {
    frozenset({"t2w", "adc", "hbv"}): Generator(
        mri.draw_study,
        case_column="case_csPCa",
        volumes=prostate.LESION_VOLUMES,
        windows_by_channel={"adc": (500.0, 2000.0)},
        shown_volume_ml=1.5,
        shown_distractor="inflammation",
    ),
    frozenset({"ct"}): Generator(
        ct.draw_study,
        case_column="case_PDAC",
        volumes=abdomen.LESION_VOLUMES,
        windows_by_channel={"ct": (-60.0, 200.0)},
        shown_volume_ml=6.0,
        shown_distractor="pancreatitis",
    ),
}


def generator_for(card: Card) -> Generator:
    """The generator of a card's channels. Raises ``OncoduetError``: no generator makes these channels."""
    generator = GENERATORS.get(frozenset(card.channel_names))
    if generator is None:
        known = " or ".join(", ".join(sorted(channels)) for channels in GENERATORS)
        raise OncoduetError(
            f"card {card.name!r}", expected=f"the channels {known} for phantoms", found=", ".join(card.channel_names)
        )
    return generator
