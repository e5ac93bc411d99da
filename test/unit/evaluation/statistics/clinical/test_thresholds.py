"""Thresholds from runs on validation cases, and predictive values at a prevalence."""

import math

import numpy as np
import pytest
from evaluation_makers import random_outcome, random_truth, resampled
from refusals import refused_with

from contract.records import read_record
from evaluation.__main__ import main
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.statistics.clinical.thresholds import by_bayes, read_validation
from evaluation.statistics.variance.estimates import ratio
from evaluation.statistics.verdict_records import Verdict


def test_predictive_value_at_a_prevalence_is_bayes_rule_with_its_spread():
    """At the test set's own prevalence it is PPV; the prevalence does not vary."""
    truth = random_truth(400)
    called = random_outcome(truth, 0).likelihood > 0.4
    sensitivity = ratio(truth, called & truth.positive, truth.positive)
    specificity = ratio(truth, ~called & ~truth.positive, ~truth.positive)
    value, influence = by_bayes(sensitivity, specificity, 0.5)
    ppv = ratio(truth, called & truth.positive, called)
    assert value == pytest.approx(ppv.value)
    values = []
    for drawn in resampled(truth, 3000):
        se = drawn @ (called & truth.positive) / (drawn @ truth.positive)
        fpr = drawn @ (called & ~truth.positive) / (drawn @ ~truth.positive)
        values.append(se / (se + fpr))
    assert math.sqrt((influence**2).sum()) == pytest.approx(np.std(values), rel=0.06)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "no scored run on validation cases for "),
        ("double", "duplicate run ce_fold0_restart0"),
        ("same", "its cases are those of the test set"),
        ("one class", "expected positive and negative validation cases, found 0 positive of 30"),
        ("card", "the card of the test set"),
    ],
)
def test_faulty_validation_runs_are_refused_with_3(scores, tmp_path, refusal, fault, message):
    scores.arms(runs=1)
    test, validation = scores.root, type(scores)(tmp_path / "validation")
    ids = [f"{900 + i}_{i}" for i in range(30)]
    cases = ids, np.array([(0, 1, 0, 2, 0)[i % 5] for i in range(30)])
    none = ids, np.zeros(30, dtype=int)
    validation.run("focal", "focal", truth=cases)
    if fault == "double":
        validation.run("other", "ce", truth=cases, seed=3)
    if fault != "missing":
        of_fault = {"same": None, "one class": none}.get(fault, cases)
        validation.run("ce", "ce", truth=of_fault, **({"card_sha256": "c" * 64} if fault == "card" else {}))
    words = ("--scores", test, "--validation", validation.root, "--output", tmp_path / "o")
    assert message in refusal("compare", *words)
    assert not (tmp_path / "o").exists()


def test_validation_cases_of_the_test_set_or_of_training_are_noted(scores, tmp_path):
    scores.arms(runs=1)
    validation = type(scores)(tmp_path / "validation")
    ids = [f"{100 + i}_{i}" for i in range(29)] + ["900_1"]
    cases = ids, np.array([(0, 1, 0, 2, 0)[i % 5] for i in range(30)])
    validation.run("ce", "ce", truth=cases, trained_on=4)
    validation.run("focal", "focal", truth=cases, trained_on=None)
    command = ["compare", "--scores", str(scores.root), "--validation", str(validation.root)]
    assert main([*command, "--output", str(tmp_path / "o")]) == 0
    assert read_record(tmp_path / "o" / "verdict.json", Verdict).clinical.notes == (
        "29 ids of validation cases, such as 100_0, are also in the test set.",
        "Some validation cases were trained on by ce_fold0_restart0.",
        "Whether validation cases were trained on is not known for focal_fold0_restart0.",
    )


def test_runs_without_fold_and_restart_are_matched_by_their_networks(scores, tmp_path):
    validation = type(scores)(tmp_path / "validation")
    cases = [f"{900 + i}_{i}" for i in range(30)], np.array([(0, 1, 0, 2, 0)[i % 5] for i in range(30)])
    for number, members in enumerate((("a" * 64, "b" * 64), ("c" * 64, "d" * 64))):
        scores.run(f"four{number}", "ensemble-four", fold=None, restart=None, runs=members, seed=number)
        validation.run(f"v{1 - number}", "ensemble-four", fold=None, restart=None, runs=members[::-1], truth=cases)
    runs = read_scored_runs([scores.root])
    found = read_validation([validation.root], runs)
    assert all(set(found[run.name].source.runs) == set(run.source.runs) for run in runs)
    with refused_with(problem="no scored run on validation cases"):
        read_validation([validation.root / "v0"], runs)
