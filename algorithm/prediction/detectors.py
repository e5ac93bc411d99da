"""Members that find boxes: their boxes in a study, and the detection map of an ensemble of them.

Every member sees the study once. An ensemble's boxes are those of its members, clustered together by the mean of their
rules. They are brought to the reference image first and painted there, so that no interpolation blurs their edges or
joins two of them. What is painted and how a case is scored cannot be averaged: there the members' rules have to agree,
or the user chooses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from algorithm.prediction.bundle import Bundle, MemberNetworks
from contract.errors import OncoduetError
from contract.images.volume import Float32Array, Volume
from contract.records import Member, read_record
from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides, require_levels
from network.detection.clustering import BoxPostprocessing, BoxShape, CaseScore, ScoredBoxes
from network.detection.painting import paint_boxes
from network.detection.whole_study import Detector, RawDetections, find_boxes
from network.inference.sliding_window import Networks, NotFiniteError, Streamed
from network.machine.device import Precision
from network.preprocessing.nnunet_preprocessing import NetworkGrid, patch_size_zyx
from network.study.placement import Placement


@dataclass(frozen=True)
class BoxChoice:
    """How boxes become a map and a likelihood; None: as the members' rules say."""

    fill: BoxShape | None = None
    case_score: CaseScore | None = None

    def __str__(self) -> str:
        return "_".join(each for each in (self.fill, self.case_score) if each)


AS_IN_RULES = BoxChoice()


@dataclass(frozen=True)
class BoxMembers:
    """Members that find boxes, on one device."""

    bundle: Bundle
    members: tuple[Member, ...]
    networks: MemberNetworks
    rules: Mapping[str, BoxPostprocessing]
    """Postprocessing by member name."""
    device: torch.device
    segmentation: bool = False
    """Whether a study's segmentations are averaged too, for boxes that are painted with them."""

    def find(
        self,
        data: torch.Tensor,
        grid: NetworkGrid,
        *,
        mirror_axes: Sequence[int],
        name: str,
        precision: Precision = "fp32",
        streamed: bool = False,
        at_a_time: int | None = None,
    ) -> "StudyBoxes":
        """Search a study.

        Raises ``OncoduetError``: weights are not those that the bundle names, or a member gives NaN.

        Parameters
        ----------
        data
            The preprocessed study, on the device.
        grid
            Where it is on the study grid.
        name
            The study's, for errors.
        precision
            What the networks compute in.
        streamed
            Whether one member after the other is loaded and dropped; the bits are the same.
        at_a_time
            As of :func:`network.detection.whole_study.find_boxes`.
        """
        every = range(len(self.members))
        turns = [[number] for number in every] if streamed else [list(every)]
        networks = self.networks.streamed() if streamed else self.networks.resident()
        search = partial(
            self._search,
            networks,
            data,
            mirror_axes=mirror_axes,
            name=name,
            precision=precision,
            at_a_time=at_a_time,
        )
        found = RawDetections.of_all([search(turn) for turn in turns])
        return StudyBoxes(self.bundle, tuple(each.name for each in self.members), self.rules, found, grid)

    def _search(
        self,
        networks: Networks,
        data: torch.Tensor,
        turn: Sequence[int],
        *,
        mirror_axes: Sequence[int],
        name: str,
        precision: Precision,
        at_a_time: int | None,
    ) -> RawDetections:
        """What some members find. A function of its own, so that they are gone before the next ones are loaded."""
        plans, patch_size = self.bundle.plans, patch_size_zyx(self.bundle.plans)
        plan_of = [self._anchors(self.members[number]) for number in turn]
        detectors = [
            Detector(
                networks.load(number) if isinstance(networks, Streamed) else networks[number],
                anchors_of_patch(anchors, level_strides(plans), patch_size, device=self.device),
            )
            for number, anchors in zip(turn, plan_of, strict=True)
        ]
        try:
            return find_boxes(
                detectors,
                data,
                patch_size=patch_size,
                score_threshold=min(rule.score_threshold for rule in self.rules.values()),
                mirror_axes=mirror_axes,
                lesion_class=self.bundle.card.lesion_index if self.segmentation else None,
                precision=precision,
                at_a_time=at_a_time,
            )
        except NotFiniteError as error:
            file = self.bundle.folder / self.members[turn[error.member]].file
            raise OncoduetError(file, expected=f"finite boxes for study {name}", found=nan_in(precision)) from None

    @property
    def most_features(self) -> int:
        """Numbers that the heads of the member with the most anchors give per voxel of a patch."""
        strides = level_strides(self.bundle.plans)
        counts = [0]
        for anchors in map(self._anchors, self.members):
            require_levels(anchors, strides)
            per_position = 7 * len(anchors.sizes_voxels_zyx)  # a logit and six deltas each
            counts.append(sum(math.ceil(per_position / math.prod(strides[level])) for level in anchors.levels))
        return max(counts)

    def _anchors(self, member: Member) -> AnchorPlan:
        assert member.anchors_file is not None
        return read_record(self.bundle.folder / member.anchors_file, AnchorPlan)


