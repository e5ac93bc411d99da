"""``status.html``: a campaign on one page, for readers away from its terminal.

The page is self-contained (style and curves are inline), so that it can be mailed or served from anywhere. Every run is
a thin line and a small square; the drawing stays readable with hundreds of them.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contract.files.atomic import write_text
from contract.provenance import VERSION
from contract.records import Epoch
from contract.text import printable
from training.campaign.planned_runs import PAGE
from training.campaign.sealed_text import is_sealed, sealed
from training.campaign.status import STATES, CampaignStatus, Progress, State, clock_time

logger = logging.getLogger(__name__)

RELOAD_S = 30
POINTS = 120
"""Most points of a line; longer runs are averaged over neighbouring epochs."""
OPEN_RUNS = 60
"""Most runs with which the table is shown unfolded."""

WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 26
_LABEL = 40
"""Width reserved for the label of the axis."""
_DONE_FIRST: tuple[State, ...] = ("finished", "running", "queued", "interrupted", "failed", "planned")

Point = tuple[float, float]
"""Epochs done, loss."""


@dataclass(frozen=True)
class Line:
    """One run's loss, or the mean of all."""

    name: str
    kind: str
    """``train`` or ``validation``."""
    is_mean: bool
    points: str
    """Points of the line in SVG's notation."""


@dataclass(frozen=True)
class Tick:
    """A number on an axis and its place in the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """The loss curves of one configuration."""

    configuration: str
    title: str
    runs: int
    with_epochs: int
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


@dataclass(frozen=True)
class Group:
    """The runs of one configuration."""

    configuration: str
    runs: tuple[Progress, ...]

    @property
    def finished(self) -> int:
        """How many of the runs are finished."""
        return sum(run.state == "finished" for run in self.runs)

    def of_fold(self, fold: int) -> list[Progress]:
        """The runs of a fold, in the order of their restarts."""
        runs = [run for run in self.runs if run.planned.run.fold_number == fold]
        return sorted(runs, key=lambda run: run.planned.run.restart)


def write_status_page(status: CampaignStatus) -> Path:
    """Write the page into the campaign's output folder, unless the last one was edited."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    campaign = status.campaign
    groups = _groups(status)
    page = environment.get_template("status.html.j2").render(
        version=VERSION,
        title=printable(campaign.path.stem),
        campaign=campaign,
        profile=campaign.planned[0].run.profile,
        status=status,
        states=[(state, status.counts[state]) for state in _DONE_FIRST if state in status.counts],
        all_states=STATES,
        done=100 * sum(run.done for run in status.runs) / len(status.runs),
        to_go=time_to_go(status),
        failed=[run for group in groups for run in group.runs if run.state == "failed"],
        groups=groups,
        folds=sorted({run.planned.run.fold_number for run in status.runs}),
        panels=panels(status),
        width=WIDTH,
        height=HEIGHT,
        plot={"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM},
        is_open=len(status.runs) <= OPEN_RUNS,
        reload_s=None if status.is_finished else RELOAD_S,
        written=f"{datetime.fromtimestamp(status.at_s, UTC):%Y-%m-%d %H:%M:%S} UTC",
    )
    path = campaign.output / PAGE
    if os.path.lexists(path) and not (path.is_file() and is_sealed(path)):
        logger.warning("%s: edited by hand, left unchanged", path)
    else:
        write_text(path, sealed(page))
    return path


def time_to_go(status: CampaignStatus) -> str | None:
    """Remaining time if as many runs continue in parallel as now; None while unknown."""
    at_work = [run for run in status.runs if run.state == "running"]
    epoch_times = [run.epoch_s for run in at_work if run.epoch_s is not None]
    if not epoch_times:
        return None
    missing = [run for run in status.runs if run.state != "finished" and run.planned.run.engine.counts_epochs]
    epochs = sum(run.planned.run.profile.epochs - len(run.epochs) for run in missing)
    return clock_time(epochs * sum(epoch_times) / len(epoch_times) / len(at_work))


def panels(status: CampaignStatus) -> list[Panel]:
    """The loss curves, configuration by configuration; those without an epoch are left out."""
    found = []
    for configuration in _configurations(status):
        runs = [run for run in status.runs if run.planned.run.configuration.name == configuration]
        begun = [run for run in runs if run.epochs]
        if begun:
            found.append(_panel(configuration, runs, begun))
    return found


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most :data:`POINTS` points, each the mean of neighbours."""
    per_point = math.ceil(len(points) / POINTS)
    return [_mean(points[first : first + per_point]) for first in range(0, len(points), per_point)]


def ticks(low: float, high: float, *, at_most: int) -> list[float]:
    """Round numbers between two values, ends included where they are round."""
    if high <= low:
        return [low]
    rough = (high - low) / at_most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _panel(configuration: str, runs: Sequence[Progress], begun: Sequence[Progress]) -> Panel:
    kinds: dict[str, Callable[[Epoch], float]] = {
        "train": lambda epoch: epoch.train_loss,
        "validation": lambda epoch: epoch.validation_loss,
    }
    series: list[tuple[str, str, bool, list[Point]]] = []
    for kind, loss in kinds.items():
        curves = [[(epoch.epoch + 1.0, loss(epoch)) for epoch in run.epochs] for run in begun]
        series += [(run.planned.name, kind, False, thinned(curve)) for run, curve in zip(begun, curves, strict=True)]
        if len(curves) > 1:
            series.append(("mean", kind, True, thinned(_means(curves))))
    losses = [loss for *_, points in series for _, loss in points]
    low, high = min(losses), max(losses)
    margin = 0.05 * (high - low) or max(0.05, 0.05 * abs(high))
    low, high = low - margin, high + margin
    last = max(2, *(run.planned.run.profile.epochs for run in runs))

    def x(epoch: float) -> float:
        return _LEFT + (epoch - 1) / (last - 1) * (WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        return _TOP + (high - loss) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    lines = [
        Line(name, kind, is_mean, " ".join(f"{x(epoch):.1f},{y(loss):.1f}" for epoch, loss in points))
        for name, kind, is_mean, points in sorted(series, key=lambda each: each[2])
    ]
    across = [epoch for epoch in ticks(1, last, at_most=6) if epoch == int(epoch) and x(epoch) > _LEFT + _LABEL]
    return Panel(
        configuration=configuration,
        title=begun[0].planned.run.configuration.title,
        runs=len(runs),
        with_epochs=len(begun),
        lines=tuple(lines),
        across=tuple(Tick(x(epoch), f"{epoch:g}") for epoch in across),
        up=tuple(Tick(y(loss), f"{loss:.6g}") for loss in ticks(low, high, at_most=5)),
    )


def _means(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean over runs, as far as half of the runs have come."""
    longest = sorted(map(len, curves))[len(curves) // 2]
    means = []
    for epoch in range(longest):
        there = [curve[epoch] for curve in curves if len(curve) > epoch]
        means.append(_mean(there))
    return means


def _mean(points: Sequence[Point]) -> Point:
    return sum(epoch for epoch, _ in points) / len(points), sum(loss for _, loss in points) / len(points)


def _groups(status: CampaignStatus) -> list[Group]:
    return [
        Group(name, tuple(run for run in status.runs if run.planned.run.configuration.name == name))
        for name in _configurations(status)
    ]


def _configurations(status: CampaignStatus) -> list[str]:
    return list(dict.fromkeys(run.planned.run.configuration.name for run in status.runs))
