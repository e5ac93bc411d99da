"""Power against human readers: by another formula, and by simulation."""

import math

import numpy as np
import pytest
from refusals import refused_with
from scipy.stats import f, ncf

from contract.errors import OncoduetError
from contract.records import read_record
from evaluation.__main__ import main
from evaluation.planning.reader_power import (
    TYPICAL,
    ReaderDesign,
    ReaderPlanRecord,
    VarianceComponents,
    pilot_components,
    precision,
)
from evaluation.planning.simulation import SimulatedStudy, metric_by_patient
from evaluation.statistics.variance.runs_and_cases import nested

ALPHA = 0.05


def components(error=0.000792, cov_2=0.000340, cov_3=0.000236, reader_variance=0.00174, scale=1e9):
    """Of two arms alike: those of Van Dyke's readers, of so many cases that only the members count as drawn."""
    parts = [np.array([each / 2, each / 2]) * scale for each in (error, cov_2, error, cov_2, cov_3)]
    return VarianceComponents(reader_variance, reader_variance, *parts)


@pytest.mark.parametrize("members", [4, 8, 20])
@pytest.mark.parametrize("difference", [0.05, 0.08])
def test_power_of_two_equal_arms_is_that_of_hillis_and_obuchowskis_f(members, difference):
    # F(1, df₂; λ), readers nested in two tests: λ = (r d²/2)/(E[MS(R)] + r (Cov₂ − Cov₃)), and
    # df₂ = (E[MS(R)] + r (Cov₂ − Cov₃))²/(E[MS(R)]²/(2 (r − 1)))
    error, cov_2, cov_3, reader_variance = 0.000792, 0.000340, 0.000236, 0.00174
    mean_square = reader_variance + error - cov_2
    denominator = mean_square + members * (cov_2 - cov_3)
    freedom = denominator**2 / (mean_square**2 / (2 * (members - 1)))
    expected = ncf.sf(f.isf(ALPHA, 1, freedom), 1, freedom, members * difference**2 / 2 / denominator)
    found = precision(components(), ReaderDesign(members, members, 10**9, 10**9))
    assert found.degrees_of_freedom == pytest.approx(freedom)
    # F counts both directions, of which one is shown
    both = found.power(difference, ALPHA / 2) + found.power(-difference, ALPHA / 2)
    assert both == pytest.approx(expected, abs=1e-6)


def test_variance_by_cases_is_hanley_and_mcneils():
    # their example (Radiology 1982): area 0.893, 51 abnormal and 58 normal images, standard error 0.032
    found = VarianceComponents.assumed(**{**TYPICAL, "auroc": 0.893}, difference=0.0)
    assert math.sqrt((found.var_of_readers / [51, 58]).sum()) == pytest.approx(0.032, abs=0.0015)


SPREAD = {"runs": 0.05, "readers": 0.15}
SHARES = {"runs": (0.3, 0.4, 0.3), "readers": (0.3, 0.2, 0.5)}
"""Of the variance of scores: by case, by arm and case, by member and case."""


def an_arm_of_scores(name, separation, count, positive, common, generator):
    shares = np.sqrt(SHARES[name])
    of_arm = shares[1] * generator.normal(size=positive.size)
    own = shares[2] * generator.normal(size=(count, positive.size))
    return generator.normal(separation, SPREAD[name], (count, 1)) * positive + shares[0] * common + of_arm + own


def a_study(design, generator, separations=(1.8, 1.5)):
    """Runs and readers, each with its influence; of a split plot, readers see their block."""
    cases = design.positives + design.negatives
    positive = np.arange(cases) < design.positives
    common = generator.normal(size=cases)
    runs = an_arm_of_scores("runs", separations[0], design.runs, positive, common, generator)
    readers = an_arm_of_scores("readers", separations[1], design.readers, positive, common, generator)
    a, h = metric_by_patient(SimulatedStudy(positive, np.arange(cases), (runs, readers)), "auroc")
    if design.blocks > 1:
        for number in range(design.readers):
            read = np.arange(cases) % design.blocks == number % design.blocks
            part = SimulatedStudy(positive[read], np.arange(read.sum()), (readers[[number]][:, read],))
            (own,) = metric_by_patient(part, "auroc")
            h.values[number] = own.values[0]
            h.influence[number] = 0
            h.influence[number, read] = own.influence[0]
    return positive, a, h


@pytest.fixture(scope="module")
def pilot():
    positive, a, h = a_study(ReaderDesign(40, 40, 1500, 3000), np.random.default_rng(0))
    return VarianceComponents.estimated(a, h, positive), float(a.values.mean() - h.values.mean())


@pytest.mark.parametrize(
    ("design", "studies"),
    [
        (ReaderDesign(5, 6, 60, 120), 600),
        (ReaderDesign(3, 12, 40, 60), 600),
        (ReaderDesign(5, 8, 80, 160, blocks=4), 400),
    ],
    ids=["fully crossed", "few cases", "split plot"],
)
def test_power_is_that_of_simulated_studies(pilot, design, studies):
    estimated, difference = pilot
    margin = 0.02
    generator = np.random.default_rng(1)
    tests, estimates = [], []
    for _ in range(studies):
        positive, a, h = a_study(design, generator)
        tests.append(nested(a, h, positive))
        estimates.append(tests[-1].estimate)
    planned = precision(estimated, design)
    assert np.std(estimates) == pytest.approx(planned.standard_error, rel=0.08)
    superior = np.mean([test.p <= ALPHA and test.estimate > 0 for test in tests])
    not_inferior = np.mean([test.p_not_above(-margin) <= ALPHA for test in tests])
    reach = 3.5 * math.sqrt(0.25 / studies)
    assert 0.2 < superior < not_inferior < 0.98
    assert planned.power(difference, ALPHA / 2) == pytest.approx(superior, abs=reach)
    assert planned.power(difference + margin, ALPHA) == pytest.approx(not_inferior, abs=reach)


