"""How the report's figures look: as SVG for the page, where colours follow light and dark, and as files.

Every configuration has one colour, dash and marker in all figures (palette of Okabe and Ito, distinguishable under
colour vision deficiency); the first ensemble is drawn in the ink colour, baselines in grey. In the page's SVG these
colours are CSS variables. No text is smaller than :data:`SMALL`, which is legible in print where two figures share the
width of a page.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.statistics.verdict_records import ConfigurationSummary

matplotlib.use("Agg")

logger = logging.getLogger(__name__)

INK, MUTED, GRID, PAPER, ACCENT = "#17191f", "#6a7080", "#dfe2e8", "#fefefd", "#0a6ab3"

_CSS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)", ACCENT: "var(--accent)"}

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c05a96", "#c98a00", "#3fa0d8")

DARK_PALETTE = ("#58aef0", "#ff8b42", "#2fc79b", "#ec9cc9", "#f2bb3f", "#9bd6ff")
"""The same hues, lighter, for a dark page; inserted by the template."""

_GREYS = ("#767d8c", "#9aa0ac")

_DASHES = (
    "-",
    (0, (3.6, 1.6)),
    (0, (1.1, 1.2)),
    (0, (6, 1.4, 1.1, 1.4)),
    (0, (8.5, 2.2)),
    (0, (4, 1.3, 1.1, 1.3, 1.1, 1.3)),
)
"""One dash per colour, so that curves differ without colour too."""

_MARKERS: Mapping[str, float] = {"o": 1, "s": 1, "D": 0.9, "^": 1.2, "v": 1.2, "P": 1.3, "X": 1.3, "<": 1.2, ">": 1.2}
"""Markers with their relative sizes, so that all look equally large."""

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

SUFFIXES = ("png", "svg", "pdf")

WIDTH = 4.4  # inches

_MARKERS_PER_CURVE = 6

_LEGEND_CHARACTERS = {2: 19, 1: 48}  # that fit into a line, by the number of columns

DIAGONAL: Mapping[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (2, 3), "zorder": 1}


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


def house_style() -> AbstractContextManager[None]:
    """Context in which figures look like all of the report's; the same figure gives the same bytes."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": "oncoduet"})


def marked(number: int, points: int) -> tuple[int, int]:
    """Places of a curve's markers: first place and step, different for each configuration."""
    step = points // _MARKERS_PER_CURVE
    return step * (1 + number % 5) // 6, step


@dataclass(frozen=True)
class Legend:
    """The legend below a figure: in two columns, or in one where labels are long."""

    labels: Sequence[str]
    title: str = ""

    @property
    def columns(self) -> int:
        """Number of columns, one or two."""
        return 2 if self._longest <= _LEGEND_CHARACTERS[2] else 1

    @property
    def height(self) -> float:
        """Its height in inches."""
        lines = -(-len(self.labels) // self.columns) + bool(self.title)
        return 0.12 + 0.2 * lines

    @property
    def _longest(self) -> int:
        return max(map(len, self.labels), default=1)

    def draw(self, figure: Figure, axes: Axes) -> None:
        """Draw it at the bottom of the figure, with handles long enough to distinguish the dashes."""
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
