"""The report's figures, with matplotlib: as SVG for the page, where colours follow light and dark, and as files.

Every configuration has one colour, dash and marker in all figures (palette of Okabe and Ito, distinguishable under
colour vision deficiency); the first ensemble is drawn in the ink colour, baselines in grey. In the page's SVG these
colours are CSS variables. Bold lines are means over runs, thin ones the runs, bands the middle 1 − alpha of the mean
when patients are resampled; runs and bands are left out where they would hide one another. No text is smaller than
:data:`SMALL`, which is legible in print where two figures share the width of a page.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

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
from evaluation.metrics.scored_runs import ScoredRun
from evaluation.report.wording import marked_p, p_text
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import is_shown, level_of
from evaluation.statistics.resampling.random_streams import case_weights
from evaluation.statistics.verdict import ConfigurationSummary, Verdict

# Where the home is read-only matplotlib falls back on a temporary folder by itself; it need not say so on stderr.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

import matplotlib  # noqa: E402

matplotlib.use("Agg")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

logger = logging.getLogger(__name__)

INK, MUTED, GRID, PAPER, ACCENT = "#17191f", "#6a7080", "#dfe2e8", "#fefefd", "#0a6ab3"
_CSS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)", ACCENT: "var(--accent)"}

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c05a96", "#c98a00", "#3fa0d8")
DARK_PALETTE = ("#58aef0", "#ff8b42", "#2fc79b", "#ec9cc9", "#f2bb3f", "#9bd6ff")
"""The same hues, lighter, for a dark page; put in by the template."""
_GREYS = ("#767d8c", "#9aa0ac")
_DASHES = (
    "-",
    (0, (3.6, 1.6)),
    (0, (1.1, 1.2)),
    (0, (6, 1.4, 1.1, 1.4)),
    (0, (8.5, 2.2)),
    (0, (4, 1.3, 1.1, 1.3, 1.1, 1.3)),
)
"""As many as colours, so that curves differ without colour too."""
_MARKERS: Mapping[str, float] = {"o": 1, "s": 1, "D": 0.9, "^": 1.2, "v": 1.2, "P": 1.3, "X": 1.3, "<": 1.2, ">": 1.2}
"""With their relative sizes, so that all look alike in size."""

SMALL = 9.5  # points

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
}

FIGURES = (
    "roc",
    "pr",
    "froc",
    "afroc",
    "forest",
    *(f"{what}-{metric}" for what in ("runs", "p") for metric in METRICS),
)
"""Names of all figures that there may be, but for those of :mod:`evaluation.report.clinical_figures`."""

SUFFIXES = ("png", "svg", "pdf")

MANY = 8
"""Configurations; with more, runs and bands would hide one another."""

_MOST_RUN_LINES = 20

WIDTH = 4.4  # inches
_BAND_POINTS = 80
MOST_BRACKETS = 3
_BRACKET = 0.105  # of the figure's width, its p included
_MOST_WITH_THREE_DECIMALS = 6  # configurations in the matrix of p-values
_LARGEST_CELL = 0.46  # inches, of that matrix
_BOLD_EM = 0.66  # width of a bold digit, in sizes of the font
_MARKERS_PER_CURVE = 6
_LEGEND_CHARACTERS = {2: 19, 1: 48}  # that fit into a line, by the number of columns
_FEW = 4
DIAGONAL: Mapping[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (2, 3), "zorder": 1}
_STAGGER = (0.0, 0.15, -0.15)  # of a row, so that many runs do not hide one another


@dataclass(frozen=True)
class Style:
    """How one configuration is drawn everywhere."""

    colour: str
    dash: str | tuple[float, tuple[float, ...]]
    marker: str
    css: str  # the colour as the page's CSS says it

    def marks(self, size: float) -> dict[str, Any]:
        """How matplotlib draws its markers at a size in points."""
        return {
            "marker": self.marker,
            "markersize": size * _MARKERS[self.marker],
            "markerfacecolor": self.colour,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.5,
        }


@dataclass(frozen=True)
class Drawing:
    """One figure in all its forms."""

    name: str
    alt: str
    svg: str  # for the page
    files: Mapping[str, bytes]  # by suffix: png, svg and pdf


def styles(configurations: Sequence[ConfigurationSummary]) -> dict[str, Style]:
    """Give each configuration its colour, dash and marker, by its place."""
    found = {}
    coloured = greys = 0
    ensembles = [each.name for each in configurations if each.kind == "ensemble"]
    for number, each in enumerate(configurations):
        marker = list(_MARKERS)[number % len(_MARKERS)]
        if each.kind == "baseline":
            grey = _GREYS[greys % len(_GREYS)]
            found[each.name] = Style(grey, _DASHES[1 + greys % 3], marker, f"var(--grey-{greys % len(_GREYS)})")
            greys += 1
        elif each.name in ensembles[:1]:
            found[each.name] = Style(INK, "-", marker, "currentColor")
        else:
            place = coloured % len(PALETTE)
            dash = _DASHES[(coloured + coloured // len(PALETTE)) % len(_DASHES)]
            found[each.name] = Style(PALETTE[place], dash, marker, f"var(--colour-{place})")
            coloured += 1
    return found


def shows_runs(verdict: Verdict) -> bool:
    """Whether curves of single runs are drawn."""
    return shows_bands(verdict) and sum(each.runs for each in verdict.configurations) <= _MOST_RUN_LINES


def shows_bands(verdict: Verdict) -> bool:
    """Whether bands of the mean curves are drawn."""
    return len(verdict.configurations) <= MANY


def draw_figures(verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]]) -> dict[str, Drawing]:
    """Draw what the report shows of all runs, by name: ``roc pr froc afroc runs-<metric> p-<metric>``.

    Without runs, as where a table of them was compared, there are no curves.
    """
    with house_style():
        style_of = styles(verdict.configurations)
        drawings = [_curves(kind, verdict, groups, style_of) for kind in (_CURVES if groups else ())]
        metrics = list(dict.fromkeys(pair.metric for pair in verdict.pairs))
        drawings += [_dots(metric, verdict, style_of) for metric in metrics or METRICS]
        drawings += [_p_matrix(metric, verdict) for metric in metrics]
    return {drawing.name: drawing for drawing in drawings}


def house_style() -> AbstractContextManager[None]:
    """Within it figures look as all of the report's; the same figure gives the same bytes."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": "oncoduet"})


