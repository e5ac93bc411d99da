import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs
from evaluation.report.figures.drawing import PALETTE
from evaluation.report.number_format import number, p_text, signed
from evaluation.report.page import write_report
from evaluation.report.text.limitations import notes
from evaluation.report.text.verdict_paragraph import summary
from evaluation.statistics.analysis_file import EXPLORATORY, Analysis
from evaluation.statistics.configurations.comparison import compare_configurations

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


def compared(scores, **changes):
    runs = read_scored_runs([scores.root])
    plan = EXPLORATORY.model_copy(update={"replicates": 150, "swaps": 200, **changes})
    declared = plan.pairs(list(group_by_configuration(runs)), "file")
    analysis = "exploratory" if plan.name == "exploratory" else "f" * 64
    return compare_configurations(runs, plan, declared, analysis=analysis), runs


@pytest.fixture(scope="module")
def demo(demo_scores, tmp_path_factory):
    """Verdict and page of the demo's scores."""
    verdict, runs = compared(demo_scores)
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, verdict, runs)
    return verdict, (folder / "report.html").read_text()


def page_of(scores, tmp_path, **changes):
    verdict, runs = compared(scores, **changes)
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


@pytest.mark.parametrize("what", ["Table", "Figure"])
def test_tables_and_figures_are_numbered_in_their_order(demo, what):
    numbers = [int(each) for each in re.findall(rf"<b>{what} (\d+)\.</b>", demo[1])]
    assert numbers == list(range(1, len(numbers) + 1))
    marked = "<caption>" if what == "Table" else "<figcaption>"
    assert len(numbers) == demo[1].count(marked) > 2


def test_every_mark_in_a_table_is_explained_at_that_table(demo):
    found = set()
    for text in re.findall(r'<table class=.*?</table>(?:\s*<p class="marks">.*?</p>)?', demo[1], flags=re.DOTALL):
        caption, rest = re.sub(r"\s+", " ", text).split("</caption>")
        cells, footnote = rest.split("</table>")
        marks = {each.strip() for each in re.findall(r"<sup>\w</sup>|≈|(?<=>)\s*–(?=\s*<)", cells)}
        explained = set(re.findall(r"<sup>\w</sup>|≈|–", footnote))
        assert explained - {"≈"} <= marks
        assert all({"–": "a dash: ", "≈": "≈: "}[mark] in caption for mark in marks - explained)
        found |= marks
    assert {"<sup>p</sup>", "–"} <= found


def test_every_figure_has_a_description(demo):
    page = Page()
    page.feed(demo[1])
    assert len(page.images) == 11
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


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$", "$", r"\$"])
def test_a_dollar_in_a_name_is_no_formula(scores, tmp_path, name):
    scores.run("a", name)
    scores.run("b", "focal")
    assert page_of(scores, tmp_path).count(name) > 5


def test_page_names_no_folder(demo, demo_scores):
    assert str(demo_scores.root.parent.parent) not in demo[1]


def test_table_holds_strict_and_picai_with_intervals(demo):
    verdict, text = demo
    found = verdict.configurations[0].metrics["ap"]
    assert f"<b>{found.mean:.3f}</b>" in text
    assert f"[{found.interval.low:.3f}, {found.interval.high:.3f}]" in text
    assert f"{found.picai_mean:.3f}" in text


def test_page_has_every_sentence_of_the_verdict(demo):
    verdict, text = demo
    assert all(pair.sentence in text for pair in verdict.pairs)


def test_summary_of_the_demo_counts_what_is_decided(demo):
    verdict, _ = demo
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
    verdict, _ = compared(scores, metrics=("score",), name="declared", margin={"score": 0.1})
    pairs = tuple(pair.model_copy(update={"code": code, "estimate": estimate}) for pair in verdict.pairs)
    assert clause in summary(verdict.model_copy(update={"pairs": pairs}))


def test_notes_of_the_demo_state_its_limits(demo):
    verdict, _ = demo
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
    verdict, _ = compared(scores, name="declared")
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
    said = " ".join(notes(compared(scores)[0]))
    assert "Undefined on this test set: AUROC (" in said


def test_declared_analysis_gives_the_title_and_the_margin(scores, tmp_path):
    scores.arms()
    plan = Analysis(name="Losses, declared", margin={"auroc": 0.05})
    text = page_of(scores, tmp_path, name=plan.name, margin=plan.margin)
    assert "<h1>Losses, declared</h1>" in text
    assert "±0.05" in text


