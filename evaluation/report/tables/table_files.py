"""The report's tables as files: CSV for further analysis, LaTeX (booktabs) for the paper."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contract.files.atomic import write_text
from contract.names import FORMULA
from contract.text import printable
from evaluation.matching.hit_criteria import HitCriterion
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, sensitivity_key
from evaluation.metrics.hit_criterion_means import CriterionMeans
from evaluation.metrics.operating_points import DiscordantCase
from evaluation.report.number_format import marked_p
from evaluation.report.tables.clinical_tables import clinical_tables
from evaluation.report.text.checklists import SOURCES, checklist_as_markdown, checklists
from evaluation.report.text.paper import Section, as_markdown
from evaluation.report.text.result_sentences import answer
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS
from evaluation.statistics.verdict_records import Interaction, LesionStrata, SubgroupPair, Verdict

_CHECKLISTS = tuple(f"{name}.{suffix}" for name in SOURCES for suffix in ("csv", "md"))

HIT_CRITERIA_TABLE = "hit-criteria.csv"
LESION_TABLES = ("lesion-strata", "lesion-strata-differences")
TABLES = (
    *(f"{name}.csv" for name in ("flow", "subgroup-differences", "interactions", *LESION_TABLES)),
    HIT_CRITERIA_TABLE,
    *_CHECKLISTS,
    "methods.md",
    *(f"{name}.csv" for name in ("configurations", "comparisons", "flips", "subgroups", "readers")),
    *(f"{name}.tex" for name in ("configurations", "comparisons")),
)

_CRITERION_NAMES: Mapping[str, str] = {"iou": "IoU", "dice": "Dice", "centre": "Centre"}

_ESCAPES = str.maketrans(
    {"_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
     "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)  # fmt: skip


def write_paper(folder: Path, verdict: Verdict, sections: Sequence[Section]) -> None:
    """Write ``methods.md``, the flow of cases and both checklists into a folder of tables."""
    write_text(folder / "methods.md", as_markdown(sections))
    if flow(verdict):
        _csv(folder / "flow.csv", list(Flow._fields), flow(verdict))
    for name, rows in checklists(verdict).items():
        _csv(folder / f"{name}.csv", ["item", "topic", "answer", "place"], rows)
        write_text(folder / f"{name}.md", checklist_as_markdown(name, rows))


class Flow(NamedTuple):
    """Flow of cases in one configuration, over all of its runs."""

    configuration: str
    runs: int
    cases: int
    """Cases of the test set."""
    read: int
    """Predictions that were found."""
    missing: int
    """Missing predictions, counted as worst: likelihood 0 without candidates."""
    scored: int
    candidate_free: int | None
    """Cases without any candidate; None: without detection maps."""
    trained_on: int | None
    """Most cases that a network of one run was trained on; None: not known."""


def flow(verdict: Verdict) -> list[Flow]:
    """The flow of cases; nothing where a table of runs was compared."""
    found = []
    for each in verdict.configurations:
        if each.cases is None:
            continue
        scored, missing = each.cases * each.runs, each.missing or 0
        seen = list(each.trained_on.values())
        known = [count for count in seen if count is not None]
        found.append(
            Flow(
                configuration=each.name,
                runs=each.runs,
                cases=each.cases,
                read=scored - missing,
                missing=missing,
                scored=scored,
                candidate_free=each.candidate_free_cases,
                trained_on=max(known) if known and len(known) == len(seen) else None,
            )
        )
    return found


def write_tables(
    folder: Path, verdict: Verdict, flips: Sequence[DiscordantCase], by_criterion: Sequence[CriterionMeans] = ()
) -> None:
    """Write all tables as CSV, ``configurations`` and ``comparisons`` also as ``.tex``."""
    folder.mkdir()
    _csv(folder / "configurations.csv", *_configurations(verdict))
    _csv(folder / "comparisons.csv", *_comparisons(verdict))
    _csv(
        folder / "flips.csv",
        ["configuration", "case_id", "label", "runs_right", "runs", "lowest_likelihood", "highest_likelihood"],
        [[f.configuration, f.case_id, int(f.positive), f.right, f.runs, *f.likelihoods] for f in flips],
    )
    if verdict.subgroups:
        _csv(
            folder / "subgroups.csv",
            ["column", "value", "positive_cases", "negative_cases", "configuration", "auroc", "low", "high"],
            [
                [group.column, group.value, group.positive_cases, group.negative_cases, each.configuration, each.auroc,
                 *((each.interval.low, each.interval.high) if each.interval else ("", ""))]
                for group in verdict.subgroups
                for each in group.configurations
            ],
        )  # fmt: skip
    differences = [(group, pair) for group in verdict.subgroups for pair in group.pairs]
    if differences:
        _csv(
            folder / "subgroup-differences.csv",
            ["column", "value", "a", "b", "difference", "low", "high", "p", "p_holm", "approximate"],
            [
                [group.column, group.value, pair.a, pair.b, pair.difference, pair.interval.low, pair.interval.high,
                 pair.p, pair.p_holm, pair.approximate]
                for group, pair in differences
            ],
        )  # fmt: skip
    if verdict.interactions:
        _csv(
            folder / "interactions.csv",
            ["column", "value", "against", "a", "b", "difference", "low", "high", "p", "p_holm", "approximate"],
            [
                [each.column, each.value, each.against, each.a, each.b, each.difference, each.interval.low,
                 each.interval.high, each.p, each.p_holm, each.approximate]
                for each in verdict.interactions
            ],
        )  # fmt: skip
    if verdict.lesion_strata:
        for name, (header, rows) in zip(LESION_TABLES, _lesion_strata(verdict.lesion_strata), strict=True):
            _csv(folder / f"{name}.csv", header, rows)
    if verdict.readers:
        _csv(
            folder / "readers.csv",
            ["configuration", "metric", "mean", "readers_mean", "difference", "low", "high", "p", "p_holm", "margin",
             "p_inferior_holm", "code", "approximate"],
            [
                [each.configuration, each.metric, each.mean, each.readers_mean, each.difference, each.interval.low,
                 each.interval.high, each.p, each.p_holm, each.margin, each.p_inferior_holm, each.code,
                 each.approximate]
                for each in verdict.readers.comparisons
            ],
        )  # fmt: skip
    if by_criterion:
        _csv(folder / HIT_CRITERIA_TABLE, *_hit_criteria(by_criterion))
    if verdict.clinical:
        for name, (header, rows) in clinical_tables(verdict.clinical).items():
            _csv(folder / name, header, rows)
    (folder / "configurations.tex").write_text(_configurations_tex(verdict), encoding="utf-8")
    (folder / "comparisons.tex").write_text(_comparisons_tex(verdict), encoding="utf-8")


def _lesion_strata(found: LesionStrata) -> list[tuple[list[str], list[list[object]]]]:
    """Sensitivities; and differences within strata (against nothing) and between them, those of the interactions."""
    header = ["column", "value", "lesions", "patients", "configuration", "sensitivity", "low", "high"]
    rows: list[list[object]] = [
        [each.column, each.value, each.lesions, each.patients, one.configuration, one.sensitivity,
         *(one.interval or (None, None))]
        for each in found.strata
        for one in each.configurations
    ]  # fmt: skip
    differences: list[tuple[str, str, str | None, SubgroupPair | Interaction]] = [
        (each.column, each.value, None, pair) for each in found.strata for pair in each.pairs
    ]
    differences += [(each.column, each.value, each.against, each) for each in found.interactions]
    tested: list[list[object]] = [
        [column, value, against, each.a, each.b, each.difference, each.interval.low, each.interval.high, each.p,
         each.p_holm, each.approximate]
        for column, value, against, each in differences
    ]  # fmt: skip
    names = ["column", "value", "against", "a", "b", "difference", "low", "high", "p", "p_holm", "approximate"]
    return [(header, rows), (names, tested)]


def criterion_text(criterion: HitCriterion) -> str:
    """A criterion's name, such as ``IoU ≥ 0.1``."""
    name = _CRITERION_NAMES[criterion.name]
    return name if criterion.minimum is None else f"{name} ≥ {criterion.minimum:g}"


