"""nnU-Net's trainer, run in this process: its augmentation, batches, schedule and deep supervision, our loss.

What is changed on purpose: every random number comes from the run's seed (nnU-Net seeds nothing); where the studies fit
into memory, batches are made in this process; checkpoints are complete or absent; neither the final validation (the
evaluation scores the runs) nor a progress picture is made. The generators are reseeded at each epoch's start, so that a
run that resumes from a checkpoint is bit-identical to an uninterrupted one.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from contract.errors import OncoduetError
from contract.files.atomic import held_folder
from contract.records import CheckpointPolicy, Epoch
from contract.text import one_line
from network.machine.device import require_same_device
from network.model.architecture import build_network
from network.model.plans import CONFIGURATION, require_dataset, require_plans
from network.model.weights import save_weights
from training.augmentation.nnunet_recipe import read_recipe
from training.augmentation.patches import Size
from training.configuration import LossTerm
from training.dataloading.batches import ResidentBatches
from training.dataloading.instance_studies import InstanceStudies
from training.dataloading.patch_sampling import PatchSampler
from training.dataloading.resident_studies import ResidentStudies, resident_studies
from training.dataloading.training_set import Place, home
from training.dataset.nnunet_folders import batches_on_one_thread, nnunet_folders
from training.engine import Trained
from training.gpu_settings import scales_gradients, settle_network, settle_process
from training.interleaving import Clock, Steps, interleave
from training.nnunet.epoch_log import EpochLog
from training.nnunet.focused_cases import FocusedCases
from training.nnunet.process_state import ProcessState
from training.nnunet.seeds import entropy, seed_generators
from training.nnunet.segmentation_losses import build_loss
from training.nnunet.worker_batches import WorkerBatches, processes_of, shared_at_most
from training.profile import Profile
from training.run_folder.checkpoints import Checkpoint, Checkpoints
from training.run_folder.folder import RunFolder

GRADIENT_NORM = 12
"""Gradients longer than this are scaled down to it, as nnU-Net does."""

Weights = dict[str, torch.Tensor]
OnIteration = Callable[[int], None]
OnEpoch = Callable[[Sequence[Epoch], float, float], None]
logger = logging.getLogger(__name__)

# nnU-Net infers the class from the endings of all files in the folder, the system's litter among them.
nnunet_trainer.infer_dataset_class = lambda folder: nnUNetDatasetBlosc2


@dataclass(frozen=True)
class Task:
    """Everything that one training depends on."""

    name: str
    prepared: Path
    plans: Mapping[str, Any]  # with the profile's edits
    dataset: Mapping[str, Any]
    lesion_index: int  # among the network's classes
    train: Sequence[str]  # case ids
    validation: Sequence[str]
    loss: Sequence[LossTerm]
    profile: Profile
    keep: CheckpointPolicy
    seed: int
    device: Literal["cpu", "cuda"]
    training_set: Place  # where it is kept
    checkpoints: Checkpoints
    folder: RunFolder


def steps(
    task: Task, *, on_iteration: OnIteration, on_epoch: OnEpoch, kind: "type[Trainer] | None" = None
) -> Steps[Trained]:
    """Train one network, from the task's checkpoint if there is one, in steps that may alternate with other tasks'.

    Raises ``OncoduetError``: the loss is no longer a finite number.

    Parameters
    ----------
    on_iteration
        Called after each step with the number done in all.
    on_epoch
        Called after each epoch with all epochs so far, wall and CPU seconds.
    kind
        The trainer; by default nnU-Net's.
    """
    clock, state = Clock(), ProcessState(torch.device(task.device), threads=task.profile.threads)

    @contextmanager
    def context() -> Iterator[None]:
        settle_process(task.profile.compute, task.device)
        with clock.running(), state.context(), batches_on_one_thread():
            yield

    def own_steps() -> Steps[Trained]:
        task.folder.work.mkdir(parents=True, exist_ok=True)
        with held_folder(task.folder.work) as scratch:
            trainer = build_trainer(task, kind, scratch=scratch)
            trainer.clock, trainer.on_iteration, trainer.on_epoch = clock, on_iteration, on_epoch
            with _folders(task, scratch):
                checkpoint = task.checkpoints.newest(device=task.device)
                if checkpoint is not None:
                    _resume(trainer, checkpoint)
                trainer.on_train_start()
            try:
                yield from trainer.steps()
            finally:
                trainer.dataloader_train = trainer.dataloader_val = None  # or else cyclic references keep the studies
        return Trained(trainer.kept_weights(), tuple(trainer.epochs()), *trainer.seconds())

    return interleave(own_steps(), context)


def build_trainer(task: Task, kind: "type[Trainer] | None" = None, *, scratch: Path | None = None) -> "Trainer":
    """nnU-Net's trainer for a task, or one that is derived from it, without a network yet.

    Raises ``OncoduetError``: the plans or the data set's description are malformed: nnU-Net looks up by name what they
    name.

    Parameters
    ----------
    scratch
        Where nnU-Net writes copies of both; None: the run's ``work``.
    """
    require_plans(task.plans)
    require_dataset(task.dataset)
    plans = {**task.plans, "continue_training": False}
    with _folders(task, scratch or task.folder.work):
        trainer = (kind or Trainer)(plans, CONFIGURATION, 0, dict(task.dataset), torch.device(task.device))
    trainer.take(task)
    return trainer


class Trainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer for one :class:`Task`.

    The base class reads its own constructor's arguments by name, hence the same ones here and ``take`` for the rest.
    """

    grad_scaler: Any

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.logger = EpochLog(self.output_folder, False)
        self.disable_checkpointing = True  # nnU-Net's own, which are written in place
        self.on_iteration: OnIteration = lambda _: None
        self.on_epoch: OnEpoch = lambda *_: None
        self.iterations_done = 0
        self.best_weights: Weights | None = None
        self.earlier_wall_s, self.earlier_cpu_s = 0.0, 0.0
        self.clock = Clock()

    def take(self, task: Task) -> None:
        """Set what the task says in place of nnU-Net's constants."""
        profile = task.profile
        self.task = task
        if not scales_gradients(profile.compute, task.device):
            self.grad_scaler = None
        self.preprocessed_dataset_folder_base = str(task.prepared)
        self.preprocessed_dataset_folder = str(task.prepared / "cases")
        self.num_epochs = profile.epochs
        self.num_iterations_per_epoch = profile.iterations_per_epoch
        self.num_val_iterations_per_epoch = profile.validation_iterations_per_epoch
        self.initial_lr = profile.learning_rate
        self.weight_decay = profile.weight_decay
        self.oversample_foreground_percent = profile.foreground_oversampling
        self.loader_processes = 0
        if task.training_set == "nnunet":
            self.loader_processes = processes_of(profile.loader_processes, task.device)

    def steps(self) -> Steps[None]:
        """All remaining epochs, as in nnU-Net; yields after each batch."""
        while self.current_epoch < self.num_epochs:
            self.on_epoch_start()
            self.on_train_epoch_start()
            losses = []
            for _ in range(self.num_iterations_per_epoch):
                losses.append(self.train_step(next(self.dataloader_train)))
                yield
            self.on_train_epoch_end(losses)
            self.on_validation_epoch_start()
            validated = []
            for _ in range(self.num_val_iterations_per_epoch):
                with torch.no_grad():
                    validated.append(self.validation_step(next(self.dataloader_val)))
                yield
            self.on_validation_epoch_end(validated)
            self.on_epoch_end()  # advances current_epoch
        self.on_train_end()

    def initialize(self) -> None:
        """Build network, optimiser and loss; the initial weights follow from the seed."""
        seed_generators(self.task.seed, "initial weights")
        super().initialize()
        settle_network(self.network, self.task.profile.compute, self.task.device)

    def build_network_architecture(self, plans_manager: Any, *_: Any) -> torch.nn.Module:
        """The plan's network; nnU-Net's trainer asks for it by the first parameter's name."""
        return build_network(self.task.plans, self.task.dataset, deep_supervision=self.enable_deep_supervision)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's optimiser and schedule with the profile's momentum.

        On a GPU it is the fused one: with any other the gradient scaler makes the host wait at each step.
        """
        momentum = self.task.profile.momentum
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=momentum,
            nesterov=momentum > 0,
            fused=True if self.device.type == "cuda" else None,
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> torch.nn.Module:
        supervised: torch.nn.Module = super()._build_loss()  # nnU-Net's weights of the resolutions
        supervised.loss = build_loss(self.task.loss, batch_dice=self.configuration_manager.batch_dice)
        return supervised

    @staticmethod
    def get_training_transforms(*arguments: Any, **named: Any) -> Any:
        """nnU-Net's augmentation; blurring no longer picks its algorithm by timing itself."""
        transforms = nnUNetTrainer.get_training_transforms(*arguments, **named)
        for transform in transforms.transforms:
            inner = transform.transform if isinstance(transform, RandomTransform) else transform
            if isinstance(inner, GaussianBlurTransform):
                inner.benchmark = False
        return transforms

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's studies. nnU-Net would split by study, not by patient, and make up a fold that does not exist."""
        return list(self.task.train), list(self.task.validation)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches for training and validation, from where the training set is kept."""
        if self.task.training_set == "nnunet":
            return self._nnunets_batches()
        labels = self.label_manager
        if self.is_cascaded or labels.has_ignore_label or labels.has_regions:
            raise OncoduetError(
                self.task.name,
                "studies in memory support neither cascades nor ignored labels nor regions; "
                'loader = "nnunet" in the profile does',
            )
        patch = _size(self.configuration_manager.patch_size)
        rotation, in_plane, initial, mirrored = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        scales = self._get_deep_supervision_scales()
        masks = self.configuration_manager.use_mask_for_norm
        training = self.get_training_transforms(patch, rotation, scales, mirrored, in_plane, use_mask_for_norm=masks)
        validation = self.get_validation_transforms(scales)
        studies = self.studies()
        focus = self.task.lesion_index if self.task.profile.foreground_focus == "lesion" else None

        def batches(case_ids: Sequence[str], transforms: Any, box: Sequence[int]) -> ResidentBatches:
            return ResidentBatches(
                studies,
                case_ids,
                recipe=read_recipe(transforms),
                sampler=PatchSampler(_size(box), patch, focus=focus),
                batch_size=self.batch_size,
                foreground=self.oversample_foreground_percent,
                device=self.device,
            )

        return batches(self.task.train, training, initial), batches(self.task.validation, validation, patch)

    def _nnunets_batches(self) -> tuple[WorkerBatches, WorkerBatches]:
        """nnU-Net's own batches; within ``nnunet_folders`` it starts no processes itself."""
        voxels = self.batch_size * math.prod(self.configuration_manager.patch_size)
        batch_bytes = voxels * (4 * self.num_input_channels + 2 * 2)  # float32, int16 in all resolutions
        processes = shared_at_most(self.loader_processes, batch_bytes)
        logger.info("nnU-Net's loader: %d processes", processes)

        def repeatable(batches: Any, purpose: str, *, per_epoch: int, processes: int) -> WorkerBatches:
            return WorkerBatches(
                batches,
                partial(seed_generators, self.task.seed),
                purpose=purpose,
                per_epoch=per_epoch,
                processes=processes,
                pinned=self.device.type == "cuda",
            )

        training, validation = super().get_dataloaders()
        return (
            repeatable(training, "training", per_epoch=self.num_iterations_per_epoch, processes=processes),
            repeatable(
                validation,
                "validation",
                per_epoch=self.num_val_iterations_per_epoch,
                processes=math.ceil(processes / 2),
            ),
        )

    def studies(self) -> ResidentStudies | InstanceStudies:
        """The fold's studies in memory."""
        task = self.task
        device, dtype = home(task.training_set, task.device)
        return resident_studies(task.prepared, [*task.train, *task.validation], device=device, dtype=dtype)

    def get_tr_and_val_datasets(self) -> tuple[FocusedCases, FocusedCases]:
        """Training and validation studies."""
        training, validation = self.do_split()
        folder = self.preprocessed_dataset_folder
        focus = self.task.lesion_index if self.task.profile.foreground_focus == "lesion" else None
        return FocusedCases(folder, training, focus=focus), FocusedCases(folder, validation, focus=focus)

    def on_epoch_start(self) -> None:
        """Reseed, so that an epoch's random numbers do not depend on earlier ones."""
        moment = f"epoch {self.current_epoch}"
        seed_generators(self.task.seed, moment)
        for loader, purpose in ((self.dataloader_train, "training"), (self.dataloader_val, "validation")):
            if isinstance(loader, ResidentBatches):
                loader.seed(entropy(self.task.seed, f"{moment} {purpose}"))
            elif isinstance(loader, WorkerBatches):
                loader.begin(self.current_epoch)
        super().on_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step as nnU-Net makes it, but the loss stays on the device: the host need not wait for it."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            loss = self.batch_loss(batch)
        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.iterations_done += 1
        self.on_iteration(self.iterations_done)
        return {"loss": loss.detach()}

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """The scalar that a step minimises."""
        data = self.on_device(batch["data"])
        target = [each.to(self.device, non_blocking=True) for each in batch["target"]]
        loss: torch.Tensor = self.loss(self.network(data), target)
        return loss

    def on_device(self, data: torch.Tensor) -> torch.Tensor:
        """Patches where the network is, in the layout that it has."""
        data = data.to(self.device, non_blocking=True)
        last = self.device.type == "cuda" and self.task.profile.compute.channels_last
        return data.contiguous(memory_format=torch.channels_last_3d) if last else data

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Fetch the epoch's losses and log their mean."""
        losses = torch.stack([each["loss"] for each in train_outputs]).cpu().numpy()
        super().on_train_epoch_end([{"loss": loss} for loss in losses])

    def on_epoch_end(self) -> None:
        """Keep the best weights in memory and, every few epochs, a checkpoint on disk."""
        best_before = self._best_ema
        super().on_epoch_end()  # advances current_epoch
        train_loss, validation_loss = (float(self.logger.get_value(key, -1)) for key in ("train_losses", "val_losses"))
        if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
            raise OncoduetError(
                self.task.name,
                expected="a finite loss",
                found=(
                    f"{train_loss} in training and {validation_loss} in validation in epoch "
                    f"{self.current_epoch}; is the learning rate too high?"
                ),
            )
        if self.task.keep == "best" and self._best_ema != best_before:
            self.best_weights = copied_weights(self.network)
        self.keep_on_disk()
        self.on_epoch(self.epochs(), *self.seconds())

    def keep_on_disk(self) -> None:
        """Every few epochs a checkpoint and, where detection will choose among them, the weights.

        The last epoch needs a checkpoint only where something comes after the training that may be interrupted too.
        """
        task, epoch, last = self.task, self.current_epoch, self.current_epoch == self.num_epochs
        choosing = task.keep == "detection"
        if choosing and (last or epoch % task.profile.keep_every_epochs == 0):
            with task.folder.writing(task.folder.kept_weights(epoch)) as partial:
                save_weights(partial, self.final_weights())
        if choosing if last else epoch % task.profile.checkpoint_every_epochs == 0:
            task.checkpoints.write(Checkpoint(epoch=epoch, seed=task.seed, state=self.state()))

    def state(self) -> dict[str, Any]:
        """All that :meth:`resume` needs in addition to epoch and seed: tensors, numbers and text; no pickles."""
        wall_s, cpu_s = self.seconds()
        return {
            "device": self.device.type,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "best_ema": None if self._best_ema is None else float(self._best_ema),
            "best_weights": self.best_weights,
            "log": _plain(self.logger.get_checkpoint()),
            "wall_s": wall_s,
            "cpu_s": cpu_s,
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint. Raises ``OncoduetError``: it was written on another kind of device."""
        state = checkpoint.state
        begun = state.get("device", "cpu" if state["grad_scaler"] is None else "cuda")
        require_same_device(self.task.name, begun=begun, now=self.device.type)
        self.initialize()
        self.current_epoch = checkpoint.epoch
        self.iterations_done = self.current_epoch * self.num_iterations_per_epoch
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.grad_scaler is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self._best_ema = state["best_ema"]
        best = state["best_weights"]
        self.best_weights = None if best is None else {name: tensor.cpu() for name, tensor in best.items()}
        self.logger.load_checkpoint(state["log"])
        self.earlier_wall_s, self.earlier_cpu_s = state["wall_s"], state["cpu_s"]

    def kept_weights(self) -> Weights:
        """The best or, for the other policies, the final weights, on the CPU."""
        if self.task.keep == "best" and self.best_weights is not None:
            return self.best_weights
        return self.final_weights()

    def final_weights(self) -> Weights:
        """The weights that would be kept if the training ended here, on the CPU."""
        return copied_weights(self.network)

    def epochs(self) -> list[Epoch]:
        """nnU-Net's log, epoch by epoch."""
        log = self.logger.get_checkpoint()
        columns = ["train_losses", "val_losses", "lrs", "dice_per_class_or_region"]
        columns += ["epoch_start_timestamps", "epoch_end_timestamps"]
        return [
            Epoch(
                epoch=epoch,
                train_loss=float(train_loss),
                validation_loss=float(validation_loss),
                learning_rate=float(learning_rate),
                wall_s=round(end_s - start_s, 3),
                pseudo_dice=_mean_of_defined(dice),
            )
            for epoch, (train_loss, validation_loss, learning_rate, dice, start_s, end_s) in enumerate(
                zip(*(log[column] for column in columns), strict=True)
            )
        ]

    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds of its own steps so far."""
        wall_s, cpu_s = self.clock.seconds()
        return self.earlier_wall_s + wall_s, self.earlier_cpu_s + cpu_s

    def print_to_log_file(
        self, *values: object, also_print_to_console: bool = True, add_timestamp: bool = True
    ) -> None:
        """Hand nnU-Net's remarks to our log."""
        logger.info(" ".join(map(str, values)))

    def plot_network_architecture(self) -> None:
        """Nothing: the picture needs packages that are not installed."""

    def _save_debug_information(self) -> None:
        """Nothing: run.json says what the run was."""


def _resume(trainer: Trainer, checkpoint: Checkpoint) -> None:
    try:
        trainer.resume(checkpoint)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise OncoduetError(
            trainer.task.checkpoints.folder,
            f"not the state of this training after epoch {checkpoint.epoch}: {one_line(str(error))[:200]}",
        ) from error


def _folders(task: Task, scratch: Path) -> AbstractContextManager[None]:
    return nnunet_folders(raw=scratch, preprocessed=task.prepared, results=scratch, loader_processes=0)


def copied_weights(network: torch.nn.Module) -> Weights:
    """The weights as they are now; names that share one tensor (nnU-Net has many) share one copy."""
    state = network.state_dict()
    plain = torch.contiguous_format
    copies = {tensor.data_ptr(): tensor.detach().cpu().clone(memory_format=plain) for tensor in state.values()}
    return {name: copies[tensor.data_ptr()] for name, tensor in state.items()}


def _mean_of_defined(dice: Sequence[float]) -> float | None:
    defined = [float(each) for each in dice if math.isfinite(each)]
    return sum(defined) / len(defined) if defined else None


def _size(lengths: Sequence[int]) -> Size:
    z, y, x = map(int, lengths)
    return z, y, x


def _plain(value: Any) -> Any:
    """The same lists and numbers without numpy's types, which a checkpoint would have to pickle."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
