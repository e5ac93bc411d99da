"""Boxes of a whole study, from detectors that see tiles: tiles that overlap, mirrored copies and members, clustered.

Tiles are the windows of :mod:`network.sliding_window`, half a patch apart. Every pass has the same number of tiles, the
last one too (by repetition): on one thread PyTorch takes a slower convolution for a single tile.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from network.allocation import freed_memory_kept
from network.detection.clustering import BoxRule, ScoredBoxes, cluster, expected_predictions, joined
from network.detection.tiles import boxes_of_tiles
from network.sliding_window import BATCH, window_slices


@dataclass(frozen=True)
class Detector:
    """One member."""

    network: nn.Module
    """Gives a :class:`network.detection.architecture.DetectorOutput`; in evaluation mode, on the device of the data."""
    anchors: Sequence[Tensor]
    """Of a patch, on the device of the data; see :func:`network.detection.anchors.anchors_of_patch`."""


@torch.inference_mode()
@freed_memory_kept()
def predict_boxes(
    detectors: Sequence[Detector],
    data: Tensor,
    *,
    patch_size: tuple[int, int, int],
    rule: BoxRule,
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    batch: int = BATCH,
) -> ScoredBoxes:
    """Find the boxes of a study.

    Parameters
    ----------
    data
        Preprocessed study, shape (channel, z, y, x), float32.
    patch_size
        The networks' input (z, y, x); a smaller study is padded with zeros at its upper ends.
    rule
        Which predictions count and how they are clustered.
    mirror_axes
        Axes of (z, y, x) to mirror along, in all combinations.
    step
        Distance of tiles as a fraction of the patch, in (0, 1].
    batch
        Tiles per pass.

    Returns
    -------
    By falling score, in voxels of ``data``, cut at its edges.

    Raises
    ------
    NotFiniteError
        A network gave NaN or infinite logits or deltas; its index is named.
    """
    shape = data.shape[1:]
    missing = [max(0, patch - length) for patch, length in zip(patch_size, shape, strict=True)]
    padded = nn.functional.pad(data, [side for length in reversed(missing) for side in (0, length)])
    tiles = window_slices(padded.shape[1:], patch_size, step)
    copies = [axes for count in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, count)]
    parts = []
    for first in range(0, len(tiles), batch):
        some = tiles[first : first + batch]
        filled = [*some, *[some[-1]] * (batch - len(some))]
        patches = torch.stack([padded[(slice(None), *tile)] for tile in filled])
        for axes in copies:
            mirrored = torch.flip(patches, [axis + 2 for axis in axes])
            for member, detector in enumerate(detectors):
                found = boxes_of_tiles(
                    detector.network(mirrored),
                    detector.anchors,
                    patch_size,
                    origins_zyx=[[axis.start for axis in tile] for tile in filled],
                    mirror_axes=axes,
                    score_threshold=rule.score_threshold,
                    member=member,
                )
                parts += found[: len(some)]
    together = joined(parts)
    boxes = np.clip(together.boxes, 0, np.tile(shape, 2))
    inside = np.flatnonzero((boxes[:, 3:] > boxes[:, :3]).all(axis=1))
    study = ScoredBoxes(boxes, together.scores, together.weights).only(inside)
    expected = expected_predictions(study.boxes, tiles, copies=len(copies) * len(detectors))
    return cluster(study, rule, expected=expected)
