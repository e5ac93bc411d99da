"""One training run: card × profile × configuration × fold × restart, with the seed that follows from those.

A run has a folder of its own. ``run.json`` says what it is and how far it got; ``weights.safetensors`` is there once
it is finished. Running the same command again goes on from the last checkpoint, or, when finished, does nothing; a
folder that holds another run is refused. One process at a time works on a run.
"""

import gc
import hashlib
import logging
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from contract.errors import OncoduetError, UsageError
from contract.files import sha256_file, sha256_json, writable, write_json, write_text
from contract.outputs import require_apart, require_folder
from contract.process.terminal import progress_on, said
from contract.records import (
    CheckpointPolicy,
    Epoch,
    RunKey,
    RunRecord,
    TrainingStudiesRecord,
    read_record,
    write_record,
)
from network.device import Device, Kind, choose_device, free_device_memory, memory_or_refuse, require_same_device
from training.configuration import (
    Configuration,
    DetectorConfiguration,
    SegmentationConfiguration,
    UpstreamConfiguration,
    load_configuration,
)
from training.dataset.archive_stamps import reachable_archive, unchanged_archive
from training.dataset.prepared import Fold, Prepared
from training.profile import Profile, edited_plans, load_profile
from training.run_folder import environment
from training.run_folder.checkpoints import Checkpoints
from training.run_folder.folder import RunFolder
from training.run_folder.lock import alone
from training.run_folder.logs import open_log
from training.trainers.interleaving import Steps, finished, in_turns
from training.validation.checkpoint_selection import NEED, select

if TYPE_CHECKING:
    from training.trainers import nnunet

