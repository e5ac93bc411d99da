"""Progress of each run, read from the run folders, and the table that shows it.

A folder's ``run.json`` says what its process last wrote, and its lock whether that process is still there: a run that
says ``running`` without a held lock was interrupted. So every process on every machine that sees the folders gives the
same answer. What only an executor knows (steps within an epoch, a place in a queue) is an :class:`ExecutorMessage`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.errors import OncoduetError
from contract.files.locks import is_locked
from contract.files.reading import open_regular
from contract.records import Epoch, RunRecord, read_record
from contract.text import one_line
from training.campaign.planned_runs import Campaign, PlannedRun

State = Literal["planned", "queued", "running", "interrupted", "finished", "failed"]
STATES: tuple[State, ...] = ("planned", "queued", "running", "interrupted", "failed", "finished")

RECENT_EPOCHS = 10
"""Number of last epochs of which the time per epoch is the mean."""
_SETTLED_S = 5.0
_COLOURS: Mapping[State, str] = {
    "planned": "dim",
    "queued": "blue",
    "running": "cyan",
    "interrupted": "yellow",
    "finished": "green",
    "failed": "red",
}


@dataclass(frozen=True)
class ExecutorMessage:
    """What an executor knows of a run beyond its folder."""

    state: State | None = None
    """State that replaces the one in the folder, unless the run is finished."""
    iterations: int | None = None
    """Training steps done in all, those of the current epoch included."""
    message: str = ""


@dataclass(frozen=True)
class Progress:
    """Progress of one run."""

    planned: PlannedRun
    state: State
    epochs: tuple[Epoch, ...] = ()
    iterations: int = 0
    """Training steps done in all, those of the current epoch included."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    written_s: float | None = None
    """When ``run.json`` was last written, in seconds since 1970."""
    message: str = ""
    """Why the run failed or waits."""

    @property
    def done(self) -> float:
        """Fraction of the training steps."""
        return self.iterations / self.planned.iterations

    @property
    def epochs_done(self) -> str:
        """For the tables: epochs done, and of how many; empty where the engine counts none."""
        run = self.planned.run
        return f"{len(self.epochs)}/{run.profile.epochs}" if run.engine.counts_epochs else ""

    @property
    def losses(self) -> tuple[str, str]:
        """For the tables: the last epoch's loss in training and validation; empty before the first has ended."""
        if not self.epochs:
            return "", ""
        last = self.epochs[-1]
        return f"{last.train_loss:.4f}", f"{last.validation_loss:.4f}"

    def time(self, now_s: float) -> str:
        """For the tables: how long it took, how long it still takes, or why it waits."""
        if self.state == "finished":
            return clock_time(self.wall_s)
        if self.state == "queued":
            return self.message
        remaining_s = self.remaining_s(now_s)
        return "" if remaining_s is None else f"{clock_time(remaining_s)} to go"

    @property
    def epoch_s(self) -> float | None:
        """Wall seconds per epoch lately; None before the first has ended."""
        recent = self.epochs[-RECENT_EPOCHS:]
        return sum(epoch.wall_s for epoch in recent) / len(recent) if recent else None

    def remaining_s(self, now_s: float) -> float | None:
        """Seconds that remain for a running run; None before its first epoch has ended."""
        if self.state != "running" or self.epoch_s is None or self.written_s is None:
            return None
        to_go = self.planned.run.profile.epochs - len(self.epochs)
        return max(0.0, to_go * self.epoch_s - (now_s - self.written_s))


