"""Clinical figures of configurations, against scikit-learn, statsmodels, resampling and formulas written out."""

import csv
import math

import numpy as np
import pytest
from evaluation_makers import random_outcome, random_truth, resampled
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.metrics import brier_score_loss, confusion_matrix, recall_score, roc_auc_score

from contract.records import read_record
from evaluation.__main__ import main
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.metrics.weighted_metrics import weighted_ap
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.clinical.clinical_use import (
    ap_at_prevalence,
    describe_clinically,
    partial_auroc_of,
    prevalence_weights,
)
from evaluation.statistics.clinical.thresholds import read_validation
from evaluation.statistics.variance.arms import arms_of
from evaluation.statistics.verdict_records import Verdict

ANALYSIS = 'name = "clinical"\nreplicates = 100\nprevalence = 0.033\n'


@pytest.mark.parametrize("prevalence", [0.033, 0.5, 0.8])
def test_ap_at_a_prevalence_is_that_of_replicated_negative_cases(prevalence):
    truth, outcome = random_truth(300), random_outcome(random_truth(300), 0)
    weights = prevalence_weights(truth, prevalence)
    assert weights @ truth.positive / weights.sum() == pytest.approx(prevalence)
    found, influence = ap_at_prevalence(truth, outcome, prevalence)
    order = np.argsort(-outcome.confidence, kind="stable")
    counted, hit = weights[outcome.candidate_case][order], outcome.hit[order]
    expected = 0.0  # by definition, over distinct confidences
    before = 0.0
    for threshold in np.unique(outcome.confidence)[::-1]:
        reached = outcome.confidence[order] >= threshold
        hits = counted[reached & hit].sum()
        expected += (hits - before) * hits / counted[reached].sum()
        before = hits
    assert found == pytest.approx(expected / (weights @ truth.lesions))
    values = []
    for drawn in resampled(truth, 1500):
        share = drawn @ truth.positive / drawn.sum()  # each resample is brought to the prevalence
        both = np.where(truth.positive, prevalence / share, (1 - prevalence) / (1 - share))
        values.append(weighted_ap(truth, outcome, (drawn * both)[None])[0])
    assert math.sqrt((influence**2).sum()) == pytest.approx(np.std(values), rel=0.1)


def test_ap_at_the_test_sets_prevalence_is_ap():
    truth, outcome = random_truth(300), random_outcome(random_truth(300), 0)
    found, _ = ap_at_prevalence(truth, outcome, 0.5)
    assert found == pytest.approx(weighted_ap(truth, outcome, np.ones((1, 300)))[0])


@pytest.mark.parametrize("of", ["specificity", "sensitivity"])
def test_influence_on_partial_auroc_is_its_spread_over_resampled_patients(of):
    truth = random_truth(400)
    likelihood = random_outcome(truth, 0, decimals=9).likelihood
    found, influence = partial_auroc_of(truth, likelihood, of, 0.8)
    y, s = (truth.positive, likelihood) if of == "specificity" else (~truth.positive, -likelihood)
    assert found == pytest.approx(roc_auc_score(y, s, max_fpr=0.2))
    values = [roc_auc_score(y, s, max_fpr=0.2, sample_weight=row) for row in resampled(truth, 600)]
    assert math.sqrt((influence**2).sum()) == pytest.approx(np.std(values), rel=0.1)


def validated(scores, *, runs=2, offset=50):
    """Test and validation runs of two configurations; folds have validation cases of their own."""
    rng = np.random.default_rng(7)
    for restart in range(runs):
        for fold in (0, 1):
            ids = [f"{1000 * (fold + 1) + i}_{i}" for i in range(40)]
            cases = (ids, np.array([(0, 1, 0, 2, 0)[i % 5] for i in rng.permutation(40)]))
            for number, name in enumerate(("ce", "focal")):
                seed = 100 * number + 10 * fold + restart
                common = {"fold": fold, "restart": restart}
                scores.run(f"test/{name}{fold}{restart}", name, seed=seed, **common)
                scores.run(f"validation/{name}{fold}{restart}", name, seed=seed + offset, truth=cases, **common)
    return scores.root / "test", scores.root / "validation"