UPSTREAM_NEED = "nnDetection gets its images"
_LEANER = "fewer runs beside it (resources.packed), or a smaller batch or patch in the profile's plan, take less"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that could be made: everything that its result depends on."""

    prepared: Prepared
    configuration: Configuration
    profile: Profile
    fold_number: int
    restart: int
    base_seed: int

    @property
    def name(self) -> str:
        """``<configuration>_fold<K>_restart<R>``."""
        return f"{self.configuration.name}_fold{self.fold_number}_restart{self.restart}"

    @property
    def fold(self) -> Fold:
        """The studies that it trains on and those that it sets apart."""
        return self.prepared.fold(self.fold_number)

    @property
    def keep(self) -> CheckpointPolicy:
        """Which weights it keeps. A network that locates an organ detects no lesion by which one could choose.

        Upstream nnDetection always keeps its last, averaged ones.
        """
        if self.is_upstream:
            return "final"
        policy = self.profile.checkpoint_for(self.prepared.card)
        return "final" if policy == "detection" and self.configuration.stage != "detection" else policy

    @property
    def is_upstream(self) -> bool:
        """Whether nnDetection's own programs train it."""
        return isinstance(self.configuration, UpstreamConfiguration)

    @cached_property
    def plans(self) -> dict[str, Any]:
        """nnU-Net's plans with the profile's edits."""
        return edited_plans(dict(self.prepared.plans), self.profile)

    @property
    def key(self) -> RunKey:
        """Its identity."""
        card = self.prepared.record.card
        parts = (card, self.profile.name, self.configuration.name, self.fold_number, self.restart, self.base_seed)
        return RunKey(
            card=card,
            card_sha256=self.prepared.record.card_sha256,
            profile=self.profile.name,
            configuration=self.configuration.name,
            fold=self.fold_number,
            restart=self.restart,
            seed=derived_seed(*parts),
            stage=self.configuration.stage,
        )

    @property
    def parents(self) -> dict[str, str]:
        """Hashes of what it is made from."""
        return {
            "prepared": self.prepared.sha256,
            "configuration": self.configuration.sha256,
            "profile": self.profile.sha256,
            "card": self.prepared.record.card_sha256,
            "plans": sha256_json(self.plans),
            "dataset": sha256_json(self.prepared.dataset),
        }

    @property
    def training_studies(self) -> TrainingStudiesRecord | None:
        """Which studies its network comes to know; None where an older program prepared them."""
        contents = {study.case_id: study.content_sha256 for study in self.prepared.record.studies}
        if None in contents.values():
            return None
        chooses = self.keep != "final" or isinstance(self.configuration, DetectorConfiguration)
        train, validation = (
            tuple(sorted({str(contents[case_id]) for case_id in cases}))
            for cases in (self.fold.train, self.fold.validation if chooses else ())
        )
        return TrainingStudiesRecord(trained_on=train, chosen_by=validation, parents={"prepared": self.prepared.sha256})

    def checkpoints(self, folder: RunFolder) -> Checkpoints:
        """Its checkpoints, which name the run by what it is and by what it is made from."""
        return Checkpoints(folder.checkpoints, sha256_json([self.key.model_dump(mode="json"), self.parents]))

    def task(self, folder: RunFolder, device: Kind) -> "nnunet.Task":
        """What the engine is asked to do."""
        from network.detection.anchors import AnchorPlan  # noqa: PLC0415 - takes seconds to import
        from training.retina_unet import trainer  # noqa: PLC0415
        from training.trainers import nnunet  # noqa: PLC0415

        common: dict[str, Any] = {
            "name": str(folder.path),
            "prepared": self.prepared.folder,
            "plans": self.plans,
            "dataset": self.prepared.dataset,
            "lesion_index": self.prepared.card.lesion_index,
            "train": self.fold.train,
            "validation": self.fold.validation,
            "profile": self.profile,
            "keep": self.keep,
            "seed": self.key.seed,
            "device": device,
            "checkpoints": self.checkpoints(folder),
            "kept": folder.kept,
            "work": folder.engine,
        }
        if isinstance(self.configuration, DetectorConfiguration):
            anchors = read_record(folder.anchors, AnchorPlan)
            return trainer.DetectorTask(**common, loss=(), anchors=anchors, shape=self.configuration)
        assert isinstance(self.configuration, SegmentationConfiguration)
        return nnunet.Task(**common, loss=self.configuration.loss)

    def plan_anchors(self, folder: RunFolder) -> None:
        """Plan the anchors of a network that finds boxes, where that was not done yet.

        Raises
        ------
        OncoduetError
            No training lesion is left after preprocessing, or a study is damaged.
        """
        from network.detection.anchors import level_strides  # noqa: PLC0415
        from training.retina_unet.anchor_planning import plan_anchors  # noqa: PLC0415
        from training.retina_unet.lesion_sizes import lesion_sizes  # noqa: PLC0415

        if not isinstance(self.configuration, DetectorConfiguration) or folder.anchors.is_file():
            return
        prepared = self.prepared
        edits = self.profile.plan
        sizes = lesion_sizes(prepared.folder, self.fold.train, lesion_class=prepared.card.lesion_index)
        planned = plan_anchors(
            sizes,
            level_strides(self.plans),
            source=prepared.folder,
            sizes_per_axis=(edits and edits.anchor_sizes_per_axis) or self.configuration.sizes_per_axis,
        )
        logger.info("anchors fit the %d training lesions with a mean IoU of %.2f", len(sizes), planned.mean_iou)
        write_record(folder.anchors, planned.plan)

    def record(
        self,
        *,
        state: Literal["planned", "running", "finished", "failed"],
        device: str = "cpu",
        epochs: Sequence[Epoch] = (),
        wall_s: float = 0.0,
        cpu_s: float = 0.0,
        weights_sha256: str | None = None,
        more_parents: Mapping[str, str] = MappingProxyType({}),
        more_versions: Mapping[str, str] = MappingProxyType({}),
    ) -> RunRecord:
        """Its ``run.json``."""
        return RunRecord(
            key=self.key,
            state=state,
            dataset_fingerprint=self.prepared.record.dataset_fingerprint,
            data_licence=self.prepared.record.data_licence,
            checkpoint=self.keep,
            versions={**environment.versions(), **more_versions},
            hardware=environment.hardware(device, self.profile.threads),
            torch=environment.torch_build() if state != "planned" else {},
            container=environment.container(),
            command_line=environment.command_line(),
            prepared_folder=str(self.prepared.folder.resolve()),
            wall_s=round(wall_s, 3),
            cpu_s=round(cpu_s, 3),
            gpu_s=round(wall_s, 3) if device == "cuda" else 0.0,
            epochs=tuple(epochs),
            weights_sha256=weights_sha256,
            parents=self.parents | dict(more_parents),
        )