def _curves(
    kind: str, verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]], style_of: Mapping[str, Style]
) -> Drawing:
    plot = _CURVES[kind]
    shown = [
        each
        for each in verdict.configurations
        if kind == "roc" or each.metrics["ap"].mean is not None  # else without lesions, or without detection maps
    ]
    labels = [f"{each.name}  {_number(plot.value(each))}" for each in shown]
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
    for number, (summary, label) in enumerate(zip(shown, labels, strict=True)):
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
            markevery=marked(number, x.size),
            zorder=3 if summary.kind == "baseline" else 4,
            label=label,
        )
    legend.draw(figure, axes)
    alt = f"{plot.title}, one curve per configuration. {plot.value_name}: {'; '.join(labels)}."
    return render(kind, alt, figure)


def marked(number: int, points: int) -> tuple[int, int]:
    """Where a curve bears its marker: first place and step, other places for each configuration."""
    step = points // _MARKERS_PER_CURVE
    return step * (1 + number % 5) // 6, step


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
    for number, (first, second, text) in enumerate(decided):
        _bracket(axes, 1 + (0.012 + _BRACKET * number) / width, first, second, text)
    if all(each.metrics[metric].mean is None for each in verdict.configurations):
        axes.set_xlim(0, 1)
    means = "; ".join(f"{each.name} {_number(each.metrics[metric].mean)}" for each in verdict.configurations)
    return render(f"runs-{metric}", f"{name} of each run. Means: {means}.", figure)


