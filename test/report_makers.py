"""Verdicts, pages and texts of scored runs, for the tests of the report."""

import re

import numpy as np

from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.records import read_record
from evaluation.compare import compare, compare_table
from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs
from evaluation.report.text.paper import paper_text
from evaluation.statistics.analysis_file import EXPLORATORY
from evaluation.statistics.configurations.comparison import compare_configurations
from evaluation.statistics.verdict_records import ConfigurationSummary, MetricSummary, Verdict

WHOLE = 'primary = "auroc"\nsubgroups = ["center"]\n[margin]\nauroc = 0.1\n[readers]\nmargin = 0.1\nthreshold = 1.0\n'


def judged(scores, plan=EXPLORATORY, analysis="f" * 64):
    """The verdict of the scored runs."""
    runs = read_scored_runs([scores.root])
    declared = plan.pairs(list(group_by_configuration(runs)), "file")
    return compare_configurations(runs, plan, declared, analysis=analysis)


def quickly_judged(scores, **changes):
    """The verdict with few draws, and its runs."""
    plan = EXPLORATORY.model_copy(update={"replicates": 150, "swaps": 200, **changes})
    verdict = judged(scores, plan, "exploratory" if plan.name == "exploratory" else "f" * 64)
    return verdict, read_scored_runs([scores.root])


def text_of(verdict):
    return [" ".join(section.paragraphs) for section in paper_text(verdict, {"numpy": "0.0"})]


def words_of(html):
    """A page without its figures, styles and tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg)\b.*?</\1>", "", html, flags=re.DOTALL)))


def analysis_file(folder, text):
    """An analysis that was declared before."""
    path = folder / "analysis.toml"
    path.write_text(f'name = "declared"\n{text}')
    return path


def quick_analysis(folder, text):
    return analysis_file(folder, f"replicates = 100\nswaps = 100\n{text}")


def pair_of(verdict, a, b, metric="auroc"):
    return next(pair for pair in verdict.pairs if (pair.a, pair.b, pair.metric) == (a, b, metric))


def made(scores, tmp_path, text="", **files):
    """Verdict, page and text of the scored runs."""
    out = tmp_path / "out"
    compare([scores.root], out, analysis=quick_analysis(tmp_path, text), **files)
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


def table_of_runs(tmp_path, rows, header="configuration,fold,restart,auroc,ap"):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def compared_table(tmp_path, folds, text=""):
    """The verdict and the page of a table with four runs of each configuration in each of its folds."""
    rows = [
        f"{name},{fold},{k},0.{9 - place}{k}{fold},"
        for place, (name, of_name) in enumerate(folds.items())
        for fold in of_name
        for k in range(4)
    ]
    declared = quick_analysis(tmp_path, text) if text else None
    compare_table(table_of_runs(tmp_path, rows), tmp_path / "out", analysis=declared)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    return verdict, words_of((tmp_path / "out" / "report.html").read_text())


def a_summary(name, kind):
    empty = MetricSummary(mean=None, sd=None, interval=None, runs={}, picai_mean=None)
    return ConfigurationSummary(
        name=name,
        kind=kind,
        runs=1,
        cases=1,
        positive_cases=0,
        lesions=0,
        missing=0,
        candidate_free_cases=0,
        metrics=dict.fromkeys(("auroc", "ap", "score"), empty),
        lesion_sensitivity_at_fp={},
    )
