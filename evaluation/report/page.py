"""The report: ``report.html``, one self-contained page; its figures and tables as files for a paper.

The verdict in words comes first, then what limits it, then tables and figures. The page loads nothing: figures are
inline SVG, styles inline, fonts the reader's. It holds no date and no path, so that the same scores give the same page.
"""

import base64
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from contract.files.atomic import write_text
from contract.text import short_hash
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE_IN_REPORT
from evaluation.metrics.hit_criterion_means import means_by_criterion
from evaluation.metrics.operating_points import (
    SPECIFICITY,
    DiscordantCase,
    OperatingPoints,
    Spread,
    discordant_cases,
    operating_points,
)
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import group_by_configuration
from evaluation.report.figures.clinical_figures import CLINICAL_FIGURES, draw_clinical_figures
from evaluation.report.figures.drawing import DARK_PALETTE, PALETTE, SUFFIXES, styles
from evaluation.report.figures.forest import draw_forest
from evaluation.report.figures.metric_figures import (
    FIGURES,
    MOST_BRACKETS,
    draw_figures,
    shows_bands,
    shows_runs,
)
from evaluation.report.figures.missed_lesions import Miss, describe_misses, draw_misses
from evaluation.report.number_format import level_text, marked_p, number, signed
from evaluation.report.tables import footnotes
from evaluation.report.tables.clinical_tables import CLINICAL_TABLES
from evaluation.report.tables.table_files import TABLES, criterion_text, flow, write_paper, write_tables
from evaluation.report.text.limitations import notes
from evaluation.report.text.paper import paper_text
from evaluation.report.text.paper_methods import holm_over
from evaluation.report.text.result_sentences import CODE_NAMES, answer
from evaluation.report.text.verdict_paragraph import summary
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import compared_metrics, is_shown, leading_metric, level_of
from evaluation.statistics.verdict_records import Interaction, SubgroupPair, Verdict

REPORT_FILES = (
    "report.html",
    *(f"figures/{name}.{suffix}" for name in (*FIGURES, *CLINICAL_FIGURES) for suffix in SUFFIXES),
    "figures/misses.png",
    *(f"tables/{name}" for name in (*TABLES, *CLINICAL_TABLES)),
)
"""All files that a report may consist of."""
_MOST_DISCORDANT = 25
_PACKAGES = ("numpy", "scipy", "matplotlib")