def _hit_criteria(found: Sequence[CriterionMeans]) -> tuple[list[str], list[list[object]]]:
    """Header and rows: one row per configuration and criterion."""
    rates = [sensitivity_key(rate) for rate in FALSE_POSITIVES_PER_CASE]
    values = [name for each in ("ap", *rates) for name in (each, f"{each}_sd")]
    rows: list[list[object]] = []
    for each in found:
        spreads = [each.ap, *(each.lesion_sensitivity_at_fp[rate] for rate in rates)]
        cells = [cell for spread in spreads for cell in ((spread.mean, spread.sd) if spread else (None, None))]
        rows.append([each.configuration, each.runs, each.criterion.name, each.criterion.minimum, *cells])
    return ["configuration", "runs", "criterion", "minimum", *values], rows


def _configurations(verdict: Verdict) -> tuple[list[str], list[list[object]]]:
    header = ["configuration", "kind", "runs", "metric", "mean", "sd", "low", "high", "picai_mean"]
    rows: list[list[object]] = []
    for each in verdict.configurations:
        for metric in METRICS:
            found = each.metrics[metric]
            bounds = (found.interval.low, found.interval.high) if found.interval else (None, None)
            rows.append([each.name, each.kind, each.runs, metric, found.mean, found.sd, *bounds, found.picai_mean])
        if each.afroc is not None:
            bounds = (each.afroc.interval.low, each.afroc.interval.high) if each.afroc.interval else (None, None)
            rows.append([each.name, each.kind, each.runs, "afroc", each.afroc.mean, each.afroc.sd, *bounds, None])
    return header, rows


