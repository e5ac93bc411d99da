"""The report: ``report.html``, one self-contained page; its figures and tables as files for a paper.

The verdict in words comes first, then what limits it, then tables and figures. The page loads nothing: figures are
inline SVG, styles inline, fonts the reader's. It holds no date and no path, so that the same scores give the same page.
"""

import base64
import platform
from collections.abc import Mapping, Sequence, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from contract.files import write_text
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE_IN_REPORT
from evaluation.metrics.hit_criteria import means_by_criterion
from evaluation.metrics.operating_points import (
    SPECIFICITY,
    DiscordantCase,
    OperatingPoints,
    Spread,
    discordant_cases,
    operating_points,
)
from evaluation.metrics.scored_runs import ScoredRun, group_by_configuration
from evaluation.report import marks
from evaluation.report.clinical_figures import CLINICAL_FIGURES, draw_clinical_figures
from evaluation.report.clinical_tables import CLINICAL_TABLES
from evaluation.report.figures import (
    DARK_PALETTE,
    FIGURES,
    MANY,
    MOST_BRACKETS,
    PALETTE,
    SUFFIXES,
    draw_figures,
    p_text,
    shows_bands,
    shows_runs,
    styles,
)
from evaluation.report.forest import draw_forest
from evaluation.report.hit_criteria_table import criterion_text
from evaluation.report.missed_lesions import Miss, describe_misses, draw_misses
from evaluation.report.paper import holm_over, paper_text, primary_of
from evaluation.report.tables import TABLES, flow, write_paper, write_tables
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import level_of
from evaluation.statistics.verdict import Code, PairVerdict, Verdict

CODE_NAMES: Mapping[Code, str] = {
    "better": "better",
    "worse": "worse",
    "on-par": "on par",
    "undecided": "undecided",
}
REPORT_FILES = (
    "report.html",
    *(f"figures/{name}.{suffix}" for name in (*FIGURES, *CLINICAL_FIGURES) for suffix in SUFFIXES),
    "figures/misses.png",
    *(f"tables/{name}" for name in (*TABLES, *CLINICAL_TABLES)),
)
"""All that a report may consist of."""
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
    environment.filters.update(number=number, signed=signed, p=p_text)
    page = environment.get_template("report.html.j2").render(
        verdict=verdict,
        marks=marks,
        clinical=verdict.clinical,
        ap={each.name: each.metrics["ap"].mean for each in verdict.configurations},
        title=verdict.analysis_name if verdict.analysis != "exploratory" else "Comparison of configurations",
        summary=summary(verdict),
        notes=notes(verdict),
        metric_names=METRIC_NAMES,
        metrics=METRICS,
        compared=sorted(dict.fromkeys(pair.metric for pair in verdict.pairs), key=lambda each: each != verdict.primary),
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
        crowded=len(verdict.configurations) > MANY,
        shows_runs=shows_runs(verdict),
        shows_bands=shows_bands(verdict),
        most_brackets=MOST_BRACKETS,
        trained=[each.name for each in verdict.configurations if each.runs > 1],
        colours={name: style.css for name, style in styles(verdict.configurations).items()},
        palette=PALETTE,
        dark_palette=DARK_PALETTE,
        drawings={name: {"alt": each.alt, "svg": Markup(each.svg)} for name, each in drawings.items()},
        datasets=_datasets(verdict),
        runs=[_provenance(run) for run in runs],
        versions=versions,
        paper=paper,
        holm_over=holm_over(verdict),
        level_of_groups=level_of(verdict),
        flow=flow(verdict),
    )
    write_text(folder / "report.html", page)