@dataclass(frozen=True)
class StudyBoxes:
    """What the members found in one study, on the network's grid."""

    bundle: Bundle
    names: tuple[str, ...]
    rules: Mapping[str, BoxPostprocessing]
    """Postprocessing by member name."""
    found: RawDetections
    grid: NetworkGrid

    def on_study_grid(self, members: Sequence[Member]) -> ScoredBoxes:
        """Boxes of some members together, by falling score, in voxels of the study grid."""
        chosen = [self.names.index(member.name) for member in members]
        clustered = self.found.clustered(mean_rule([self.rules[member.name] for member in members]), chosen)
        boxes = self.grid.boxes_to_study_grid(clustered.boxes)
        return ScoredBoxes(boxes, clustered.scores, clustered.weights)

    def painted(self, members: Sequence[Member], placement: Placement, choice: BoxChoice = AS_IN_RULES) -> Volume:
        """Detection map of some members together on the reference grid; see :mod:`network.detection.painting`."""
        fill = ensemble_rule(self.bundle, members, self.rules, choice).fill
        found = self.on_study_grid(members)
        painted = paint_boxes(
            ScoredBoxes(placement.boxes_to_reference(found.boxes), found.scores, found.weights),
            placement.reference.shape_zyx,
            fill=fill,
            segmentation=self._segmented(members, placement) if fill == "segmentation" else None,
        )
        return placement.as_in_file(painted)

    def _segmented(self, members: Sequence[Member], placement: Placement) -> Float32Array:
        """Mean lesion probability by the segmentation heads, on the reference image along the card's axes."""
        mean = self.found.segmented([self.names.index(member.name) for member in members])
        return placement.to_reference(self.grid.to_study_grid(mean[None])[0])


def nan_in(precision: Precision) -> str:
    """What was found of a network without finite results, for messages."""
    return "NaN" if precision == "fp32" else f"NaN in {precision}; --precision fp32 has a larger range or more digits"


def load_box_members(
    bundle: Bundle, members: Sequence[Member], device: torch.device, choices: Sequence[BoxChoice] = (AS_IN_RULES,)
) -> BoxMembers:
    """Read the members' rules; their networks are loaded on first use.

    Parameters
    ----------
    choices
        The only ones that will be asked for.
    """
    rules = {
        member.name: BoxPostprocessing()
        if member.box_rule_file is None
        else read_record(bundle.folder / member.box_rule_file, BoxPostprocessing)
        for member in members
    }
    segmentation = any((choice.fill or rule.fill) == "segmentation" for choice in choices for rule in rules.values())
    return BoxMembers(
        bundle, tuple(members), MemberNetworks(bundle, members, device), rules, device, segmentation=segmentation
    )


def ensemble_rule(
    bundle: Bundle, members: Sequence[Member], rules: Mapping[str, BoxPostprocessing], choice: BoxChoice
) -> BoxPostprocessing:
    """The rule of an ensemble: numbers are averaged over its members; the rest is as chosen, or as they agree on.

    Raises ``OncoduetError``: fill, case score or its ``k`` differ between members, and none was chosen.

    Parameters
    ----------
    rules
        By the members' names.
    """
    chosen = {name: each for name, each in [("fill", choice.fill), ("case_score", choice.case_score)] if each}
    own = {member.name: rules[member.name].model_copy(update=chosen) for member in members}
    first = members[0].name
    for what in ("fill", "case_score", "k"):
        for name, rule in own.items():
            expected, found = getattr(own[first], what), getattr(rule, what)
            if found != expected:
                raise OncoduetError(
                    bundle.folder,
                    expected=f"one {what} in the box rules of members that are clustered together",
                    found=f"{expected} in {first} and {found} in {name}",
                )
    return mean_rule(list(own.values()))


def mean_rule(rules: Sequence[BoxPostprocessing]) -> BoxPostprocessing:
    """The rule of several members: each number by which boxes are clustered is the mean, the rest as in the first."""
    means = {
        name: sum(float(getattr(rule, name)) for rule in rules) / len(rules)
        for name in ("score_threshold", "cluster_iou", "minimum_size_voxels")
    }
    return rules[0].model_copy(update=means)
