"""The verdict in one paragraph."""

import csv

import pytest
from report_makers import judged, made, quickly_judged, without_maps

from evaluation.report.number_format import p_in_words
from evaluation.report.text.limitations import notes
from evaluation.report.text.verdict_paragraph import MOST_WITH_NUMBERS, summary
from evaluation.statistics.analysis_file import Analysis


@pytest.mark.parametrize("primary", ["", 'primary = "auroc"\n'])
def test_two_models_without_maps_are_told_apart_by_auroc(scores, tmp_path, primary):
    scores.cases = 60
    for name, quality in (("u", -1.0), ("v", 4.0)):
        without_maps(scores, name, quality=quality)
    verdict, words, text = made(scores, tmp_path, primary)
    pair = verdict.pairs[0]
    assert (pair.metric, pair.networks.p < 0.05) == ("auroc", True)
    assert summary(verdict).startswith("By AUROC, the single networks of u and v differ on new cases (difference −0.")
    assert "undecided" not in summary(verdict)
    assert "\nAUROC was 0." in text
    assert f"{p_in_words(pair.networks.p_holm, pair.networks.approximate)})" in text.split("## Results")[1]
    figures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert not figures & {"pr", "froc", "afroc", "runs-ap", "runs-score", "p-auroc", "p-ap", "p-score"}
    assert {"roc", "runs-auroc"} <= figures
    assert "Precision–recall" not in words
    assert "By score" not in words
    assert {each.candidate_free_cases for each in verdict.configurations} == {None}
    with (tmp_path / "out" / "tables" / "flow.csv").open() as stream:
        assert {row["candidate_free"] for row in csv.DictReader(stream)} == {""}


def test_many_decided_comparisons_are_named_or_counted(scores):
    scores.arms(4.0, -0.5, runs=4)
    verdict = judged(scores, Analysis(name="x", metrics=("auroc",)))
    (pair,) = verdict.pairs
    few = [pair.model_copy(update={"a": f"a{k}", "b": "b", "code": "better"}) for k in range(MOST_WITH_NUMBERS + 1)]
    said = summary(verdict.model_copy(update={"pairs": tuple(few)}))
    assert said.startswith("By AUROC, each of a0, a1, a2, a3 and a4 is better than b. ")
    many = [each.model_copy(update={"b": f"b{k}"}) for k, each in enumerate(few)]
    many.append(many[0].model_copy(update={"b": "c", "code": "on-par"}))
    many.append(many[3].model_copy(update={"a": "d", "b": many[3].a, "code": "worse"}))
    said = summary(verdict.model_copy(update={"pairs": tuple(many)}))
    assert said.startswith(
        "By AUROC, a difference is shown in 6 comparisons and 1 pair of configurations is on par; a3 is better than 2 "
        "others."
    )


def test_few_positive_cases_make_the_p_of_two_networks_approximate(scores):
    scores.arms(runs=1)
    pair = judged(scores).pairs[0]
    assert pair.networks.approximate == "there are fewer than 20 positive patients"
    assert "p ≈ " in summary(judged(scores))
    assert any("p is approximate, since there are fewer than 20" in note for note in notes(judged(scores)))


def test_summary_of_the_demo_counts_what_is_decided(demo_verdict):
    verdict = demo_verdict
    said = summary(verdict)
    assert "Compared were 7 configurations with 12 runs on 60 cases of 60 patients, 24 of them positive" in said
    assert "All 6 comparisons between trained configurations are undecided." in said
    decided = sum(pair.code != "undecided" for pair in verdict.pairs if pair.metric == "score")
    assert f"Decided, of 21 comparisons: {decided} by score" in said


@pytest.mark.parametrize(
    ("code", "estimate", "clause"),
    [
        ("better", 0.1, "By score, ce is better than focal (difference +0.100 ["),
        ("worse", -0.1, "By score, focal is better than ce (difference +0.100 ["),
        ("on-par", 0.0, "By score, ce is on par with focal (difference +0.000 ["),
        ("undecided", 0.0, "By score, the one comparison between trained configurations is undecided (ce minus focal:"),
    ],
)
def test_summary_words_each_code(scores, code, estimate, clause):
    scores.arms()
    verdict, _ = quickly_judged(scores, metrics=("score",), name="declared", margin={"score": 0.1})
    pairs = tuple(pair.model_copy(update={"code": code, "estimate": estimate}) for pair in verdict.pairs)
    assert clause in summary(verdict.model_copy(update={"pairs": pairs}))
