"""A study's lesion probability by the members of a bundle.

The study is read and preprocessed once and every window is predicted by every member; members are averaged on the
network's own grid, and only the average is brought to the reference image. A batch can therefore ask for many ensembles
at the price of one pass. Members that find boxes (``algorithm.prediction.detectors``) give a map of their own; where an
ensemble holds both kinds, the two maps are averaged, weighted with their numbers of members. Before a study is read,
its memory is planned (``network.inference.memory_plan``); where memory is short, members or windows take turns.

For a card that first locates an organ the same is done twice: the networks of stage 1 see the whole scan coarsely and
give the region that those of stage 2 see.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from algorithm.prediction.bundle import Bundle, MemberNetworks
from algorithm.prediction.detectors import (
    AS_IN_RULES,
    BoxChoice,
    BoxMembers,
    StudyBoxes,
    ensemble_rule,
    load_box_members,
    nan_in,
)
from algorithm.prediction.measured_precision import log_error
from algorithm.prediction.options import DEFAULTS, PredictionOptions
from contract.archive.studies import read_grids
from contract.card import Card, Localisation
from contract.errors import OncoduetError
from contract.images.grid import Box, Grid
from contract.images.volume import Float32Array, Volume
from contract.records import Member
from contract.text import one_line
from network.detection.clustering import BoxPostprocessing
from network.inference.memory_plan import MemoryPlan, StudySize, host_bytes, leaner_way, plan_memory, quickest_way
from network.inference.sliding_window import NotFiniteError, ensemble_probabilities, windows_per_pass
from network.inference.slowdown import slowdown
from network.machine.device import free_device_memory, out_of_memory
from network.machine.memory import held_bytes, memory_budget
from network.preprocessing.nnunet_preprocessing import (
    NetworkGrid,
    Preprocessed,
    most_features,
    network_size,
    patch_size_zyx,
    preprocess,
)
from network.study.localisation import keep_near, organ_region
from network.study.placement import Placement
from network.study.scan import Scan, read_scan, stack

logger = logging.getLogger(__name__)

LEANER = "fewer members (--members), or another device (--device cpu), take less"
"""Advice for when memory is too small even for the leanest plan."""
Names = tuple[str, ...]


@dataclass(frozen=True)
class Predictor:
    """Members with their weights, on one device."""

    bundle: Bundle
    members: tuple[Member, ...]
    segmenting: tuple[Member, ...]
    """Members that segment."""
    networks: MemberNetworks
    """Networks of the members that segment."""
    box_members: BoxMembers
    """Members that find boxes."""
    options: PredictionOptions
    ensembles: tuple[tuple[Member, ...], ...]
    """Ensembles whose members' averages are kept of each study; from members that find boxes everything is kept."""
    locator: "Predictor | None" = None
    """Network of stage 1, if the card locates an organ first."""

    @property
    def mirroring(self) -> bool:
        """Whether a study is predicted with mirrored copies."""
        return self.options.mirrors(self.bundle.card)

    def predict(self, channels: Mapping[str, Path], *, name: str, way: MemoryPlan | None = None) -> "StudyPrediction":
        """Predict one study with every member.

        Raises ``OncoduetError``: the study needs more memory than there is, cannot be read (see
        ``network.study.scan.read_scan``), or a member gives no finite probability.

        Parameters
        ----------
        way
            How to go through the members and windows; None: the quickest that fits into memory.
        """
        return self.predict_read(self.read(channels, name=name, way=way))

    def read(
        self, channels: Mapping[str, Path], *, name: str, alone: bool = True, way: MemoryPlan | None = None
    ) -> "ReadStudy":
        """What needs no network: a study's images, and for a card without stage 1 also their preprocessing.

        Raises ``OncoduetError`` as :meth:`predict`.

        Parameters
        ----------
        alone
            Whether no other study is in memory. Else the caller knows that this one fits with the others
            (:meth:`most_bytes`), and how to go through members and windows is decided when its turn has come.
        way
            As of :meth:`predict`.
        """
        card = self.bundle.card
        headers = _Headers.read(card, channels, name=name)
        placement = Placement.of(card, headers.native)
        if self.locator is None:
            if alone:
                way = way or self._way(headers, placement)
            prepared = self._prepare(read_scan(card, channels, name=name), placement)
            return ReadStudy(headers, placement, prepared, None, way)
        coarse_way = way
        if alone:
            coarse_way = way or self.locator._way(headers, Placement.of(self.locator.bundle.card, headers.native))
        return ReadStudy(headers, placement, None, read_scan(card, channels, name=name), coarse_way)

    def predict_read(self, study: "ReadStudy", *, way: MemoryPlan | None = None) -> "StudyPrediction":
        """Predict a study that was read with every member. Raises ``OncoduetError`` as :meth:`predict`.

        Parameters
        ----------
        way
            As of :meth:`predict`; of the study's stage 2.
        """
        card, headers, placement = self.bundle.card, study.headers, study.placement
        if study.prepared is not None:
            way = way or study.way or self._way(headers, placement, is_read=True, own_bytes=study.held_bytes)
            return self._predict(study.take_prepared(), way)
        assert self.locator is not None
        name, scan = headers.name, study.take_scan()
        coarse = Placement.of(self.locator.bundle.card, headers.native)
        coarse_way = study.way or self.locator._way(headers, coarse, is_read=True, own_bytes=_bytes_of(scan))
        stage = card.localisation
        assert stage is not None
        region = self.locator._locate(stage, scan, coarse, coarse_way)
        if region is None:
            logger.warning("study %s: no %s found; %s", name, stage.organ, _NOT_FOUND[stage.not_found])
            if stage.not_found == "zero":
                return StudyPrediction(self.bundle, placement, scan.content_sha256, None, {}, None)
        else:
            placement = Placement.of(card, headers.native, region=region)
        way = way or self._way(headers, placement, is_read=True)
        prepared = self._prepare(scan, placement)
        del scan
        return self._predict(prepared, way)

    def most_bytes(self, channels: Mapping[str, Path], *, name: str) -> int:
        """The most that a study ever takes in the main memory, by the quickest way, beyond the weights that are loaded.

        Raises ``OncoduetError``: an image is missing or is none.
        """
        headers = _Headers.read(self.bundle.card, channels, name=name)
        on_gpu = self.options.device == "cuda"
        of_stages = [
            host_bytes(each._work(headers, Placement.of(each.bundle.card, headers.native)), way, on_gpu=on_gpu)
            for each in (self, self.locator)
            if each is not None
            for way in [quickest_way(len(each.members), torch.device(self.options.device), self._threads)]
        ]
        return max(of_stages) - (0 if on_gpu else self._kept_bytes)

    def _locate(self, stage: Localisation, scan: Scan, placement: Placement, way: MemoryPlan) -> Box | None:
        """The region around the organ that these networks see in a scan; None where they see none."""
        prediction = self._predict(self._prepare(scan, placement), way)
        return organ_region(stage, prediction.on_study_grid(self.members)[0], placement)

    def _prepare(self, scan: Scan, placement: Placement) -> "_Prepared":
        """Stack and preprocess a scan where it is placed."""
        array = stack(scan, placement)
        name, content = scan.name, scan.content_sha256
        del scan
        preprocessed = preprocess(array, placement.spacing_mm_zyx, plans=self.bundle.plans, dataset=self.bundle.dataset)
        return _Prepared(name, content, placement, preprocessed)

    def _predict(self, prepared: "_Prepared", way: MemoryPlan) -> "StudyPrediction":
        name, grid = prepared.name, prepared.preprocessed.grid
        kept = prepared.placement.kept_box()
        region = None if kept is None else grid.region_of(kept)
        leaner = leaner_way(way, members=len(self.members))
        try:
            boxes, by_names = self._by(way, prepared.preprocessed, region=region, name=name)
            return StudyPrediction(self.bundle, prepared.placement, prepared.content_sha256, grid, by_names, boxes)
        except (MemoryError, RuntimeError) as error:
            if leaner is None or not out_of_memory(error):
                raise
            logger.warning("study %s: memory ran out (%s); the next way: %s", name, one_line(str(error)), leaner)
        free_device_memory()  # out here, where the error no longer holds it
        return self._predict(prepared, leaner)

    def _by(
        self, way: MemoryPlan, preprocessed: Preprocessed, *, region: Box | None, name: str
    ) -> tuple[StudyBoxes | None, dict[Names, Float32Array]]:
        """Boxes and the ensembles' probabilities by one memory plan, which may need more memory than there is."""
        data = torch.from_numpy(preprocessed.data).to(self.options.device)
        mirror_axes = (0, 1, 2) if self.mirroring else ()
        boxes = None
        if self.box_members.members:
            boxes = self.box_members.find(
                data,
                preprocessed.grid,
                mirror_axes=mirror_axes,
                name=name,
                precision=self.options.precision,
                streamed=way.streamed,
                at_a_time=way.at_a_time,
            )
        return boxes, self._probabilities(way, data, region=region, mirror_axes=mirror_axes, name=name)

    def _probabilities(
        self,
        way: MemoryPlan,
        data: torch.Tensor,
        *,
        region: Box | None,
        mirror_axes: Sequence[int],
        name: str,
    ) -> dict[Names, Float32Array]:
        """Probabilities of the ensembles that segment, on the network's grid."""
        if not self.ensembles:
            return {}
        bundle = self.bundle
        networks = self.networks.streamed() if way.streamed else self.networks.resident()
        index = {member.name: position for position, member in enumerate(self.segmenting)}
        try:
            mean_of = ensemble_probabilities(
                networks,
                data,
                ensembles=[[index[member.name] for member in ensemble] for ensemble in self.ensembles],
                groups=_groups(bundle.card),
                patch_size=patch_size_zyx(bundle.plans),
                mirror_axes=mirror_axes,
                batch=way.batch,
                at_once=way.at_once,
                at_a_time=way.at_a_time,
                region=region,
                precision=self.options.precision,
            )
        except NotFiniteError as error:
            file = bundle.folder / self.segmenting[error.member].file
            found = nan_in(self.options.precision)
            raise OncoduetError(file, expected=f"finite probabilities for study {name}", found=found) from None
        return {
            tuple(member.name for member in ensemble): each.numpy()
            for ensemble, each in zip(self.ensembles, mean_of, strict=True)
        }

    def box_rule(self, members: Sequence[Member], choice: BoxChoice = AS_IN_RULES) -> BoxPostprocessing | None:
        """The rule of an ensemble's boxes, which also says how a case is scored; None where no member finds any.

        Raises ``OncoduetError``: the rules of members that find boxes contradict each other.
        """
        finding = [member for member in members if member.anchors_file is not None]
        return ensemble_rule(self.bundle, finding, self.box_members.rules, choice) if finding else None

    def work(self, channels: Mapping[str, Path]) -> StudySize:
        """What the need of memory of a whole study depends on, from the headers of its images.

        Raises ``OncoduetError``: an image is missing or is none.
        """
        card = self.bundle.card
        headers = _Headers.read(card, channels, name=channels[card.geometry.reference].name)
        return self._work(headers, Placement.of(card, headers.native))

    def _work(self, headers: "_Headers", placement: Placement, *, is_read: bool = False) -> StudySize:
        bundle = self.bundle
        return StudySize(
            channels=headers.sizes_zyx,
            reference=placement.reference.shape_zyx,
            study=placement.grid.shape_zyx,
            network=network_size(placement.grid.shape_zyx, placement.spacing_mm_zyx, plans=bundle.plans),
            patch_size=patch_size_zyx(bundle.plans),
            classes=len(bundle.card.classes) + 1,
            features=max(most_features(bundle.plans), self.box_members.most_features),
            members=len(self.members),
            member_bytes=max(self.networks.member_bytes, self.box_members.networks.member_bytes),
            outputs=len(self.ensembles) * len(_groups(bundle.card)),
            segmentations=len(self.box_members.members) if self.box_members.segmentation else 0,
            is_read=is_read,
        )

    @property
    def _kept_bytes(self) -> int:
        """Of the members' weights, what is loaded."""
        return self.networks.kept_bytes + self.box_members.networks.kept_bytes

    def _way(
        self, headers: "_Headers", placement: Placement, *, is_read: bool = False, own_bytes: int = 0
    ) -> MemoryPlan:
        """Memory plan of a study with this placement, whose images may have been read already.

        Parameters
        ----------
        own_bytes
            Of what the process holds, this study's part.
        """
        work = self._work(headers, placement, is_read=is_read)
        if any(length * _SMALL < patch for length, patch in zip(work.network, work.patch_size, strict=True)):
            logger.warning(
                "study %s: its images fill %s of the %s voxels (z, y, x) that the network sees at once; of so small a "
                "part of a patient the likelihood says little",
                headers.name,
                *(" × ".join(map(str, size)) for size in (work.network, work.patch_size)),
            )
        return plan_memory(
            work,
            memory_budget(self.options.memory_gb),
            held=held_bytes() - own_bytes,
            kept=self._kept_bytes,
            name=headers.name,
            device=torch.device(self.options.device),
            threads=self._threads,
        )

    @property
    def _threads(self) -> int:
        """Threads for passes on the CPU."""
        return torch.get_num_threads() if self.options.device == "cpu" else 1


