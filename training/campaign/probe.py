"""Time of a training step on this machine: some real steps on a few studies, in a process of their own.

A step costs the same whether ten studies are in memory or three thousand, so a few are read, evenly taken from the
fold's: reading all of them would take minutes that say nothing about hours. The first steps are not counted: they make
caches, choose algorithms and compile. On a GPU the steps are timed there, by events between them, since the host only
hands them over.
"""

import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from contract.process.signals import children_that_end_with_us, leave_last_word_to_parent
from network.machine.device import Kind
from training.campaign.devices import CudaDevice, see_only
from training.dataset.prepared import Fold
from training.engine import TrainingContext
from training.planned_run import Run
from training.run_folder.folder import RunFolder

MOST_STUDIES = 4
"""With lesions, and as many without, on either side of the fold."""
WARM_UP_STEPS, TIMED_STEPS = 3, 20
WARM_UP_S, TIMED_S = 30.0, 15.0
"""After which no further step of that kind is begun; one of each is made in any case. Reading studies is warm-up."""
LIMIT_S = 180.0
"""For all of it: imports, studies, compilation and steps."""
VALIDATION_STEP = 1 / 3
"""Of a training step: it goes forward only."""


@dataclass(frozen=True)
class EpochTime:
    """How long an epoch takes."""

    epoch_s: float
    source: str
    """What the number was taken from."""


def probe(run: Run, devices: Sequence[CudaDevice] = ()) -> EpochTime | None:
    """Time a few steps of a run's training; None if none ended in time.

    A process that fails raises nothing here: the run itself will.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    steps: list[float] = []
    with tempfile.TemporaryDirectory(prefix="oncoduet-probe-") as folder:
        index = devices[0].index if devices else None
        process = context.Process(target=_answer, args=(run, Path(folder) / "run", index, theirs))
        with children_that_end_with_us():
            process.start()
        theirs.close()
        try:
            if ours.poll(LIMIT_S):
                steps = ours.recv()
        except EOFError:
            pass
        finally:
            process.kill()
            process.join()
    if not steps:
        return None
    profile = run.profile
    epoch_s = statistics.median(steps) * (
        profile.iterations_per_epoch + VALIDATION_STEP * profile.validation_iterations_per_epoch
    )
    many = f"{len(steps)} training steps" if len(steps) > 1 else "a single training step"
    return EpochTime(epoch_s, f"from {many} timed on {device_name(devices)}")


def device_name(devices: Sequence[CudaDevice]) -> str:
    """The first device, in words."""
    return devices[0].name if devices else f"this machine's CPU ({platform.machine()})"


def on_few_studies(run: Run) -> Run:
    """The same training on a few of the fold's studies, with and without lesions, in one epoch that is long enough."""
    lesions = {study.case_id: study.lesions for study in run.prepared.record.studies}

    def few(case_ids: Sequence[str]) -> tuple[str, ...]:
        sides = [[each for each in case_ids if (lesions[each] > 0) is positive] for positive in (True, False)]
        return tuple(case_id for side in sides for case_id in side[:: max(1, len(side) // MOST_STUDIES)][:MOST_STUDIES])

    return replace(
        run,
        prepared=replace(run.prepared, folds=(Fold(train=few(run.fold.train), validation=few(run.fold.validation)),)),
        fold_number=0,
        profile=run.profile.model_copy(update={"epochs": 1, "iterations_per_epoch": WARM_UP_STEPS + TIMED_STEPS}),
    )


def timed_steps(run: Run, folder: Path, device: Kind) -> list[float]:
    """Seconds of each of the first training steps of a run that come after the warm-up."""
    import torch  # noqa: PLC0415

    on_cuda = device == "cuda"
    moments: list[Any] = []

    def on_iteration(_: int) -> None:
        moments.append(torch.cuda.Event(enable_timing=True) if on_cuda else time.monotonic())  # type: ignore[no-untyped-call]
        if on_cuda:
            moments[-1].record()  # in the training's own stream

    def seconds(before: Any, after: Any) -> float:
        return float(before.elapsed_time(after) / 1000 if on_cuda else after - before)

    context = TrainingContext(RunFolder(folder), device, on_iteration=on_iteration)
    context.folder.work.mkdir(parents=True)
    steps = run.engine.steps(run, context)
    _make(steps, most=WARM_UP_STEPS, limit_s=WARM_UP_S)
    warm = len(moments)
    _make(steps, most=TIMED_STEPS, limit_s=TIMED_S)
    if on_cuda:
        torch.cuda.synchronize()
    return [seconds(before, after) for before, after in itertools.pairwise(moments[warm - 1 :])]


def _make(steps: Iterator[None], *, most: int, limit_s: float) -> None:
    """Make steps, the first in any case and the others while there is time."""
    until = time.monotonic() + limit_s
    for number in range(most):
        if number == 0 or time.monotonic() < until:
            next(steps)


def _answer(run: Run, folder: Path, index: int | None, answer: Connection) -> None:
    """The process: send the seconds, and say nothing of what libraries have to say."""
    leave_last_word_to_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    if index is not None:
        see_only(index)
    try:
        answer.send(timed_steps(on_few_studies(run), folder, "cpu" if index is None else "cuda"))
    finally:
        answer.close()
        os._exit(0)
