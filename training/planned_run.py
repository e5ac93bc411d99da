"""One training run: what it is (``run_identity``), which engine trains it, and what its folder says of it.

A run has a folder of its own. ``run.json`` says what it is and how far it got; ``weights.safetensors`` is there once
it is finished. Running the same command again resumes from the last checkpoint, or, when finished, does nothing; a
folder that holds another run is refused. One process at a time works on a run. :mod:`training.make_run` makes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from contract.errors import OncoduetError, UsageError
from contract.outputs import require_folder
from contract.records import CheckpointPolicy, Epoch, RunKey, RunRecord, TrainingStudiesRecord, read_record
from training.dataloading.training_set import Place
from training.dataset.prepared import Prepared
from training.engine import Engine, engine_named, load_configuration
from training.profile import load_profile
from training.run_folder import environment
from training.run_folder.folder import RunFolder
from training.run_folder.foreign_programs import require_untouched
from training.run_identity import RunIdentity


class Run(RunIdentity):
    """A run that could be made."""

    @property
    def engine(self) -> Engine:
        """The engine of its configuration."""
        return engine_named(self.configuration.engine)

    @property
    def keep(self) -> CheckpointPolicy:
        """Policy by which the run keeps weights."""
        return self.engine.keep(self)

    @property
    def training_studies(self) -> TrainingStudiesRecord | None:
        """Hashes of the studies that the network was trained on or chosen by; None for datasets of older versions."""
        contents = {study.case_id: study.content_sha256 for study in self.prepared.record.studies}
        if None in contents.values():
            return None
        train, validation = (
            tuple(sorted({str(contents[case_id]) for case_id in cases}))
            for cases in (self.fold.train, self.fold.validation if self.engine.chooses(self) else ())
        )
        return TrainingStudiesRecord(trained_on=train, chosen_by=validation, parents={"prepared": self.prepared.sha256})

    def files_before_weights(self, folder: RunFolder) -> dict[str, Path]:
        """Files in its folder that are there before the weights, by their names among the record's parents."""
        chosen = self.engine.chosen_files
        files = {what: path for what, path in self.engine.files(folder).items() if what not in chosen}
        files["training_studies"] = folder.training_studies
        return {what: path for what, path in files.items() if path.is_file()}

    def _computed(self, device: str) -> Mapping[str, str | bool]:
        """How a GPU computes it, in addition to what holds for the whole process; on the CPU nothing."""
        if device == "cpu":
            return {}
        from training.gpu_settings import compiles  # noqa: PLC0415 - takes seconds to import

        compute = self.profile.compute
        return {"amp": compute.amp, "channels_last": compute.channels_last, "compiled": compiles(compute)}

    def record(
        self,
        *,
        state: Literal["planned", "running", "finished", "failed"],
        device: str = "cpu",
        training_set: Place | None = None,
        epochs: Sequence[Epoch] = (),
        wall_s: float = 0.0,
        cpu_s: float = 0.0,
        weights_sha256: str | None = None,
        more_parents: Mapping[str, str] = MappingProxyType({}),
        more_versions: Mapping[str, str] = MappingProxyType({}),
    ) -> RunRecord:
        """The run's ``run.json``."""
        return RunRecord(
            key=self.key,
            state=state,
            dataset_fingerprint=self.prepared.record.dataset_fingerprint,
            data_licence=self.prepared.record.data_licence,
            checkpoint=self.keep,
            versions={**environment.versions(), **more_versions},
            hardware={
                **environment.hardware(device, self.profile.threads),
                **({} if training_set is None else {"training_set": training_set}),
            },
            torch={**environment.torch_build(), **self._computed(device)} if state != "planned" else {},
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

    Raises ``OncoduetError``: no such configuration, profile or fold; the fold trains on no lesion (or organ, in stage
    1); restart or seed below 0; the configuration is for a stage that the card does not have; the checkpoint is to be
    chosen by detection, and the fold's validation studies are not both with and without lesions.
    """
    how = load_configuration(configuration)
    prepared = prepared.for_stage(how.stage)
    run = Run(prepared, how, load_profile(profile), fold, restart, base_seed)
    if restart < 0 or base_seed < 0:
        raise UsageError("restart and seed", expected="at least 0", found=f"{restart} and {base_seed}")
    lesions = {study.case_id: study.lesions for study in prepared.record.studies}
    if not any(lesions[case_id] for case_id in run.fold.train):
        wanted = prepared.card.lesion_class
        raise OncoduetError(prepared.folder, f"no {wanted} in the training part of fold {fold}")
    if run.keep == "detection":
        positive = sum(lesions[case_id] > 0 for case_id in run.fold.validation)
        negative = len(run.fold.validation) - positive
        if not (positive and negative):
            raise OncoduetError(
                prepared.folder,
                expected=(
                    f"validation studies with and without lesions in fold {fold}, by which the profile "
                    f"{run.profile.name} chooses a checkpoint"
                ),
                found=f"{positive} with and {negative} without",
            )
    return run


def existing_record(run: Run, folder: RunFolder, *, resume: bool = False, is_made: bool = True) -> RunRecord | None:
    """What the folder says of this run, or None where it says nothing, or only that another was planned.

    Raises ``OncoduetError``: the folder holds another run, this one on other data, or files not written by oncoduet
    under a run's names; it cannot be written to; ``resume`` without a checkpoint.

    Parameters
    ----------
    is_made
        False to look only: the folder may then be another user's.
    """
    path = folder.record
    existing = read_record(path, RunRecord) if path.is_file() else None
    if existing is None or existing.state == "planned":
        folder.require_free(run.engine.written(folder), is_planned=existing is not None)
        if existing is not None and existing.key != run.key:
            existing = None  # a note of what was planned, alone in its folder, and replaced
    if existing is None or existing.state != "finished":
        folder.require_no_links(run.engine.written(folder))
        require_folder(folder.path, is_written=is_made)
    if existing is not None:
        if existing.key != run.key:
            raise OncoduetError(path, expected=_describe(run.key), found=_describe(existing.key))
        changed = sorted(name for name, sha256 in run.parents.items() if existing.parents.get(name) != sha256)
        if changed and existing.state != "planned":
            what = " and ".join(changed).replace("prepared", "prepared dataset")
            raise OncoduetError(
                path, f"{what} changed since the run was begun (state {existing.state}); give another --output"
            )
        if existing.state in ("running", "failed") and is_made:
            once = [path for what, path in run.engine.files(folder).items() if what not in run.engine.chosen_files]
            folder.require_own(run.engine.written(folder), made_files(run, folder), written_once=once)
            run.checkpoints(folder).require_own()
            if (programs := run.engine.programs_folder(folder)) is not None:
                require_untouched(programs)
    finished = existing is not None and existing.state == "finished"
    if resume and not finished:
        run.engine.require_step(run, folder)
    return existing


def made_files(run: Run, folder: RunFolder) -> dict[Path, str | Mapping[str, Any]]:
    """What is written before the training, and follows from what the run is."""
    known = run.training_studies
    return {
        folder.card: (run.prepared.folder / "card.toml").read_text(encoding="utf-8"),
        folder.plans: run.plans,
        folder.dataset: dict(run.prepared.dataset),
        **({} if known is None else {folder.training_studies: known.model_dump(mode="json")}),
    }


def _describe(key: RunKey) -> str:
    return (
        f"the run {key.configuration}, fold {key.fold}, restart {key.restart}, profile {key.profile}, seed {key.seed}, "
        f"card {key.card} ({key.card_sha256[:8]})"
    )
