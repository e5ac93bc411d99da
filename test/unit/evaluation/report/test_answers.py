"""What paragraph, notes, tables and text say of a comparison: the numbers of the test that answered it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.records import read_record
from evaluation.compare import compare, compare_table
from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs
from evaluation.report import page
from evaluation.report.answers import answer, numbers_of
from evaluation.report.notes import notes
from evaluation.report.page import write_report
from evaluation.report.paper import paper_text
from evaluation.report.summary import MOST_WITH_NUMBERS, summary
from evaluation.report.wording import level_text, marked_p, p_in_words
from evaluation.statistics.analysis_file import EXPLORATORY, Analysis
from evaluation.statistics.comparison import compare_configurations
from evaluation.statistics.conclusions import leading_metric
from evaluation.statistics.verdict import Verdict

TEMPLATES = Path(page.__file__).parent / "templates"


def judged(scores, plan=EXPLORATORY):
    runs = read_scored_runs([scores.root])
    declared = plan.pairs(list(group_by_configuration(runs)), "file")
    return compare_configurations(runs, plan, declared, analysis="f" * 64)


def text_of(verdict):
    return [" ".join(section.paragraphs) for section in paper_text(verdict, {"numpy": "0.0"})]


def words_of(html):
    """A page without its figures, styles and tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg)\b.*?</\1>", "", html, flags=re.DOTALL)))


def analysis(tmp_path, text):
    (tmp_path / "a.toml").write_text(f'name = "x"\nreplicates = 100\nswaps = 100\n{text}')
    return tmp_path / "a.toml"


def made(scores, tmp_path, text="", **files):
    """Verdict, page and text of the scored runs."""
    out = tmp_path / "out"
    compare([scores.root], out, analysis=analysis(tmp_path, text), **files)
    return (
        read_record(out / "verdict.json", Verdict),
        words_of((out / "report.html").read_text()),
        (out / "tables" / "methods.md").read_text(),
    )


def without_maps(scores, name, **how):
    """One run of a model that gives a likelihood per case alone."""
    folder = scores.run(name, name, **how)
    ids, lesions = scores.truth()
    missed = "".join(f"{case},fn,0.0,0.0\n" * count for case, count in zip(ids, lesions, strict=True))
    (folder / "lesions.csv").write_text("case_id,kind,confidence,overlap\n" + missed)
    values = read_json(folder / "metrics.json")
    for rules in ("strict", "picai"):
        values[rules] |= {"ap": None, "score": None, "lesion_sensitivity_at_fp": {}, "reason": "no detection maps"}
    write_json(folder / "metrics.json", values)


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


def test_candidate_free_cases_are_counted_where_there_are_maps(scores):
    scores.arms()
    for each, runs in zip(
        judged(scores).configurations, group_by_configuration(read_scored_runs([scores.root])).values(), strict=True
    ):
        assert each.candidate_free_cases == sum(run.candidate_free_cases for run in runs) > 0


@pytest.mark.parametrize(
    ("declared", "leading"),
    [
        ({}, "score"),
        ({"primary": "ap"}, "ap"),
        ({"margin": {"auroc": 0.1}}, "auroc"),
        ({"margin": {"auroc": 0.1}, "primary": "ap"}, "ap"),
        ({"margin": {"auroc": 0.1, "ap": 0.1}}, "score"),
        ({"metrics": ("ap", "auroc")}, "ap"),
    ],
)
def test_the_leading_metric_is_primary_or_has_the_only_margin(scores, declared, leading):
    scores.arms()
    assert leading_metric(judged(scores, Analysis(name="x", **declared))) == leading


