"""Boxes in voxels: overlap, the code relative to an anchor, clipping and mirroring.

One convention holds everywhere: a box is (z0, y0, x0, z1, y1, x1), the lower corner first, in voxels of its
array. Coordinates are edges, not centres: voxel i reaches from i to i + 1, so a lesion of the voxels 3, 4 and 5
has the box [3, 6) on that axis, and the box of a whole array of shape (z, y, x) is (0, 0, 0, z, y, x). A box without
extent on some axis is degenerate: its volume and its overlap with any box are 0.

(nnDetection's boxes begin one voxel earlier, at 2 in the example: add 1 to its lower corners.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_LOG_GROWTH = math.log(1000 / 16)
"""Logarithm of the largest ratio of a decoded box to its anchor, so that no exponential overflows; the customary bound,
from Detectron."""


def sizes(boxes: Tensor) -> Tensor:
    """Extents of boxes (..., 6) along (z, y, x), shape (..., 3); never negative."""
    return (boxes[..., 3:] - boxes[..., :3]).clamp_min(0)


def centres(boxes: Tensor) -> Tensor:
    """Centres of boxes (..., 6), shape (..., 3)."""
    return (boxes[..., :3] + boxes[..., 3:]) / 2


def volumes(boxes: Tensor) -> Tensor:
    """Volumes of boxes (..., 6) in voxels, shape (...)."""
    return sizes(boxes).prod(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each first box with its second, in [0, 1].

    Parameters
    ----------
    first, second
        Boxes (..., 6) whose leading axes are broadcast: ``iou(a[:, None], b[None])`` compares all with all.
    """
    intersection, union = _overlap(first, second)
    return torch.where(union > 0, intersection / union.clamp_min(_tiny(union)), 0.0)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union of each first box with its second, in [-1, 1].

    The IoU less the share of the smallest enclosing box that neither covers, so that boxes that do not meet have a
    gradient too. Where the enclosing box has no volume the result is 0.

    Source: Rezatofighi et al., CVPR 2019.
    """
    intersection, union = _overlap(first, second)
    corners = torch.cat([torch.minimum(first, second)[..., :3], torch.maximum(first, second)[..., 3:]], dim=-1)
    enclosing = volumes(corners)
    tiny = _tiny(union)
    covered = union / enclosing.clamp_min(tiny)
    overlap = torch.where(union > 0, intersection / union.clamp_min(tiny), 0.0)
    return torch.where(enclosing > 0, overlap - 1 + covered, 0.0)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 6) from deltas and their anchors.

    A delta is the centre's shift along z, y, x in anchor sizes, and the logarithms of the sizes' ratios, whose growth
    is bounded.
    """
    anchor_sizes = sizes(anchors)
    centre = centres(anchors) + deltas[..., :3] * anchor_sizes
    half = anchor_sizes * deltas[..., 3:].clamp_max(LARGEST_LOG_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """Cut boxes (..., 6) at the edges of an array; a box outside becomes degenerate."""
    upper = torch.tensor([*shape_zyx, *shape_zyx], dtype=boxes.dtype).to(boxes.device, non_blocking=True)
    return torch.minimum(boxes.clamp_min(0), upper)


def large_enough(boxes: Tensor, minimum_voxels: float) -> Tensor:
    """Whether each of the boxes (..., 6) has more than a minimal extent on every axis; degenerate ones never have."""
    return (sizes(boxes) > max(minimum_voxels, 0)).all(dim=-1)


def mirror(boxes: Tensor, shape_zyx: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Boxes (..., 6) as they are once an array of this shape is mirrored along some of the axes 0 (z), 1 (y), 2 (x)."""
    mirrored = boxes.clone()
    for axis in axes:
        mirrored[..., axis] = shape_zyx[axis] - boxes[..., axis + 3]
        mirrored[..., axis + 3] = shape_zyx[axis] - boxes[..., axis]
    return mirrored


def _overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Volumes of intersection and union, in voxels."""
    lower = torch.maximum(first[..., :3], second[..., :3])
    upper = torch.minimum(first[..., 3:], second[..., 3:])
    intersection = (upper - lower).clamp_min(0).prod(dim=-1)
    return intersection, volumes(first) + volumes(second) - intersection


def _tiny(values: Tensor) -> float:
    return float(torch.finfo(values.dtype).tiny)
