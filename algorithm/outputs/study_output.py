"""The algorithm's outputs for a study: a detection map on the reference grid, and a case likelihood.

Both are checked before the first byte is written. To the evaluation, a batch's folder looks like the platform's
``/input``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from algorithm.outputs.candidates import card_candidates, card_likelihood, paint_candidates
from contract.batch_layout import study_files
from contract.card import Card
from contract.files.atomic import write_json
from contract.images.probability import as_probabilities
from contract.images.volume import Volume, write_volume
from network.detection.clustering import BoxPostprocessing
from network.detection.painting import combine_scores


@dataclass(frozen=True)
class StudyOutput:
    """A study's outputs; refuses values that are no probabilities."""

    detections: Volume
    """Each candidate painted with its confidence."""
    likelihood: float
    candidates: int

    def __post_init__(self) -> None:
        array = self.detections.array
        if array.dtype != np.float32 or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(f"detection map is not a finite float32 map in [0, 1]: {array.min()} to {array.max()}")
        if not 0 <= self.likelihood <= 1:
            raise ValueError(f"likelihood {self.likelihood} is not in [0, 1]")


def detect(card: Card, probability: Volume, rule: BoxPostprocessing | None = None) -> StudyOutput:
    """Cut candidates from a probability on the reference grid and score the case, by the card.

    Values that rounding left outside [0, 1] are clipped.

    Parameters
    ----------
    rule
        Rule of the members that find boxes; None: there are none. Where its case score is not ``maximum``, the
        likelihood is made from the confidences of all candidates, or without any from what the card gives.
    """
    array = as_probabilities(np.asarray(probability.array, np.float32), source="the networks' average")
    extraction = card_candidates(card, Volume(array, probability.grid))
    painted = paint_candidates(extraction)
    likelihood = card_likelihood(card, painted, array)
    confidences = [candidate.confidence for candidate in extraction.candidates if candidate.confidence > 0]
    if rule is not None and rule.case_score != "maximum":
        likelihood = combine_scores(np.array(confidences or [likelihood]), rule.case_score, k=rule.k)
    return StudyOutput(Volume(painted, probability.grid), likelihood, len(confidences))


def write_study(folder: Path, card: Card, output: StudyOutput, *, name: str) -> None:
    """Write a study's outputs below a folder, at the card's paths; the image is called ``<name>.mha``."""
    detection_map, likelihood = study_files(card, name)
    write_volume(folder / detection_map, output.detections)
    write_json(folder / likelihood, output.likelihood)