@dataclass(frozen=True)
class _Headers:
    """The headers of a study's images, before a voxel is read."""

    name: str
    sizes_zyx: Sequence[tuple[int, int, int]]
    """Sizes of the channels in the card's order."""
    native: Grid
    """Grid of the reference channel."""

    @classmethod
    def read(cls, card: Card, channels: Mapping[str, Path], *, name: str) -> "_Headers":
        grids = read_grids(name, {channel: channels[channel] for channel in card.channel_names}, card.geometry)
        return cls(name, [grid.shape_zyx for grid in grids.values()], grids[card.geometry.reference])


@dataclass(frozen=True)
class _Prepared:
    """A study as the networks of one stage see it."""

    name: str
    content_sha256: str
    placement: Placement
    preprocessed: Preprocessed


@dataclass
class ReadStudy:
    """A study before the networks see it; its contents are handed over once, so that no second reference keeps them."""

    headers: _Headers
    placement: Placement
    prepared: _Prepared | None
    scan: Scan | None
    """For a card that first locates an organ: the images, which are not preprocessed yet."""
    way: MemoryPlan | None
    """Decided before the images were read; None: that comes later."""

    @property
    def held_bytes(self) -> int:
        """Memory that it takes now."""
        return self.prepared.preprocessed.data.nbytes if self.prepared else _bytes_of(self.scan) if self.scan else 0

    def take_prepared(self) -> _Prepared:
        """Give away what is preprocessed."""
        prepared, self.prepared = self.prepared, None
        assert prepared is not None
        return prepared

    def take_scan(self) -> Scan:
        """Give away the images."""
        scan, self.scan = self.scan, None
        assert scan is not None
        return scan


