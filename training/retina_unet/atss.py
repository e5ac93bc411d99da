"""Assignment of anchors to lesions: adaptive training sample selection (ATSS).

For each lesion the anchors at the nearest positions of every level are candidates. Those whose IoU with the lesion is
no less than the candidates' mean plus their standard deviation become positive: the threshold adapts to how well a
lesion can be covered at all. An anchor's centre may be outside the lesion, so that small lesions get anchors, too.
All other anchors are negative.

Source: Zhang et al., CVPR 2020; numbers as in nnDetection (V001), which compares every lesion with every anchor. All
anchors of a position share their centre, so positions are searched here, and overlaps computed for candidates alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from network.detection.boxes import centres, iou

NEAREST_POSITIONS = 4
NOTHING = -1
"""Value for anchors without a lesion."""


def match_anchors(anchors: Sequence[Tensor], boxes: Tensor, *, nearest: int = NEAREST_POSITIONS) -> Tensor:
    """Give each anchor of a patch a lesion, or none.

    Parameters
    ----------
    anchors
        For each level, shape (positions, anchors per position, 6); see
        :func:`network.detection.anchors.anchors_of_patch`.
    boxes
        Of the patch's lesions, shape (lesions, 6), on the anchors' device.
    nearest
        Positions of each level whose anchors are candidates.

    Returns
    -------
    Index of each anchor's lesion or -1, int64, shape (anchors,), levels one after the other. An anchor that is positive
    for several lesions belongs to the one it overlaps most, of equal ones to the first.
    """
    counts = [level.shape[0] * level.shape[1] for level in anchors]
    matched = boxes.new_full((sum(counts),), NOTHING, dtype=torch.int64)
    if not len(boxes):
        return matched
    candidates, overlaps = [], []
    start = 0
    for level, count in zip(anchors, counts, strict=True):
        positions = _nearest_positions(centres(level[:, 0]), centres(boxes), nearest)  # (lesions, k)
        overlap = iou(level[positions], boxes[:, None, None])  # (lesions, k, anchors per position)
        overlaps.append(overlap.flatten(1))
        per_position = torch.arange(level.shape[1], device=boxes.device)
        candidates.append((start + positions[..., None] * level.shape[1] + per_position).flatten(1))
        start += count
    indices, overlap = torch.cat(candidates, dim=1), torch.cat(overlaps, dim=1)
    deviation = overlap.std(dim=1, keepdim=True) if overlap.shape[1] > 1 else torch.zeros_like(overlap)
    positive = overlap >= overlap.mean(dim=1, keepdim=True) + deviation
    best = boxes.new_zeros(len(matched))  # so that an anchor without any overlap stays negative
    for lesion in range(len(boxes)):
        own = indices[lesion]  # all of them, whether positive or not: the device need not tell the host how many
        better = positive[lesion] & (overlap[lesion] > best[own])
        best[own] = torch.where(better, overlap[lesion], best[own])
        matched[own] = torch.where(better, lesion, matched[own])
    return matched


def _nearest_positions(positions: Tensor, lesions: Tensor, count: int) -> Tensor:
    """Indices of the positions (n, 3) nearest to each lesion's centre (m, 3), shape (m, count), nearest first.

    Of positions equally near the first counts: a stable sort, the same on every device.
    """
    distances = (positions[None] - lesions[:, None]).square().sum(dim=2)
    return distances.argsort(dim=1, stable=True)[:, :count]
