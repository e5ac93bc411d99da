"""The forest plot: each declared difference in AUROC in the whole test set and in every declared subgroup."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.figures.drawing import ACCENT, GRID, INK, MUTED, Drawing, house_style, render
from evaluation.report.number_format import marked_p
from evaluation.statistics.verdict_records import Interaction, Interval, PairVerdict, Verdict

MOST_COMPARISONS = 6
"""Comparisons shown, in the declared order; the tables hold all."""

_WIDTH = 7.0  # inches
_ROW = 0.155
_SMALL = 8.0  # points; in print the figure has the width of a page
_NAMES, _COUNTS, _TEXT, _P = 0.01, 0.33, 0.66, 0.855  # columns, as shares of the figure's width


def draw_forest(verdict: Verdict) -> Drawing | None:
    """Draw the figure ``forest``, or nothing where no subgroup was tested."""
    if not any(group.pairs for group in verdict.subgroups):
        return None
    rows = _rows(verdict)
    with house_style():
        height = 0.95 + _ROW * len(rows)
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_axes((0.43, 0.5 / height, 0.21, 1 - 0.95 / height))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
        axes.grid(True, axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("Difference in AUROC", fontsize=_SMALL)
        for number, row in enumerate(rows):
            row.draw(axes, number)
        top = 1 - 0.3 / height
        for x, text in ((_NAMES, "Subgroup"), (_COUNTS, "Pos. / neg."), (_TEXT, "Difference"), (_P, "p, interaction")):
            figure.text(x, top, text, fontsize=_SMALL, fontweight="bold", color=INK)
        alt = "; ".join(row.words for row in rows if row.interval is not None)
        return render("forest", f"Forest plot of differences in AUROC: {alt}.", figure)


class _Row:
    """One line: a heading, or a difference with its interval."""

    def __init__(
        self,
        name: str,
        *,
        heading: bool = False,
        counts: str = "",
        difference: float | None = None,
        interval: Interval | None = None,
        p: str = "",
        words: str = "",
        whole: bool = False,
    ) -> None:
        self.name, self.heading, self.counts, self.p, self.whole = name, heading, counts, p, whole
        self.difference, self.interval, self.words = difference, interval, words

    def draw(self, axes: Axes, y: int) -> None:
        """Draw it at a height, with its texts in columns of the figure."""
        place = axes.get_yaxis_transform()
        box = axes.get_position()

        def at(x: float) -> float:
            return float((x - box.x0) / box.width)

        weight = "bold" if self.heading else "normal"
        style: dict[str, Any] = {"va": "center", "fontsize": _SMALL, "transform": place, "clip_on": False}
        indent = 0.0 if self.heading else 0.015
        axes.text(at(_NAMES + indent), y, self.name, fontweight=weight, color=INK, **style)
        axes.text(at(_COUNTS), y, self.counts, color=MUTED, **style)
        axes.text(at(_P), y, self.p, color=INK, **style)
        if self.heading:
            axes.axhline(y - 0.5, color=GRID, linewidth=0.7)
        if self.difference is None or self.interval is None:
            return
        axes.plot([self.interval.low, self.interval.high], [y, y], color=ACCENT, linewidth=1.4, zorder=3)
        axes.plot(
            [self.difference],
            [y],
            marker="D" if self.whole else "s",
            markersize=5.5 if self.whole else 4.2,
            color=INK if self.whole else ACCENT,
            zorder=4,
        )
        axes.text(at(_TEXT), y, _numbers(self.difference, self.interval), color=INK, **style)


def _rows(verdict: Verdict) -> list[_Row]:
    rows = []
    declared = [pair for pair in verdict.pairs if pair.metric == "auroc"]
    declared = declared or [pair for pair in verdict.pairs if pair.metric == verdict.pairs[0].metric]
    for pair in declared[:MOST_COMPARISONS]:
        title = f"{pair.a} − {pair.b}"
        rows.append(_Row(title, heading=True))
        rows += _whole(pair, verdict, title) if pair.metric == "auroc" else []
        for group in verdict.subgroups:
            name = f"{group.column}: {group.value}"
            counts = f"{group.positive_cases} / {group.negative_cases}"
            found = [each for each in group.pairs if (each.a, each.b) == (pair.a, pair.b)]
            p = _p_of(verdict.interactions, group.column, group.value, pair)
            rows += [
                _Row(
                    _cut(name),
                    counts=counts,
                    difference=each.difference,
                    interval=each.interval,
                    p=p,
                    words=f"{title}, {name} {_numbers(each.difference, each.interval)}",
                )
                for each in found
            ]
    return rows


def _whole(pair: PairVerdict, verdict: Verdict, title: str) -> list[_Row]:
    """The difference in the whole test set; of single networks for new cases."""
    interval = pair.interval or (pair.networks and pair.networks.interval)
    if pair.estimate is None or not interval:
        return []
    first = verdict.configurations[0]
    positive, cases = first.positive_cases or 0, first.cases or 0
    words = f"{title}, all cases {_numbers(pair.estimate, interval)}"
    counts = f"{positive} / {cases - positive}"
    return [_Row("All cases", counts=counts, difference=pair.estimate, interval=interval, words=words, whole=True)]


def _p_of(interactions: Sequence[Interaction], column: str, value: str, pair: PairVerdict) -> str:
    """The interaction's p after Holm, shown with the group that comes first."""
    for each in interactions:
        if (each.column, each.value, each.a, each.b) == (column, value, pair.a, pair.b):
            return marked_p(each.p_holm, each.approximate)
    return ""


def _numbers(difference: float, interval: Interval) -> str:
    first, low, high = (f"{value:+.2f}".replace("-0.00", "0.00") for value in (difference, interval.low, interval.high))
    return f"{first} [{low}, {high}]".replace("-", "−")


def _cut(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