@dataclass(frozen=True)
class StudyPrediction:
    """Lesion probability of one study, per ensemble, on the network's grid."""

    bundle: Bundle
    placement: Placement
    content_sha256: str
    """Hash of the reference channel's voxels; see :func:`network.study.scan.content_sha256`."""
    grid: NetworkGrid | None
    """The network's grid; None: no organ was found, and nothing was searched."""
    by_names: Mapping[Names, Float32Array]
    """Probabilities, shape (group, z, y, x), by the names of an ensemble's members; single members in the bundle's
    order. Groups are the lesion and, where the card asks for it, the classes near which a lesion is kept."""
    boxes: StudyBoxes | None
    """Findings of the members that find boxes; None: there are none, or nothing was searched."""

    def ensemble(self, members: Sequence[Member], choice: BoxChoice = AS_IN_RULES) -> Volume:
        """Some members together, on the reference grid.

        Members that segment give the arithmetic mean of their lesion probabilities, members that find boxes the map of
        their clustered boxes; both kinds together the mean of the two, weighted with their numbers of members.

        Raises ``OncoduetError``: the rules of members that find boxes contradict each other.

        Parameters
        ----------
        choice
            What boxes paint; one of those that the predictor was loaded for.
        """
        if self.grid is None:
            return self.placement.to_file(np.zeros(self.placement.grid.shape_zyx, np.float32))
        segmenting = [member for member in members if member.anchors_file is None]
        finding = [member for member in members if member.anchors_file is not None]
        if not finding:
            return self._segmented(segmenting)
        assert self.boxes is not None
        painted = self.boxes.painted(finding, self.placement, choice)
        if not segmenting:
            return painted
        segmented = self._segmented(segmenting)
        weighted = len(segmenting) * np.asarray(segmented.array, np.float32)
        weighted += len(finding) * np.asarray(painted.array, np.float32)
        return Volume(weighted / np.float32(len(members)), segmented.grid)

    def _segmented(self, members: Sequence[Member]) -> Volume:
        rule = self.bundle.card.keep_near
        lesion, *nearby = self.on_study_grid(members)
        if rule is not None:
            lesion = keep_near(rule, lesion, nearby[0])
        return self.placement.to_file(lesion)

    def on_study_grid(self, members: Sequence[Member]) -> Float32Array:
        """Arithmetic mean of some members' probabilities, shape (group, z, y, x)."""
        assert self.grid is not None
        names = tuple(member.name for member in members)
        mean = self.by_names.get(names)
        if mean is None:
            # In the order and the arithmetic of the sliding window, so that both ways give the same bits.
            chosen = [each for single, each in self.by_names.items() if len(single) == 1 and single[0] in names]
            if len(chosen) != len(names):
                raise ValueError(f"the predictor kept no average of {', '.join(names)}")
            mean = chosen[0].copy()
            for each in chosen[1:]:
                mean += each
            mean /= np.float32(len(chosen))
        return self.grid.to_study_grid(mean)