def test_equal_readers_add_no_variance_and_split_plots_cost_precision():
    alike = VarianceComponents.assumed(**{**TYPICAL, "reader_sd": 0.0, "reader_correlation": 1.0}, difference=0.05)
    few, many = (precision(alike, ReaderDesign(10, readers, 90, 210)).standard_error for readers in (2, 200))
    assert few == pytest.approx(many)
    typical = VarianceComponents.assumed(**TYPICAL, difference=0.05)
    crossed, split = (precision(typical, ReaderDesign(10, 12, 90, 210, blocks)).standard_error for blocks in (1, 4))
    assert crossed < split


def test_the_fewest_readings_that_reach_the_power_are_named(tmp_path, capsys, refusal):
    words = ["--difference", "0.05", "--margin", "0.05", "--cases", "200", "800", "--output", str(tmp_path)]
    assert main(["plan", "readers", *words]) == 0
    record = read_record(tmp_path / "plan-readers.json", ReaderPlanRecord)
    assert {(each.readers, each.cases) for each in record.designs} == {(h, n) for h in (5, 10, 20) for n in (200, 800)}
    for name, goal in (("not inferior", "non-inferiority by 0.05"), ("superior", "superiority by 0.05")):
        enough = [each for each in record.designs if each.power[name] >= 0.8]
        best = min(enough, key=lambda each: each.readers * each.cases)
        assert f"{best.readers} readers, 10 runs and {best.cases} cases show {goal} with" in record.sentence
    assert record.assumptions["reader_correlation"] == pytest.approx(0.43)
    shown = capsys.readouterr().out
    assert record.sentence in shown
    said = refusal("plan", "--readers", "5", "10", "--blocks", "2", "--margin", "0.1", "--difference", "0")
    assert "--readers: expected a multiple of 2 blocks, above 2, found 5" in said


def test_a_pilot_supplies_the_components(scores, tmp_path, refusal):
    scores.cases = 60
    scores.arms(1.0, 1.5, runs=3)
    ids, lesions = scores.truth()
    rng = np.random.default_rng(3)
    seen = (lesions > 0) + rng.normal(0, 1, 60)
    lines = ["reader,case_id,score"]
    lines += [
        f"r{k},{case},{value:g}"
        for k in range(4)
        for case, value in zip(ids, np.clip(np.round(3 + seen + rng.normal(0, 0.5, 60)), 1, 5), strict=True)
    ]
    table = tmp_path / "readers.csv"
    table.write_text("\n".join(lines) + "\n")
    found, held, parents = pilot_components([scores.root], table)
    assert (held["configurations"], held["readers"], held["cases"], len(parents)) == (2, 4, 60, 7)
    assert found.var_of_readers.sum() > found.cov_of_readers.sum() > 0
    words = ["plan", "readers", "--pilot", str(scores.root), "--pilot-readers", str(table), "--readers", "10"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    record = read_record(tmp_path / "out" / "plan-readers.json", ReaderPlanRecord)
    assert record.prevalence == pytest.approx(0.4)
    assert record.parents == parents
    said = refusal(*words, "--reader-sd", "0.1")
    assert "--pilot: --reader-sd cannot be used with --pilot" in said
    table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(OncoduetError) as caught:
        pilot_components([scores.root], table)
    assert caught.value.problem == "a pilot needs readers who read every case; r3 did not"


def test_a_pilot_with_single_runs_is_refused(scores, tmp_path):
    scores.run("one", "ce")
    with refused_with(problem="a pilot needs two runs of a configuration"):
        pilot_components([scores.root], tmp_path / "readers.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--difference", "0"], "--difference: expected a difference above 0, or --margin, found 0"),
        (["--difference", "-0.1", "--margin", "0.05"], "--difference: expected a difference above -0.05 (--margin)"),
        (["--difference", "0.2"], "--difference: expected AUROC plus difference from 0.5 to 1, found 1.05"),
        (["--readers", "1"], "--readers: expected 2 to 1000, found 1"),
        (["--cases", "20", "--blocks", "4", "--readers", "8"], "--cases: expected two positive and two negative cases"),
        (["--cross-correlation", "0.6"], "--cross-correlation: expected at most 0.549"),
        (["--pilot", "x"], "--pilot: --pilot and --pilot-readers must be given together"),
    ],
)
def test_impossible_questions_are_refused_in_one_line(words, message, refusal):
    assert refusal("plan", "readers", *words).startswith(f"error: {message}")


def test_where_nothing_varies_there_is_nothing_to_plan():
    alike = VarianceComponents(0.0, 0.0, *[np.array([0.1, 0.1])] * 5)
    with refused_with(problem="nothing varies between runs, readers or cases"):
        precision(alike, ReaderDesign(2, 2, 10, 10))