def plan_run(
    prepared: Prepared, *, configuration: str, fold: int, restart: int, profile: str, base_seed: int = 0
) -> Run:
    """Describe a run and check that it can be made.

    Raises
    ------
    OncoduetError
        No such configuration, profile or fold; the fold trains on no lesion (or organ, in stage 1); restart or seed
        below 0; the configuration is for a stage that the card does not have; the checkpoint is to be chosen by
        detection, and the fold's validation studies are not both with and without lesions.
    """
    how = load_configuration(configuration)
    prepared = prepared.for_stage(how.stage)
    run = Run(prepared, how, load_profile(profile), fold, restart, base_seed)
    if restart < 0 or base_seed < 0:
        raise UsageError(f"restart and seed: expected at least 0, found {restart} and {base_seed}")
    lesions = {study.case_id: study.lesions for study in prepared.record.studies}
    if not any(lesions[case_id] for case_id in run.fold.train):
        wanted = prepared.card.lesion_class
        raise OncoduetError(f"{prepared.folder}: expected a {wanted} in the training part of fold {fold}, found none")
    if run.keep == "detection":
        positive = sum(lesions[case_id] > 0 for case_id in run.fold.validation)
        negative = len(run.fold.validation) - positive
        if not (positive and negative):
            raise OncoduetError(
                f"{prepared.folder}: expected validation studies with and without lesions in fold {fold}, by which "
                f"the profile {run.profile.name} chooses a checkpoint, found {positive} with and {negative} without"
            )
    return run


@dataclass(frozen=True)
class Wishes:
    """What may be asked for beside the run; none of it changes what is trained."""

    tensorboard: bool = False
    """Write event files."""
    archive: Path | None = None
    """Where the archive lies now, if not where it lay when the dataset was prepared."""
    localisation: Path | None = None
    """Finished run of stage 1 for the choice by detection; None: one of the same fold beside the run."""