def test_on_par_is_given_with_the_interval_and_p_of_its_own_tests(scores):
    scores.cases = 60
    scores.arms()
    verdict = judged(scores, Analysis(name="x", primary="auroc", margin={"auroc": 0.5}))
    pair = verdict.pairs[0]
    equal = pair.equivalence
    assert (pair.code, equal.interval.level) == ("on-par", pytest.approx(0.9))
    assert abs(pair.p_holm - equal.p_holm) > 0.1
    low, high = (f"{end:+.3f}".replace("-", "−") for end in (equal.interval.low, equal.interval.high))
    numbers = f"[90 % CI {low} to {high}], two one-sided tests {p_in_words(equal.p_holm, pair.approximate)}"
    for said in (text_of(verdict)[1], summary(verdict)):
        assert numbers in said
        assert f"{pair.p_holm:.3f}" not in said


def test_a_shown_difference_within_the_margin_is_given_with_both_tests(scores):
    scores.cases = 60
    scores.arms(4.0, -0.5, runs=4)
    verdict = judged(scores, Analysis(name="x", primary="auroc", margin={"auroc": 0.9}))
    pair = verdict.pairs[0]
    assert (pair.code, pair.equivalence.shown) == ("better", True)
    assert "[95 % CI " in numbers_of(pair)
    assert "two one-sided tests p" in numbers_of(pair)
    assert "[90 % CI " in numbers_of(pair)
    assert f"({numbers_of(pair)}), but by less than the margin of 0.9." in summary(verdict)
    assert f"({numbers_of(pair)}" in text_of(verdict)[1]
    turned = pair.model_copy(update={"equivalence": None})
    low, high = (f"{-end:+.3f}".replace("-", "−") for end in (pair.interval.high, pair.interval.low))
    assert f"difference {-pair.estimate:+.3f}".replace("-", "−") in numbers_of(turned, turned=True)
    assert f"[95 % CI {low} to {high}]" in numbers_of(turned, turned=True)


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


def readers_csv(scores, tmp_path):
    ids, lesions = scores.truth()
    rng = np.random.default_rng(0)
    lines = ["reader,case_id,score"]
    for reader in ("ann", "bob"):
        lines += [
            f"{reader},{case},{2 * (lesion > 0) + rng.normal():.2f}" for case, lesion in zip(ids, lesions, strict=True)
        ]
    (tmp_path / "readers.csv").write_text("\n".join(lines))
    return tmp_path / "readers.csv"


def marksheet(scores, tmp_path):
    lines = ["patient_id,study_id,center"]
    lines += [f"{case.replace('_', ',')},{('north', 'south')[k // 3 % 2]}" for k, case in enumerate(scores.truth()[0])]
    (tmp_path / "marksheet.csv").write_text("\n".join(lines))
    return tmp_path / "marksheet.csv"


WHOLE = 'primary = "auroc"\nsubgroups = ["center"]\n[margin]\nauroc = 0.1\n[readers]\nmargin = 0.1\nthreshold = 1.0\n'


def test_text_describes_every_analysis_and_gives_its_answer(scores, tmp_path):
    scores.cases = 60
    scores.arms(4.0, 0.0, runs=4)
    files = {"readers": readers_csv(scores, tmp_path), "marksheet": marksheet(scores, tmp_path)}
    verdict, _, text = made(scores, tmp_path, WHOLE, **files)
    methods, results = text.split("## Results")
    for part in (
        "thresholds of the likelihood that reach a specificity of 0.9 and a sensitivity of 0.9 were chosen on the test",
        "calibration (Brier score",
        "net benefit",
        "over 100 bootstrap samples of the patients",
        "non-inferiority, each on their own, were adjusted by Holm’s method over 2 configurations per metric",
        "sensitivity at the readers’ mean specificity",
        "over 1000 bootstrap samples of patients, runs and readers",
    ):
        assert part in methods
    pair = verdict.pairs[0]
    assert f"{pair.run_level.sentence[:-1]} ({p_in_words(pair.run_level.p_holm, None)})." in results
    point = verdict.clinical.configurations[0].operating_points[0]
    low, high = point.sensitivity.interval
    assert f"sensitivity was {point.sensitivity.mean:.2f} [95 % CI {low:.2f} to {high:.2f}] for ce" in results
    brier = verdict.clinical.configurations[1].calibration.brier
    assert f"{brier.mean:.3f} [95 % CI {brier.interval[0]:.3f} to {brier.interval[1]:.3f}]" in results
    assert "Of 15 threshold probabilities from 0.05 to 0.75" in results
    at = verdict.readers.operating_points[0]
    assert f"At the readers’ mean specificity of {at.specificity:.2f}, sensitivity was" in results
    (said,) = re.findall(r"Against 2 human readers, by AUROC: (.*?)\.(?= [A-Z])", summary(verdict))
    for each in verdict.readers.comparisons:
        assert f"{each.configuration} (difference {each.difference:+.3f}".replace("-", "−") in said
        assert f"is {each.code}" in said
    early = [each.model_copy(update={"alpha": 0.0}) for each in verdict.readers.comparisons]
    readers = verdict.readers.model_copy(update={"comparisons": tuple(early)})
    assert "are not judged, since no look is due." in summary(verdict.model_copy(update={"readers": readers}))


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
    for path in TEMPLATES.glob("*.j2"):
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
    for path in tables.glob("*.csv"):
        with path.open() as stream:
            rows = list(csv.DictReader(stream))
        if rows and {"p", "p_holm"} & rows[0].keys():
            assert any(row["approximate"] for row in rows), path.name