def _comparisons(verdict: Verdict) -> tuple[list[str], list[list[object]]]:
    header = [
        "a",
        "b",
        "metric",
        "endpoint",
        "difference",
        "low",
        "high",
        "p",
        "p_holm",
        "design",
        "degrees_of_freedom",
    ]
    header += ["margin", "p_equivalence_holm", "on_par", "a_not_inferior", "b_not_inferior", "code"]
    header += ["this_test_set_p", "this_test_set_p_holm", "one_sided_p_of_a", "one_sided_p_of_b"]
    header += ["within_folds_one_sided_p_of_a", "within_folds_one_sided_p_of_b"]
    header += ["two_networks_p", "two_networks_p_holm", "two_networks_swaps_p"]
    header += ["equivalence_low", "equivalence_high", "approximate", "two_networks_approximate"]
    rows: list[list[object]] = []
    for pair in verdict.pairs:
        bounds = (pair.interval.low, pair.interval.high) if pair.interval else (None, None)
        test, equal, inferior = pair.runs_and_cases, pair.equivalence, pair.non_inferiority
        level, networks = pair.run_level, pair.networks
        within = level.p_one_sided_within_folds
        narrow = (equal.interval.low, equal.interval.high) if equal else (None, None)
        rows.append(
            [pair.a, pair.b, pair.metric, pair.endpoint, pair.estimate, *bounds, pair.p, pair.p_holm,
             test and test.design, test and test.degrees_of_freedom, equal and equal.margin, equal and equal.p_holm,
             equal and equal.shown,
             inferior and inferior.a_not_inferior, inferior and inferior.b_not_inferior, pair.code, level.p,
             level.p_holm, level.p_one_sided.get(pair.a), level.p_one_sided.get(pair.b), within.get(pair.a),
             within.get(pair.b), networks and networks.p, networks and networks.p_holm,
             networks and networks.p_of_swaps, *narrow, pair.approximate, networks and networks.approximate]
        )  # fmt: skip
    return header, rows


def _configurations_tex(verdict: Verdict) -> str:
    lines = [r"% mean $\pm$ SD over runs, in brackets the interval for new runs and cases; needs booktabs"]
    lines += [r"\begin{tabular}{lr" + "l" * len(METRICS) + "}", r"\toprule"]
    lines += [" & ".join(["Configuration", "Runs", *(METRIC_NAMES[m] for m in METRICS)]) + r" \\", r"\midrule"]
    for each in verdict.configurations:
        cells = [_tex(each.name), str(each.runs)]
        for metric in METRICS:
            found = each.metrics[metric]
            text = "--" if found.mean is None else f"{found.mean:.3f}"
            text += "" if found.sd is None else rf" $\pm$ {found.sd:.3f}"
            text += "" if found.interval is None else f" [{found.interval.low:.3f}, {found.interval.high:.3f}]"
            cells.append(text)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _comparisons_tex(verdict: Verdict) -> str:
    lines = [
        r"% difference with its interval for new runs and cases; p after Holm (\approx: approximate); needs booktabs"
    ]
    lines += [r"\begin{tabular}{llllll}", r"\toprule"]
    lines += [r"Comparison & Metric & Difference & $p$ & $p$, this test set & Verdict \\", r"\midrule"]
    for pair in verdict.pairs:
        difference = "--" if pair.estimate is None else f"${pair.estimate:+.3f}$"
        difference += f" [${pair.interval.low:+.3f}$, ${pair.interval.high:+.3f}$]" if pair.interval else ""
        p = [
            _tex_p(pair.p_holm, pair.approximate, pair.alpha),
            _tex_p(pair.run_level.p_holm, None, pair.run_level.alpha),
        ]
        names = f"{_tex(pair.a)} -- {_tex(pair.b)}"
        lines.append(" & ".join([names, METRIC_NAMES[pair.metric], difference, *p, answer(pair)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_p(p: float | None, approximate: str | None, level: float) -> str:
    return marked_p(p, approximate, level).replace("–", "--").replace("≈", r"$\approx$").replace("<", "$<$")


def _tex(name: str) -> str:
    return printable(name).translate(_ESCAPES)


def spreadsheet_cell(value: object) -> object:
    """A value for a CSV table; a text that a spreadsheet would calculate gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(FORMULA) else printable(value)


def _csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows([["" if value is None else spreadsheet_cell(value) for value in row] for row in rows])