def table(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def study(scores, tmp_path):
    """Verdict, folder, test runs and validation runs by name, through the command."""
    scores.cases = 60
    test, validation = validated(scores)
    (tmp_path / "analysis.toml").write_text(ANALYSIS)
    code = main(
        ["compare", "--scores", str(test), "--validation", str(validation), "--analysis",
         str(tmp_path / "analysis.toml"), "--output", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 0
    runs = read_scored_runs([test])
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    return verdict, tmp_path / "out", runs, read_validation([validation], runs)


def test_thresholds_of_validation_cases_apply_to_the_test_set(study):
    verdict, folder, runs, validation = study
    clinical = verdict.clinical
    assert clinical.thresholds_from == "validation"
    assert clinical.validation == {name: run.metrics_sha256 for name, run in validation.items()}
    assert len({run.truth.case_ids for run in validation.values()}) == 2
    members = [run for run in runs if run.source.configuration == "ce"]
    by_aim = {point.aim: point for point in clinical.configurations[0].operating_points}
    tables, ppv, npv, at_prevalence, lesions, false = [], [], [], [], [], []
    for run in members:
        chosen = validation[run.name]
        negatives = np.sort(chosen.outcome.likelihood[~chosen.truth.positive])
        highest = negatives[math.ceil(0.9 * negatives.size - 1e-9) - 1]
        threshold = by_aim["specificity"].thresholds[run.name]
        assert highest < threshold <= highest + 1e-9
        called = run.outcome.likelihood > highest
        tables.append(confusion_matrix(run.truth.positive, called).ravel())
        tn, fp, fn, tp = tables[-1]
        ppv.append(tp / (tp + fp))
        npv.append(tn / (tn + fn))
        se, sp = tp / (tp + fn), tn / (tn + fp)
        at_prevalence.append(se * 0.033 / (se * 0.033 + (1 - sp) * 0.967))
        reached = run.outcome.confidence > highest
        lesions.append((reached & run.outcome.hit).sum() / run.truth.lesion_count)
        false.append((reached & ~run.outcome.hit).sum() / 60)
        cut = by_aim["sensitivity"].thresholds[run.name]
        assert recall_score(chosen.truth.positive, chosen.outcome.likelihood >= cut) >= 0.9
        assert recall_score(chosen.truth.positive, chosen.outcome.likelihood > cut) < 0.9
    point = by_aim["specificity"]
    tn, fp, fn, tp = np.mean(tables, axis=0)
    counts = (point.true_negatives, point.false_positives, point.false_negatives, point.true_positives)
    assert counts == pytest.approx((tn, fp, fn, tp))
    assert point.sensitivity.mean == pytest.approx(tp / (tp + fn))
    assert point.specificity.mean == pytest.approx(tn / (tn + fp))
    for found, expected in [
        (point.ppv, ppv), (point.npv, npv), (point.ppv_at_prevalence, at_prevalence),
        (point.lesion_sensitivity, lesions), (point.false_positives_per_case, false),
    ]:  # fmt: skip
        assert found.mean == pytest.approx(np.mean(expected))
        assert found.interval[0] < found.mean < found.interval[1]
    row = table(folder / "tables" / "operating_points.csv")[0]
    assert (row["configuration"], row["aim"]) == ("ce", "specificity")
    assert float(row["sensitivity_low"]) == pytest.approx(point.sensitivity.interval[0])


def test_calibration_and_net_benefit_of_the_command_are_means_over_runs(study):
    verdict, folder, runs, _ = study
    members = [run for run in runs if run.source.configuration == "ce"]
    found = verdict.clinical.configurations[0]
    brier = [brier_score_loss(run.truth.positive, run.outcome.likelihood) for run in members]
    assert found.calibration.brier.mean == pytest.approx(np.mean(brier))
    point = found.net_benefit[4]
    assert point.threshold == pytest.approx(0.25)
    positive = members[0].truth.positive
    called = np.stack([run.outcome.likelihood >= point.threshold for run in members])
    assert point.net_benefit.mean == pytest.approx(((called & positive).sum() - (called & ~positive).sum() / 3) / 240)
    assert verdict.clinical.treat_all[4].net_benefit == pytest.approx(positive.mean() - (1 - positive.mean()) / 3)
    assert len(table(folder / "tables" / "net_benefit.csv")) == 3 * 15
    assert float(table(folder / "tables" / "calibration.csv")[0]["brier"]) == pytest.approx(np.mean(brier))


def test_page_shows_clinical_tables_and_figures(study):
    _, folder, _, _ = study
    text = (folder / "report.html").read_text()
    assert "Thresholds were chosen for each run on its validation cases" in text
    assert "at 3.3 %" in text
    assert all(f'aria-labelledby="{name}"' in text for name in ("configurations", "curves", "clinical"))
    assert (folder / "figures" / "decision-curve.pdf").is_file()
    assert (folder / "figures" / "calibration.svg").is_file()


def test_with_validation_the_whole_report_uses_one_operating_point(study):
    verdict, folder, runs, _ = study
    assert "which is optimistic" not in (folder / "report.html").read_text()
    for each in verdict.clinical.configurations:
        (point,) = [point for point in each.operating_points if point.aim == "specificity"]
        members = [run for run in runs if run.source.configuration == each.name]
        called = np.stack([run.outcome.likelihood >= point.thresholds[run.name] for run in members])
        right = (called == members[0].truth.positive).sum(axis=0)
        rows = [row for row in table(folder / "tables" / "flips.csv") if row["configuration"] == each.name]
        expected = {
            case: str(count)
            for case, count in zip(members[0].truth.case_ids, right, strict=True)
            if 0 < count < len(members)
        }
        assert {row["case_id"]: row["runs_right"] for row in rows} == expected


def test_without_validation_the_page_says_that_thresholds_are_optimistic(scores, tmp_path):
    scores.arms()
    assert main(["compare", "--scores", str(scores.root), "--output", str(tmp_path / "out")]) == 0
    clinical = read_record(tmp_path / "out" / "verdict.json", Verdict).clinical
    assert (clinical.thresholds_from, clinical.prevalence) == ("test set", None)
    assert all(point.ppv_at_prevalence is None for each in clinical.configurations for point in each.operating_points)
    assert "chosen on this test set, which is optimistic" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("aim", ["specificity", "sensitivity"])
def test_value_fixed_by_a_test_set_threshold_has_variance_by_cases(scores, aim):
    """All runs have the same share, so their spread is none: ``Σ Ī²`` over patients, written out."""
    scores.cases = 120
    scores.arms(runs=4)
    arms = arms_of(read_scored_runs([scores.root]))
    truth = arms["ce"].runs[0].truth
    clinical = describe_clinically(arms, truth, Analysis(name="x"), {})
    point = next(each for each in clinical.configurations[0].operating_points if each.aim == aim)
    found = getattr(point, aim)
    kind = truth.positive if aim == "sensitivity" else ~truth.positive
    right = np.stack(
        [(run.outcome.likelihood >= point.thresholds[run.name]) == truth.positive for run in arms["ce"].runs]
    )[:, kind]
    assert np.ptp(right.mean(axis=1)) == 0
    share, count = right.mean(), kind.sum()
    error = math.sqrt(right.mean(axis=0).var(ddof=1) / count) / (share * (1 - share))
    reach = student.isf(0.025, count - 1) * error
    assert found.interval == pytest.approx(tuple(expit(logit(share) + np.array([-reach, reach]))))