def test_few_positive_cases_make_the_p_of_two_networks_approximate(scores):
    scores.arms(runs=1)
    pair = judged(scores).pairs[0]
    assert pair.networks.approximate == "there are fewer than 20 positive patients"
    assert "p ≈ " in summary(judged(scores))
    assert any("p is approximate, since there are fewer than 20" in note for note in notes(judged(scores)))


@pytest.mark.parametrize(
    ("p", "approximate", "level", "text"),
    [
        (0.0004, None, 0.05, "<0.001"),
        (0.0004, None, 0.000015, "0.0004"),
        (0.0000123, "few", 0.000015, "≈ 0.000012"),
        (0.00000213, "few", 0.000015, "≈ <0.00001"),
        (0.0123, "few", 0.05, "≈ 0.012"),
        (None, "few", 0.05, "–"),
    ],
)
def test_p_is_written_with_its_mark_and_as_finely_as_its_level(p, approximate, level, text):
    assert marked_p(p, approximate, level) == text


def table_of_runs(tmp_path, folds, text=""):
    rows = [
        f"{name},{fold},{k},0.{9 - place}{k}{fold},"
        for place, (name, of_name) in enumerate(folds.items())
        for fold in of_name
        for k in range(4)
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["configuration,fold,restart,auroc,ap", *rows]))
    compare_table(tmp_path / "runs.csv", tmp_path / "out", analysis=analysis(tmp_path, text) if text else None)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    return verdict, words_of((tmp_path / "out" / "report.html").read_text())


def test_a_table_of_runs_claims_nothing_of_cases(tmp_path):
    verdict, words = table_of_runs(tmp_path, {"a": (0,), "b": (0,)}, "[margin]\nauroc = 0.05\n")
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


def test_a_table_of_runs_gives_the_reason_of_what_it_cannot_compare(tmp_path):
    verdict, words = table_of_runs(tmp_path, {"a": (0, 1), "b": (2, 3), "c": (0, 1)})
    assert any(note.startswith("a and b; b and c: the ranking of the runs") for note in notes(verdict))
    assert words.count("This test set: they share no fold") == 2
    assert "2 of 3 comparisons could not be made, for the reasons below." in summary(verdict)
    assert [answer(pair) for pair in verdict.pairs] == ["not compared", "not asked", "not compared"]


def test_notes_give_every_reason_of_the_verdict(scores):
    scores.cases = 60
    scores.demo()
    verdict = judged(scores, Analysis(name="x", metrics=("auroc",)))
    said = " ".join(notes(verdict))
    for pair in verdict.pairs:
        for reason in (pair.reason, None if pair.networks else pair.run_level.reason):
            assert reason is None or reason in said
    assert "an ensemble is not exchangeable with its members" in said
