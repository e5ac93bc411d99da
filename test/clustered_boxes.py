"""Boxes of a study as a bundle of networks that find boxes gives them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from network.detection.clustering import BoxPostprocessing, ScoredBoxes
from network.detection.inference import Detector, find_boxes


def predict_boxes(
    detectors: Sequence[Detector], data: Tensor, *, rule: BoxPostprocessing, **options: Any
) -> ScoredBoxes:
    """What all members find together, clustered by a rule."""
    return find_boxes(detectors, data, score_threshold=rule.score_threshold, **options).clustered(rule)
