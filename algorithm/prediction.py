"""A study's lesion probability by the members of a bundle, all of them resident.

The study is read and preprocessed once and every window is predicted by every member; members are averaged on the
network's own grid, and only the average is brought to the reference image. A batch therefore asks for as many ensembles
as it likes at the price of one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from algorithm.bundle import Bundle, load_networks
from contract.errors import OncoduetError
from contract.records import Member
from contract.volume import Float32Array, Volume
from network.preprocessing import Preprocessed, patch_size_zyx, preprocess, to_study_grid
from network.sliding_window import member_probabilities
from network.study import StudyImage, read_study, to_reference


@dataclass(frozen=True)
class Predictor:
    """Members with their weights, on one device."""

    bundle: Bundle
    members: tuple[Member, ...]
    networks: tuple[torch.nn.Module, ...]
    device: torch.device
    mirroring: bool

    def predict(self, channels: Mapping[str, Path], *, name: str) -> "StudyPrediction":
        """Predict one study with every member.

        Raises
        ------
        OncoduetError
            The study cannot be read (see ``network.study.read_study``), or a member gives no finite probability.
        """
        bundle = self.bundle
        study = read_study(bundle.card, channels, name=name)
        preprocessed = preprocess(study.array, study.spacing_mm_zyx, plans=bundle.plans, dataset=bundle.dataset)
        probabilities = member_probabilities(
            self.networks,
            torch.from_numpy(preprocessed.data).to(self.device),
            patch_size=patch_size_zyx(bundle.plans),
            mirror_axes=(0, 1, 2) if self.mirroring else (),
        )
        lesion: Float32Array = probabilities[:, bundle.card.lesion_index].cpu().numpy()
        for member, each in zip(self.members, lesion, strict=True):
            if not np.isfinite(each).all():
                raise OncoduetError(
                    f"{bundle.folder / member.file}: expected finite probabilities for study {name}, found NaN"
                )
        by_name = {member.name: each for member, each in zip(self.members, lesion, strict=True)}
        return StudyPrediction(bundle, study, preprocessed, by_name)


@dataclass(frozen=True)
class StudyPrediction:
    """Lesion probability of one study, per member, on the network's grid."""

    bundle: Bundle
    study: StudyImage
    preprocessed: Preprocessed
    by_member: Mapping[str, Float32Array]

    def ensemble(self, members: Sequence[Member]) -> Volume:
        """Arithmetic mean of some members' probabilities, on the reference grid."""
        several = np.stack([self.by_member[member.name] for member in members])
        mean = several.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        on_study_grid = to_study_grid(mean, self.preprocessed, plans=self.bundle.plans)
        return to_reference(self.bundle.card, on_study_grid[0], self.study)


def load_predictor(bundle: Bundle, members: Sequence[Member], *, mirroring: bool | None = None) -> Predictor:
    """Load members onto the GPU where there is one, else the CPU.

    Parameters
    ----------
    mirroring
        Whether to average over mirrored copies; None: as the card says.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(
        bundle=bundle,
        members=tuple(members),
        networks=tuple(load_networks(bundle, members, device)),
        device=device,
        mirroring=bundle.card.test_time_mirroring if mirroring is None else mirroring,
    )
