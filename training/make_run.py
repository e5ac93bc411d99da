"""Make a run: lock, folder, log, training steps, record; or make several, interleaved in one process."""

import gc
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from contract.errors import OncoduetError
from contract.files.atomic import full_disk_said, writable, write_json, write_text
from contract.files.reading import sha256_file
from contract.names import duplicates
from contract.outputs import require_apart, subfolder
from contract.process.terminal import progress_on, said
from contract.records import (
    Epoch,
    RunRecord,
    write_record,
)
from network.machine.device import (
    Device,
    Kind,
    choose_device,
    free_device_memory,
    memory_or_refuse,
    require_same_device,
)
from training.dataloading.training_set import Place
from training.dataset.archive_stamps import reachable_archive, recorded_archive, unchanged_archive
from training.engine import TrainingContext
from training.interleaving import Steps, interleave, run_to_end
from training.memory_bill import begun_with, choose_training_set
from training.planned_run import Run, existing_record, made_files
from training.run_folder.folder import RunFolder, says
from training.run_folder.foreign_programs import remove_untouched
from training.run_folder.lock import work_lock
from training.run_folder.logs import open_log
from training.validation.checkpoint_selection import NEED, select

logger = logging.getLogger(__name__)

_LEANER = "fewer parallel runs (resources.packed), or a smaller batch or patch in the profile's plan, need less"


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not change what is trained."""

    tensorboard: bool = False
    """Whether event files are written."""
    archive: Path | None = None
    """Current folder of the archive, if it was moved since ``prepare``."""
    localisation: Path | None = None
    """Finished run of stage 1 for the choice by detection; None: one of the same fold next to the run."""
    training_set: Place | None = None
    """Where a campaign has decided to keep the training set; None: each run decides."""


def execute(
    run: Run,
    output: Path,
    *,
    device: Device = "auto",
    resume: bool = False,
    wait: bool = False,
    options: RunOptions = RunOptions(),
    on_start: Callable[[str], None] = lambda _: None,
    on_iteration: Callable[[int], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> RunRecord:
    """Make a run, or the rest of it, or nothing when it is finished already.

    Raises ``OncoduetError``: the folder holds another run, or this one on other data; the archive has changed since it
    was prepared; another process works on it; ``resume`` without a checkpoint; the disk is full; network or training
    set do not fit into memory; the training diverges; the checkpoint cannot be chosen by detection.

    Parameters
    ----------
    output
        The run's own folder.
    resume
        Require a checkpoint to resume from.
    wait
        Wait for another process that works on the run, instead of raising.
    on_start
        Called with a line that says where the training set is kept, before it is read.
    on_iteration, on_epoch
        Called with the number of steps done in all, and with each epoch when it ends.
    """
    request = RunRequest(run, output, on_start=on_start, on_iteration=on_iteration, on_epoch=on_epoch)
    return run_to_end(_steps(request, device=choose_device(device).kind, resume=resume, wait=wait, options=options))


@dataclass(frozen=True)
class RunRequest:
    """One of several runs that are made together, and its callbacks."""

    run: Run
    output: Path
    on_start: Callable[[str], None] = lambda _: None
    """Called with a line that says where the training set is kept."""
    on_iteration: Callable[[int], None] = lambda _: None
    """Called with the number of steps done in all."""
    on_epoch: Callable[[Epoch], None] = lambda _: None
    """Called with each epoch when it ends."""
    on_end: Callable[[RunRecord | Exception], None] = lambda _: None
    """Called with the finished run's record, or with why it failed, while the others still train."""


