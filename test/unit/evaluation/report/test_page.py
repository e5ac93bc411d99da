import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_makers import (
    WHOLE,
    compared_table,
    made,
    marksheet,
    quickly_judged,
    readers_csv,
    words_of,
)

from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.report import page
from evaluation.report.figures.drawing import PALETTE
from evaluation.report.number_format import p_text
from evaluation.report.page import write_report
from evaluation.report.text.limitations import notes
from evaluation.report.text.result_sentences import answer
from evaluation.report.text.verdict_paragraph import summary
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.verdict_records import Verdict

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


@pytest.fixture(scope="module")
def demo(demo_scores, tmp_path_factory):
    """Verdict and page of the demo's scores."""
    verdict, runs = quickly_judged(demo_scores)
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, verdict, runs)
    return verdict, (folder / "report.html").read_text()


def page_of(scores, tmp_path, **changes):
    verdict, runs = quickly_judged(scores, **changes)
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


def test_declared_analysis_gives_the_title_and_the_margin(scores, tmp_path):
    scores.arms()
    plan = Analysis(name="Losses, declared", margin={"auroc": 0.05})
    text = page_of(scores, tmp_path, name=plan.name, margin=plan.margin)
    assert "<h1>Losses, declared</h1>" in text
    assert "±0.05" in text


def test_size_matched_control_is_shown_with_its_ensemble(scores, tmp_path):
    for restart in (0, 1):
        scores.run(f"four{restart}", "ensemble-four", restart=restart, runs=(f"a{restart}", f"b{restart}"), quality=3.0)
        scores.run(f"own{restart}", "control-ce", restart=restart, runs=(f"c{restart}", f"d{restart}"), seed=restart)
        scores.run(f"ce{restart}", "ce", restart=restart, quality=-2.0, seed=9 + restart, runs=(f"e{restart}",))
    text = page_of(scores, tmp_path, metrics=("score",))
    assert "ensemble-four minus its size-matched control control-ce:" in re.sub(r"\s+", " ", text)


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
    verdict, runs = quickly_judged(scores, metrics=("auroc",))
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


TEMPLATES = Path(page.__file__).parent / "templates"


@pytest.mark.parametrize("looks", [(3, 8), (2, 20)])
def test_no_level_makes_no_comparison_of_strata_or_groups_shown(scores, tmp_path, looks):
    scores.cases = 60
    scores.arms(5.0, -1.0, runs=4)
    for folder in scores.root.iterdir():
        scores.sizes(folder, lambda case_id, number: len(case_id) + number)
    files = {"marksheet": marksheet(scores, tmp_path)}
    verdict, words, text = made(scores, tmp_path, f'looks = {list(looks)}\nsubgroups = ["center"]\n', **files)
    assert min(pair.p_holm for stratum in verdict.lesion_strata.strata for pair in stratum.pairs) < 0.05
    assert min(pair.p_holm for group in verdict.subgroups for pair in group.pairs) < 0.05
    assert {pair.alpha for pair in verdict.pairs} == {0.0}
    assert words.count("Last column: no look is due, so nothing is decided") == 2
    assert "ce against focal" not in words
    assert "is not judged: no look is due" in words
    assert "strata of lesions is not judged" in text


def test_templates_compare_no_p_with_a_level():
    templates = list(TEMPLATES.glob("*.j2"))
    assert templates
    for path in templates:
        found = re.findall(r"p_holm[^}]{0,12}(?:<|>| le | lt |\"le\")", path.read_text())
        assert not found, path.name
        assert not re.search(r"\| p\b(?!\()", path.read_text()), path.name  # whether it is approximate has to be said


def test_every_approximate_p_is_marked_wherever_it_is_printed(scores, tmp_path):
    scores.cases = 60
    scores.arms(5.0, -1.0, runs=2)
    for folder in scores.root.iterdir():
        scores.sizes(folder, lambda case_id, number: len(case_id) + number)
    text = f"alpha = 0.45\n{WHOLE}"
    files = {"readers": readers_csv(scores, tmp_path), "marksheet": marksheet(scores, tmp_path)}
    verdict, *_ = made(scores, tmp_path, text, **files)
    values = json.loads(verdict.model_dump_json())
    stand_in = 0.4173

    def stamped(value, inherited=False):
        if isinstance(value, list):
            return [stamped(each, inherited) for each in value]
        if not isinstance(value, dict):
            return value
        marked = bool(inherited or value.get("approximate") or (value.get("runs_and_cases") or {}).get("approximate"))
        return {
            key: stand_in
            if marked
            and isinstance(each, float)
            and re.fullmatch(r"p(_holm|_inferior|_inferior_holm)?(_of_[ab])?", key)
            else stamped(each, marked and key in ("equivalence", "non_inferiority"))
            for key, each in value.items()
        }

    (tmp_path / "again").mkdir()
    stamp = Verdict.model_validate(stamped(values))
    write_report(tmp_path / "again", stamp, read_scored_runs([scores.root]))
    tables = tmp_path / "again" / "tables"
    printed = {
        "page": words_of((tmp_path / "again" / "report.html").read_text()),
        "text": (tables / "methods.md").read_text(),
        "tex": (tables / "comparisons.tex").read_text(),
    }
    for name, said in printed.items():
        marks = re.findall(r"(.{9})0\.417\b", said)
        assert len(marks) >= {"page": 15, "text": 5, "tex": 1}[name], name
        assert all(re.search(r"(≈|\\approx\$) ?$", mark) for mark in marks), (name, marks)
    with_p = set()
    for path in tables.glob("*.csv"):
        with path.open() as stream:
            rows = list(csv.DictReader(stream))
        if rows and {"p", "p_holm"} & rows[0].keys():
            with_p.add(path.name)
            assert any(row["approximate"] for row in rows), path.name
    assert "comparisons.csv" in with_p


def test_a_compared_table_claims_nothing_of_cases(tmp_path):
    verdict, words = compared_table(tmp_path, {"a": (0,), "b": (0,)}, "[margin]\nauroc = 0.05\n")
    said = " ".join(notes(verdict))
    assert "no margin" not in said
    assert "The table of runs holds no cases" in said
    assert "nothing is shown to be better or on par" in said
    for claim in (
        "no case’s answer differs",
        "picai",
        "Missing",
        "interval for new runs",
        "Satterthwaite",
        "undecided",
    ):
        assert claim not in words
    assert {answer(pair) for pair in verdict.pairs} == {"not asked"}
    assert "not asked By AUROC, whether a and b differ" in words
    assert summary(verdict).startswith("By AUROC, a against b: on this test set the runs of a rank above those of b (")


def test_a_compared_table_gives_the_reason_of_what_it_cannot_compare(tmp_path):
    verdict, words = compared_table(tmp_path, {"a": (0, 1), "b": (2, 3), "c": (0, 1)})
    assert any(note.startswith("a and b; b and c: the ranking of the runs") for note in notes(verdict))
    assert words.count("This test set: they share no fold") == 2
    assert "2 of 3 comparisons could not be made, for the reasons below." in summary(verdict)
    assert [answer(pair) for pair in verdict.pairs] == ["not compared", "not asked", "not compared"]