def execute(
    run: Run,
    output: Path,
    *,
    device: Device = "auto",
    resume: bool = False,
    wait: bool = False,
    wishes: Wishes = Wishes(),
    on_iteration: Callable[[int], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> RunRecord:
    """Make a run, or the rest of it, or nothing when it is finished already.

    Parameters
    ----------
    output
        The run's own folder.
    resume
        Insist on going on from a checkpoint.
    wait
        Wait for another process that works on the run; else leave.
    on_iteration, on_epoch
        Told the number of steps done in all, and each epoch as it ends.

    Raises
    ------
    OncoduetError
        The folder holds another run, or this one on other data; the archive has changed since it was prepared; another
        process works on it; ``resume`` without a checkpoint; the disk is full; the training diverges; the checkpoint
        cannot be chosen by detection.
    """
    item = Item(run, output, on_iteration=on_iteration, on_epoch=on_epoch)
    return finished(_steps(item, device=choose_device(device).kind, resume=resume, wait=wait, wishes=wishes))


@dataclass(frozen=True)
class Item:
    """One of several runs that are made together, and whom to tell about it."""

    run: Run
    output: Path
    on_iteration: Callable[[int], None] = lambda _: None
    """Told the number of steps done in all."""
    on_epoch: Callable[[Epoch], None] = lambda _: None
    """Told each epoch as it ends."""
    on_end: Callable[[RunRecord | Exception], None] = lambda _: None
    """Told the finished run's record, or why it failed, while the others still go on."""


def execute_together(
    items: Sequence[Item], *, device: Device = "auto", resume: bool = False, wishes: Wishes = Wishes()
) -> list[RunRecord | Exception]:
    """Make several runs in this process, a step of each in turn; each gives the bits that it gives alone.

    A run that fails does not stop the others: its record says ``failed``, its log why, and its exception stands in
    its place of the answer. Wall seconds in a record are those of the run's own turns, so that they add up.

    Parameters
    ----------
    resume
        Insist on going on from checkpoints; a run without one fails.

    Returns
    -------
    list
        For each item, in their order, the record or the exception that ended it.

    Raises
    ------
    OncoduetError
        Two items have the same folder, or there is no such device.
    """
    folders = [item.output.resolve() for item in items]
    doubled = next((folder for folder in folders if folders.count(folder) > 1), None)
    if doubled is not None:
        raise OncoduetError(f"{doubled}: expected each run to have a folder of its own, found two runs for it")
    where = choose_device(device).kind
    going = {number: _steps(item, device=where, resume=resume, wishes=wishes) for number, item in enumerate(items)}
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
                    items[number].on_end(ended[number])
    finally:
        for steps in going.values():  # after an interruption: locks are let go, records say how far it was
            steps.close()
    return [ended[number] for number in range(len(items))]


def show(
    run: Run,
    output: Path,
    *,
    device: Device,
    resume: bool,
    console: Console,
    wait: bool = False,
    wishes: Wishes = Wishes(),
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
            wishes=wishes,
            on_iteration=lambda done: progress.update(bar, completed=done),
            on_epoch=on_epoch,
        )


def existing_record(run: Run, folder: RunFolder, *, resume: bool = False) -> RunRecord | None:
    """What the folder says of this run, or None where it says nothing.

    Raises
    ------
    OncoduetError
        The folder holds another run, this one on other data, or files of other origin under a run's names; it cannot be
        written to; ``resume`` without a checkpoint.
    """
    path = folder.record
    existing = read_record(path, RunRecord) if path.is_file() else None
    if existing is None:
        folder.require_free()
    if existing is None or existing.state != "finished":
        folder.require_no_links()
        require_folder(folder.path)
    if existing is not None:
        if existing.key != run.key:
            raise OncoduetError(f"{path}: expected {_describe(run.key)}, found {_describe(existing.key)}")
        changed = sorted(name for name, sha256 in run.parents.items() if existing.parents.get(name) != sha256)
        if changed and existing.state != "planned":
            raise OncoduetError(
                f"{path}: expected the {' and '.join(changed)} that this run was begun with, found another since "
                f"(state {existing.state}); give another --output"
            )
    finished = existing is not None and existing.state == "finished"
    if resume and not finished:
        if run.is_upstream:
            _require_step(folder)
        else:
            run.checkpoints(folder).require()
    return existing


def derived_seed(*parts: str | int) -> int:
    """A seed below 2^32 that follows from what the run is; runs that differ anywhere are independent."""
    text = "\n".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _steps(item: Item, *, device: Kind, resume: bool, wait: bool = False, wishes: Wishes) -> Steps[RunRecord]:
    """Make a run in steps, with its lock, folder and log."""
    run, folder = item.run, RunFolder(item.output)
    require_apart(folder.path, prepared=run.prepared.folder, archive=wishes.archive)
    existing = existing_record(run, folder, resume=resume and not wait)
    if existing is not None and existing.state == "finished" and not folder.work.exists():
        logger.info("%s: finished already, nothing to do", folder.path)
        return existing
    with writable(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    with alone(folder, wait=wait):
        existing = existing_record(run, folder, resume=resume)
        if existing is not None and existing.state == "finished":
            folder.clear_work()
            logger.info("%s: finished already, nothing to do", folder.path)
            return existing
        if existing is not None and run.checkpoints(folder).files():
            require_same_device(str(folder.path), begun=str(existing.hardware.get("device", device)), now=device)
        if run.is_upstream:
            reachable_archive(run.prepared, wishes.archive, purpose=UPSTREAM_NEED)
        elif run.keep == "detection":
            reachable_archive(run.prepared, wishes.archive, purpose=NEED)  # known now, not after a thousand epochs
        else:
            unchanged_archive(run.prepared, archive=wishes.archive)
        if not run.is_upstream:  # which preprocesses by itself
            run.prepared.require_recorded([*run.fold.train, *run.fold.validation])
        folder.sweep()
        if existing is None:
            write_record(folder.record, run.record(state="planned"))  # from here on the folder is known as this run's
        shutil.rmtree(folder.engine, ignore_errors=True)
        folder.engine.mkdir(parents=True)
        write_text(folder.card, (run.prepared.folder / "card.toml").read_text(encoding="utf-8"))
        write_json(folder.plans, run.plans)
        write_json(folder.dataset, dict(run.prepared.dataset))
        if (known := run.training_studies) is not None:
            write_record(folder.training_studies, known)
        with open_log(folder.log) as log:
            making = _make(item, folder, device=device, existing=existing, wishes=wishes)
            record = yield from in_turns(making, log.turn)
        folder.clear_work()
        return record


def _make(
    item: Item,
    folder: RunFolder,
    *,
    device: Kind,
    existing: RunRecord | None,
    wishes: Wishes,
) -> Steps[RunRecord]:
    """Train, choose the weights, and keep the record up to date; a failure is written down before it is told."""
    making = _make_upstream if item.run.is_upstream else _make_network
    run = item.run
    progress: dict[str, Any] = {}
    if existing is not None:
        progress.update(epochs=existing.epochs, wall_s=existing.wall_s, cpu_s=existing.cpu_s)
    try:
        write_record(folder.record, run.record(state="running", device=device, **progress))
        with memory_or_refuse(f"{folder.path}: on {device}", remedy=_LEANER):
            record = yield from making(item, folder, device=device, progress=progress, wishes=wishes)
        write_record(folder.record, record)
    except Exception:
        logger.exception("failed")
        with suppress(OncoduetError):  # the disk may be full; run.json then says how far it was before
            write_record(folder.record, run.record(state="failed", device=device, **progress))
        raise
    return record


def _make_network(
    item: Item, folder: RunFolder, *, device: Kind, progress: dict[str, Any], wishes: Wishes
) -> Steps[RunRecord]:
    """Train a network of ours and choose its weights; ``progress`` is kept up to date."""
    from network.weights import load_weights, save_weights, tensors_sha256  # noqa: PLC0415
    from training.retina_unet import trainer  # noqa: PLC0415
    from training.run_folder.tensorboard import Curves  # noqa: PLC0415
    from training.trainers import nnunet  # noqa: PLC0415

    run = item.run
    curves = Curves(folder.tensorboard)

    def note(epochs: Sequence[Epoch], wall_s: float, cpu_s: float) -> None:
        progress.update(epochs=epochs, wall_s=wall_s, cpu_s=cpu_s)
        write_record(folder.record, run.record(state="running", device=device, **progress))
        if wishes.tensorboard:
            curves.add(epochs)
        item.on_epoch(epochs[-1])

    with closing(curves):
        run.plan_anchors(folder)
        task = run.task(folder, device)
        if isinstance(task, trainer.DetectorTask):
            trained = yield from trainer.steps(task, on_iteration=item.on_iteration, on_epoch=note)
        else:
            trained = yield from nnunet.steps(task, on_iteration=item.on_iteration, on_epoch=note)
    weights = trained.weights
    more_parents = folder.hashes_beside()
    if run.keep == "detection":
        chosen = select(run, folder, device=device, archive=wishes.archive, localisation=wishes.localisation)
        weights = load_weights(chosen)
        more_parents["selection"] = sha256_file(folder.selection)
    if isinstance(task, trainer.DetectorTask):
        write_record(folder.box_rule, trainer.sweep_box_rule(task, weights))
        more_parents["box_rule"] = sha256_file(folder.box_rule)
    save_weights(folder.weights, weights)
    return run.record(
        state="finished",
        device=device,
        epochs=trained.epochs,
        wall_s=trained.wall_s,
        cpu_s=trained.cpu_s,
        weights_sha256=tensors_sha256(weights),
        more_parents=more_parents,
    )


def _make_upstream(
    item: Item, folder: RunFolder, *, device: Kind, progress: dict[str, Any], wishes: Wishes
) -> Steps[RunRecord]:
    """Have nnDetection's programs train; ``progress`` is kept up to date, and of epochs there is no record."""
    from training.nndetection import training as upstream  # noqa: PLC0415 - imports torch
    from training.nndetection.model import PARENT  # noqa: PLC0415

    run = item.run
    assert isinstance(run.configuration, UpstreamConfiguration)
    earlier_wall_s, earlier_cpu_s = progress.get("wall_s", 0.0), progress.get("cpu_s", 0.0)

    def note(wall_s: float, cpu_s: float) -> None:
        progress.update(wall_s=earlier_wall_s + wall_s, cpu_s=earlier_cpu_s + cpu_s)
        write_record(folder.record, run.record(state="running", device=device, **progress))

    task = upstream.UpstreamTask(
        prepared=run.prepared,
        fold=run.fold,
        archive=reachable_archive(run.prepared, wishes.archive, purpose=UPSTREAM_NEED),
        overwrites=run.configuration.overwrites,
        key=run.key,
        folder=folder,
    )
    made = yield from upstream.steps(task, on_step=note)
    return run.record(
        state="finished",
        device=device,
        more_parents={PARENT: sha256_file(folder.nndetection_record), **folder.hashes_beside()},
        more_versions={
            "nndetection_targeted": made.targeted_commit,
            "nndetection": made.reported_commit or "unknown",
            "nndetection_torch": made.reported_torch or "unknown",
        },
        **progress,
    )


def _without_what_it_held(error: Exception) -> Exception:
    """An exception whose frames, and those of its causes, no longer hold the run's network, gradients and studies.

    They stand in the run's log.
    """
    chain: list[BaseException] = [error]
    for each in chain:
        traceback.clear_frames(each.__traceback__)
        chain += [other for other in (each.__cause__, each.__context__) if other is not None and other not in chain]
    return error


def _require_step(folder: RunFolder) -> None:
    """Raise ``OncoduetError`` unless nnDetection's training has a step to go on from."""
    if not folder.upstream_steps.is_file():
        raise OncoduetError(f"{folder.upstream_steps}: expected a step of nnDetection to go on from, found none")


def _describe(key: RunKey) -> str:
    return (
        f"the run {key.configuration}, fold {key.fold}, restart {key.restart}, profile {key.profile}, seed {key.seed}, "
        f"card {key.card} ({key.card_sha256[:8]})"
    )
