"""Members of a bundle that find boxes: what they find in a study, and the map that an ensemble of them gives.

Every member sees the study once. An ensemble's boxes are those of its members clustered together, as if one more member
were one more look, by the mean of their rules; they are brought to the reference image first and painted there, so that
no interpolation blurs their edges or joins two of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from algorithm.bundle import Bundle, MemberNetworks
from contract.errors import OncoduetError
from contract.records import Member, read_record
from contract.volume import Volume
from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.clustering import BoxRule, ScoredBoxes
from network.detection.maps import detection_map
from network.detection.prediction import Detector, Found, find_boxes
from network.preprocessing import Preprocessed, boxes_to_study_grid, patch_size_zyx
from network.sliding_window import NotFiniteError
from network.study import StudyImage, along_card, as_in_file, boxes_to_reference


@dataclass(frozen=True)
class BoxMembers:
    """Members that find boxes, on one device."""

    bundle: Bundle
    members: tuple[Member, ...]
    networks: MemberNetworks
    rules: tuple[BoxRule, ...]
    device: torch.device

    def find(
        self, data: torch.Tensor, preprocessed: Preprocessed, *, mirror_axes: Sequence[int], name: str
    ) -> "StudyBoxes":
        """Search a study.

        Parameters
        ----------
        data, preprocessed
            The preprocessed study, on the device and with all that the way back needs.
        name
            The study's, for errors.

        Raises
        ------
        OncoduetError
            Weights are not those that the bundle names, or a member gives numbers that are none.
        """
        plans = self.bundle.plans
        patch_size = patch_size_zyx(plans)
        detectors = [
            Detector(network, anchors_of_patch(anchors, level_strides(plans), patch_size, device=self.device))
            for network, anchors in zip(self.networks.resident(), map(self._anchors, self.members), strict=True)
        ]
        threshold = min(rule.score_threshold for rule in self.rules)
        try:
            found = find_boxes(
                detectors, data, patch_size=patch_size, score_threshold=threshold, mirror_axes=mirror_axes
            )
        except NotFiniteError as error:
            file = self.bundle.folder / self.members[error.member].file
            raise OncoduetError(f"{file}: expected finite boxes for study {name}, found NaN") from None
        without_voxels = replace(preprocessed, data=preprocessed.data[:, :0, :0, :0].copy())
        return StudyBoxes(self.bundle, tuple(each.name for each in self.members), self.rules, found, without_voxels)

    def _anchors(self, member: Member) -> AnchorPlan:
        assert member.anchors_file is not None
        return read_record(self.bundle.folder / member.anchors_file, AnchorPlan)


@dataclass(frozen=True)
class StudyBoxes:
    """What the members found in one study, on the network's grid."""

    bundle: Bundle
    names: tuple[str, ...]
    rules: tuple[BoxRule, ...]
    found: Found
    preprocessed: Preprocessed
    """Without voxels."""

    def on_study_grid(self, members: Sequence[Member]) -> ScoredBoxes:
        """Boxes of some members together, by falling score, in voxels of the study grid."""
        chosen = [self.names.index(member.name) for member in members]
        clustered = self.found.clustered(mean_rule([self.rules[index] for index in chosen]), chosen)
        boxes = boxes_to_study_grid(clustered.boxes, self.preprocessed, plans=self.bundle.plans)
        return ScoredBoxes(boxes, clustered.scores, clustered.weights)

    def painted(self, members: Sequence[Member], study: StudyImage) -> Volume:
        """Detection map of some members together on the reference grid; see :mod:`network.detection.maps`."""
        card = self.bundle.card
        found = self.on_study_grid(members)
        boxes = boxes_to_reference(card, found.boxes, study)
        reference = along_card(card, study.reference)
        painted = detection_map(ScoredBoxes(boxes, found.scores, found.weights), reference.shape_zyx)
        return as_in_file(card, painted, study)


def load_box_members(bundle: Bundle, members: Sequence[Member], device: torch.device) -> BoxMembers:
    """Read the members' rules; their networks are loaded on first use."""
    rules = [
        BoxRule() if member.box_rule_file is None else read_record(bundle.folder / member.box_rule_file, BoxRule)
        for member in members
    ]
    return BoxMembers(bundle, tuple(members), MemberNetworks(bundle, members, device), tuple(rules), device)


def mean_rule(rules: Sequence[BoxRule]) -> BoxRule:
    """The rule of an ensemble: each number is the mean over its members."""
    return BoxRule(
        **{
            name: sum(float(getattr(rule, name)) for rule in rules) / len(rules)
            for name in ("score_threshold", "cluster_iou", "minimum_size_voxels")
        }
    )
