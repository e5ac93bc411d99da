"""Figures of the metrics: ROC, precision–recall, FROC and AFROC curves, values by run, p-values.

Bold lines are means over runs, thin ones the runs, bands the middle 1 − alpha of the mean when patients are resampled;
runs and bands are left out where they would hide one another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evaluation.metrics.curves import (
    FALSE_POSITIVES_PER_CASE_IN_REPORT,
    afroc_at,
    lesion_sensitivity_at,
    precision_at,
    resampled_afroc_at,
    resampled_lesion_sensitivity_at,
    resampled_precision_at,
    resampled_roc_at,
    roc_at,
)
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet
from evaluation.metrics.scored_run import ScoredRun
from evaluation.report.figures.drawing import (
    ACCENT,
    DIAGONAL,
    GRID,
    INK,
    MUTED,
    SMALL,
    WIDTH,
    Drawing,
    Legend,
    Style,
    house_style,
    marked,
    render,
    styles,
    unit_square,
)
from evaluation.report.number_format import marked_p, number, p_text
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import is_shown, level_of
from evaluation.statistics.resampling.random_streams import case_weights
from evaluation.statistics.verdict_records import ConfigurationSummary, Verdict

FIGURES = (
    "roc",
    "pr",
    "froc",
    "afroc",
    "forest",
    *(f"{what}-{metric}" for what in ("runs", "p") for metric in METRICS),
)
"""Names of all figures but those of :mod:`evaluation.report.figures.clinical_figures`."""


MANY = 8
"""Most configurations with bands and runs; with more, these would hide one another."""

_MOST_RUN_LINES = 20

_BAND_POINTS = 80
MOST_BRACKETS = 3
_BRACKET = 0.105  # of the figure's width, its p included
_MOST_WITH_THREE_DECIMALS = 6  # configurations in the matrix of p-values
_LARGEST_CELL = 0.46  # inches, of that matrix
_BOLD_EM = 0.66  # width of a bold digit, in sizes of the font
_FEW = 4
_STAGGER = (0.0, 0.15, -0.15)  # of a row, so that many runs do not hide one another


def shows_runs(verdict: Verdict) -> bool:
    """Whether curves of single runs are drawn."""
    return shows_bands(verdict) and sum(each.runs for each in verdict.configurations) <= _MOST_RUN_LINES


def shows_bands(verdict: Verdict) -> bool:
    """Whether bands of the mean curves are drawn."""
    return len(verdict.configurations) <= MANY


def draw_figures(verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]]) -> dict[str, Drawing]:
    """Draw the figures of all runs, by name: ``roc pr froc afroc runs-<metric> p-<metric>``.

    Without runs, as where a table of them was compared, there are no curves.
    """
    with house_style():
        style_of = styles(verdict.configurations)
        drawings = [_curves(kind, verdict, groups, style_of) for kind in (_CURVES if groups else ())]
        metrics = list(dict.fromkeys(pair.metric for pair in verdict.pairs))
        drawings += [_dots(metric, verdict, style_of) for metric in metrics or METRICS]
        drawings += [_p_matrix(metric, verdict) for metric in metrics]
    return {drawing.name: drawing for drawing in drawings}


def _curves(
    kind: str, verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]], style_of: Mapping[str, Style]
) -> Drawing:
    plot = _CURVES[kind]
    shown = [
        each
        for each in verdict.configurations
        if kind == "roc" or each.metrics["ap"].mean is not None  # else without lesions, or without detection maps
    ]
    labels = [f"{each.name}  {number(plot.value(each))}" for each in shown]
    legend = Legend(labels, title=plot.value_name)
    figure, axes = unit_square(plot.title, plot.x, plot.y, legend=legend)
    if kind == "froc":
        axes.set_xscale("log")
        axes.set_xlim(plot.at[0], plot.at[-1])
        axes.xaxis.set_major_locator(FixedLocator(FALSE_POSITIVES_PER_CASE_IN_REPORT))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if kind == "roc":
        axes.plot([0, 1], [0, 1], **DIAGONAL)
    from_origin = kind in ("roc", "afroc")
    x = np.append(0.0, plot.at) if from_origin else plot.at
    for place, (summary, label) in enumerate(zip(shown, labels, strict=True)):
        style = style_of[summary.name]
        curves = np.stack([plot.curve(run.truth, run.outcome, plot.at) for run in groups[summary.name]])
        if from_origin:
            curves = np.column_stack([np.zeros(len(curves)), curves])
        reached = np.isfinite(curves).any(axis=0)
        mean = np.where(reached, np.nan_to_num(curves).mean(axis=0), np.nan)
        if summary.kind != "baseline" and shows_bands(verdict):
            at = plot.at[:: len(plot.at) // _BAND_POINTS]
            low, high = _band(kind, groups[summary.name], at, verdict)
            axes.fill_between(at, low, high, color=style.colour, alpha=0.07, linewidth=0, zorder=1.5)
        if len(curves) > 1 and shows_runs(verdict):
            axes.plot(x, curves.T, color=style.colour, linewidth=0.7, alpha=0.4, zorder=2)
        axes.plot(
            x,
            mean,
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.4 if summary.kind == "baseline" else 1.8,
            **style.marks(6.0),
            markevery=marked(place, x.size),
            zorder=3 if summary.kind == "baseline" else 4,
            label=label,
        )
    legend.draw(figure, axes)
    alt = f"{plot.title}, one curve per configuration. {plot.value_name}: {'; '.join(labels)}."
    return render(kind, alt, figure)


def _band(kind: str, runs: Sequence[ScoredRun], at: FloatArray, verdict: Verdict) -> tuple[FloatArray, FloatArray]:
    """Pointwise: the middle 1 − alpha of the mean curve over these runs when patients are resampled."""
    weights = case_weights(runs[0].truth, verdict.replicates, verdict.seed)
    total = np.zeros((verdict.replicates, at.size))
    for run in runs:
        total += _CURVES[kind].resampled(run.truth, run.outcome, weights, at)
    low, high = np.percentile(total / len(runs), [50 * verdict.alpha, 100 - 50 * verdict.alpha], axis=0)
    return low, high


def _mean_sensitivity(summary: ConfigurationSummary) -> float | None:
    values = list(summary.lesion_sensitivity_at_fp.values())
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(values) else None


@dataclass(frozen=True)
class _Curve:
    """One kind of curve: its axes, where it is drawn, and the number that sums it up."""

    title: str
    x: str
    y: str
    at: FloatArray
    curve: Callable[[TestSet, Outcome, FloatArray], FloatArray]
    resampled: Callable[[TestSet, Outcome, FloatArray, FloatArray], FloatArray]
    value_name: str  # as the legend says it
    value: Callable[[ConfigurationSummary], float | None]


_CURVES = {
    "roc": _Curve(
        "ROC",
        "1 − Specificity (cases)",
        "Sensitivity (cases)",
        np.linspace(0, 1, 401),
        roc_at,
        resampled_roc_at,
        "Mean AUROC",
        lambda summary: summary.metrics["auroc"].mean,
    ),
    "afroc": _Curve(
        "AFROC",
        "Negative cases with a false positive",
        "Sensitivity (lesions)",
        np.linspace(0, 1, 401),
        afroc_at,
        resampled_afroc_at,
        "Mean area under the curve",
        lambda summary: None if summary.afroc is None else summary.afroc.mean,
    ),
    "pr": _Curve(
        "Precision–recall",
        "Recall (lesions)",
        "Precision (candidates)",
        np.linspace(0, 1, 401),
        precision_at,
        resampled_precision_at,
        "Mean AP",
        lambda summary: summary.metrics["ap"].mean,
    ),
    "froc": _Curve(
        "FROC",
        "False positives per case",
        "Sensitivity (lesions)",
        np.geomspace(1 / 16, 8, 401),
        lesion_sensitivity_at,
        resampled_lesion_sensitivity_at,
        "Mean sensitivity, 0.125 to 2 false positives per case",
        _mean_sensitivity,
    ),
}


def _dots(metric: Metric, verdict: Verdict, style_of: Mapping[str, Style]) -> Drawing:
    name = METRIC_NAMES[metric]
    count = len(verdict.configurations)
    height = 0.95 + 0.42 * count
    figure = Figure(figsize=(WIDTH, height))
    decided = _decided(metric, verdict)
    left = _room_for_names(verdict)
    width = 0.97 - left - (0.015 + _BRACKET * len(decided) if decided else 0)
    axes = figure.add_axes((left, 0.5 / height, width, 1 - 0.9 / height))
    name = f"{name[0].upper()}{name[1:]}"
    axes.set_title(f"{name} by run", pad=9)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_yticks(range(count), [each.name for each in verdict.configurations])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    cases = verdict.configurations[0].cases
    axes.set_xlabel(name if cases is None else f"{name} ({cases} cases)", loc="right")
    axes.locator_params(axis="x", nbins=5)
    for row, summary in enumerate(verdict.configurations):
        style, values = style_of[summary.name], summary.metrics[metric]
        if values.interval is not None:
            axes.plot(
                [values.interval.low, values.interval.high],
                [row, row],
                color=style.colour,
                linewidth=5,
                alpha=0.22,
                solid_capstyle="round",
                zorder=2,
            )
        if values.mean is not None:
            axes.plot([values.mean, values.mean], [row - 0.27, row + 0.27], color=style.colour, linewidth=2.2, zorder=4)
        runs = sorted(value for value in values.runs.values() if value is not None)
        axes.plot(
            runs,
            [row + (_STAGGER[k % len(_STAGGER)] if len(runs) > _FEW else 0.0) for k in range(len(runs))],
            linestyle="none",
            **style.marks(6.5 if len(runs) <= _FEW else 5.5),
            zorder=5,
        )
    if decided:
        axes.text(1.0, 1.02, "p (Holm)", ha="left", va="bottom", color=INK, transform=axes.transAxes)
    for place, (first, second, text) in enumerate(decided):
        _bracket(axes, 1 + (0.012 + _BRACKET * place) / width, first, second, text)
    if all(each.metrics[metric].mean is None for each in verdict.configurations):
        axes.set_xlim(0, 1)
    means = "; ".join(f"{each.name} {number(each.metrics[metric].mean)}" for each in verdict.configurations)
    return render(f"runs-{metric}", f"{name} of each run. Means: {means}.", figure)


def _room_for_names(verdict: Verdict) -> float:
    """Room at the left for the longest name of a configuration, as a share of the figure's width."""
    longest = max(len(each.name) for each in verdict.configurations)
    return min(0.42, (0.25 + 0.072 * longest) / WIDTH)


