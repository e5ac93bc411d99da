"""A campaign: configurations × folds × restarts under one profile, several at a time on this machine.

Everything is imported and read once; then each run gets a process of its own by ``fork``, which saves the seconds that
the imports take. The parent stays single-threaded for that reason: forking a process with threads may lock up. What a
run gives does not depend on how it was started.
"""

import itertools
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contract.cards import Frozen, parse_toml
from contract.errors import OncoduetError, one_line
from contract.records import Epoch, RunRecord, write_record
from training.configurations import load_configuration
from training.prepared import Prepared, load_prepared
from training.run import Device, Run, execute, existing_record, plan_run
from training.run_folder import RunFolder

State = Literal["planned", "running", "finished", "failed"]
REFRESH_S = 0.25

_COLOURS: dict[State, str] = {"planned": "dim", "running": "cyan", "finished": "green", "failed": "red"}


class CampaignFile(Frozen):
    """``CAMPAIGN.toml``. Paths are relative to the file."""

    schema_version: Literal[1]
    prepared: Path | None = None
    output: Path | None = None
    profile: str
    configurations: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where the card first locates an organ and none of these does, a run of ``localisation`` per fold is added."""
    folds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    restarts: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    workers: PositiveInt = 1
    """Runs at a time; each takes the profile's number of threads."""
    seed: NonNegativeInt = 0


