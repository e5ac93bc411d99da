"""A pilot supplies metric, prevalence and variances."""

import numpy as np
import pytest
from refusals import refused_with

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json
from evaluation.planning.pilot import pilot_settings
from evaluation.planning.simulation import SimulationSettings


def test_pilot_gives_auroc_prevalence_and_spreads_back(scores):
    # likelihoods by the model itself, and the estimates near what made them
    rng = np.random.default_rng(0)
    scores.cases = 3000
    ids, lesions = scores.truth()
    shared = rng.normal(0, np.sqrt(0.4), 3000)
    for name in ("ce", "focal"):
        method = rng.normal(0, np.sqrt(0.3), 3000)
        for restart in range(6):
            latent = 1.5 * (1 + 0.1 * rng.normal()) * (lesions > 0) + shared + method
            latent += rng.normal(0, np.sqrt(0.3), 3000)
            folder = scores.run(f"{name}{restart}", name, restart=restart, truth=(ids, lesions))
            likelihood = 1 / (1 + np.exp(-latent))
            table = zip(ids, (lesions > 0) * 1, likelihood, strict=True)
            scores.table(folder / "cases.csv", "case_id,label,likelihood", table)
            values = read_json(folder / "metrics.json")
            rows = [line.split(",") for line in (folder / "lesions.csv").read_text().splitlines()[1:]]
            rows = [(row[0], row[1], float(row[2]), float(row[3])) for row in rows]
            values["strict"] = scores.metrics(lesions, likelihood, rows).model_dump()
            write_json(folder / "metrics.json", values)
    settings, pilot = pilot_settings([scores.root], SimulationSettings(runs=2, cases=100))
    assert settings.auroc == pytest.approx(0.855, abs=0.02)  # Φ(1.5/√2)
    assert settings.prevalence == pytest.approx(0.4)
    assert settings.case_share == pytest.approx(0.4, abs=0.04)
    assert settings.method_share == pytest.approx(0.3, abs=0.04)
    # dAUROC/dd = φ(d/√2)/√2 = 0.161 at d = 1.5, times the spread 0.15 of d
    assert settings.run_sd == pytest.approx(0.161 * 0.15, rel=0.5)
    assert pilot["runs"] == 12


def test_pilot_gives_the_ap_that_was_scored(scores):
    scores.demo()
    settings, pilot = pilot_settings([scores.root], SimulationSettings(runs=2, cases=100, metric="ap"))
    names = [f"{loss}_{restart}" for loss in ("ce", "focal", "ce-focal", "ce-dice") for restart in (0, 1)]
    expected = np.mean([read_json(scores.root / name / "metrics.json")["strict"]["ap"] for name in names])
    assert pilot["ap"] == pytest.approx(expected)
    assert settings.value == pytest.approx(expected, abs=1e-3)


def test_a_pilot_that_answers_all_cases_alike_is_refused(scores):
    scores.arms()
    for name in ("ce0", "ce1"):
        path = scores.root / name / "cases.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join([*row[:2], row[2] if row[0] == "case_id" else "0.5"]) for row in rows))
        values = read_json(scores.root / name / "metrics.json")
        values["strict"] |= {"auroc": 0.5, "score": (0.5 + values["strict"]["ap"]) / 2}
        write_json(scores.root / name / "metrics.json", values)
    with pytest.raises(OncoduetError) as caught:
        pilot_settings([scores.root], SimulationSettings(runs=2, cases=100))
    assert "cases that differ in likelihood" in caught.value.problem


def test_pilot_without_two_runs_or_both_classes_is_refused(scores):
    scores.run("a", "ce")
    with refused_with(problem="a pilot needs two runs of a configuration"):
        pilot_settings([scores.root], SimulationSettings(runs=2, cases=100))
    ids, lesions = scores.truth()
    for restart in (0, 1):
        scores.run(f"all{restart}", "focal", restart=restart, truth=(ids, lesions * 0 + 1))
    with refused_with(problem="a pilot needs two positive and two negative cases"):
        pilot_settings([scores.root / "all0", scores.root / "all1"], SimulationSettings(runs=2, cases=100))