def summary(verdict: Verdict) -> str:
    """The verdict in one paragraph, the answer first: by the primary metric, or the last that was compared."""
    first = verdict.configurations[0]
    compared = [metric for metric in METRICS if any(pair.metric == metric for pair in verdict.pairs)]
    metric = primary_of(verdict)
    pairs = [pair for pair in verdict.pairs if pair.metric == metric]
    said = _decisions(pairs, metric)
    trained = {each.name for each in verdict.configurations if each.kind == "configuration"}
    among = [pair for pair in pairs if {pair.a, pair.b} <= trained]
    if pairs and not any(pair.alpha for pair in pairs):
        said.append(f"By {METRIC_NAMES[metric]}, nothing is decided: no look is due.")
    elif first.cases is None:
        said += [
            f"By {METRIC_NAMES[metric]}, {pair.a} against {pair.b}: {pair.run_level.sentence}"
            for pair in pairs
            if pair.run_level.sentence
        ]
    elif among and all(pair.code == "undecided" for pair in among):
        said.append(_undecided(len(among), metric, " between trained configurations"))
    elif pairs and all(pair.code == "undecided" for pair in pairs):
        said.append(_undecided(len(pairs), metric, ""))
    means = {each.name: each.metrics[metric].mean for each in verdict.configurations}
    defined = {name: mean for name, mean in means.items() if mean is not None}
    if len(defined) > 1:
        best = max(defined, key=lambda name: defined[name])
        said.append(f"The highest mean {METRIC_NAMES[metric]}, {number(defined[best])}, is that of {best}.")
    decided = [
        f"{sum(pair.code != 'undecided' for pair in verdict.pairs if pair.metric == each)} by "
        f"{METRIC_NAMES[each]}{' (exploratory)' if verdict.primary not in (None, each) else ''}"
        for each in (metric, *(other for other in reversed(compared) if other != metric))
    ]
    if first.cases is not None:
        said.append(f"Decided, of {_count(pairs, 'comparison')}: {_list(decided, 'and')}.")
    runs = sum(each.runs for each in verdict.configurations)
    said.append(f"Compared were {_count(verdict.configurations, 'configuration')} with {runs} {_plural('run', runs)}")
    if first.cases is None:
        said[-1] += " of a table without cases."
    else:
        said[-1] += (
            f" on {first.cases} cases of {verdict.patients} patients, {first.positive_cases} of them positive, with "
            f"{first.lesions} lesions."
        )
    return " ".join(said)


def notes(verdict: Verdict) -> list[str]:
    """Limitations that a reader must know, in one or two sentences each."""
    found = _notes_on_training_studies(verdict)
    if "demo" in verdict.profiles:
        found.append(
            "Demonstration: the runs were trained with the profile “demo”, a few minutes on small phantoms. "
            "The figures show that the chain works; they say nothing about the methods."
        )
    if verdict.analysis == "exploratory":
        found.append(
            "Exploratory: no analysis file declared comparisons or margins before scoring, so all pairs are compared "
            "and nothing can be shown to be on par."
        )
    elif verdict.pairs and not any(pair.equivalence for pair in verdict.pairs):
        found.append("The analysis file declares no margin, so nothing can be shown to be on par.")
    found += _notes_on_endpoints(verdict)
    found += _notes_on_runs(verdict)
    found += _notes_on_comparisons(verdict)
    if verdict.subgroups_left_out:
        found.append(f"Declared subgroups that were not tested: {'; '.join(verdict.subgroups_left_out)}.")
    missing = sum(each.missing or 0 for each in verdict.configurations)
    if missing:
        found.append(f"{missing} missing {_plural('prediction', missing)} counted as likelihood 0 without candidates.")
    undefined = [
        f"{METRIC_NAMES[metric]} ({verdict.configurations[0].metrics[metric].reason})"
        for metric in METRICS
        if verdict.configurations[0].metrics[metric].mean is None
    ]
    if undefined:
        found.append(f"Undefined on this test set: {'; '.join(undefined)}.")
    return found


def number(value: float | None, digits: int = 3) -> str:
    """A value in so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference with its sign, or a dash."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _datasets(verdict: Verdict) -> dict[str, list[str]]:
    """The configurations that were trained on each dataset, by the dataset's hash."""
    found: dict[str, list[str]] = {}
    for each in verdict.configurations:
        if each.prepared_sha256 is not None:
            found.setdefault(each.prepared_sha256, []).append(each.name)
    return found


def _notes_on_training_studies(verdict: Verdict) -> list[str]:
    """First of all notes: a score on studies that a network has seen says nothing about others."""
    by_run = {name: seen for each in verdict.configurations for name, seen in each.trained_on.items()}
    cases = verdict.configurations[0].cases
    seen = [f"{name} on {count}" for name, count in by_run.items() if count]
    found = []
    if seen:
        found.append(
            f"SCORED ON TRAINING STUDIES. Networks were trained on some of the {cases} studies: {_list(seen, 'and')}. "
            "Their figures say nothing about other patients."
        )
    unknown = [name for name, count in by_run.items() if count is None]
    if unknown:
        which = f"{len(unknown)} of {_count(by_run, 'run')}" if len(unknown) > 3 else _list(unknown, "and")
        found.append(f"Whether networks were trained on these studies is not known for {which}.")
    return found


def _notes_on_endpoints(verdict: Verdict) -> list[str]:
    """What the metrics are to each other; of one metric, or without a declaration at all, nothing."""
    compared = list(dict.fromkeys(METRIC_NAMES[pair.metric] for pair in verdict.pairs))
    if len(compared) < 2 or verdict.analysis == "exploratory":
        return []
    if verdict.primary is None:
        return [
            f"No primary metric was declared: {_list(compared, 'and')} are {len(compared)} families of comparisons, "
            f"each with α = {verdict.alpha:g}."
        ]
    others = [name for name in compared if name != METRIC_NAMES[verdict.primary]]
    return [
        f"The conclusion rests on {METRIC_NAMES[verdict.primary]}, the primary metric: α = {verdict.alpha:g} holds for "
        f"its comparisons. Those by {_list(others, 'and')} are exploratory."
    ]