def test_numbers_are_written_with_sign_and_dash():
    assert (number(None), number(0.12345)) == ("–", "0.123")
    assert (signed(-0.05), signed(0.05), signed(None)) == ("−0.050", "+0.050", "–")


def test_size_matched_control_is_shown_with_its_ensemble(scores, tmp_path):
    for restart in (0, 1):
        scores.run(f"four{restart}", "ensemble-four", restart=restart, runs=(f"a{restart}", f"b{restart}"), quality=3.0)
        scores.run(f"own{restart}", "control-ce", restart=restart, runs=(f"c{restart}", f"d{restart}"), seed=restart)
        scores.run(f"ce{restart}", "ce", restart=restart, quality=-2.0, seed=9 + restart, runs=(f"e{restart}",))
    text = page_of(scores, tmp_path, metrics=("score",))
    assert "ensemble-four minus its size-matched control control-ce:" in re.sub(r"\s+", " ", text)


def test_claim_about_an_ensemble_without_control_is_noted(demo):
    verdict, _ = demo
    claims = [pair for pair in verdict.pairs if pair.ensemble and pair.code != "undecided"]
    assert claims
    assert any("No size-matched control of ensemble-four was scored" in note for note in notes(verdict))


def test_twelve_configurations_are_drawn_as_means_with_short_p(scores, tmp_path):
    for loss in range(12):
        for restart in (0, 1):
            scores.run(f"{loss}_{restart}", f"loss-{loss}", restart=restart, seed=10 * loss + restart)
    text = page_of(scores, tmp_path, metrics=("auroc",))
    assert "Lines are means over runs." in text
    assert "Thin lines are runs" not in text
    shown = (tmp_path / "figures" / "p-auroc.svg").read_text()
    assert ">.33<" in shown  # what 2 against 2 runs give at best
    assert not re.search(r">\.\d{3}<", shown)


def test_discordant_cases_are_listed_with_the_correct_runs(demo, demo_scores):
    _, text = demo
    assert "Cases whose answer depends on the run" in text
    assert re.search(r"\d+ of\s+60 cases are discordant", text)
    case = re.search(r'<th scope="row" class="name">(\d+_\d+)</th><td>(positive|negative)</td>', text)
    assert case is not None
    ids, lesions = demo_scores.truth()
    assert (lesions[ids.index(case[1])] > 0) == (case[2] == "positive")


def test_brackets_join_configurations_that_differ(scores, tmp_path):
    scores.arms(5.0, -1.0, runs=4, seeds=(0, 20))
    verdict, runs = compared(scores, metrics=("auroc",))
    write_report(tmp_path, verdict, runs)
    (pair,) = verdict.pairs
    assert pair.code == "better"
    assert p_text(pair.p_holm) in (tmp_path / "figures" / "runs-auroc.svg").read_text().replace("&lt;", "<")
    alike = pair.model_copy(update={"p_holm": 0.06, "code": "undecided"})
    (tmp_path / "other").mkdir()
    write_report(tmp_path / "other", verdict.model_copy(update={"pairs": (alike,)}), runs)
    assert "0.060" not in (tmp_path / "other" / "figures" / "runs-auroc.svg").read_text()


def in_browser(*words):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))))
    arguments = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    subprocess.run(arguments, check=True, capture_output=True, timeout=300)


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_shows_and_prints_figures_and_tables(demo, tmp_path):
    _, text = demo
    page = tmp_path / "report.html"
    page.write_text(text, encoding="utf-8")
    in_browser("--window-size=1300,2600", f"--screenshot={tmp_path / 'seen.png'}", page.as_uri())
    seen = (255 * imread(tmp_path / "seen.png")[..., :3]).round().astype(int)
    assert seen.shape == (2600, 1300, 3)
    assert (seen[:, -20:] == seen[0, 0]).all()  # nothing hangs over the right edge
    for colour in PALETTE[:4]:  # the four losses: swatches above, lines in the figures below
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        rows = np.flatnonzero((np.abs(seen - wanted).max(axis=2) < 12).sum(axis=1) > 3)
        assert rows.size > 80, colour
        assert rows.max() - rows.min() > 900, colour
    ink = (seen.max(axis=2) < 90).any(axis=1)
    assert ink[:1200].mean() > 0.2  # text all the way down
    in_browser(f"--print-to-pdf={tmp_path / 'printed.pdf'}", "--no-pdf-header-footer", page.as_uri())
    printed = (tmp_path / "printed.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3
