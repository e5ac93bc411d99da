"""Styles, legends and files of the figures."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from report_makers import (
    a_summary,
)

from evaluation.report.figures.drawing import DARK_PALETTE, PALETTE, Legend, render, styles


def test_every_configuration_has_its_own_style():
    kinds = [("configuration", 9), ("ensemble", 2), ("baseline", 3)]
    summaries = [a_summary(f"{kind}-{k}", kind) for kind, count in kinds for k in range(count)]
    found = styles(summaries)
    assert len({(look.colour, look.dash) for look in found.values()}) == len(summaries)
    without_colour = [found[f"configuration-{k}"] for k in range(6)]
    assert len({look.dash for look in without_colour}) == len({look.marker for look in without_colour}) == 6
    assert found["ensemble-0"].css == "currentColor"
    assert all(found[f"baseline-{k}"].css.startswith("var(--grey") for k in range(3))


@pytest.mark.parametrize(("length", "columns"), [(10, 2), (30, 1)])
def test_long_labels_give_a_legend_in_one_column(length, columns):
    legend = Legend(["x" * length] * 6, title="AUROC")
    assert legend.columns == columns
    assert legend.height > Legend(["x"] * 2).height


def contrast(first, second):
    """WCAG 2 contrast ratio."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("palette", "paper"), [(PALETTE, "#ffffff"), (DARK_PALETTE, "#14161b")])
def test_colours_of_lines_contrast_with_the_page(palette, paper):
    assert min(contrast(colour, paper) for colour in palette) > 2.7


def test_missing_glyphs_are_logged_once_and_stay_text_in_the_svg(caplog, recwarn):
    figure = Figure()
    figure.text(0.5, 0.5, "前立腺 and ü")
    drawing = render("roc", "alt", figure)
    assert "前立腺" in drawing.files["svg"].decode()
    assert [record.getMessage() for record in caplog.records] == [
        "figure roc: its font lacks some characters, boxes in PNG and PDF: 前 立 腺"
    ]
    assert not recwarn
