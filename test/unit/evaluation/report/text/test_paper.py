"""The text for a paper, the checklists and the flow of cases: every number is the verdict's."""

import pytest
from report_makers import judged, text_of

from contract.records import read_record
from evaluation.compare import compare_table
from evaluation.report.tables.table_files import flow
from evaluation.report.text.checklists import checklists
from evaluation.report.text.limitations import notes
from evaluation.report.text.paper_methods import holm_over
from evaluation.report.text.verdict_paragraph import summary
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.verdict_records import Verdict


def test_methods_and_results_hold_the_numbers_of_the_verdict(scores):
    scores.arms(2.0, 0.5, runs=3)
    plan = Analysis(name="x", primary="auroc", margin={"auroc": 0.04}, alpha=0.1)
    verdict = judged(scores, plan)
    methods, results = text_of(verdict)
    first, pair = verdict.configurations[0], verdict.pairs[0]
    assert f"{first.cases} cases of {verdict.patients} patients; {first.positive_cases} (40 %) were positive" in methods
    assert "AUROC was the primary metric" in methods
    assert "runs were nested in configurations" in methods
    assert f"adjusted by Holm’s method over {holm_over(verdict)}; α = 0.1. Intervals are 90 % confidence" in methods
    assert "±0.04 (AUROC)" in methods
    assert f"{verdict.written_by.program} {verdict.written_by.version}" in methods
    assert "numpy 0.0" in methods
    found = first.metrics["auroc"]
    assert (
        f"{found.mean:.3f} ± {found.sd:.3f} [90 % CI {found.interval.low:.3f} to {found.interval.high:.3f}]" in results
    )
    numbers = f"difference {pair.estimate:+.3f} [90 % CI {pair.interval.low:+.3f} to {pair.interval.high:+.3f}]"
    assert numbers.replace("-", "−") in results
    assert pair.sentence[:-1] in results
    assert "None" not in methods + results


@pytest.mark.parametrize("primary", ["auroc", "ap"])
def test_summary_and_results_lead_with_the_primary_metric(scores, primary):
    scores.arms(3.0, -1.0, runs=4)
    verdict = judged(scores, Analysis(name="x", primary=primary))
    name = {"auroc": "AUROC", "ap": "AP"}[primary]
    assert summary(verdict).startswith(f"By {name}, ce is better than focal (difference +")
    assert text_of(verdict)[1].startswith(f"{name} was ")


def test_answers_by_other_than_the_primary_metric_are_exploratory(scores):
    scores.arms(3.0, -1.0, runs=4)
    verdict = judged(scores, Analysis(name="x", metrics=["ap", "auroc"], primary="auroc"))
    assert {pair.metric: pair.endpoint for pair in verdict.pairs} == {"auroc": "primary", "ap": "exploratory"}
    words = {pair.metric: pair.sentence.split(",")[0] for pair in verdict.pairs}
    assert words == {"auroc": "By AUROC", "ap": "By AP (exploratory)"}
    assert "Decided, of 1 comparison: 1 by AUROC and 1 by AP (exploratory)." in summary(verdict)
    assert "Comparisons by AP are exploratory." in text_of(verdict)[0]
    assert any("its comparisons. Those by AP are exploratory." in note for note in notes(verdict))
    undeclared = judged(scores, Analysis(name="x", metrics=["ap", "auroc"]))
    assert {pair.endpoint for pair in undeclared.pairs} == {None}
    assert any("AP and AUROC are 2 families" in note for note in notes(undeclared))


def test_single_networks_and_missing_predictions_are_worded(scores):
    scores.arms(runs=1, trained_on=None)
    verdict = judged(scores, analysis="exploratory")
    first = verdict.configurations[0].model_copy(update={"missing": 1})
    verdict = verdict.model_copy(update={"configurations": (first, *verdict.configurations[1:])})
    methods, results = text_of(verdict)
    assert "exploratory" in methods
    assert "1 missing prediction counted as likelihood 0" in methods
    assert "DeLong’s test" in methods
    assert "trained on a test case" not in methods  # not known
    assert "], p ≈ " in results
    (row, _) = flow(verdict)
    assert (row.cases, row.read, row.missing, row.scored, row.trained_on) == (30, 29, 1, 30, None)


def test_training_studies_are_named_in_text_and_flow(scores):
    scores.arms(trained_on=7)
    verdict = judged(scores)
    assert "had been used for training" in text_of(verdict)[0]
    assert [row.trained_on for row in flow(verdict)] == [7, 7]
    answer = next(row.answer for row in checklists(verdict)["claim"] if row.item == "20")
    assert answer.startswith("test cases that a network was trained on: 7")


def test_a_table_of_runs_has_text_and_no_flow(tmp_path):
    rows = [f"{name},0,{restart},0.{8 + place}{restart}," for place, name in enumerate("ab") for restart in range(4)]
    (tmp_path / "runs.csv").write_text("\n".join(["configuration,fold,restart,auroc,ap", *rows]))
    compare_table(tmp_path / "runs.csv", tmp_path / "out", analysis=None)
    text = (tmp_path / "out" / "tables" / "methods.md").read_text()
    assert "cases were not available" in text
    assert "None" not in text
    assert not (tmp_path / "out" / "tables" / "flow.csv").exists()
    assert "Flow of cases" not in (tmp_path / "out" / "report.html").read_text()
    assert "interval" not in text
    assert "a against b: on this test set the runs of b rank above those of a" in text
    assert "p-values are two-sided and, unless said otherwise, adjusted by Holm’s method over 1 comparison" in text
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    rows = {row.item: row.answer for row in checklists(verdict)["claim"]}
    assert rows["29"].startswith("p of the ranking of the runs on this test set; Holm over 1 comparison")
    assert "without intervals" in rows["37"]
    assert rows["37"] == rows["38"]
    assert "a against b: on this test set the runs of b rank" in summary(verdict)