def _room_for_names(verdict: Verdict) -> float:
    """What the longest name of a configuration needs at the left, as a share of the figure's width."""
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
    """What bold and italic mean in a matrix of p-values."""
    level = level_of(verdict)
    bold = f"bold: after Holm ≤ {level:.2g}" if level else "no look is due"
    return f"{bold}; italic: approximate" if any(pair.approximate for pair in verdict.pairs) else bold


def _short_p(p: float | None, decimals: int) -> str:
    if p is None:
        return p_text(p)
    smallest = 10.0**-decimals
    text = f"<{smallest:g}" if p < smallest else f"{p:.{decimals}f}"
    return "1" if float(text.lstrip("<")) == 1 else text.replace("0.", ".", 1)


def _shade(p: float) -> float:
    """Opacity by evidence: nearly none at p = 1, 0.5 from p = 0.001 down."""
    return 0.04 + 0.46 * min(1.0, -float(np.log10(max(p, 1e-3))) / 3)


@dataclass(frozen=True)
class Legend:
    """The legend below a figure: in two columns, or in one where labels are long."""

    labels: Sequence[str]
    title: str = ""

    @property
    def columns(self) -> int:
        """One or two."""
        return 2 if self._longest <= _LEGEND_CHARACTERS[2] else 1

    @property
    def height(self) -> float:
        """What it needs, in inches."""
        lines = -(-len(self.labels) // self.columns) + bool(self.title)
        return 0.12 + 0.2 * lines

    @property
    def _longest(self) -> int:
        return max(map(len, self.labels), default=1)

    def draw(self, figure: Figure, axes: Axes) -> None:
        """Draw it at the bottom of the figure, with handles so long that dashes can be told apart."""
        drawn = figure.legend(
            *axes.get_legend_handles_labels(),
            loc="lower left",
            ncols=self.columns,
            bbox_to_anchor=(0.02, 0.01),
            handlelength=3.9,
            columnspacing=1.2,
            fontsize=SMALL * min(1.0, _LEGEND_CHARACTERS[self.columns] / self._longest),
            title=self.title or None,
            alignment="left",
        )
        drawn.get_title().set_color(INK)


def unit_square(title: str, x: str, y: str, *, legend: Legend, below: float = 0.0) -> tuple[Figure, Axes]:
    """A square plot from 0 to 1 with room for its legend below, and so many inches."""
    below += legend.height
    side = WIDTH * 0.8
    height = 0.38 + side + 0.53 + below
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.15, (0.53 + below) / height, 0.8, side / height))
    axes.set_title(title, pad=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.012, 1.012)
    axes.set_ylim(-0.012, 1.012)
    return figure, axes


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def render(name: str, alt: str, figure: Figure) -> Drawing:
    """A figure in all its forms."""
    # no dates and no programs in the files: the same scores give the same bytes
    metadata: Mapping[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = {}
    with _lacking_glyphs_logged(name):
        for suffix, values in metadata.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, dpi=200, metadata=values)
            files[suffix] = stream.getvalue()
    return Drawing(name, alt, _for_page(name, files["svg"].decode()), files)


@contextmanager
def _lacking_glyphs_logged(name: str) -> Iterator[None]:
    """Say in one line which characters the font lacks, in place of matplotlib's warning for each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [re.match(r"Glyph (\d+) .*missing from", str(each.message)) for each in caught]
    if lacking := sorted({chr(int(match[1])) for match in found if match}):
        logger.warning("figure %s: its font lacks some characters, boxes in PNG and PDF: %s", name, " ".join(lacking))
    for each, match in zip(caught, found, strict=True):
        if not match:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _for_page(name: str, svg: str) -> str:
    """Make matplotlib's SVG a part of a page: no prolog, scalable, its own ids, colours and font of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, variable)
    for number, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--colour-{number})")
    for number, colour in enumerate(_GREYS):
        svg = svg.replace(colour, f"var(--grey-{number})")
    return svg.replace("'DejaVu Sans'", "var(--sans)").replace("<svg", '<svg aria-hidden="true"', 1)