@dataclass
class Place:
    """One run of the campaign, its folder and how far it is."""

    run: Run
    folder: RunFolder
    state: State = "planned"
    iterations: int = 0  # done in all
    epoch: Epoch | None = None
    wall_s: float = 0.0
    message: str = ""
    started_s: float = 0.0
    started_at: int | None = None  # iterations that an earlier process had done
    is_bug: bool = False
    told: bool = False

    @property
    def iterations_total(self) -> int:
        """Steps of the whole run."""
        return self.run.profile.epochs * self.run.profile.iterations_per_epoch

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go, from the pace so far; None before the first step."""
        if self.state != "running" or self.started_at is None:
            return None
        done = self.iterations - self.started_at
        return (time.monotonic() - self.started_s) / done * (self.iterations_total - self.iterations)


@dataclass(frozen=True)
class Stepped:
    """Steps done in all."""

    iterations: int


@dataclass(frozen=True)
class Failed:
    """The run ended with an exception."""

    message: str
    is_bug: bool


@dataclass
class Campaign:
    """The runs of a campaign file, in the order in which they are made."""

    places: list[Place]
    workers: int
    _processes: dict[Connection, tuple[Place, multiprocessing.process.BaseProcess]] = field(default_factory=dict)

    def make(self, *, console: Console, device: Device) -> None:
        """Make every run that is missing.

        Raises
        ------
        OncoduetError
            Runs failed, all for their input's fault.
        RuntimeError
            Runs failed, at least one by a bug or a killed process.
        """
        import torch  # noqa: PLC0415 - these take seconds, which each forked process is spared

        import training.engines.nnunet  # noqa: F401, PLC0415

        torch.set_num_threads(1)
        waiting = [place for place in self.places if place.state != "finished"]
        for place in waiting:
            if not place.folder.record.is_file():
                place.folder.path.mkdir(parents=True, exist_ok=True)
                write_record(place.folder.record, place.run.record(state="planned"))
        shown_s = 0.0
        try:
            with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
                while waiting or self._processes:
                    while waiting and len(self._processes) < self.workers:
                        self._start(waiting.pop(0), device)
                    self._listen(timeout_s=REFRESH_S)
                    if console.is_terminal and time.monotonic() > shown_s + REFRESH_S:
                        shown_s = time.monotonic()
                        live.update(self.table(), refresh=True)
                    self._tell(console)
                live.update(self.table(), refresh=True)
        finally:
            for _, process in self._processes.values():
                process.terminate()
        if not console.is_terminal:
            console.print()  # Live leaves out the last line's end
        failed = [place for place in self.places if place.state == "failed"]
        if failed:
            what = "; ".join(f"{place.run.name}: {place.message} ({place.folder.log})" for place in failed)
            message = f"{len(failed)} of {len(self.places)} runs failed: {what}"
            raise RuntimeError(message) if any(place.is_bug for place in failed) else OncoduetError(message)

    def table(self) -> Group:
        """State, epoch, loss and time to go of every run."""
        table = Table(box=None, pad_edge=False)
        table.add_column("run", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("")
        for heading in ("epoch", "loss", "validation", "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for place in self.places:
            done = place.iterations_total if place.state == "finished" else place.iterations
            table.add_row(
                place.run.name,
                Text(place.state, style=_COLOURS[place.state]),
                ProgressBar(total=place.iterations_total, completed=done, width=8),
                f"{place.epoch.epoch + 1 if place.epoch else 0}/{place.run.profile.epochs}",
                f"{place.epoch.train_loss:.4f}" if place.epoch else "",
                f"{place.epoch.validation_loss:.4f}" if place.epoch else "",
                _duration(place),
            )
        count = {state: sum(place.state == state for place in self.places) for state in _COLOURS}
        return Group(table, Text(", ".join(f"{number} {state}" for state, number in count.items() if number)))

    def _start(self, place: Place, device: Device) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(place.run, place.folder, device, theirs, ours))
        process.start()
        theirs.close()
        self._processes[ours] = (place, process)
        place.state, place.started_s, place.started_at = "running", time.monotonic(), None

    def _tell(self, console: Console) -> None:
        """One line per run that ended, where no live display can be shown."""
        finished = sum(place.state == "finished" for place in self.places)
        for place in self.places:
            if place.state in ("finished", "failed") and not place.told:
                place.told = True
                if not console.is_terminal:
                    said = f"{place.state} {place.message}".strip()
                    console.print(f"{place.run.name}: {said} ({finished} of {len(self.places)})")

    def _listen(self, *, timeout_s: float) -> None:
        for ready in wait(list(self._processes), timeout=timeout_s):
            assert isinstance(ready, Connection)
            place, process = self._processes[ready]
            try:
                _apply(place, ready.recv())
            except EOFError:
                process.join()
                ready.close()
                del self._processes[ready]
                if place.state == "running":
                    place.state, place.is_bug = "failed", True
                    place.message = f"its process ended with code {process.exitcode}"


def load_campaign(path: Path, *, prepared: Path | None = None, output: Path | None = None) -> Campaign:
    """Read a campaign file and see how far its runs are.

    Parameters
    ----------
    prepared, output
        Take the place of the file's own.

    Raises
    ------
    OncoduetError
        Faults in the file, an unknown configuration, profile or fold, or a folder that holds another run.
    """
    file = parse_toml(path, CampaignFile)
    folders = {}
    for name, given, own in [("prepared", prepared, file.prepared), ("output", output, file.output)]:
        if given is None and own is None:
            raise OncoduetError(f"{path}: expected {name}, there or as --{name}, found neither")
        folders[name] = given if given is not None else path.parent / str(own)
    dataset = load_prepared(folders["prepared"])
    places = []
    wanted = list(itertools.product(file.restarts, [_relative(path, each) for each in file.configurations], file.folds))
    for restart, configuration, fold in [*_locating(dataset, wanted), *wanted]:
        run = plan_run(
            dataset,
            configuration=configuration,
            fold=fold,
            restart=restart,
            profile=_relative(path, file.profile),
            base_seed=file.seed,
        )
        places.append(_place(run, RunFolder(folders["output"] / run.name)))
    names = [place.run.name for place in places]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise OncoduetError(f"{path}: expected each run once, found {doubled[0]} twice")
    return Campaign(places, file.workers)


def _locating(dataset: Prepared, wanted: Sequence[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    """One run per fold of stage 1, for a card that first locates an organ, unless the file itself asks for such."""
    if dataset.card.localisation is None:
        return []
    if any(load_configuration(configuration).stage == "localisation" for _, configuration, _ in wanted):
        return []
    first_restart = min(restart for restart, _, _ in wanted)
    return [(first_restart, "localisation", fold) for fold in dict.fromkeys(fold for _, _, fold in wanted)]


def _place(run: Run, folder: RunFolder) -> Place:
    place = Place(run, folder)
    record = existing_record(run, folder)
    if record is not None:
        place.state, place.wall_s = record.state, record.wall_s
        place.epoch = record.epochs[-1] if record.epochs else None
        place.iterations = len(record.epochs) * run.profile.iterations_per_epoch
    return place


def _work(run: Run, folder: RunFolder, device: Device, events: Connection, parents_end: Connection) -> None:
    """The forked process: make one run and tell the parent how it goes."""
    parents_end.close()

    def tell(event: object) -> None:
        try:
            events.send(event)
        except BrokenPipeError:
            os._exit(1)  # the parent is gone: stop, and leave the checkpoint to whoever goes on

    try:
        tell(
            execute(
                run,
                folder.path,
                device=device,
                on_iteration=lambda iterations: tell(Stepped(iterations)),
                on_epoch=tell,
            )
        )
    except OncoduetError as error:
        tell(Failed(one_line(str(error)), is_bug=False))
    except Exception as error:
        tell(Failed(one_line(f"{type(error).__name__}: {error}"), is_bug=True))
    finally:
        events.close()
        os._exit(0)


def _apply(place: Place, event: object) -> None:
    match event:
        case Stepped(iterations):
            if place.started_at is None:
                place.started_at = iterations - 1  # more than 0 where it went on from a checkpoint
            place.iterations = iterations
        case Epoch():
            place.epoch = event
        case RunRecord():
            place.state, place.wall_s = "finished", event.wall_s
        case Failed(message, is_bug):
            place.state, place.message, place.is_bug = "failed", message, is_bug


def _relative(campaign: Path, name: str) -> str:
    """A configuration or profile by name, or by a path relative to the campaign file."""
    return str(campaign.parent / name) if name.endswith(".toml") else name


def _duration(place: Place) -> str:
    if place.state == "finished":
        return f"{place.wall_s:.0f} s"
    remaining_s = place.remaining_s
    return "" if remaining_s is None else f"{remaining_s:.0f} s to go"
