"""Networks against human readers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from contract.errors import OncoduetError
from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.readers.reader_comparison import compare_with_readers, readers_by_patient
from evaluation.statistics.readers.readers_table import read_readers_table
from evaluation.statistics.variance.arms import Arm
from evaluation.statistics.variance.influence import by_patient
from evaluation.statistics.variance.runs_and_cases import nested

CASES = 120
NOTHING = (np.zeros(0, dtype=int), np.zeros(0), np.zeros(0, dtype=bool))


@pytest.fixture
def truth():
    positive = np.arange(CASES) % 3 == 0
    ids = tuple(f"{number:04d}_1" for number in range(CASES))
    return TestSet(ids, positive, positive.astype(int), ids)


def an_arm(truth, name="ce", runs=5, shift=2.0, seed=0):
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).normal(0, 1, CASES)
    outcomes = [Outcome(shift * truth.positive + shared + rng.normal(0, 0.5, CASES), *NOTHING) for _ in range(runs)]
    scored = [
        SimpleNamespace(outcome=each, source=SimpleNamespace(configuration=name), is_baseline=False, is_ensemble=False)
        for each in outcomes
    ]
    return Arm(scored, by_patient(truth, outcomes))


@pytest.fixture
def table(truth, tmp_path):
    """A table of readers with a given separation, on all cases or parts of them."""

    def write(shift=1.0, readers=4, *, part=1.0, seed=1):
        rng = np.random.default_rng(seed)
        shared = np.random.default_rng(99).normal(0, 1, CASES)
        lines = ["reader,case_id,score"]
        for reader in range(readers):
            score = np.clip(np.round(3 + shift * truth.positive + shared + rng.normal(0, 0.5, CASES)), 1, 5)
            read = rng.random(CASES) < part
            lines += [f"r{reader},{truth.case_ids[case]},{score[case]:g}" for case in np.flatnonzero(read)]
        path = tmp_path / "readers.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_a_reader_s_metric_is_that_of_the_cases_that_were_read(truth, table):
    readers = read_readers_table(table(part=0.6), truth)
    found = readers_by_patient(readers, truth, "auroc")
    for number, reader in enumerate(readers):
        assert 0.4 * CASES < reader.read.sum() < 0.8 * CASES
        assert found.values[number] == pytest.approx(
            roc_auc_score(truth.positive[reader.read], reader.outcome.likelihood)
        )
        assert not found.influence[number][~reader.read].any()
        assert found.influence[number][reader.read].any()


def test_readers_who_read_all_cases_are_an_arm_like_runs(truth, table):
    readers = read_readers_table(table(), truth)
    found = readers_by_patient(readers, truth, "auroc")
    expected = by_patient(truth, [reader.outcome for reader in readers])["auroc"]
    assert found.values == pytest.approx(expected.values)
    assert found.influence == pytest.approx(expected.influence)


@pytest.mark.parametrize(
    ("shift", "margin", "code"),
    [(3.5, 0.05, "superior"), (1.0, 0.01, "undecided"), (0.0, 0.05, "inferior"), (3.5, None, "superior")],
)
def test_non_inferiority_is_asked_before_superiority(truth, table, shift, margin, code):
    plan = Analysis(name="x", readers={"margin": margin})
    study = compare_with_readers(read_readers_table(table(), truth), {"ce": an_arm(truth, shift=shift)}, truth, plan)
    (found,) = study.comparisons
    assert found.code == code
    assert (found.interval.low > 0 or found.interval.high < 0) == (found.p < 0.05)
    assert (found.p_inferior is None) == (margin is None)
    assert "ce" in found.sentence and study.design == "fully crossed"


def by_readers_and_cases(arm, readers, truth):
    """Readers vary and one network does not: Var(readers)/r + Σ Ī² − own, written out."""
    of_arm, of_readers = arm.metrics["auroc"], readers_by_patient(readers, truth, "auroc")
    count = len(readers)
    own = of_readers.influence.var(axis=0, ddof=1).sum() / count
    together = ((of_arm.influence[0] - of_readers.influence.mean(axis=0)) ** 2).sum()
    return of_readers.values.var(ddof=1) / count + together - own


def test_one_network_is_compared_as_that_network(truth, table):
    readers = read_readers_table(table(), truth)
    arm = an_arm(truth, runs=1, shift=3.5)
    (found,) = compare_with_readers(readers, {"ce": arm}, truth, Analysis(name="x")).comparisons
    assert (found.single, found.variance_of_runs, found.code) == (True, 0.0, "superior")
    assert found.variance_of_readers + found.variance_of_cases == pytest.approx(
        by_readers_and_cases(arm, readers, truth)
    )
    assert "one scored network of ce" in found.sentence and "new runs" not in found.sentence


@pytest.mark.parametrize(("margin", "code"), [(0.3, "not inferior"), (0.01, "inferior"), (None, "inferior")])
def test_not_inferior_excludes_inferior(truth, table, margin, code):
    readers = read_readers_table(table(shift=3.0), truth)
    plan = Analysis(name="x", readers={"margin": margin})
    (found,) = compare_with_readers(readers, {"ce": an_arm(truth, shift=1.5)}, truth, plan).comparisons
    assert found.interval.high < 0
    assert found.code == code
    assert ("worse, but by less than the margin" in found.sentence) == (code == "not inferior")


@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.2])
def test_non_inferiority_is_one_sided_at_alpha(truth, table, alpha):
    """The lower end of the 1 − 2 alpha interval decides, as between configurations."""
    readers, arm = read_readers_table(table(shift=2.0), truth), an_arm(truth, shift=1.6)
    test = nested(arm.metrics["auroc"], readers_by_patient(readers, truth, "auroc"), truth.positive_patients)
    bound = -test.interval(1 - 2 * alpha)[0]
    for margin, is_shown in ((bound + 1e-6, True), (bound - 1e-6, False)):
        plan = Analysis(name="x", alpha=alpha, readers={"margin": margin})
        (found,) = compare_with_readers(readers, {"ce": arm}, truth, plan).comparisons
        assert (found.code == "not inferior") == is_shown


@pytest.mark.parametrize(
    ("metrics", "primary", "by_metric"),
    [
        (("auroc",), None, {"auroc": 0.1}),
        (("ap",), None, {"ap": 0.1}),
        (("auroc", "ap", "score"), None, {"auroc": 0.1, "ap": None}),
        (("auroc", "ap"), "ap", {"auroc": None, "ap": 0.1}),
    ],
)
def test_readers_are_compared_by_declared_metrics_with_one_margin(truth, marked, metrics, primary, by_metric):
    plan = Analysis(name="x", metrics=metrics, primary=primary, readers={"margin": 0.1})
    found = compare_with_readers(marked, {"ce": an_arm(truth)}, truth, plan)
    left_out = {"ap": None} if "ap" in by_metric else {}  # the arm has no candidates, and so AP 0 without variance
    assert {each.metric: each.margin for each in found.comparisons} | left_out == by_metric | left_out


@pytest.mark.parametrize(("metrics", "readers"), [(("score",), {}), (("auroc",), {"threshold": 99})])
def test_questions_without_an_answer_are_refused(truth, table, metrics, readers):
    with pytest.raises(OncoduetError) as caught:
        compare_with_readers(
            read_readers_table(table(), truth), {"ce": an_arm(truth)}, truth,
            Analysis(name="x", metrics=metrics, readers=readers),
        )  # fmt: skip
    assert caught.value.found in ("score", "99")


def test_reader_with_one_or_two_positive_patients_is_not_compared(truth, tmp_path):
    rng = np.random.default_rng(0)
    positives = np.flatnonzero(truth.positive)
    read = {"a": range(CASES), "b": [case for case in range(CASES) if case not in positives[2:]]}
    lines = [f"{name},{truth.case_ids[case]},{rng.normal():.2f}" for name, cases in read.items() for case in cases]
    (tmp_path / "readers.csv").write_text("\n".join(["reader,case_id,score", *lines]))
    readers = read_readers_table(tmp_path / "readers.csv", truth)
    study = compare_with_readers(readers, {"ce": an_arm(truth)}, truth, Analysis(name="x"))
    assert study.comparisons == ()
    assert study.left_out == ("ce by AUROC: b read 2 positive patients, too few to tell how cases vary",)


@pytest.mark.parametrize(("runs", "readers"), [(2, 4), (5, 2)])
def test_two_runs_or_readers_make_p_approximate(truth, table, runs, readers):
    (found,) = compare_with_readers(
        read_readers_table(table(readers=readers), truth), {"ce": an_arm(truth, runs=runs)}, truth, Analysis(name="x")
    ).comparisons
    assert found.approximate == f"there are only 2 {'runs' if runs == 2 else 'readers'}"


def test_between_looks_readers_are_not_compared(truth, table):
    plan = Analysis(name="x", looks=(4, 10), readers={"margin": 0.05})
    (found,) = compare_with_readers(
        read_readers_table(table(), truth), {"ce": an_arm(truth, shift=3.5)}, truth, plan
    ).comparisons
    assert (found.code, found.alpha) == ("undecided", 0.0)
    assert found.sentence.endswith("no look is due.")


def test_not_inferior_without_being_superior(truth, table):
    readers = read_readers_table(table(shift=2.0, readers=8), truth)
    arm = an_arm(truth, shift=2.0, runs=8)
    (found,) = compare_with_readers(
        readers, {"ce": arm}, truth, Analysis(name="x", readers={"margin": 0.15})
    ).comparisons
    assert found.code == "not inferior"
    assert found.difference - found.interval.low < 0.15


def test_three_sources_of_variance_add_up(truth, table):
    (found,) = compare_with_readers(
        read_readers_table(table(), truth), {"ce": an_arm(truth)}, truth, Analysis(name="x")
    ).comparisons
    variance = found.variance_of_runs + found.variance_of_readers + found.variance_of_cases
    assert (found.interval.high - found.difference) / math.sqrt(variance) == pytest.approx(2.0, abs=0.15)


def test_sensitivity_is_compared_where_runs_have_the_readers_specificity(truth, table):
    readers = read_readers_table(table(), truth)
    plan = Analysis(name="x", readers={"threshold": 4})
    arm = an_arm(truth)
    study = compare_with_readers(readers, {"ce": arm}, truth, plan)
    (found,) = study.operating_points
    called = np.stack([reader.outcome.likelihood >= 4 for reader in readers])
    assert found.specificity == pytest.approx((~called[:, ~truth.positive]).mean())
    assert found.readers_sensitivity == pytest.approx(called[:, truth.positive].mean())
    assert study.readers[0].sensitivity == pytest.approx(called[0][truth.positive].mean())
    for run in arm.runs[:1]:
        likelihood = run.outcome.likelihood
        threshold = np.quantile(likelihood[~truth.positive], found.specificity)
        assert (likelihood[truth.positive] > threshold).mean() == pytest.approx(found.sensitivity, abs=0.15)
    assert found.interval.low < found.difference < found.interval.high
    rough = Analysis(name="x", alpha=0.4, readers={"threshold": 4})
    (wide, narrow) = (
        found.interval,
        compare_with_readers(readers, {"ce": arm}, truth, rough).operating_points[0].interval,
    )
    assert (wide.level, narrow.level) == (0.95, 0.6)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.fixture
def marked(truth, tmp_path):
    """Two readers whose marks hit all lesions, with one false positive each."""
    lines = ["reader;case_id;score;hit"]
    for reader in ("a", "b"):
        lines += [
            f"{reader};{case};{5 if p else 2};{1 if p else 0}"
            for case, p in zip(truth.case_ids, truth.positive, strict=True)
        ]
        lines += [f"{reader};{truth.case_ids[0]};4;0"]
    path = tmp_path / "readers.csv"
    path.write_text("\n".join(lines))
    return read_readers_table(path, truth)


def test_marks_give_ap(truth, marked):
    assert readers_by_patient(marked, truth, "ap").values == pytest.approx([1, 1])
