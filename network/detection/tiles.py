"""Decode the network's outputs for a batch of tiles into boxes.

Of each tile the strongest anchors are decoded, mirrored back where the tile was mirrored, cut at the tile's edges and
thinned: of boxes that overlap each other the strongest stays. Then they move to where the tile is in the study.

Numbers are nnDetection's (``BoxEnsembler``).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from network.detection.boxes import clip, decode, large_enough, mirror
from network.detection.clustering import ScoredBoxes, suppress, tile_weights
from network.detection.retina_unet import DetectorOutput
from network.inference.sliding_window import NotFiniteError

STRONGEST_ANCHORS = 1000
BOXES_PER_TILE = 100
SAME_LESION_IOU = 0.1
SMALLEST_SIZE_VOXELS = 0.01


def boxes_of_tiles(
    output: DetectorOutput,
    anchors: Sequence[Tensor],
    tile_size_zyx: Sequence[int],
    *,
    origins_zyx: Sequence[Sequence[int]],
    mirror_axes: Sequence[int] = (),
    score_threshold: float = 0.0,
    member: int = 0,
) -> list[ScoredBoxes]:
    """Boxes of every tile of a batch, in the study's voxels.

    Parameters
    ----------
    anchors
        Of a tile; see :func:`network.detection.anchors.anchors_of_patch`.
    origins_zyx
        Of each tile, its first voxel in the study.
    mirror_axes
        Axes 0 (z), 1 (y), 2 (x) along which the tiles were mirrored before the network saw them.
    score_threshold
        Boxes with a greater score are kept.
    member
        Whose output it is, for errors.

    Returns
    -------
    At most 100 boxes per tile, by falling score. A box counts less the further it is from its tile's middle.

    Raises
    ------
    NotFiniteError
        The network gave NaN or infinite logits or deltas.
    """
    flat = torch.cat([level.flatten(0, 1) for level in anchors])
    logits, deltas = output.logits.detach().float(), output.deltas.detach().float()
    if not (logits.isfinite().all() and deltas.isfinite().all()):
        raise NotFiniteError(member)
    strongest, chosen = logits.topk(min(STRONGEST_ANCHORS, len(flat)), dim=1)
    scores = strongest.sigmoid()
    boxes = decode(deltas.gather(1, chosen[..., None].expand(-1, -1, 6)), flat[chosen])
    if mirror_axes:
        boxes = mirror(boxes, tile_size_zyx, mirror_axes)
    boxes = clip(boxes, tile_size_zyx)
    kept = (scores > score_threshold) & large_enough(boxes, SMALLEST_SIZE_VOXELS)
    found = []
    for origin, *tile in zip(origins_zyx, boxes.cpu(), scores.cpu(), kept.cpu(), strict=True):
        own_boxes, own_scores, own_kept = (values.numpy() for values in tile)
        own = own_boxes[own_kept].astype(np.float64)
        weighted = ScoredBoxes(own, own_scores[own_kept].astype(np.float64), tile_weights(own, tile_size_zyx))
        thinned = suppress(weighted, SAME_LESION_IOU).only(slice(BOXES_PER_TILE))
        found.append(ScoredBoxes(thinned.boxes + np.tile(origin, 2), thinned.scores, thinned.weights))
    return found
