"""Metrics worked by hand, and picai-eval's answer beside ours where the two differ."""

import numpy as np
import pytest
from picai_eval.metrics import Metrics as OracleMetrics
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from evaluation.matching.cases import Finding, ScoredCase
from evaluation.metrics.curves import picai_froc, strict_froc
from evaluation.metrics.run_metrics import auroc, average_precision, picai_metrics, strict_metrics


def toy(*, missed=0):
    """TP .9, FP .8, TP .7, FP .6, TP .5 over five cases, and lesions that were missed."""
    findings = [("tp", 0.9), ("fp", 0.8), ("tp", 0.7), ("fp", 0.6), ("tp", 0.5)]
    cases = [ScoredCase(f"{n}", kind == "tp", c, (Finding(kind, c, 0.4),)) for n, (kind, c) in enumerate(findings)]
    return [*cases[:-1], ScoredCase("4", True, 0.5, cases[-1].findings + (Finding("fn", 0.0, 0.0),) * missed)]


def package(cases):
    return OracleMetrics(
        lesion_results={
            case.case_id: [(int(each.kind != "fp"), each.confidence, each.overlap) for each in case.findings]
            for case in cases
        },
        case_pred={case.case_id: case.likelihood for case in cases},
    )


def test_average_precision_counts_a_missed_lesion_in_the_denominator():
    # precision at the three hits 1, 2/3, 3/5; four lesions
    assert average_precision(toy(missed=1)) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-15)
    # scikit-learn's own function takes the missed lesion for a detection at 0: precision 4/6 there
    taken = average_precision_score([1, 0, 1, 0, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.0])
    assert taken == pytest.approx((1 + 2 / 3 + 3 / 5 + 4 / 6) / 4, abs=1e-15) == pytest.approx(0.733333, abs=1e-6)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([("tp", 0.9)], 1.0),
        ([("tp", 0.9), ("fn", 0.0)], 1 / 2),
        ([("fp", 0.9), ("tp", 0.8)], 1 / 2),
        ([("fp", 0.9), ("tp", 0.9)], 1 / 2),  # one threshold: precision 1/2
        ([("tp", 0.9), ("tp", 0.9), ("fp", 0.9), ("fn", 0.0)], 2 / 3 * 2 / 3),
        ([("fn", 0.0), ("fn", 0.0)], 0.0),
        ([("fp", 0.9), ("fn", 0.0)], 0.0),
        ([("tp", 0.9), ("ignored", 0.95), ("fp", 0.1)], 1.0),
    ],
)
def test_average_precision_worked_by_hand(findings, expected):
    case = ScoredCase("a", True, 0.5, tuple(Finding(kind, confidence, 0.3) for kind, confidence in findings))
    assert average_precision([case]) == pytest.approx(expected, abs=1e-15)


def test_average_precision_equals_its_formula_on_random_findings():
    random = np.random.default_rng(7)
    for _ in range(50):
        kinds = random.choice(["tp", "fp", "fn", "ignored"], random.integers(1, 30), p=[0.4, 0.3, 0.2, 0.1])
        rows = [Finding(kind, 0.0 if kind == "fn" else float(random.integers(1, 8)) / 8, 0.2) for kind in kinds]
        lesions = sum(row.kind in ("tp", "fn") for row in rows)
        if not lesions:
            continue
        total = 0.0
        for threshold in {row.confidence for row in rows if row.kind == "tp"}:
            hits = sum(row.kind == "tp" and row.confidence >= threshold for row in rows)
            false = sum(row.kind == "fp" and row.confidence >= threshold for row in rows)
            total += sum(row.kind == "tp" and row.confidence == threshold for row in rows) * hits / (hits + false)
        assert average_precision([ScoredCase("a", True, 1.0, tuple(rows))]) == pytest.approx(total / lesions, abs=1e-12)


def test_auroc_equals_the_share_of_ordered_pairs_with_ties_counted_half():
    random = np.random.default_rng(8)
    for _ in range(50):
        positive = [True, False, *(random.random(random.integers(0, 20)) < 0.4).tolist()]
        likelihood = random.integers(0, 6, len(positive)) / 5
        won = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for a, is_a in zip(likelihood, positive, strict=True)
            for b, is_b in zip(likelihood, positive, strict=True)
            if is_a and not is_b
        ]
        assert auroc(positive, likelihood) == pytest.approx(np.mean(won), abs=1e-12)


def test_strict_metrics_of_the_toy_worked_by_hand():
    metrics = strict_metrics(toy(missed=1))
    # positive .9 .7 .5, negative .8 .6: pairs won 2 + 1 + 0 of 6
    assert metrics.auroc == pytest.approx(1 / 2)
    assert metrics.ap == pytest.approx(0.566667, abs=1e-6)
    assert metrics.score == (metrics.auroc + metrics.ap) / 2
    assert (metrics.cases, metrics.positive_cases, metrics.lesions, metrics.missing) == (5, 3, 4, 0)
    assert metrics.lesion_sensitivity_at_fp == {
        "fp_0_125": 1 / 4,  # before the first false positive
        "fp_0_25": 2 / 4,  # one in five cases
        "fp_0_5": 3 / 4,  # two in five cases
        "fp_1": 3 / 4,
        "fp_2": 3 / 4,
    }
    assert metrics.reason is None


