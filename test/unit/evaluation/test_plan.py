import shutil

import pytest

from contract.files.reading import read_json
from contract.records import read_record
from evaluation.__main__ import main
from evaluation.planning.group_sequential import InterimResult
from evaluation.planning.plan_record import PlanRecord
from evaluation.planning.simulation import RATES, SCENARIOS

AIM = "--difference: expected {} plus difference within 0 and 1"
QUICK = ["--studies", "40", "--runs", "2", "4", "--cases", "60", "120"]


def test_plan_names_the_smallest_design_that_reaches_the_power(tmp_path, capsys):
    words = ["plan", "--difference", "0.1", "--power", "0.1", "--margin", "0.2", *QUICK, "--output", str(tmp_path)]
    assert main(words) == 0
    record = read_record(tmp_path / "plan.json", PlanRecord)
    assert [(each.runs, each.cases) for each in record.designs] == [(2, 60), (2, 120), (4, 60), (4, 120)]
    assert set(record.designs[0].shown) == {"this test set", "better", "on par"}
    enough = [each for each in record.designs if each.shown["better"].share >= 0.1]
    best = min(enough, key=lambda each: each.runs * each.cases)
    said = f"{best.runs} runs per configuration on {best.cases} cases show a difference of 0.1 with "
    assert record.sentence.startswith(said)
    assert said in " ".join(capsys.readouterr().out.split())


def test_without_a_difference_the_question_is_on_par(tmp_path, capsys, refusal):
    words = ["plan", "power", "--difference", "0", "--margin", "0.2", *QUICK, "--output", str(tmp_path)]
    assert main(words) == 0
    record = read_record(tmp_path / "plan.json", PlanRecord)
    assert record.question == "power to show that two are on par within ±0.2 in AUROC"
    assert "show that two are on par within ±0.2 with" in record.sentence
    shown = capsys.readouterr().out
    assert "on par" in shown and "better" not in shown
    assert "--difference: expected a difference, or --margin" in refusal("plan", "power", "--difference", "0")


@pytest.mark.parametrize(("metric", "name"), [("ap", "AP"), ("score", "score")])
def test_plan_answers_for_the_metric_that_is_asked_about(tmp_path, capsys, metric, name):
    words = ["plan", "--difference", "0.05", "--metric", metric, *QUICK, "--output", str(tmp_path)]
    assert main(words) == 0
    record = read_record(tmp_path / "plan.json", PlanRecord)
    assert (record.metric, record.question) == (metric, f"power to show a difference of 0.05 in {name}")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Power to show a difference of 0.05 in {name}" in shown
    assert f"Assumed: AUROC 0.880 and so {name} 0.7" in shown or f"Assumed: AUROC 0.880 and so {name} 0.8" in shown
    assert "One candidate per case, one lesion per positive case." in shown


def test_plan_says_when_no_design_reaches_the_power(capsys):
    assert main(["plan", "--difference", "0.001", *QUICK]) == 0
    assert "None of these designs shows a difference of 0.001 with 80 % power" in capsys.readouterr().out