def _decided(metric: Metric, verdict: Verdict) -> list[tuple[int, int, str]]:
    """Comparisons with a difference for new runs and cases: the two rows and p after Holm, the smallest p first."""
    rows = {each.name: row for row, each in enumerate(verdict.configurations)}
    found = []
    for pair in verdict.pairs:
        if pair.metric == metric and pair.p_holm is not None and pair.code in ("better", "worse"):
            first, second = sorted((rows[pair.a], rows[pair.b]))
            found.append((pair.p_holm, first, second, marked_p(pair.p_holm, pair.approximate)))
    return [(first, second, text) for _, first, second, text in sorted(found)[:MOST_BRACKETS]]


def _bracket(axes: Axes, x: float, first: int, second: int, text: str) -> None:
    """A bracket right of the axes, between two rows; x as a share of the axes."""
    place = axes.get_yaxis_transform()
    axes.plot(
        [x - 0.015, x, x, x - 0.015],
        [first, first, second, second],
        color=MUTED,
        linewidth=0.9,
        transform=place,
        clip_on=False,
    )
    axes.text(
        x + 0.012,
        (first + second) / 2,
        text,
        va="center",
        ha="left",
        color=INK,
        transform=place,
    )


def _p_matrix(metric: Metric, verdict: Verdict) -> Drawing:
    names = [each.name for each in verdict.configurations]
    count = len(names)
    width = WIDTH if count <= MANY else 1.6 * WIDTH
    left = _room_for_names(verdict) * WIDTH + 0.22  # and for a number
    side = min(0.98 * width - left, _LARGEST_CELL * count)
    height = side + 1.2
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, 0.65 / height, side / width, side / height))
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_yticks(np.arange(count) + 0.5, [f"{name}  {place}" for place, name in enumerate(names, start=1)])
    axes.set_xticks(np.arange(count) + 0.5, [str(place) for place in range(1, count + 1)])
    axes.set_title(f"p by {METRIC_NAMES[metric]}", pad=9)
    figure.text(
        0.02,
        0.12 / height,
        f"Above the diagonal: this test set, below it: new runs\nand cases; {_how_shown(verdict)}",
        va="bottom",
    )
    decimals = 2 if count > _MOST_WITH_THREE_DECIMALS else 3
    size = min(SMALL, 0.9 * side * 72 / count / (_BOLD_EM * (decimals + 2)))
    p_by_pair = []
    for pair in verdict.pairs:
        if pair.metric != metric:
            continue
        first, second = sorted((names.index(pair.a), names.index(pair.b)))
        for row, column, p, significant, approximate in (
            (first, second, pair.run_level.p, is_shown(pair.run_level.p_holm, pair.run_level.alpha), None),
            (second, first, pair.p, is_shown(pair.p_holm, pair.alpha), pair.approximate),
        ):
            axes.add_patch(
                Rectangle(
                    (column + 0.03, row + 0.03),
                    0.94,
                    0.94,
                    facecolor=ACCENT if p is not None else GRID,
                    alpha=_shade(p) if p is not None else 0.35,
                    linewidth=0,
                )
            )
            axes.text(
                column + 0.5,
                row + 0.52,
                _short_p(p, decimals),
                ha="center",
                va="center",
                fontsize=size,
                fontweight="bold" if significant else "normal",
                fontstyle="italic" if approximate else "normal",
                color=INK if p is not None else MUTED,
            )
        p_by_pair.append(f"{pair.a} and {pair.b} {p_text(pair.run_level.p)}, {marked_p(pair.p, pair.approximate)}")
    alt = f"p-values by {METRIC_NAMES[metric]}, on this test set and for new runs and cases: {'; '.join(p_by_pair)}."
    return render(f"p-{metric}", alt, figure)


def _how_shown(verdict: Verdict) -> str:
    """Legend of bold and italic in a matrix of p-values."""
    level = level_of(verdict)
    bold = f"bold: after Holm ≤ {level:.2g}" if level else "no look is due"
    return f"{bold}; italic: approximate" if any(pair.approximate for pair in verdict.pairs) else bold


def _short_p(p: float | None, decimals: int) -> str:
    """A p-value without its leading zero."""
    text = p_text(p, decimals)
    return text if p is None else "1" if float(text.lstrip("<")) == 1 else text.replace("0.", ".", 1)


def _shade(p: float) -> float:
    """Opacity by evidence: nearly none at p = 1, 0.5 from p = 0.001 down."""
    return 0.04 + 0.46 * min(1.0, -float(np.log10(max(p, 1e-3))) / 3)
