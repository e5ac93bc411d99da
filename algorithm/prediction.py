"""A study's lesion probability by the members of a bundle, all of them resident.

The study is read and preprocessed once and every window is predicted by every member; members are averaged on the
network's own grid, and only the average is brought to the reference image. A batch therefore asks for as many ensembles
as it likes at the price of one pass.

For a card that first locates an organ the same is done twice: the networks of stage 1 see the whole scan coarsely and
give the region that those of stage 2 see.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from algorithm.bundle import Bundle, load_networks
from contract.cards import Card
from contract.errors import OncoduetError
from contract.records import Member
from contract.volume import Box, Float32Array, Volume
from network.localisation import keep_near, predicted_region
from network.preprocessing import Preprocessed, patch_size_zyx, preprocess, to_study_grid
from network.sliding_window import NotFiniteError, ensemble_probabilities
from network.study import Scan, StudyImage, read_scan, stack, to_reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """Members with their weights, on one device."""

    bundle: Bundle
    members: tuple[Member, ...]
    networks: tuple[torch.nn.Module, ...]
    device: torch.device
    mirroring: bool
    locator: "Predictor | None" = None
    """Stage 1, where the card first locates an organ."""

    def predict(self, channels: Mapping[str, Path], *, name: str) -> "StudyPrediction":
        """Predict one study with every member.

        Raises
        ------
        OncoduetError
            The study cannot be read (see ``network.study.read_scan``), or a member gives no finite probability.
        """
        card = self.bundle.card
        scan = read_scan(card, channels, name=name)
        if self.locator is None or card.localisation is None:
            return self._predict(stack(card, scan), name=name)
        region = self.locator.locate(card, scan)
        if region is None:
            logger.warning(
                "study %s: no %s found (%s)", name, card.localisation.organ, _NOT_FOUND[card.localisation.not_found]
            )
            if card.localisation.not_found == "zero":
                return StudyPrediction(self.bundle, stack(card, scan), None, {})
        return self._predict(stack(card, scan, region=region), name=name)

    def locate(self, card: Card, scan: Scan) -> Box | None:
        """The region around the organ that these networks see in a scan, by the card of the whole; None without any."""
        coarse = stack(self.bundle.card, scan)
        found = self._predict(coarse, name=scan.name).on_study_grid(self.members)[0]
        return predicted_region(card, found, coarse.grid, scan.reference)

    def _predict(self, study: StudyImage, *, name: str) -> "StudyPrediction":
        bundle = self.bundle
        preprocessed = preprocess(study.array, study.spacing_mm_zyx, plans=bundle.plans, dataset=bundle.dataset)
        try:
            maps = ensemble_probabilities(
                self.networks,
                torch.from_numpy(preprocessed.data).to(self.device),
                ensembles=[[index] for index in range(len(self.members))],
                groups=_groups(bundle.card),
                patch_size=patch_size_zyx(bundle.plans),
                mirror_axes=(0, 1, 2) if self.mirroring else (),
            )
        except NotFiniteError as error:
            file = bundle.folder / self.members[error.member].file
            raise OncoduetError(f"{file}: expected finite probabilities for study {name}, found NaN") from None
        by_name = {member.name: each.numpy() for member, each in zip(self.members, maps, strict=True)}
        return StudyPrediction(bundle, study, preprocessed, by_name)


@dataclass(frozen=True)
class StudyPrediction:
    """Probabilities of one study, per member, on the network's grid."""

    bundle: Bundle
    study: StudyImage
    preprocessed: Preprocessed | None
    """None: no organ was found, and nothing was searched."""
    by_member: Mapping[str, Float32Array]
    """Shape (group, z, y, x): the lesion, and where the card asks for it the classes near which a lesion is kept."""

    def ensemble(self, members: Sequence[Member]) -> Volume:
        """Arithmetic mean of some members' lesion probabilities, on the reference grid."""
        card = self.bundle.card
        if self.preprocessed is None:
            return to_reference(card, np.zeros(self.study.grid.shape_zyx, np.float32), self.study)
        lesion, *nearby = self.on_study_grid(members)
        if card.keep_near is not None:
            lesion = keep_near(card.keep_near, lesion, nearby[0])
        return to_reference(card, lesion, self.study)

    def on_study_grid(self, members: Sequence[Member]) -> Float32Array:
        """Arithmetic mean of some members' probabilities, shape (group, z, y, x)."""
        assert self.preprocessed is not None
        several = np.stack([self.by_member[member.name] for member in members])
        mean = several.mean(axis=0, dtype=np.float64).astype(np.float32)
        return to_study_grid(mean, self.preprocessed, plans=self.bundle.plans)


def load_predictor(bundle: Bundle, members: Sequence[Member], *, mirroring: bool | None = None) -> Predictor:
    """Load members, and the networks of stage 1, onto the GPU where there is one, else the CPU.

    Parameters
    ----------
    mirroring
        Whether to average over mirrored copies; None: as the card says.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stage1 = bundle.localisation
    return Predictor(
        bundle=bundle,
        members=tuple(members),
        networks=tuple(load_networks(bundle, members, device)),
        device=device,
        mirroring=bundle.card.test_time_mirroring if mirroring is None else mirroring,
        locator=None if stage1 is None else load_predictor(stage1, stage1.record.members, mirroring=mirroring),
    )


_NOT_FOUND = {"whole": "the whole scan is searched", "zero": "the likelihood is 0"}


def _groups(card: Card) -> list[tuple[int, ...]]:
    """Which classes' probabilities are summed: the lesion's, and those near which a lesion is kept."""
    if card.keep_near is None:
        return [(card.lesion_index,)]
    names = [each.name for each in card.classes]
    return [(card.lesion_index,), tuple(1 + names.index(name) for name in card.keep_near.classes)]
