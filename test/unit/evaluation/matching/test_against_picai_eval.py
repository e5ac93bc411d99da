"""picai's answer against the package picai-eval 1.4.13, from file to metric: on phantoms by chance and on real data.

``ONCODUET_PHANTOMS`` says how many phantoms are made (2,000). They are small, and made of what could tell two matchings
apart: one slice, no slice to spare, lesions and candidates that touch, fragments, ties, overlaps at the minimum,
confidences next to each other in float32, empty maps and empty truths.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluation_makers import find_components, read_lesions
from picai_eval.eval import evaluate_case
from picai_eval.metrics import Metrics as OracleMetrics
from report_guided_annotation import extract_lesion_candidates

from evaluation.matching import picai
from evaluation.matching.cases import MatchingRule, PredictionFiles, ScoredCase, read_case_as_picai_eval
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, picai_froc
from evaluation.metrics.run_metrics import picai_metrics

PHANTOMS = int(os.environ.get("ONCODUET_PHANTOMS", "2000"))
CASES_PER_SET = 25
ENDINGS = (".mha", ".nii.gz", ".nii")
CONFIDENCES = np.float32([0.03, 0.1, 0.1, 1 / 3, 0.5, np.nextafter(np.float32(0.5), 1), 0.77, 1.0, 1.5, 1e-40])


def written(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    return path


def ours(folder: Path, case_id: str, detection_map, label, rule, endings=(".mha", ".nii.gz")) -> ScoredCase:
    """From files, as ``score --picai-only`` does it."""
    truth = read_lesions(written(folder / f"label{endings[1]}", label), rule)
    path = written(folder / f"map{endings[0]}", detection_map)
    case = read_case_as_picai_eval(PredictionFiles(path, None), truth)
    return ScoredCase(case_id, len(truth.lesions) > 0, float(case.map_maximum), picai.match(case, rule))


def rows(case: ScoredCase) -> list[tuple[int, float, float]]:
    return [(int(each.kind != "fp"), each.confidence, each.overlap) for each in case.findings if each.kind != "ignored"]


def blobs(random, shape, count):
    """Boxes and single voxels that may touch or overlap, numbered by component."""
    image = np.zeros(shape, dtype=bool)
    for _ in range(count):
        start = [int(random.integers(0, n)) for n in shape]
        end = [s + int(random.integers(1, 5)) for s in start]
        image[tuple(slice(s, e) for s, e in zip(start, end, strict=True))] = True
    return image


def phantom(number):
    """A detection map and a label map; what they are like follows from the number."""
    random = np.random.default_rng(number)
    shape = tuple(int(n) for n in random.integers((1, 4, 5), (7, 18, 20)))
    if number % 11 == 0:
        shape = (1, *shape[1:])
    label = blobs(random, shape, int(random.integers(0, 6)) if random.random() < 0.7 else 0)
    kind = random.choice(["any", "moved", "cut", "tenth", "noise", "none", "same"])
    if kind == "moved":
        found = np.roll(label, tuple(random.integers(-2, 3, 3)), axis=(0, 1, 2))
    elif kind == "cut":
        found = label.copy()
        found[:, :, :: int(random.integers(2, 6))] = False
    elif kind == "tenth":  # IoU of a line of ten voxels with one, two or three of them: at the minimum and about it
        label = np.zeros(shape, dtype=bool)
        label[0, 0, : min(10, shape[2])] = label[-1, -1, : min(9, shape[2])] = True
        found = np.zeros(shape, dtype=bool)
        found[0, 0, : int(random.integers(1, 3))] = found[-1, -1, : int(random.integers(1, 3))] = True
    elif kind == "noise":
        found = random.random(shape) < random.choice([0.02, 0.08, 0.2])
    elif kind == "same":
        found = label.copy()
    else:
        found = blobs(random, shape, int(random.integers(0, 12)) if kind == "any" else 0)
    pieces = find_components(found)
    detection_map = np.zeros(shape, dtype=np.float32)
    detection_map.ravel()[pieces.voxels] = random.choice(CONFIDENCES, max(len(pieces), 1))[pieces.owners]
    values = random.integers(1, 6, shape)  # a lesion may have several values
    return detection_map, np.where(label, values, 0).astype(random.choice([np.uint8, np.int16, np.int32])), kind


def test_phantoms_score_as_in_picai_eval_to_the_last_bit(tmp_path):
    seen = Counter()
    for begin in range(0, PHANTOMS, CASES_PER_SET):
        overlap = ("iou", "dice")[(begin // CASES_PER_SET) % 4 == 3]
        cases, results, likelihoods = [], {}, {}
        for number in range(begin, min(begin + CASES_PER_SET, PHANTOMS)):
            detection_map, label, kind = phantom(number)
            endings = (ENDINGS[number % 3], ENDINGS[number // 3 % 3])
            case = ours(tmp_path, f"{number:05}", detection_map, label, MatchingRule(overlap=overlap), endings)
            package = {"iou": "IoU", "dice": "DSC"}[overlap]
            expected, likelihood, *_ = evaluate_case(detection_map, label, overlap_func=package)
            assert rows(case) == expected, f"phantom {number}"
            assert case.likelihood == likelihood, f"phantom {number}"
            cases.append(case)
            results[case.case_id], likelihoods[case.case_id] = expected, likelihood
            seen.update([kind, *(each.kind for each in case.findings), f"{len(detection_map)} slices"])
            seen["crowded"] += sum(each.kind == "fp" for each in case.findings) > 8
        assert_same_metrics(cases, OracleMetrics(lesion_results=results, case_pred=likelihoods))
    if PHANTOMS >= 500:
        kinds = ("any", "moved", "cut", "tenth", "noise", "none", "tp", "fp", "fn", "ignored", "crowded", "1 slices")
        for what in kinds:
            assert seen[what] > PHANTOMS / 50, f"{what}: the phantoms do not reach what they are there for"


def assert_same_metrics(cases, expected):
    metrics = picai_metrics(cases)
    assert (metrics.cases, metrics.lesions) == (expected.num_cases, expected.num_lesions)
    assert metrics.ap == expected.AP
    assert (metrics.auroc, metrics.score) == (expected.auroc, expected.score)
    curve, false, hits = picai_froc(cases), expected.lesion_FPR, expected.lesion_TPR
    assert np.array_equal(curve.false_positives_per_case, false)
    assert np.array_equal(curve.sensitivity, hits)
    for rate in FALSE_POSITIVES_PER_CASE:
        assert curve.sensitivity_at(rate) == expected.lesion_TPR_at_FPR(rate)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_softmax_maps_cut_into_candidates_score_as_in_picai_eval(real_data, tmp_path):
    cases, results, likelihoods = [], {}, {}
    for path in sorted((real_data / "rga" / "softmax").glob("*.nii.gz")):
        softmax = np.clip(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 0, 1)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / "rga" / "labels" / path.name)))
        for rule in ("dynamic-fast", 0.1):
            detection_map = extract_lesion_candidates(softmax, threshold=rule)[0].astype(np.float32)
            case = ours(tmp_path, f"{path.name}-{rule}", detection_map, label, MatchingRule())
            results[case.case_id], likelihoods[case.case_id], *_ = evaluate_case(detection_map, label)
            assert rows(case) == results[case.case_id]
            cases.append(case)
    assert len(cases) == 12
    assert_same_metrics(cases, OracleMetrics(lesion_results=results, case_pred=likelihoods))


@pytest.mark.data
@pytest.mark.slow
def test_sixty_real_label_maps_score_as_in_picai_eval(real_data, tmp_path):
    folder = real_data / "picai_labels" / "csPCa_lesion_delineations" / "human_expert"
    cases, results, likelihoods = [], {}, {}
    for number, path in enumerate(sorted(folder.rglob("*.nii.gz"), key=lambda path: path.name)):
        random = np.random.default_rng(number)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        found = np.roll(label > 0, tuple(random.integers(-4, 5, 2)), axis=(1, 2))
        middle = [n // 2 for n in label.shape]
        for _ in range(int(random.integers(0, 4))):
            start = [m + int(random.integers(-m // 4, m // 4 + 1)) for m in middle]
            end = [s + int(random.integers(1, n)) for s, n in zip(start, (4, 30, 30), strict=True)]
            found[tuple(slice(s, e) for s, e in zip(start, end, strict=True))] = True
        pieces = find_components(found)
        detection_map = np.zeros(label.shape, dtype=np.float32)
        detection_map.ravel()[pieces.voxels] = random.choice(CONFIDENCES, max(len(pieces), 1))[pieces.owners]
        case = ours(tmp_path, path.name, detection_map, label, MatchingRule())
        results[case.case_id], likelihoods[case.case_id], *_ = evaluate_case(detection_map, label)
        assert rows(case) == results[case.case_id], path.name
        cases.append(case)
    assert (len(cases), sum(case.positive for case in cases)) == (60, 17)
    assert_same_metrics(cases, OracleMetrics(lesion_results=results, case_pred=likelihoods))