def test_quirk_5_froc_keeps_its_last_point_in_strict_and_loses_it_in_picai():
    cases = toy()
    whole, cut = strict_froc(cases), picai_froc(cases)
    assert whole.false_positives_per_case.tolist() == [0, 0, 0.2, 0.2, 0.4, 0.4]
    assert whole.sensitivity.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert whole.sensitivity_at(0.4) == 1.0
    reference = package(cases)
    assert cut.sensitivity_at(0.4) == reference.lesion_TPR_at_FPR(0.4) == pytest.approx(2 / 3, abs=1e-6)
    assert np.array_equal(cut.sensitivity, reference.lesion_TPR)


def test_quirk_5_a_single_threshold_detects_nothing_in_picai():
    cases = [ScoredCase("a", True, 0.5, (Finding("tp", 0.5, 0.4),)), ScoredCase("b", False, 0.0, ())]
    assert strict_metrics(cases).lesion_sensitivity_at_fp["fp_0_125"] == 1.0
    assert picai_metrics(cases).lesion_sensitivity_at_fp["fp_0_125"] == 0.0
    assert package(cases).lesion_TPR_at_FPR(0.125) == 0


def test_quirk_14_without_lesions_picai_eval_gives_minus_zero_and_nan():
    cases = [ScoredCase("a", False, 0.5, (Finding("fp", 0.5, 0.0),)), ScoredCase("b", False, 0.0, ())]
    metrics, compatible = strict_metrics(cases), picai_metrics(cases)
    assert (metrics.auroc, metrics.ap, metrics.score) == (None, None, None)
    assert set(metrics.lesion_sensitivity_at_fp.values()) == {None}
    assert metrics.reason == (
        "AUROC is undefined: all 2 cases are negative; AP and lesion sensitivity are undefined: there is no lesion"
    )
    with pytest.warns(UserWarning):
        reference = package(cases)
        assert np.isnan(reference.auroc)
        assert str(float(reference.AP)) == str(compatible.ap) == "-0.0"
    assert (compatible.auroc, compatible.score) == (None, None)
    assert compatible.reason == "AUROC is undefined: all 2 cases are negative"


def test_quirk_14_without_any_row_picai_eval_raises():
    cases = [ScoredCase("a", False, 0.0, ()), ScoredCase("b", False, 0.0, ())]
    with pytest.raises(ValueError, match="broadcast"):
        _ = package(cases).AP
    assert strict_metrics(cases).ap is None
    assert picai_metrics(cases).ap is None
    assert "AP is undefined: there is neither lesion nor candidate" in (picai_metrics(cases).reason or "")


def test_quirk_14_without_negative_cases_only_auroc_is_undefined():
    cases = [ScoredCase("a", True, 0.5, (Finding("tp", 0.5, 0.4),)), ScoredCase("b", True, 0.0, (Finding("fn", 0, 0),))]
    with pytest.warns(UserWarning):
        assert np.isnan(package(cases).auroc)
    for metrics in (strict_metrics(cases), picai_metrics(cases)):
        assert (metrics.auroc, metrics.ap, metrics.score) == (None, 0.5, None)
        assert metrics.reason == "AUROC is undefined: all 2 cases are positive"


def test_order_of_cases_changes_nothing():
    cases = toy(missed=2)
    assert strict_metrics(cases[::-1]) == strict_metrics(cases)
    assert picai_metrics(cases[::-1]) == picai_metrics(cases)


def test_missing_cases_are_counted_in_both_answers():
    cases = [*toy(), ScoredCase("5", True, 0.0, (Finding("fn", 0.0, 0.0),), missing=True)]
    assert strict_metrics(cases).missing == picai_metrics(cases).missing == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [0, 1, 3, 16])
@pytest.mark.filterwarnings("ignore:No positive class found")
def test_auroc_and_ap_are_bit_identical_to_scikit_learn(kind, decimals):
    random = np.random.default_rng(decimals)
    for size in (2, 3, 10, 200, 3000):
        for attempt in range(10):
            positive = random.random(size) < random.random()
            positive[:2] = True, False
            scores = np.round(random.random(size), decimals).astype(kind)
            fpr, tpr, _ = roc_curve(positive.astype(int), scores, sample_weight=np.ones(size))
            assert auroc(positive.tolist(), scores) == auc(fpr, tpr)
            if attempt == 0:
                positive[:] = False  # candidates alone
            rows = [
                Finding("fp" if not hit else "tp" if score else "fn", float(score), 0.3)
                for hit, score in zip(positive, scores, strict=True)
            ]
            precision, recall, thresholds = precision_recall_curve(
                positive.astype(int), scores.astype(np.float64), sample_weight=np.ones(size)
            )
            precision[:-1][thresholds == 0] = 0
            expected = -np.sum(np.diff(recall) * precision[:-1])
            found = average_precision([ScoredCase("a", True, 0.5, tuple(rows))])
            assert (found, np.signbit(found)) == (expected, np.signbit(expected))
