"""picai mode against its oracle, the package picai-eval 1.4.13: equal, not close."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_makers import case_of, find_components
from picai_eval import evaluate as oracle
from picai_eval.metrics import Metrics as OracleMetrics

from contract.images.volume import read_label, read_volume
from evaluation.matching import picai
from evaluation.matching.cases import Finding, MatchingRule, ScoredCase
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, picai_froc
from evaluation.metrics.run_metrics import picai_metrics
from evaluation.score import score

SHAPE = (6, 17, 19)


def scored(detection_maps, labels, rule):
    cases = []
    for number, (detection_map, label) in enumerate(zip(detection_maps, labels, strict=True)):
        case = case_of(detection_map, label)
        cases.append(
            ScoredCase(f"case-{number:03}", bool(label.any()), float(case.map_maximum), picai.match(case, rule))
        )
    return cases


def rows(findings):
    return [(int(each.kind != "fp"), each.confidence, each.overlap) for each in findings if each.kind != "ignored"]


def boxes(random, count, values):
    image = np.zeros(SHAPE, dtype=np.float32)
    for _ in range(count):
        start = [random.integers(0, n) for n in SHAPE]
        end = [s + random.integers(1, 6) for s in start]
        free = image[tuple(slice(max(s - 1, 0), e + 1) for s, e in zip(start, end, strict=True))]
        if not free.any():  # one value per component
            image[tuple(slice(s, e) for s, e in zip(start, end, strict=True))] = random.choice(values)
    return image


def phantoms(seed):
    random = np.random.default_rng(seed)
    confidences = np.float32([0.03, 0.1, 0.1, 1 / 3, 0.5, 0.77, 1.0, 1.5])
    count = int(random.integers(2, 6))
    maps, labels = [], []
    for _ in range(count):
        label = boxes(random, int(random.integers(0, 7)), [1, 2, 3]).astype(np.int32)
        detection_map = boxes(random, int(random.integers(0, 30)), confidences)
        if label.any() and random.random() < 0.7:  # candidates that resemble lesions
            shifted = np.roll(label, random.integers(-1, 2, 3), axis=(0, 1, 2)) > 0
            shifted[:, :, :: int(random.integers(3, 9))] = False  # cut lesions into several candidates
            pieces = find_components(shifted)
            detection_map = np.zeros(SHAPE, np.float32)
            detection_map.ravel()[pieces.voxels] = random.choice(confidences, max(len(pieces), 1))[pieces.owners]
        maps.append(detection_map)
        labels.append(label)
    return maps, labels


@pytest.mark.parametrize(("overlap", "sets"), [("iou", 100), ("dice", 30)])
def test_random_phantoms_score_exactly_as_in_picai_eval(overlap, sets):
    crowded = hits = ignored = defined = 0
    for seed in range(sets):
        maps, labels = phantoms(seed)
        names = [f"case-{number:03}" for number in range(len(maps))]
        package = {"iou": "IoU", "dice": "DSC"}[overlap]
        expected = oracle(maps, labels, subject_list=names, overlap_func=package, num_parallel_calls=1)
        cases = scored(maps, labels, MatchingRule(overlap=overlap))
        for case in cases:
            assert rows(case.findings) == expected.lesion_results[case.case_id], (seed, case.case_id)
            assert case.likelihood == expected.case_pred[case.case_id]
            assert case.positive == expected.case_target[case.case_id]
            kinds = [each.kind for each in case.findings]
            crowded += kinds.count("fp") > 8
            hits += kinds.count("tp")
            ignored += kinds.count("ignored")
        metrics = picai_metrics(cases)
        assert (metrics.cases, metrics.lesions) == (expected.num_cases, expected.num_lesions)
        if not expected.lesion_results_flat:
            continue
        assert metrics.ap == expected.AP
        if metrics.auroc is None:
            assert len(set(expected.case_target.values())) == 1
        else:
            defined += 1
            assert metrics.auroc == expected.auroc
            assert metrics.score == expected.score
        if metrics.lesions:
            assert_same_froc(cases, expected)
    assert min(crowded, hits, ignored, defined) > sets / 10, "the phantoms do not reach what they are there for"


def assert_same_froc(cases, expected):
    curve = picai_froc(cases)
    assert np.array_equal(curve.false_positives_per_case, expected.lesion_FPR)
    assert np.array_equal(curve.sensitivity, expected.lesion_TPR)
    for rate in FALSE_POSITIVES_PER_CASE:
        assert curve.sensitivity_at(rate) == expected.lesion_TPR_at_FPR(rate)


def test_more_than_ten_thousand_thresholds_are_thinned_as_in_picai_eval():
    random = np.random.default_rng(3)
    confidence = random.permutation(np.linspace(0.001, 0.81, 10_400))
    hit = random.random(confidence.size) < 0.3
    findings = tuple(
        Finding("tp" if each else "fp", float(value), 0.5 * each) for each, value in zip(hit, confidence, strict=True)
    )
    cases = [ScoredCase("a", True, 0.9, findings), ScoredCase("b", False, 0.1, ())]
    expected = OracleMetrics(lesion_results={"a": rows(findings), "b": []}).calculate_counts()  # slow: once
    curve = picai_froc(cases)
    assert 10_000 <= curve.sensitivity.size < 10_100
    assert np.array_equal(curve.false_positives_per_case, expected["FP"] / 2)
    assert np.array_equal(curve.sensitivity, expected["TP"] / int(hit.sum()))


@pytest.mark.data
def test_the_ten_maps_of_picai_eval_give_its_published_expectations(real_data: Path, tmp_path: Path):
    folder = real_data / "picai_eval" / "test-maps"
    [result] = score(predictions=folder, truth=folder, output=tmp_path / "out", picai_only=True)
    published = json.loads((real_data / "picai_eval" / "expected" / "lesion_results.json").read_text())
    metrics = result.metrics.picai
    assert (metrics.auroc, metrics.ap, metrics.cases, metrics.lesions) == (0.75, published["AP"], 10, 10)
    assert published["AP"] == pytest.approx(5 / 18, abs=1e-15)
    assert [case.case_id for case in result.cases] == list(published["expected"])
    for case in result.cases:
        expected = published["expected"][case.case_id]  # there overlaps stand without the epsilon of 1e-8
        assert np.array(rows(case.findings)) == pytest.approx(np.array(expected), abs=1e-8)
    kinds = [each.kind for case in result.cases for each in case.findings]
    assert [kinds.count(kind) for kind in ("tp", "fp", "fn")] == [published[kind] for kind in ("TP", "FP", "FN")]


@pytest.mark.data
def test_the_ten_maps_give_the_same_rows_as_the_package_to_the_last_bit(real_data: Path):
    folder = real_data / "picai_eval" / "test-maps"
    maps = [read_volume(folder / f"case-{n}_detection_map.nii.gz").array for n in range(10)]
    labels = [read_label(folder / f"case-{n}_label.nii.gz").array for n in range(10)]
    cases = scored(maps, labels, MatchingRule())
    expected = oracle(maps, labels, subject_list=[case.case_id for case in cases], num_parallel_calls=1)
    assert [rows(case.findings) for case in cases] == list(expected.lesion_results.values())
    assert_same_froc(cases, expected)
