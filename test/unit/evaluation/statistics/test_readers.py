"""Networks against human readers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from contract.errors import OncoduetError
from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.comparison import Arm
from evaluation.statistics.influence import by_patient
from evaluation.statistics.readers import compare_with_readers, readers_by_patient
from evaluation.statistics.readers_table import read_readers_table

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


def test_marks_give_ap(truth, tmp_path):
    lines = ["reader;case_id;score;hit"]
    for reader in ("a", "b"):
        lines += [
            f"{reader};{case};{5 if p else 2};{1 if p else 0}"
            for case, p in zip(truth.case_ids, truth.positive, strict=True)
        ]
        lines += [f"{reader};{truth.case_ids[0]};4;0"]
    path = tmp_path / "readers.csv"
    path.write_text("\n".join(lines))
    readers = read_readers_table(path, truth)
    assert readers_by_patient(readers, truth, "ap").values == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["reader,case_id", "a,0000_1"], "the column score"),
        (["reader,case_id,score", "a,0000_1,3", "a,0001_1,2"], "at least 2 readers, found 1"),
        (["reader,case_id,score", "a,9999_1,3", "b,0000_1,2"], "cases of the test set, such as 0000_1, found 9999_1"),
        (["reader,case_id,score", "a,0000_1,high", "b,0000_1,2"], "line 2: expected a number as score, found 'high'"),
        (["reader,case_id,score", "a,0000_1,3", "a,0000_1,4", "b,0000_1,2"], "line 3: expected 0000_1 once by a"),
        (["reader,case_id,score", "a,0000_1,3", "b,0001_1,2"], "read by a, found no negative one"),
        (["reader,case_id,score", ",0000_1,3", "b,0001_1,2"], "the name of a reader"),
        (["reader,case_id,score,hit", "a,0000_1,3,2", "b,0001_1,2,0"], "hit 0, 1 or empty, found '2'"),
        (["reader,case_id,score,hit", "a,0001_1,3,1", "a,0000_1,3,1", "b,0001_1,2,0"], "at most 0 hits of a in 0001_1"),
    ],
)  # fmt: skip
def test_faults_of_the_table_are_named(truth, tmp_path, lines, message):
    path = tmp_path / "readers.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(OncoduetError) as caught:
        read_readers_table(path, truth)
    assert message in str(caught.value)