@pytest.mark.parametrize("question", ["errors", "--simulate"])
def test_errors_of_every_scenario_are_reported_for_every_design(tmp_path, capsys, question):
    words = ["plan", question, "--studies", "20", "--runs", "2", "3", "--cases", "40", "--margin", "0.1"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    record = read_record(tmp_path / "plan.json", PlanRecord)
    assert [(each.runs, each.cases) for each in record.designs] == [(2, 40), (3, 40)]
    assert all(set(design.errors) == set(SCENARIOS) for design in record.designs)
    assert all(set(rates) == set(RATES) for design in record.designs for rates in design.errors.values())
    assert record.any_false_on_par is not None
    shown = capsys.readouterr().out
    assert "3 runs, 40 cases" in shown
    assert "any is declared on par in" in " ".join(shown.split())
    assert max(map(len, shown.split("20 studies each")[0].splitlines())) <= 80


def test_interim_analyses_are_simulated(capsys):
    assert main(["plan", "--sequential", "--simulate", "--studies", "100", "--looks", "4", "8"]) == 0
    shown = capsys.readouterr().out
    assert "100 campaigns, looks at 4, 8 runs per configuration" in shown
    assert "At 4 runs no campaign can stop: p cannot get below the level of that look." in " ".join(shown.split())
    assert "of 8" in shown


def test_interim_analysis_of_a_running_campaign(scores, tmp_path, capsys):
    scores.arms(-1.0, 5.0, runs=4, seeds=(0, 20))
    (tmp_path / "analysis.toml").write_text('name = "x"\nlooks = [4, 5]\nmetrics = ["auroc"]\nalpha = 0.1\n')
    files = ["--scores", str(scores.root), "--analysis", str(tmp_path / "analysis.toml")]
    assert main(["plan", "--sequential", *files, "--output", str(tmp_path / "out")]) == 0
    found = read_record(tmp_path / "out" / "sequential.json", InterimResult)
    assert (found.stop, found.look, found.comparisons[0].state) == (True, 4, "shown")
    assert len(found.parents) == 8
    assert found.sentence in capsys.readouterr().out.replace("\n", " ")


def test_sample_size_counts_runs_of_configurations_not_of_ensembles(scores, tmp_path):
    scores.demo()
    shutil.rmtree(scores.root / "four_1")
    plan = ["plan", "power", "--difference", "0.02", *QUICK, "--output", str(tmp_path / "plan")]
    assert main(plan) == 0
    words = ["--scores", str(scores.root), "--plan", str(tmp_path / "plan" / "plan.json")]
    assert main(["compare", *words, "--output", str(tmp_path / "out")]) == 0
    assert "2 runs per configuration" in read_json(tmp_path / "out" / "verdict.json")["sample_size"]


def test_pilot_is_read_by_the_command(scores, tmp_path):
    scores.demo()
    words = ["plan", "--pilot", str(scores.root), "--difference", "0.02", *QUICK, "--output", str(tmp_path / "out")]
    assert main(words) == 0
    record = read_record(tmp_path / "out" / "plan.json", PlanRecord)
    assert record.pilot["configurations"] == 4
    assert record.assumptions["prevalence"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--runs", "1"], 3, "--runs: expected 2 to 100, found 1"),
        (["--auroc", "0.3"], 3, "--auroc: expected 0.5 to 0.9999, found 0.3"),
        (["--alpha", "0.7"], 3, "--alpha: expected 1e-06 to 0.499, found 0.7"),
        (["--auroc", "0.95", "--difference", "0.1"], 3, f"{AIM.format('AUROC')}, found 1.05"),
        (["--metric", "ap", "--difference", "0.6"], 3, f"{AIM.format('AP')}, found 1.37723"),
        (["looks", "--looks", "5", "21"], 3, "--looks: expected 2 to 20, found 21"),
        (["looks", "--looks", "10", "5"], 3, "--looks: expected rising numbers of runs, found 10 5"),
    ],
)
def test_wrong_options_are_refused_in_one_line(words, status, message, capsys):
    assert main(["plan", *words]) == status
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["stop", "--scores", "x"], "--analysis"),
        (["power", "--scores", "x"], "--scores"),
        (["errors", "--power", "0.8"], "--power"),
        (["looks", "--pilot", "x"], "--pilot"),
        ([], "the following arguments are required: QUESTION"),
    ],
)
def test_options_of_another_question_are_wrong_usage(words, option, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_an_answer_replaces_only_one_to_the_same_question(tmp_path, refusal):
    words = ["plan", "--difference", "0.1", *QUICK, "--output", str(tmp_path)]
    assert main(words) == 0
    first = (tmp_path / "plan.json").read_bytes()
    assert main([*words, "--workers", "2"]) == 0
    assert refusal(*words, "--alpha", "0.01").startswith(f"error: {tmp_path}: expected results of question ")
    assert (tmp_path / "plan.json").read_bytes() == first