def execute_together(
    requests: Sequence[RunRequest], *, device: Device = "auto", resume: bool = False, options: RunOptions = RunOptions()
) -> list[RunRecord | Exception]:
    """Make several runs in this process, a step of each in turn; each is bit-identical to a run by itself.

    A run that fails does not stop the others: its record says ``failed``, its log why, and its exception is returned
    in its place. Wall seconds in a record are those of the run's own steps, so that they add up.

    Raises ``OncoduetError``: two items have the same folder, or there is no such device.

    Parameters
    ----------
    resume
        Require checkpoints to resume from; a run without one fails.

    Returns
    -------
    list
        For each item, in their order, the record or the exception that ended it.
    """
    if doubled := duplicates(request.output.resolve() for request in requests):
        raise OncoduetError(doubled[0], "folder of two runs; each run needs its own")
    where = choose_device(device).kind
    going = {
        number: _steps(request, device=where, resume=resume, packed=len(requests), options=options)
        for number, request in enumerate(requests)
    }
    ended: dict[int, RunRecord | Exception] = {}
    try:
        while going:
            for number in list(going):
                try:
                    next(going[number])
                except StopIteration as end:
                    ended[number] = end.value
                except Exception as error:
                    ended[number] = _without_what_it_held(error)
                if number in ended:
                    del going[number]
                    gc.collect()  # what the run held is the others' now
                    free_device_memory()
                    requests[number].on_end(ended[number])
    finally:
        for steps in going.values():  # after an interruption: locks are let go, records say how far it was
            steps.close()
    return [ended[number] for number in range(len(requests))]


