import re
from html.parser import HTMLParser

import pytest

from evaluation.analysis import EXPLORATORY, Analysis
from evaluation.compare import group_by_configuration, judge
from evaluation.report import notes, number, signed, summary, write_report
from evaluation.scored_runs import read_scored_runs

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects what an HTML page would load, and whether its tags close."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.loads, self.ids, self.images = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        self.ids += [values["id"]] if "id" in values else []
        if values.get("role") == "img":
            self.images.append(values.get("aria-label"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def judged(scores, **changes):
    runs = read_scored_runs([scores.root])
    plan = EXPLORATORY.model_copy(update={"replicates": 150, "swaps": 200, **changes})
    declared = plan.pairs(list(group_by_configuration(runs)), "file")
    return judge(runs, plan, declared, analysis="exploratory" if plan.name == "exploratory" else "f" * 64), runs


@pytest.fixture(scope="module")
def demo(demo_scores, tmp_path_factory):
    """Verdict and page of the demo's scores."""
    verdict, runs = judged(demo_scores)
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, verdict, runs)
    return verdict, (folder / "report.html").read_text()


def page_of(scores, tmp_path, **changes):
    verdict, runs = judged(scores, **changes)
    write_report(tmp_path, verdict, runs)
    return (tmp_path / "report.html").read_text()


def test_page_is_well_formed_and_loads_nothing(demo):
    _, text = demo
    page = Page()
    page.feed(text)
    assert (page.open, page.faults, page.loads) == ([], [], [])
    assert not re.search(r"https?:|url\((?!#)|@import|<script", text)
    assert len(page.ids) == len(set(page.ids))
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert targets <= set(page.ids)


def test_every_figure_has_a_description(demo):
    page = Page()
    page.feed(demo[1])
    assert len(page.images) == 9
    assert all(description and "ce" in description for description in page.images)


def test_figures_follow_the_pages_colours(demo):
    _, text = demo
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "currentColor" in drawings
    assert "var(--colour-0)" in drawings
    assert not re.search(r"(fill|stroke): #(?!000000)[0-9a-f]{6}", drawings)


def test_names_from_files_are_escaped(scores, tmp_path):
    scores.run("a", "<b>ce</b>")
    scores.run("b", "focal")
    assert "<b>ce</b>" not in page_of(scores, tmp_path)


def test_page_names_no_folder(demo, demo_scores):
    assert str(demo_scores.root.parent.parent) not in demo[1]


def test_table_holds_strict_and_picai_with_intervals(demo):
    verdict, text = demo
    found = verdict.configurations[0].metrics["ap"]
    assert f"<b>{found.mean:.3f}</b>" in text
    assert f"[{found.interval.low:.3f}, {found.interval.high:.3f}]" in text
    assert f"{found.picai_mean:.3f}" in text


def test_every_sentence_of_the_verdict_stands_in_the_page(demo):
    verdict, text = demo
    assert all(pair.sentence in text for pair in verdict.pairs)


def test_summary_of_the_demo_tells_what_is_and_is_not_decided(demo):
    verdict, _ = demo
    said = summary(verdict)
    assert said.startswith("7 configurations with 12 scored runs on 60 cases of 60 patients, 24 of them positive")
    assert "By score, all 6 comparisons between trained configurations are undecided" in said
    decided = sum(pair.code != "undecided" for pair in verdict.pairs if pair.metric == "score")
    assert f"Decided, of 21 comparisons: {decided} by score" in said


@pytest.mark.parametrize(
    ("code", "estimate", "clause"),
    [
        ("better", 0.1, "By score, ce is better than focal."),
        ("worse", -0.1, "By score, focal is better than ce."),
        (
            "better-on-this-test-set",
            -0.1,
            "By score, focal is better on this test set, though not shown to be on new cases, than ce.",
        ),
        ("on-par", 0.0, "By score, ce is on par with focal."),
        ("undecided", 0.0, "By score, the one comparison between trained configurations is undecided"),
    ],
)
def test_summary_words_each_code(scores, code, estimate, clause):
    scores.run("a", "ce")
    scores.run("b", "focal")
    verdict, _ = judged(scores, metrics=("score",))
    pairs = tuple(pair.model_copy(update={"code": code, "estimate": estimate}) for pair in verdict.pairs)
    assert clause in summary(verdict.model_copy(update={"pairs": pairs}))


def test_notes_of_the_demo_are_honest(demo):
    verdict, _ = demo
    said = " ".join(notes(verdict))
    assert "profile “demo”" in said
    assert "they say nothing about the methods" in said
    assert "Exploratory: no analysis file" in said
    assert (
        "With 2 runs per configuration the run-level test cannot reach p ≤ 0.05: the smallest attainable p is 0.333"
        in said
    )
    assert "An ensemble contains the runs" in said


def test_notes_name_missing_predictions_single_runs_and_missing_margins(scores):
    scores.run("a", "ce", profile="modern")
    scores.run("b", "focal", profile="modern")
    verdict, _ = judged(scores, name="declared")
    first = verdict.configurations[0].model_copy(update={"missing": 2})
    said = " ".join(notes(verdict.model_copy(update={"configurations": (first, *verdict.configurations[1:])})))
    assert "2 missing predictions counted as likelihood 0 without candidates." in said
    assert "ce and focal have a single run" in said
    assert "The analysis file declares no margin" in said
    assert "demo" not in said


def test_notes_count_undefined_replicates_and_name_undefined_metrics(scores):
    ids, lesions = scores.truth()
    scores.cases = 6
    scores.run("a", "ce", truth=(ids[:6], lesions[:6] * 0))
    said = " ".join(notes(judged(scores)[0]))
    assert "Undefined on this test set: AUROC (" in said
    other = type(scores)(scores.root.parent / "other", cases=4)
    other.run("a", "ce", truth=(ids[:4], lesions[:4] * 0 + [1, 0, 0, 0]))
    said = " ".join(notes(judged(other)[0]))
    assert re.search(r"\d+ of 150 bootstrap replicates lacked a class or a lesion and were left out", said)


def test_declared_analysis_gives_the_title_and_the_margin(scores, tmp_path):
    for restart in (0, 1):
        scores.run(f"a{restart}", "ce", restart=restart)
        scores.run(f"b{restart}", "focal", restart=restart, seed=1)
    plan = Analysis(name="Losses, declared", margin={"auroc": 0.05})
    text = page_of(scores, tmp_path, name=plan.name, margin=plan.margin)
    assert "<h1>Losses, declared</h1>" in text
    assert "±0.05" in text


def test_numbers_are_written_with_sign_and_dash():
    assert (number(None), number(0.12345), signed(-0.05), signed(0.05), signed(None)) == (
        "–",
        "0.123",
        "−0.050",
        "+0.050",
        "–",
    )
