"""Boxes that detectors find in a study, and the deltas by which a detector gives a box."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from network.detection.boxes import centres, sizes
from network.detection.clustering import BoxPostprocessing, ScoredBoxes
from network.detection.whole_study import Detector, find_boxes


def predict_boxes(
    detectors: Sequence[Detector], data: Tensor, *, rule: BoxPostprocessing, **options: Any
) -> ScoredBoxes:
    """What all members find together, clustered by a rule."""
    return find_boxes(detectors, data, score_threshold=rule.score_threshold, **options).clustered(rule)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas that :func:`network.detection.boxes.decode` makes into these boxes."""
    anchor_sizes = sizes(anchors)
    return torch.cat(
        [(centres(boxes) - centres(anchors)) / anchor_sizes, (sizes(boxes) / anchor_sizes).log()],
        dim=-1,
    )