def execute_with_progress(
    run: Run,
    output: Path,
    *,
    device: Device,
    resume: bool,
    console: Console,
    wait: bool = False,
    options: RunOptions = RunOptions(),
) -> RunRecord:
    """Make a run as :func:`execute` does, with a progress bar, or a line per epoch where there is no terminal."""
    profile = run.profile
    with progress_on(
        console,
        said("fields[loss]"),
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task(run.name, total=profile.epochs * profile.iterations_per_epoch, loss="")

        def on_epoch(epoch: Epoch) -> None:
            losses = f"loss {epoch.train_loss:.4f}, validation {epoch.validation_loss:.4f}"
            progress.update(bar, loss=losses)
            if not console.is_terminal:
                console.print(f"epoch {epoch.epoch + 1}/{profile.epochs}: {losses}, {epoch.wall_s:.1f} s")

        return execute(
            run,
            output,
            device=device,
            resume=resume,
            wait=wait,
            options=options,
            on_start=lambda line: console.print(line, soft_wrap=True, markup=False),
            on_iteration=lambda done: progress.update(bar, completed=done),
            on_epoch=on_epoch,
        )


@dataclass(frozen=True)
class _Where:
    """Where a run computes, and where its training set is; None for engines that read it themselves."""

    device: Kind
    training_set: Place | None = None

    @property
    def noted(self) -> dict[str, Any]:
        """As its record says it."""
        return {"device": self.device, "training_set": self.training_set}


def _steps(
    request: RunRequest, *, device: Kind, resume: bool, wait: bool = False, packed: int = 1, options: RunOptions
) -> Steps[RunRecord]:
    """Make a run in steps, with its lock, folder and log; ``packed`` runs share the process."""
    run, folder = request.run, RunFolder(request.output)
    require_apart(folder.path, prepared=run.prepared.folder, archive=options.archive or recorded_archive(run.prepared))
    existing = existing_record(run, folder, resume=resume and not wait)
    if existing is not None and existing.state == "finished" and not folder.work.exists():
        logger.info("%s: finished already, nothing to do", folder.path)
        return existing
    run.engine.require_machine(run, device)
    with writable(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    with work_lock(folder.lock, wait=wait):
        existing = existing_record(run, folder, resume=resume)
        if existing is not None and existing.state == "finished":
            _clear_work(run, folder)
            logger.info("%s: finished already, nothing to do", folder.path)
            return existing
        begun = None
        if existing is not None and run.checkpoints(folder).files():
            require_same_device(str(folder.path), begun=str(existing.hardware.get("device", device)), now=device)
            begun = begun_with(existing, run, device)
        if need := run.engine.archive_need or (NEED if run.keep == "detection" else None):
            reachable_archive(run.prepared, options.archive, purpose=need)  # known now, not after a thousand epochs
        else:
            unchanged_archive(run.prepared, archive=options.archive)
        where, said = _Where(device), ""
        if run.engine.archive_need is None:
            run.prepared.require_recorded([*run.fold.train, *run.fold.validation])
            chosen = choose_training_set(
                run, str(folder.path), device, packed=packed, begun=begun, given=options.training_set
            )
            where, said = _Where(device, chosen.place), str(chosen)
            request.on_start(said)
        folder.remove_partial_files()
        if existing is None or existing.state == "planned":  # from here on the folder is known as this run's
            write_record(folder.record, run.record(state="running", **where.noted))
        folder.claim(run.engine.written(folder))
        for path, made in made_files(run, folder).items():
            if not says(path, made):
                with folder.writing(path) as partial:
                    write_text(partial, made) if isinstance(made, str) else write_json(partial, made)
        with open_log(folder.log) as log:
            with log.context():
                logger.info("%s", said or f"{run.engine.title} reads the training set itself")
            making = _make(request, folder, where=where, existing=existing, options=options)
            record = yield from interleave(making, log.context)
        _clear_work(run, folder)
        return record


def _clear_work(run: Run, folder: RunFolder) -> None:
    """Remove what the training needed, and no other file."""
    subfolder(folder.path, folder.work.name)
    run.checkpoints(folder).remove()
    if (programs := run.engine.programs_folder(folder)) is not None:
        remove_untouched(programs)
    folder.clear_work()


def _make(
    request: RunRequest,
    folder: RunFolder,
    *,
    where: "_Where",
    existing: RunRecord | None,
    options: RunOptions,
) -> Steps[RunRecord]:
    """Train, choose the weights, and keep the record up to date; a failure is recorded before it is raised."""
    run = request.run
    progress: dict[str, Any] = {}
    if existing is not None:
        progress.update(epochs=existing.epochs, wall_s=existing.wall_s, cpu_s=existing.cpu_s)
    try:
        write_record(folder.record, run.record(state="running", **where.noted, **progress))
        with full_disk_said(folder.path), memory_or_refuse(f"{folder.path}: on {where.device}", remedy=_LEANER):
            record = yield from _make_model(request, folder, where=where, progress=progress, options=options)
        write_record(folder.record, record)
    except Exception:
        logger.exception("failed")
        with suppress(OncoduetError):  # the disk may be full; run.json then says how far it was before
            write_record(folder.record, run.record(state="failed", **where.noted, **progress))
        raise
    return record


def _make_model(
    request: RunRequest, folder: RunFolder, *, where: "_Where", progress: dict[str, Any], options: RunOptions
) -> Steps[RunRecord]:
    """Train by the engine and choose the weights; ``progress`` is kept up to date."""
    from network.model.weights import load_weights, save_weights, tensors_sha256  # noqa: PLC0415
    from training.run_folder.tensorboard import Curves  # noqa: PLC0415

    run = request.run
    curves = Curves(folder.tensorboard)

    def note(epochs: Sequence[Epoch], wall_s: float, cpu_s: float) -> None:
        progress.update(epochs=epochs, wall_s=wall_s, cpu_s=cpu_s)
        write_record(folder.record, run.record(state="running", **where.noted, **progress))
        if epochs and options.tensorboard:
            curves.add(epochs)
        if epochs:
            request.on_epoch(epochs[-1])

    earlier_s = progress.get("wall_s", 0.0), progress.get("cpu_s", 0.0)
    context = TrainingContext(
        folder,
        where.device,
        where.training_set or "device",
        archive=options.archive,
        earlier_s=earlier_s,
        on_iteration=request.on_iteration,
        on_progress=note,
    )
    with closing(curves):
        trained = yield from run.engine.steps(run, context)
    weights = trained.weights
    more_parents = {what: sha256_file(path) for what, path in run.files_before_weights(folder).items()}
    if run.keep == "detection":
        chosen = select(run, folder, device=where.device, archive=options.archive, localisation=options.localisation)
        weights = load_weights(chosen)
        more_parents["selection"] = sha256_file(folder.selection)
    more_parents |= run.engine.finish(run, context, weights)
    if weights is not None:
        with folder.writing(folder.weights) as partial:
            save_weights(partial, weights)
    return run.record(
        state="finished",
        **where.noted,
        epochs=trained.epochs,
        wall_s=trained.wall_s,
        cpu_s=trained.cpu_s,
        weights_sha256=None if weights is None else tensors_sha256(weights),
        more_parents=more_parents,
        more_versions=trained.versions,
    )


def _without_what_it_held(error: Exception) -> Exception:
    """An exception whose frames, and those of its causes, are cleared of network, gradients and studies."""
    chain: list[BaseException] = [error]
    for each in chain:
        traceback.clear_frames(each.__traceback__)
        chain += [other for other in (each.__cause__, each.__context__) if other is not None and other not in chain]
    return error
