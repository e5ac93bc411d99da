"""The notes on what limits a comparison."""

from report_makers import judged, quickly_judged, text_of

from evaluation.report.number_format import level_text
from evaluation.report.text.limitations import notes
from evaluation.statistics.analysis_file import Analysis


def test_notes_give_every_reason_of_the_verdict(scores):
    scores.cases = 60
    scores.demo()
    verdict = judged(scores, Analysis(name="x", metrics=("auroc",)))
    said = " ".join(notes(verdict))
    for pair in verdict.pairs:
        for reason in (pair.reason, None if pair.networks else pair.run_level.reason):
            assert reason is None or reason in said
    assert "an ensemble is not exchangeable with its members" in said


def test_interim_analyses_are_described_with_the_level_of_this_look(scores):
    scores.arms(4.0, -0.5, runs=4)
    verdict = judged(scores, Analysis(name="x", primary="auroc", looks=(4, 8)))
    level = level_text(verdict.pairs[0].alpha)
    assert level == "0.0031"
    methods = text_of(verdict)[0]
    assert "overall α = 0.05" in methods
    assert "spending function of Lan and DeMets" in methods
    assert f"At this one p-values were compared with {level}." in methods
    said = " ".join(notes(verdict))
    assert f"compared with the level of the look that is due: {level} at 4 runs." in said
    assert f"at the level of this look, {level}, its smallest attainable p being 0.029: ce and focal." in said


def test_notes_of_the_demo_state_its_limits(demo_verdict):
    verdict = demo_verdict
    said = " ".join(notes(verdict))
    assert "profile “demo”" in said
    assert "they say nothing about the methods" in said
    assert "Exploratory: no analysis file" in said
    tested = sum(pair.run_level.p is not None for pair in verdict.pairs if pair.metric == "auroc")
    assert tested < verdict.family
    assert f"ranking of so few runs cannot show a difference after Holm over {tested}, its smallest" in said
    assert "“New runs” are further trainings on the same training cases" in said


def test_notes_name_missing_predictions_single_runs_and_missing_margins(scores):
    scores.run("a", "ce", profile="modern")
    scores.run("b", "focal", profile="modern", seed=1)
    verdict, _ = quickly_judged(scores, name="declared")
    first = verdict.configurations[0].model_copy(update={"missing": 2})
    said = " ".join(notes(verdict.model_copy(update={"configurations": (first, *verdict.configurations[1:])})))
    assert "2 missing predictions counted as likelihood 0 without candidates." in said
    assert "ce and focal: of ce a single run was scored: how much runs vary is not known." in said
    assert "The analysis file declares no margin" in said
    assert "demo" not in said


def test_notes_name_undefined_metrics(scores):
    ids, lesions = scores.truth()
    scores.cases = 6
    scores.run("a", "ce", truth=(ids[:6], lesions[:6] * 0))
    said = " ".join(notes(quickly_judged(scores)[0]))
    assert "Undefined on this test set: AUROC (" in said


def test_claim_about_an_ensemble_without_control_is_noted(demo_verdict):
    verdict = demo_verdict
    claims = [pair for pair in verdict.pairs if pair.ensemble and pair.code != "undecided"]
    assert claims
    assert any("No size-matched control of ensemble-four was scored" in note for note in notes(verdict))
