"""nnU-Net's trainer as an engine: networks that segment."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from contract.records import CheckpointPolicy
from network.machine.device import Kind
from training.configuration import SegmentationConfiguration
from training.dataloading.training_set import Place
from training.engine import Engine, Trained, TrainingContext
from training.run_folder.folder import RunFolder
from training.run_identity import RunIdentity

if TYPE_CHECKING:
    from training.nnunet import trainer


class NnUNetEngine(Engine):
    """What a network that segments has of its own."""

    title = "nnU-Net"
    configuration = SegmentationConfiguration

    def steps(self, run: RunIdentity, context: TrainingContext) -> Generator[None, None, Trained]:
        """Train; see :func:`training.nnunet.trainer.steps`."""
        from training.nnunet import trainer  # noqa: PLC0415 - takes seconds to import

        task = self.task(run, context.folder, context.device, training_set=context.training_set)
        return trainer.steps(task, on_iteration=context.on_iteration, on_epoch=context.on_progress)

    def task(
        self, run: RunIdentity, folder: RunFolder, device: Kind, *, training_set: Place = "device"
    ) -> "trainer.Task":
        """What the trainer is asked to do."""
        from training.nnunet import trainer  # noqa: PLC0415

        loss = cast(SegmentationConfiguration, run.configuration).loss
        common = common_of_tasks(run, folder, device, training_set=training_set, keep=self.keep(run))
        return trainer.Task(**common, loss=loss)


def common_of_tasks(
    run: RunIdentity, folder: RunFolder, device: Kind, *, training_set: Place, keep: CheckpointPolicy
) -> dict[str, Any]:
    """What each task of nnU-Net's trainer says, for any network and loss."""
    return {
        "name": str(folder.path),
        "prepared": run.prepared.folder,
        "plans": run.plans,
        "dataset": run.prepared.dataset,
        "lesion_index": run.prepared.card.lesion_index,
        "train": run.fold.train,
        "validation": run.fold.validation,
        "profile": run.profile,
        "keep": keep,
        "seed": run.key.seed,
        "device": device,
        "training_set": training_set,
        "checkpoints": run.checkpoints(folder),
        "folder": folder,
    }


ENGINE = NnUNetEngine()