def write_report(folder: Path, verdict: Verdict, runs: Sequence[ScoredRun], misses: Sequence[Miss] = ()) -> None:
    """Write ``report.html``, ``figures/<name>.{png,svg,pdf}`` and ``tables/`` into a folder.

    Parameters
    ----------
    misses
        The worst misses, where images were given; they also go to ``figures/misses.png``.
    """
    groups = group_by_configuration(runs)
    first = verdict.configurations[0]
    drawings = draw_figures(verdict, groups) | (draw_clinical_figures(verdict, groups) if groups else {})
    drawings = {name: each for name, each in drawings.items() if _has_content(name, verdict)}
    if forest := draw_forest(verdict):
        drawings["forest"] = forest
    (folder / "figures").mkdir()
    for drawing in drawings.values():
        for suffix, content in drawing.files.items():
            (folder / "figures" / f"{drawing.name}.{suffix}").write_bytes(content)
    pictures = draw_misses(misses) if misses else b""
    if misses:
        (folder / "figures" / "misses.png").write_bytes(pictures)
    thresholds = _thresholds_from_validation(verdict)
    discordant = [
        case for name, members in groups.items() for case in discordant_cases(name, members, thresholds.get(name))
    ]
    by_criterion = [each for name, members in groups.items() for each in means_by_criterion(name, members)]
    write_tables(folder / "tables", verdict, discordant, by_criterion)
    versions = {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    paper = paper_text(verdict, versions)
    write_paper(folder / "tables", verdict, paper)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    level = level_of(verdict)
    environment.filters.update(
        number=number,
        signed=signed,
        p=marked_p,
        answer=answer,
        shown=lambda found: _shown(found, level),
        level_text=level_text,
    )
    page = environment.get_template("report.html.j2").render(
        verdict=verdict,
        footnotes=footnotes,
        clinical=verdict.clinical,
        ap={each.name: each.metrics["ap"].mean for each in verdict.configurations},
        title=verdict.analysis_name if verdict.analysis != "exploratory" else "Comparison of configurations",
        summary=summary(verdict),
        notes=notes(verdict),
        metric_names=METRIC_NAMES,
        metrics=_metrics(verdict),
        compared=_compared(verdict),
        code_names=CODE_NAMES,
        operating_points=[f"{rate:g}" for rate in FALSE_POSITIVES_PER_CASE_IN_REPORT],
        thresholds_from_validation=bool(thresholds),
        operating_point_rows={name: _row(operating_points(members)) for name, members in groups.items()},
        by_criterion=by_criterion,
        hit_criteria=list(dict.fromkeys(criterion_text(each.criterion) for each in by_criterion)),
        ap_by_criterion={
            name: {criterion_text(each.criterion): each.ap for each in by_criterion if each.configuration == name}
            for name in dict.fromkeys(each.configuration for each in by_criterion)
        },
        discordant=_rows_by_case(discordant)[:_MOST_DISCORDANT],
        discordant_count=len({case.case_id for case in discordant}),
        misses=describe_misses(misses) if misses else "",
        pictures=base64.b64encode(pictures).decode(),
        level=f"{100 * (1 - verdict.alpha):g}",
        has_cases=bool(runs),
        prevalence=f"{100 * (first.positive_cases or 0) / (first.cases or 1):.0f}",
        crowded=not shows_bands(verdict),
        shows_runs=shows_runs(verdict),
        shows_bands=shows_bands(verdict),
        most_brackets=MOST_BRACKETS,
        trained=[each.name for each in verdict.configurations if each.runs > 1] if runs else [],
        colours={name: style.css for name, style in styles(verdict.configurations).items()},
        palette=PALETTE,
        dark_palette=DARK_PALETTE,
        drawings={name: {"alt": each.alt, "svg": Markup(each.svg)} for name, each in drawings.items()},
        datasets=_datasets(verdict),
        runs=[_provenance(run) for run in runs],
        versions=versions,
        paper=paper,
        holm_over=holm_over(verdict),
        level_of_groups=level,
        asked=_asked(verdict),
        with_equivalence={pair.metric for pair in verdict.pairs if pair.equivalence},
        flow=flow(verdict),
    )
    write_text(folder / "report.html", page)


def _shown(found: Sequence[SubgroupPair | Interaction], level: float) -> list[SubgroupPair | Interaction]:
    """Tests of groups and strata that reject; templates do not compare p with a level themselves."""
    return [each for each in found if is_shown(each.p_holm, level)]


def _metrics(verdict: Verdict) -> list[Metric]:
    """Metrics with a column: those that any configuration has on this test set, strict or picai."""
    found = [
        metric
        for metric in METRICS
        if any(
            each.metrics[metric].mean is not None or each.metrics[metric].picai_mean is not None
            for each in verdict.configurations
        )
    ]
    return found or list(METRICS)


def _compared(verdict: Verdict) -> list[Metric]:
    """Metrics with a table of comparisons, the leading one first."""
    pairs = {pair.metric for pair in verdict.pairs}
    leading = leading_metric(verdict)
    return [each for each in dict.fromkeys([leading, *compared_metrics(verdict)]) if each in pairs]


def _has_content(name: str, verdict: Verdict) -> bool:
    """Whether a figure would not be empty: its metric is defined for some configuration, its matrix holds a p."""
    curves: Mapping[str, Metric] = {"roc": "auroc", "pr": "ap", "froc": "ap", "afroc": "ap"}
    about = curves.get(name) or next((each for each in METRICS if name in (f"runs-{each}", f"p-{each}")), None)
    if about is None:
        return True
    if name.startswith("p-"):
        return any(pair.metric == about and {pair.p, pair.run_level.p} != {None} for pair in verdict.pairs)
    return any(each.metrics[about].mean is not None for each in verdict.configurations)


def _asked(verdict: Verdict) -> dict[str, bool]:
    """Which questions the verdict answers, for the captions and methods that explain them."""
    return {
        "new": any(pair.p is not None for pair in verdict.pairs),
        "networks": any(pair.networks for pair in verdict.pairs),
        "order": any(pair.run_level.p is not None for pair in verdict.pairs),
    }


def _datasets(verdict: Verdict) -> dict[str, list[str]]:
    """The configurations that were trained on each dataset, by the dataset's hash."""
    found: dict[str, list[str]] = {}
    for each in verdict.configurations:
        if each.prepared_sha256 is not None:
            found.setdefault(each.prepared_sha256, []).append(each.name)
    return found


def _row(points: OperatingPoints) -> list[Spread | None]:
    """A row of the table of operating points."""
    return [
        *points.lesion_sensitivity.values(),
        points.sensitivity_at_specificity,
        *points.specificity_at_sensitivity.values(),
    ]


def _thresholds_from_validation(verdict: Verdict) -> dict[str, Mapping[str, float]]:
    """By configuration and run, the thresholds of specificity 0.90; empty where they were chosen on the test set."""
    if verdict.clinical is None or verdict.clinical.thresholds_from != "validation":
        return {}
    return {
        each.name: point.thresholds
        for each in verdict.clinical.configurations
        for point in each.operating_points
        if (point.aim, point.at_least) == ("specificity", SPECIFICITY)
    }


def _rows_by_case(discordant: Sequence[DiscordantCase]) -> list[dict[str, Any]]:
    """One row per discordant case, the one that is discordant in most configurations first."""
    by_case: dict[str, dict[str, DiscordantCase]] = {}
    for case in discordant:
        by_case.setdefault(case.case_id, {})[case.configuration] = case
    rows = [
        {"case_id": case_id, "positive": next(iter(found.values())).positive, "found": found}
        for case_id, found in by_case.items()
    ]
    return sorted(rows, key=lambda row: (-len(row["found"]), row["case_id"]))


def _provenance(run: ScoredRun) -> dict[str, Any]:
    source = run.source
    return {
        "name": run.name,
        "fold": source.fold,
        "restart": source.restart,
        "profile": source.profile,
        "runs": [short_hash(each) for each in source.runs],
        "bundle": short_hash(source.bundle_sha256, "–"),
        "licence": source.data_licence,
        "metrics": short_hash(run.metrics_sha256),
        "strict": run.strict,
        "picai": run.picai,
    }
