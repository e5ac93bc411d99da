"""The choice of a detector's box rule on the fold's validation studies, one parameter after the other.

Every study is searched once; what was found is clustered by each rule that is tried. Rules are compared by the mean
average precision (mAP) of the boxes at IoU 0.1 to 0.5. As nnDetection does, boxes are judged on the preprocessed
studies, without mirrored copies.

A rule is left only for one that is better on these studies and on nearly all resamples of them, drawn with replacement.
nnDetection takes the highest mAP; on a fold with a handful of lesions that is chance, and a threshold that it leaves
behind costs lesions elsewhere.

A rule that was chosen on these studies flatters the scores on them, the more so the fewer they are; scores to be
reported come from studies that neither trained the network nor chose its rule.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from network.detection.boxes import iou
from network.detection.clustering import BoxPostprocessing, Float64Array, ScoredBoxes
from network.detection.whole_study import Detector, RawDetections, find_boxes
from network.machine.precision import choose_precision
from training.dataloading.instance_studies import InstanceStudies
from training.dataset.lesion_instances import lesion_boxes

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
TRIED = {
    "cluster_iou": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "score_threshold": (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4),
    "minimum_size_voxels": (0.01, 1.0, 2.0, 3.0),
}
RESAMPLES = 200
NEARLY_ALL = 0.95

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchedStudy:
    """What a detector found in a study, and what is there."""

    found: RawDetections
    lesions: Float64Array
    """Boxes of the lesions, shape (lesions, 6)."""


def search(
    detector: Detector, studies: InstanceStudies, case_ids: Sequence[str], *, patch_size: tuple[int, int, int]
) -> list[SearchedStudy]:
    """Search studies, each once, in the precision that predictions have by default."""
    precision = choose_precision("auto", "cuda" if studies.device.type == "cuda" else "cpu")
    searched = []
    for case_id in case_ids:
        study = studies.by_id[case_id]
        image = study.image.to(detector.anchors[0].device).float()
        found = find_boxes([detector], image, patch_size=patch_size, precision=precision)
        lesions = lesion_boxes(study.label, studies.instances[case_id]).cpu().numpy().astype(np.float64)
        searched.append(SearchedStudy(found, lesions))
    return searched


def best_postprocessing(searched: Sequence[SearchedStudy]) -> BoxPostprocessing:
    """The best rule; the default one where there is no lesion by which rules could be compared."""
    best = BoxPostprocessing()
    if not any(len(study.lesions) for study in searched):
        logger.warning("box rule: no lesion in the validation studies to choose it by; the default one stays")
        return best
    resamples = _resamples(searched)
    best_maps = _maps_of(best, searched, resamples)
    for name, values in TRIED.items():
        for value in values:
            tried = best.model_copy(update={name: value})
            maps = _maps_of(tried, searched, resamples)
            if maps[0] > best_maps[0] and np.mean(maps[1:] > best_maps[1:]) >= NEARLY_ALL:
                best, best_maps = tried, maps
    logger.info("box rule: %s, mAP %.3f on %d validation studies", best, best_maps[0], len(searched))
    return best


def mean_average_precisions(
    found: Sequence[ScoredBoxes],
    lesions: Sequence[Float64Array],
    times: Float64Array,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> Float64Array:
    """For each resample the mean over IoU thresholds of the area under the precision-recall steps of all boxes.

    A box hits the lesion that it overlaps most, if by no less than the threshold and if no stronger box of the study
    hit it before; every other box is a false positive.

    Parameters
    ----------
    found, lesions
        For each study; of its lesions the boxes, shape (lesions, 6).
    times
        How often each study counts, shape (resamples, studies); one lesion at least in each resample.
    """
    scores = np.concatenate([np.empty(0), *(each.scores for each in found)])
    order = np.argsort(-scores, kind="stable")
    study = np.repeat(np.arange(len(found)), [len(each) for each in found])[order]
    total = times @ np.array([len(each) for each in lesions])
    counted = times[:, study]  # (resamples, boxes)
    seen = np.maximum(counted.cumsum(axis=1), 1)
    precisions = []
    for threshold in thresholds:
        hits = [_hits(each, truth, threshold) for each, truth in zip(found, lesions, strict=True)]
        hit = counted * np.concatenate([np.empty(0, bool), *hits])[order]
        precisions.append((hit * hit.cumsum(axis=1) / seen).sum(axis=1) / total)
    mean: Float64Array = np.mean(precisions, axis=0)
    return mean


def _resamples(searched: Sequence[SearchedStudy]) -> Float64Array:
    """How often each study counts: once each, then in resamples with a lesion; shape (1 + up to 200, studies)."""
    count = len(searched)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    times = np.concatenate([np.ones((1, count)), drawn])
    kept: Float64Array = times[times @ np.array([len(study.lesions) for study in searched]) > 0]
    return kept


def _maps_of(rule: BoxPostprocessing, searched: Sequence[SearchedStudy], times: Float64Array) -> Float64Array:
    found = [study.found.clustered(rule) for study in searched]
    return mean_average_precisions(found, [study.lesions for study in searched], times)


def _hits(found: ScoredBoxes, lesions: Float64Array, threshold: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each box hits a lesion, shape (boxes,)."""
    hit = np.zeros(len(found), dtype=bool)
    if not len(lesions):
        return hit
    overlaps = iou(torch.from_numpy(found.boxes)[:, None], torch.from_numpy(lesions)[None]).numpy()
    taken: set[int] = set()
    for index in np.argsort(-found.scores, kind="stable"):
        lesion = int(overlaps[index].argmax())
        if overlaps[index, lesion] >= threshold and lesion not in taken:
            taken.add(lesion)
            hit[index] = True
    return hit
