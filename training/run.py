"""One training run: card × profile × configuration × fold × restart, with the seed that follows from those.

A run has a folder of its own. ``run.json`` says what it is and how far it got; ``weights.safetensors`` is there once
it is finished. Running the same command again goes on from the last checkpoint, or, when finished, does nothing; a
folder that holds another run is refused. One process at a time works on a run.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from contract.errors import OncoduetError, UsageError
from contract.files import sha256_json
from contract.outputs import require_folder
from contract.records import (
    CheckpointPolicy,
    Epoch,
    RunKey,
    RunRecord,
    TrainingStudiesRecord,
    read_record,
    write_record,
)
from network.device import Kind
from training.configuration import (
    Configuration,
    DetectorConfiguration,
    SegmentationConfiguration,
    UpstreamConfiguration,
    load_configuration,
)
from training.dataset.prepared import Fold, Prepared
from training.profile import Profile, edited_plans, load_profile
from training.run_folder import environment
from training.run_folder.checkpoints import Checkpoints
from training.run_folder.folder import RunFolder

if TYPE_CHECKING:
    from training.trainers import nnunet


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


def _require_step(folder: RunFolder) -> None:
    """Raise ``OncoduetError`` unless nnDetection's training has a step to go on from."""
    if not folder.upstream_steps.is_file():
        raise OncoduetError(f"{folder.upstream_steps}: expected a step of nnDetection to go on from, found none")


def _describe(key: RunKey) -> str:
    return (
        f"the run {key.configuration}, fold {key.fold}, restart {key.restart}, profile {key.profile}, seed {key.seed}, "
        f"card {key.card} ({key.card_sha256[:8]})"
    )
