"""Figures of clinical use: calibration with the likelihoods' histograms, and decision curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from evaluation.metrics.calibration import calibration
from evaluation.metrics.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all
from evaluation.metrics.scored_run import ScoredRun
from evaluation.report.figures.drawing import (
    DIAGONAL,
    INK,
    MUTED,
    Drawing,
    Legend,
    Style,
    house_style,
    marked,
    render,
    styles,
    unit_square,
)
from evaluation.statistics.clinical_records import Clinical
from evaluation.statistics.verdict_records import Verdict

CLINICAL_FIGURES = ("calibration", "decision-curve")
"""Names of all clinical figures."""

_BINS = np.linspace(0, 1, 26)
_ROW = 0.14  # inches of one configuration's histogram
_LOWEST = 0.25  # net benefit that is shown below 0, as a share of the prevalence


def draw_clinical_figures(verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]]) -> dict[str, Drawing]:
    """Draw :data:`CLINICAL_FIGURES`; the second only where the verdict has net benefits."""
    style_of = styles(verdict.configurations)
    with house_style():
        found = {"calibration": _calibration(verdict, groups, style_of)}
        if verdict.clinical and any(each.net_benefit for each in verdict.clinical.configurations):
            found["decision-curve"] = _decision_curve(verdict.clinical, groups, style_of)
    return found


def _calibration(verdict: Verdict, groups: Mapping[str, Sequence[ScoredRun]], style_of: Mapping[str, Style]) -> Drawing:
    errors = {each.name: each.calibration for each in verdict.clinical.configurations} if verdict.clinical else {}
    below = 0.12 + _ROW * len(groups)
    labels = {name: f"{name}  {error.ece.mean:.3f}" if (error := errors.get(name)) else name for name in groups}
    legend = Legend(list(labels.values()), title="Mean ECE" if any(errors.values()) else "")
    figure, axes = unit_square("Calibration", "", "Fraction of positive cases", legend=legend, below=below)
    axes.plot([0, 1], [0, 1], **DIAGONAL)
    for name, runs in groups.items():
        style, found = style_of[name], calibration(runs)
        axes.plot(
            found.likelihood,
            found.positive,
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.7,
            **style.marks(5.5),
            zorder=3,
            label=labels[name],
        )
    axes.tick_params(axis="x", labelbottom=False)
    place, height = axes.get_position(), figure.get_figheight()
    bottom = (0.53 + legend.height) / height
    strip = figure.add_axes((place.x0, bottom, place.width, _ROW * len(groups) / height), sharex=axes)
    _histograms(strip, groups, style_of)
    legend.draw(figure, axes)
    alt = (
        f"Calibration, one curve per configuration, with the expected calibration error: {'; '.join(labels.values())}."
    )
    return render(
        "calibration", alt + " Below it histograms of the likelihoods of positive and negative cases.", figure
    )


def _histograms(axes: Axes, groups: Mapping[str, Sequence[ScoredRun]], style_of: Mapping[str, Style]) -> None:
    """One row per configuration: positive cases upwards, filled, negative ones downwards, as outlines."""
    for row, (name, runs) in enumerate(groups.items()):
        style = style_of[name]
        likelihood = np.concatenate([run.outcome.likelihood for run in runs])
        positive = np.concatenate([run.truth.positive for run in runs])
        for kind, sign in ((positive, -1), (~positive, 1)):  # the axis points down
            counts = np.histogram(np.clip(likelihood[kind], 0, 1), _BINS)[0].astype(np.float64)
            shares = np.sqrt(counts / max(1.0, counts.max()))
            axes.stairs(
                row + sign * 0.46 * shares,
                _BINS,
                baseline=row,
                fill=sign < 0,
                color=style.colour,
                linewidth=0.7,
            )
        axes.plot([0, 1], [row, row], color=style.colour, linewidth=0.7)
        axes.plot([-0.035], [row], **style.marks(5.0), clip_on=False, linestyle="none")
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.yaxis.set_major_locator(NullLocator())
    axes.tick_params(axis="x", labelbottom=True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Likelihood of cases; positive ▲ up, filled · negative ▼ down")


def _decision_curve(
    clinical: Clinical, groups: Mapping[str, Sequence[ScoredRun]], style_of: Mapping[str, Style]
) -> Drawing:
    shown = [each.name for each in clinical.configurations if each.net_benefit]
    legend = Legend(["Treat all", "Treat none", *shown])
    title, x, y = "Decision curve", "Threshold probability", "Net benefit (per case)"
    figure, axes = unit_square(title, x, y, legend=legend)
    axes.yaxis.labelpad = 0
    share = clinical.test_prevalence
    axes.set_xlim(0, float(THRESHOLDS[-1]))
    axes.set_ylim(-_LOWEST * share, 1.05 * share)
    axes.plot(
        THRESHOLDS, net_benefit_of_all(share, THRESHOLDS), color=MUTED, linewidth=1.3, dashes=(6, 2), label="Treat all"
    )
    axes.plot(THRESHOLDS, np.zeros(THRESHOLDS.size), color=INK, linewidth=1.0, dashes=(1, 2), label="Treat none")
    for number, name in enumerate(shown):
        style = style_of[name]
        curves = [net_benefit(run.truth.positive, run.outcome.likelihood, THRESHOLDS) for run in groups[name]]
        axes.plot(
            THRESHOLDS,
            np.mean(curves, axis=0),
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.7,
            **style.marks(5.5),
            markevery=marked(number, THRESHOLDS.size),
            zorder=3,
            label=name,
        )
    legend.draw(figure, axes)
    alt = "Net benefit against threshold probability, mean over runs, with treat all and treat none. At 0.10: "
    at = {
        each.name: point.net_benefit.mean
        for each in clinical.configurations
        for point in each.net_benefit
        if round(point.threshold, 6) == 0.1
    }
    return render("decision-curve", alt + "; ".join(f"{name} {value:.3f}" for name, value in at.items()) + ".", figure)