def load_predictor(
    bundle: Bundle,
    members: Sequence[Member],
    options: PredictionOptions = DEFAULTS,
    *,
    ensembles: Sequence[Sequence[Member]] | None = None,
    choices: Sequence[BoxChoice] = (AS_IN_RULES,),
) -> Predictor:
    """Load members, and the networks of stage 1.

    Raises ``OncoduetError``: the weights do not fit into memory, are not those that the bundle names, or do not fit the
    plans' network; or the rules of members that find boxes together contradict each other.

    Parameters
    ----------
    ensembles
        The only ensembles that will be asked for; None: any, for which every member's own probability is kept.
    choices
        The only ways that will be asked for in which boxes become maps.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = torch.device(options.device)
    segmenting = _segmenting(members)
    singles = tuple((member,) for member in segmenting)
    asked = singles if ensembles is None else [_segmenting(ensemble) for ensemble in ensembles]
    wanted = tuple(dict.fromkeys(ensemble for ensemble in asked if ensemble))
    networks = MemberNetworks(bundle, segmenting, device, options.precision)
    box_members = load_box_members(bundle, [each for each in members if each not in segmenting], device, choices)
    budget = memory_budget(options.memory_gb)
    for each in (networks, box_members.networks):
        if held_bytes() + 2 * len(each) * each.member_bytes < budget.total:
            _load_if_there_is_room(each)  # weights that are wrong show before the first study
    locator = None
    if bundle.localisation is not None:
        locating = bundle.localisation.record.members
        locator = load_predictor(bundle.localisation, locating, options, ensembles=[locating])
    predictor = Predictor(
        bundle=bundle,
        members=tuple(members),
        segmenting=segmenting,
        networks=networks,
        box_members=box_members,
        options=options,
        ensembles=singles if len(wanted) > len(singles) else wanted,
        locator=locator,
    )
    for ensemble in ensembles or ():
        for choice in choices:
            predictor.box_rule(ensemble, choice)  # rules that contradict each other show before the first study
    return predictor


def remark_on_precision(predictor: Predictor) -> None:
    """Log how far the precision is from fp32, as far as it was measured; on the CPU warn where it is slower, too."""
    precision, device = predictor.options.precision, predictor.options.device
    log_error(predictor.bundle, precision)
    loaded = [each for each in (predictor.networks, predictor.box_members.networks) if each.kept_bytes]
    if precision == "fp32" or device != "cpu" or not loaded:
        return
    patch = patch_size_zyx(predictor.bundle.plans)
    patches = torch.zeros((windows_per_pass(torch.device(device)), len(predictor.bundle.card.channels), *patch))
    times = slowdown(loaded[0][0], patches, precision)
    if times > _SLOWER:
        logger.warning("%s takes %.1f times as long as fp32 on this CPU, for this network", precision, times)


def _load_if_there_is_room(networks: MemberNetworks) -> None:
    """Load weights that are going to stay; where memory runs out, each study finds a way with the memory there is."""
    try:
        networks.resident()
        return
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        logger.warning("%d members do not fit into memory together (%s)", len(networks), one_line(str(error)))
    networks.streamed()
    free_device_memory()


_SLOWER = 1.1
"""Less may be noise."""
_SMALL = 4
"""Ratio of window to study size, along any axis, from which the study is logged."""
_NOT_FOUND = {"whole": "the whole scan is searched", "zero": "the likelihood is 0"}


def _groups(card: Card) -> list[tuple[int, ...]]:
    """Which classes' probabilities are summed: the lesion's, and those near which a lesion is kept."""
    if card.keep_near is None:
        return [(card.lesion_index,)]
    names = [each.name for each in card.classes]
    return [(card.lesion_index,), tuple(1 + names.index(name) for name in card.keep_near.classes)]


def _bytes_of(scan: Scan) -> int:
    return sum(volume.array.nbytes for volume in scan.channels.values())


def _segmenting(members: Sequence[Member]) -> tuple[Member, ...]:
    return tuple(member for member in members if member.anchors_file is None)