def _notes_on_comparisons(verdict: Verdict) -> list[str]:
    """Why pairs are not compared, and what limits those that are: each reason once, with its pairs."""
    by_reason: dict[str, list[str]] = {}
    for pair in verdict.pairs:
        test = pair.runs_and_cases
        approximate = test and test.approximate and f"p is approximate, since {test.approximate}"
        for reason in (pair.reason, test and test.note, approximate):
            names = f"{pair.a} and {pair.b}"
            if reason and names not in by_reason.setdefault(reason, []):
                by_reason[reason].append(names)
    every = len({(pair.a, pair.b) for pair in verdict.pairs})
    return [
        f"{'All comparisons' if len(pairs) == every > 1 else '; '.join(pairs)}: {reason}."
        for reason, pairs in by_reason.items()
    ]


def _notes_on_runs(verdict: Verdict) -> list[str]:
    found = []
    trained = [each for each in verdict.configurations if each.kind != "baseline"]
    if any(each.runs > 1 for each in trained):
        found.append(
            "“New runs” are further trainings on the same training cases: what other training cases would give is not "
            "estimated."
        )
    found += _notes_on_smallest_p(verdict)
    claims = [pair for pair in verdict.pairs if pair.ensemble and pair.code != "undecided"]
    if claims and not any(pair.controls for pair in claims):
        found.append(
            f"No size-matched control of {_list(sorted({str(pair.ensemble) for pair in claims}), 'and')} was scored: "
            "its gain may be that of averaging as many runs of any configuration."
        )
    if verdict.looks:
        due = any(pair.alpha for pair in verdict.pairs)
        found.append(
            f"Looks were planned at {_list([str(each) for each in verdict.looks], 'and')} runs per configuration. "
            + (
                "p after Holm is compared with the level of the look that is due."
                if due
                else "None is due with the runs scored so far, so nothing is decided."
            )
        )
    return found


def _notes_on_smallest_p(verdict: Verdict) -> list[str]:
    """Which comparisons the ranking of the runs cannot decide after Holm, however plain it is."""
    by_p: dict[tuple[float, int], list[str]] = {}
    for pair in verdict.pairs:
        tested = sum(each.run_level.p is not None for each in verdict.pairs if each.metric == pair.metric)
        smallest = pair.run_level.smallest_attainable_p
        if pair.run_level.p is not None and smallest is not None and smallest * tested > verdict.alpha:
            names = by_p.setdefault((smallest, tested), [])
            if f"{pair.a} and {pair.b}" not in names:
                names.append(f"{pair.a} and {pair.b}")
    return [
        f"On this test set the ranking of so few runs cannot show a difference after Holm over {tested}, its smallest "
        f"attainable p being {p_text(smallest)}: {_list(names[:6], 'and')}"
        f"{f' and {len(names) - 6} more' if names[6:] else ''}."
        for (smallest, tested), names in sorted(by_p.items())
    ]


def _decisions(pairs: Sequence[PairVerdict], metric: Metric) -> list[str]:
    """A sentence with a clause for each set of winners that beat the same others."""
    beaten: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        winner, loser = (pair.a, pair.b) if (pair.estimate or 0) >= 0 else (pair.b, pair.a)
        if pair.code != "undecided":
            relation: str = "better" if pair.code == "worse" else pair.code
            beaten.setdefault((relation, winner), []).append(loser)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (relation, winner), losers in beaten.items():
        alike.setdefault((relation, tuple(losers)), []).append(winner)
    words = {
        "better": "better than",
        "on-par": "on par with",
    }
    clauses = [
        f"{'each of ' if len(winners) > 1 else ''}{_list(winners, 'and')} is {words[relation]} {_list(losers, 'and')}"
        for (relation, losers), winners in alike.items()
    ]
    return [f"By {METRIC_NAMES[metric]}, {'; '.join(clauses)}."] if clauses else []


def _undecided(comparisons: int, metric: Metric, which: str) -> str:
    subject = f"the one comparison{which} is" if comparisons == 1 else f"all {comparisons} comparisons{which} are"
    return f"By {METRIC_NAMES[metric]}, {subject} undecided."


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
        "runs": [each[:12] for each in source.runs],
        "bundle": source.bundle_sha256[:12] if source.bundle_sha256 else "–",
        "licence": source.data_licence,
        "metrics": run.metrics_sha256[:12],
        "strict": run.strict,
        "picai": run.picai,
    }


def _list(words: Sequence[str], last: str) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {_plural(word, len(things))}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
