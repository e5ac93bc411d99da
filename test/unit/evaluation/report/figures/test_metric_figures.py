from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.report.figures.drawing import DARK_PALETTE, PALETTE, Legend, render, styles
from evaluation.report.figures.metric_figures import _band, _short_p, shows_bands, shows_runs
from evaluation.report.number_format import p_text
from evaluation.statistics.verdict import ConfigurationSummary, MetricSummary


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


def test_every_configuration_has_its_own_style():
    kinds = [("configuration", 9), ("ensemble", 2), ("baseline", 3)]
    summaries = [a_summary(f"{kind}-{k}", kind) for kind, count in kinds for k in range(count)]
    found = styles(summaries)
    assert len({(look.colour, look.dash) for look in found.values()}) == len(summaries)
    without_colour = [found[f"configuration-{k}"] for k in range(6)]
    assert len({look.dash for look in without_colour}) == len({look.marker for look in without_colour}) == 6
    assert found["ensemble-0"].css == "currentColor"
    assert all(found[f"baseline-{k}"].css.startswith("var(--grey") for k in range(3))


@pytest.mark.parametrize(
    ("configurations", "runs", "lines", "bands"), [(2, 10, True, True), (2, 11, False, True), (9, 1, False, False)]
)
def test_many_runs_are_drawn_as_means_alone(configurations, runs, lines, bands):
    summaries = [a_summary(str(k), "configuration").model_copy(update={"runs": runs}) for k in range(configurations)]
    verdict = SimpleNamespace(configurations=summaries)
    assert (shows_runs(verdict), shows_bands(verdict)) == (lines, bands)


@pytest.mark.parametrize(("length", "columns"), [(10, 2), (30, 1)])
def test_long_labels_give_a_legend_in_one_column(length, columns):
    legend = Legend(["x" * length] * 6, title="AUROC")
    assert legend.columns == columns
    assert legend.height > Legend(["x"] * 2).height


def test_bands_are_as_wide_as_the_analysis_s_alpha_says(scores):
    scores.arms()
    runs = read_scored_runs([scores.root])[:2]
    at = np.linspace(0, 1, 11)
    strict, loose = (
        _band("roc", runs, at, SimpleNamespace(alpha=alpha, replicates=200, seed=0)) for alpha in (0.05, 0.4)
    )
    assert (strict[0] <= loose[0]).all() and (loose[1] <= strict[1]).all()
    assert (strict[1] - strict[0]).sum() > 1.5 * (loose[1] - loose[0]).sum()


def contrast(first, second):
    """WCAG 2 contrast ratio."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("palette", "paper"), [(PALETTE, "#ffffff"), (DARK_PALETTE, "#14161b")])
def test_lines_stand_out_from_the_paper(palette, paper):
    assert min(contrast(colour, paper) for colour in palette) > 2.7


@pytest.mark.parametrize(
    ("p", "decimals", "text"),
    [(None, 3, "–"), (0.0004, 3, "<.001"), (0.0004, 2, "<.01"), (0.5, 2, ".50"), (0.9999, 3, "1"), (1.0, 2, "1")],
)
def test_p_in_a_cell_is_short_and_never_zero(p, decimals, text):
    assert _short_p(p, decimals) == text


@pytest.mark.parametrize(("p", "text"), [(None, "–"), (0.0001, "<0.001"), (0.0333, "0.033"), (1.0, "1.000")])
def test_p_is_never_written_as_zero(p, text):
    assert p_text(p) == text


def test_characters_that_the_font_lacks_are_one_line_of_the_log_and_text_in_the_svg(caplog, recwarn):
    figure = Figure()
    figure.text(0.5, 0.5, "前立腺 and ü")
    drawing = render("roc", "alt", figure)
    assert "前立腺" in drawing.files["svg"].decode()
    assert [record.getMessage() for record in caplog.records] == [
        "figure roc: its font lacks some characters, boxes in PNG and PDF: 前 立 腺"
    ]
    assert not recwarn
