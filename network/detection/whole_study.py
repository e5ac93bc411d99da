"""Boxes of a whole study: from overlapping tiles, mirrored copies and several members, clustered.

Where the segmentation heads are asked for too, their answer comes from the same passes (:mod:`.segmentation`).

Tiles are the windows of :mod:`network.inference.sliding_window`, half a patch apart, and as many per pass as there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from contract.images.grid import Box
from contract.images.volume import Float32Array
from network.detection.clustering import BoxPostprocessing, ScoredBoxes, cluster, expected_predictions, joined
from network.detection.retina_unet import DetectorOutput
from network.detection.segmentation import AveragedSegmentation
from network.detection.tiles import boxes_of_tiles
from network.inference.passes import computed_in_order, one_thread_each
from network.inference.sliding_window import window_slices, windows_per_pass
from network.machine.device import Precision
from network.machine.malloc import freed_memory_kept
from network.machine.precision import computing_in


@dataclass(frozen=True)
class Detector:
    """One member."""

    network: nn.Module
    """Network with a :class:`network.detection.retina_unet.DetectorOutput`, in evaluation mode, on the device of the
    data."""
    anchors: Sequence[Tensor]
    """Anchors of a patch, on the device of the data; see :func:`network.detection.anchors.anchors_of_patch`."""


@dataclass(frozen=True)
class RawDetections:
    """What members found in the tiles and mirrored copies of a study, before it is clustered."""

    by_member: tuple[ScoredBoxes, ...]
    """Findings of each member in voxels of the study, cut at its edges."""
    tiles: Sequence[Box]
    copies: int
    """Mirrored copies of each tile, the tile itself included."""
    segmentations: tuple[Float32Array, ...] = ()
    """Lesion probability of each member's segmentation head, shape (z, y, x); empty unless requested."""

    @classmethod
    def of_all(cls, parts: Sequence["RawDetections"]) -> "RawDetections":
        """What several members found in the same tiles and copies, searched in turns."""
        boxes = tuple(each for part in parts for each in part.by_member)
        return replace(parts[0], by_member=boxes, segmentations=tuple(s for part in parts for s in part.segmentations))

    def clustered(self, rule: BoxPostprocessing, members: Sequence[int] | None = None) -> ScoredBoxes:
        """Boxes of some members together, by falling score; None: of all."""
        chosen = range(len(self.by_member)) if members is None else members
        together = joined([self.by_member[member] for member in chosen])
        expected = expected_predictions(together.boxes, self.tiles, copies=self.copies * len(chosen))
        return cluster(together, rule, expected=expected)

    def segmented(self, members: Sequence[int]) -> Float32Array:
        """Arithmetic mean of some members' lesion probability by their segmentation heads, shape (z, y, x)."""
        if not self.segmentations:
            raise ValueError("the segmentations were not asked for")
        mean = self.segmentations[members[0]].copy()
        for member in members[1:]:
            mean += self.segmentations[member]
        mean /= np.float32(len(members))
        return mean


@torch.inference_mode()
@freed_memory_kept()
def find_boxes(
    detectors: Sequence[Detector],
    data: Tensor,
    *,
    patch_size: tuple[int, int, int],
    score_threshold: float = 0.0,
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    batch: int | None = None,
    lesion_class: int | None = None,
    precision: Precision = "fp32",
    at_a_time: int | None = None,
) -> RawDetections:
    """What each member finds, so that any of them may be clustered together, by any rule.

    Parameters
    ----------
    data
        Preprocessed study, shape (channel, z, y, x), float32.
    patch_size
        The networks' input (z, y, x); a smaller study is padded with zeros at its upper ends.
    score_threshold
        Boxes with a greater score are kept; no rule that is applied afterwards may ask for less.
    mirror_axes
        Axes of (z, y, x) to mirror along, in all combinations.
    step
        Distance of tiles as a fraction of the patch, in (0, 1].
    batch
        Tiles per pass; None: as :func:`network.inference.sliding_window.windows_per_pass` says.
    lesion_class
        Class of the segmentation heads whose probability is averaged too; None: they are not looked at.
    precision
        Of the networks' arithmetic; boxes, scores and segmentations are made in float32 always.
    at_a_time
        As of :func:`network.inference.sliding_window.ensemble_probabilities`.

    Raises
    ------
    NotFiniteError
        A network gave NaN or infinite logits, deltas or segmentations; its index is named.
    """
    batch = batch or windows_per_pass(data.device)
    shape = data.shape[1:]
    missing = [max(0, patch - length) for patch, length in zip(patch_size, shape, strict=True)]
    padded = nn.functional.pad(data, [side for length in reversed(missing) for side in (0, length)])
    tiles = window_slices(padded.shape[1:], patch_size, step)
    copies = [axes for count in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, count)]
    parts: list[list[ScoredBoxes]] = [[] for _ in detectors]
    averaged = None if lesion_class is None else AveragedSegmentation(padded, patch_size, copies=len(copies))
    groups = [tiles[first : first + batch] for first in range(0, len(tiles), batch)]
    segmentations: tuple[Float32Array, ...] = ()
    with one_thread_each(padded.device) as threads:
        mirrored = _mirrored(padded, [_filled(some, batch) for some in groups], copies)
        computed = computed_in_order(
            _passes(detectors, mirrored, precision), at_a_time=min(at_a_time or threads, threads)
        )
        for some in groups:
            for axes, (member, detector) in itertools.product(copies, enumerate(detectors)):
                output = next(computed)
                found = boxes_of_tiles(
                    output,
                    detector.anchors,
                    patch_size,
                    origins_zyx=[[axis.start for axis in tile] for tile in _filled(some, batch)],
                    mirror_axes=axes,
                    score_threshold=score_threshold,
                    member=member,
                )
                parts[member] += found[: len(some)]
                if averaged is not None:
                    averaged.add(member, output.segmentation, some, mirror_axes=axes)
            if averaged is not None:
                averaged.count(some)
        if averaged is not None and lesion_class is not None:
            segmentations = averaged.probabilities(lesion_class, shape)
    return RawDetections(tuple(_inside(joined(own), shape) for own in parts), tiles, len(copies), segmentations)


def _mirrored(padded: Tensor, groups: Iterable[Sequence[Box]], copies: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Each mirrored copy of each group of tiles, shape (batch, channel, z, y, x)."""
    for tiles in groups:
        patches = torch.stack([padded[(slice(None), *tile)] for tile in tiles])
        for axes in copies:
            yield torch.flip(patches, [axis + 2 for axis in axes])


def _passes(
    detectors: Sequence[Detector], mirrored: Iterable[Tensor], precision: Precision
) -> Iterator[Callable[[], DetectorOutput]]:
    """Every pass of every detector."""

    def output(network: nn.Module, patches: Tensor) -> DetectorOutput:
        with computing_in(precision, patches.device.type):
            found: DetectorOutput = network(patches)
            return found

    for patches in mirrored:
        for detector in detectors:
            yield partial(output, detector.network, patches)


def _filled(tiles: Sequence[Box], batch: int) -> list[Box]:
    """The last one is repeated until there are enough."""
    return [*tiles, *[tiles[-1]] * (batch - len(tiles))]


def _inside(found: ScoredBoxes, shape_zyx: Sequence[int]) -> ScoredBoxes:
    """Boxes cut at the study's edges, without those beyond."""
    boxes = np.clip(found.boxes, 0, np.tile(shape_zyx, 2))
    left = np.flatnonzero((boxes[:, 3:] > boxes[:, :3]).all(axis=1))
    return ScoredBoxes(boxes, found.scores, found.weights).only(left)