@dataclass(frozen=True)
class CampaignStatus:
    """Progress of a campaign at one moment."""

    campaign: Campaign
    runs: tuple[Progress, ...]
    at_s: float
    """Time of the status, in seconds since 1970."""

    @property
    def counts(self) -> dict[State, int]:
        """How many runs are in which state; states without any are left out."""
        number = {state: sum(run.state == state for run in self.runs) for state in STATES}
        return {state: count for state, count in number.items() if count}

    @property
    def is_finished(self) -> bool:
        """Whether every run is."""
        return all(run.state == "finished" for run in self.runs)

    @property
    def spent(self) -> str:
        """Hours so far, of GPU where there was one, else of CPU."""
        gpu_s, cpu_s = sum(run.gpu_s for run in self.runs), sum(run.cpu_s for run in self.runs)
        return f"{hours(gpu_s)} GPU-hours" if gpu_s else f"{hours(cpu_s)} CPU-hours"

    @property
    def summary(self) -> str:
        """One line: states and hours."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"{counts}; {self.spent} spent"


class StatusMonitor:
    """Looks at a campaign repeatedly, reading only the records that have changed."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self._seen: dict[Path, tuple[tuple[int, int], RunRecord]] = {}

    def look(self, messages: Mapping[str, ExecutorMessage] | None = None) -> CampaignStatus:
        """Progress of the runs now.

        Raises ``OncoduetError``: a ``run.json`` is malformed.

        Parameters
        ----------
        remarks
            What the executor knows, by the run's name.
        """
        messages = messages or {}
        runs = tuple(
            self._progress(planned, messages.get(planned.name, ExecutorMessage())) for planned in self.campaign.planned
        )
        return CampaignStatus(self.campaign, runs, time.time())

    def _progress(self, planned: PlannedRun, executor: ExecutorMessage) -> Progress:
        found = self._record(planned.folder.record)
        if found is None:
            return Progress(planned, executor.state or "planned", message=executor.message)
        record, written_s = found
        state: State = record.state
        if state != "finished" and executor.state is not None:
            state = executor.state
        elif state == "running" and time.time() - written_s > _SETTLED_S and not is_locked(planned.folder.lock):
            state = "interrupted"
        progress = Progress(
            planned,
            state,
            epochs=record.epochs,
            iterations=len(record.epochs) * planned.run.profile.iterations_per_epoch,
            wall_s=record.wall_s,
            cpu_s=record.cpu_s,
            gpu_s=record.gpu_s,
            written_s=written_s,
        )
        if state == "failed":
            progress = replace(progress, message=executor.message or last_words(planned.folder.log))
        if state == "queued":
            progress = replace(progress, message=executor.message)
        if state == "running" and executor.iterations is not None:
            progress = replace(progress, iterations=max(executor.iterations, progress.iterations))
        return progress

    def _record(self, path: Path) -> tuple[RunRecord, float] | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self._seen or self._seen[path][0] != stamp:
            self._seen[path] = (stamp, read_record(path, RunRecord))
        return self._seen[path][1], status.st_mtime


def last_words(log: Path) -> str:
    """The last line of a run's log, after a failure the exception; or why there is none."""
    try:
        with open_regular(log) as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    except (OncoduetError, IsADirectoryError) as error:
        return one_line(str(error))
    spoken = [line for line in lines if line.strip()]
    return one_line(spoken[-1]).removeprefix("contract.errors.OncoduetError: ") if spoken else ""


def table(status: CampaignStatus, *, at_most: int | None = None) -> Group:
    """State, epoch, loss and time to go of every run.

    Parameters
    ----------
    at_most
        Rows that fit; if there are more, running and failed runs are shown first, and the others counted.
    """
    shown = status.runs
    if at_most is not None and len(shown) > at_most:
        urgent: Sequence[State] = ("failed", "running", "interrupted", "queued", "planned", "finished")
        first = sorted(shown, key=lambda run: urgent.index(run.state))[: max(1, at_most - 1)]
        shown = tuple(run for run in status.runs if run in first)
    rows = Table(box=None, pad_edge=False)
    rows.add_column("run", no_wrap=True)
    rows.add_column("state", no_wrap=True)
    rows.add_column("")
    for heading in ("epoch", "loss", "validation", "time"):
        rows.add_column(heading, justify="right", no_wrap=True)
    for run in shown:
        rows.add_row(
            run.planned.name,
            Text(run.state, style=_COLOURS[run.state]),
            ProgressBar(total=1.0, completed=run.done, width=8),
            run.epochs_done,
            *run.losses,
            run.time(status.at_s),
        )
    more = [] if len(shown) == len(status.runs) else [Text(f"… and {len(status.runs) - len(shown)} more")]
    return Group(rows, *more, Text(status.summary))


def rows_for(console: Console) -> int | None:
    """How many runs a terminal has room for; None where it is no terminal."""
    return max(3, console.height - 4) if console.is_terminal else None


def hours(seconds: float) -> str:
    """Hours with as many digits as a reader needs."""
    value = seconds / 3600
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def clock_time(seconds: float) -> str:
    """A duration: ``50 s``, ``12 min``, ``3 h 20 min``, ``2 d 5 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes % (24 * 60) // 60} h"
