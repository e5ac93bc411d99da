"""The Retina U-Net in nnU-Net's trainer: its batches, augmentation, epochs and checkpoints, our network and loss.

Labels of the batches hold the lesions' numbers, from which each patch gets its boxes. The learning rate has a shape of
its own, step by step, and in the last epochs the weights are averaged (``training.configuration``). As everything
else, the anchors that the loss draws follow from the run's seed and the epoch, so that interrupted and packed runs give
the bits of a run alone.

The pseudo Dice of an epoch is that of the segmentation on the validation patches. Where a profile keeps the best
weights, it decides, as for the other networks; nnDetection chooses by the precision of boxes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.clustering import BoxPostprocessing
from network.detection.retina_unet import DetectorOutput, build_retina_unet
from network.detection.whole_study import Detector
from network.preprocessing.nnunet_preprocessing import patch_size_zyx
from training.configuration import DetectorConfiguration
from training.dataloading.instance_studies import InstanceStudies, numbered_studies
from training.dataloading.resident_studies import ResidentStudies, resident_studies
from training.dataloading.training_set import home
from training.dataset.lesion_instances import labels_of, lesion_boxes_of_batch
from training.engine import Trained
from training.interleaving import Steps
from training.nnunet import trainer as nnunet
from training.nnunet.seeds import entropy
from training.nnunet.trainer import OnEpoch, OnIteration, Trainer, Weights, copied_weights
from training.retina_unet.box_rule_sweep import best_postprocessing, search
from training.retina_unet.loss import DetectionLoss
from training.run_folder.checkpoints import Checkpoint

POLY_EXPONENT = 0.9
CYCLE_FROM, CYCLE_TO = 1 / 10, 1 / 1000
"""Learning rate at the beginning and the end of each averaged epoch, as fractions of the profile's."""


@dataclass(frozen=True)
class DetectorTask(nnunet.Task):
    """Everything that the training of one detector depends on."""

    anchors: AnchorPlan
    shape: DetectorConfiguration


def steps(task: DetectorTask, *, on_iteration: OnIteration, on_epoch: OnEpoch) -> Steps[Trained]:
    """Train one Retina U-Net; see :func:`training.nnunet.trainer.steps`."""
    return nnunet.steps(task, on_iteration=on_iteration, on_epoch=on_epoch, kind=DetectorTrainer)


@torch.no_grad()
def sweep_box_rule(task: DetectorTask, weights: Weights) -> BoxPostprocessing:
    """Choose the rule by which a trained network's predictions become boxes, on the fold's validation studies."""
    device = torch.device(task.device)
    network = build_retina_unet(task.plans, task.dataset, task.anchors)
    network.load_state_dict(weights)
    patch_size = patch_size_zyx(task.plans)
    anchors = anchors_of_patch(task.anchors, level_strides(task.plans), patch_size, device=device)
    detector = Detector(network.eval().to(device), anchors)
    where, precision = home(task.training_set, task.device)
    resident = resident_studies(task.prepared, task.validation, device=where, dtype=precision)
    studies = numbered_studies(resident, task.validation, lesion_class=task.lesion_index)
    return best_postprocessing(search(detector, studies, task.validation, patch_size=patch_size))


def averaged_epochs(shape: DetectorConfiguration, epochs: int) -> int:
    """How many epochs at the end are averaged; one at least comes before."""
    return min(round(shape.averaged * epochs), epochs - 1)


def learning_rate(step: int, *, peak: float, epochs: int, steps_per_epoch: int, shape: DetectorConfiguration) -> float:
    """Learning rate of a step.

    Parameters
    ----------
    step
        Of the whole training, from 0.
    peak
        The profile's learning rate.
    """
    plain = (epochs - averaged_epochs(shape, epochs)) * steps_per_epoch
    if step >= plain:
        progress = (step - plain) % steps_per_epoch / max(1, steps_per_epoch - 1)
        return peak * (CYCLE_FROM + (CYCLE_TO - CYCLE_FROM) * progress)
    warm_up = int(shape.warm_up * plain)
    if step < warm_up:
        return peak * (step + 1) / (warm_up + 1)
    return float(peak * (1 - (step - warm_up) / (plain - warm_up)) ** POLY_EXPONENT)


class DetectorTrainer(Trainer):
    """nnU-Net's trainer for one :class:`DetectorTask`."""

    task: DetectorTask

    def take(self, task: nnunet.Task) -> None:
        """Set what the task says; boxes and segmentation are learnt from the finest resolution alone."""
        super().take(task)
        self.enable_deep_supervision = False
        self.average: Weights | None = None
        self.averaged = 0
        self.generator = torch.Generator()
        strides = level_strides(self.task.plans)
        patch = patch_size_zyx(self.task.plans)
        self.anchors = anchors_of_patch(self.task.anchors, strides, patch, device=self.device)

    def build_network_architecture(self, plans_manager: Any, *_: Any) -> torch.nn.Module:
        """The plan's U-Net with heads; nnU-Net's trainer asks for it by the first parameter's name."""
        return build_retina_unet(self.task.plans, self.task.dataset, self.task.anchors)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing: there is none."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's optimiser, with a bound on the rate of the last layers; rates are set before each step."""
        optimizer, _ = super().configure_optimizers()
        settings = {name: value for name, value in optimizer.param_groups.pop().items() if name != "params"}
        last = list(self.network.last_layers.parameters())
        known = set(map(id, last))
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in known]
        bound = min(self.initial_lr, self.task.shape.last_layer_learning_rate)
        for parameters, peak in ((others, self.initial_lr), (last, bound)):
            optimizer.add_param_group({**settings, "params": parameters, "peak": peak})
        return optimizer, _AtEpochStart(self)

    def _build_loss(self) -> torch.nn.Module:
        return DetectionLoss()

    def studies(self) -> InstanceStudies:
        """The fold's studies with numbered lesions."""
        studies = super().studies()
        assert isinstance(studies, ResidentStudies)
        return numbered_studies(studies, [*self.task.train, *self.task.validation], lesion_class=self.task.lesion_index)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches, and the numbers' meaning."""
        training, validation = super().get_dataloaders()
        self.instances = training.studies.instances
        return training, validation

    def on_epoch_start(self) -> None:
        """Reseed, the generator that draws anchors too."""
        super().on_epoch_start()
        sequence = np.random.SeedSequence(entropy(self.task.seed, f"epoch {self.current_epoch} anchors"))
        self.generator.manual_seed(int(sequence.generate_state(1)[0]))

    def set_rate(self) -> None:
        """Give the optimiser the rates of the step that is about to be made."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.iterations_done,
                peak=group["peak"],
                epochs=self.num_epochs,
                steps_per_epoch=self.num_iterations_per_epoch,
                shape=self.task.shape,
            )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step at its own learning rate."""
        self.set_rate()
        return super().train_step(batch)

    def batch_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Classification, boxes and segmentation together."""
        return self._judged(batch)[0]

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and, for the pseudo Dice, the segmentation's true and false voxels of each foreground class."""
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            loss, output, label = self._judged(batch)
        segmented, truth = output.segmentation.argmax(1), label[:, 0]
        classes = torch.arange(1, output.segmentation.shape[1], device=self.device)[:, None, None, None, None]
        found, there = segmented[None] == classes, truth[None] == classes
        counts = {"tp_hard": found & there, "fp_hard": found & ~there, "fn_hard": ~found & there}
        return {
            "loss": loss.detach().cpu().numpy(),
            **{name: each.flatten(1).sum(1).float().cpu().numpy() for name, each in counts.items()},
        }

    def _judged(self, batch: dict[str, Any]) -> tuple[torch.Tensor, DetectorOutput, torch.Tensor]:
        """Loss of a batch, what the network says of it, and the classes (batch, 1, z, y, x)."""
        data = self.on_device(batch["data"])
        numbers = batch["target"][0].to(self.device, non_blocking=True)
        own = [self.instances[case_id] for case_id in batch["keys"]]
        boxes = lesion_boxes_of_batch(numbers[:, 0], own)
        label = torch.stack([labels_of(patch, instances) for patch, instances in zip(numbers, own, strict=True)])
        output = self.network(data)
        return self.loss(output, self.anchors, boxes, label, self.generator).total, output, label

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Before the epoch ends, and its checkpoint is written, take its weights into the average."""
        super().on_validation_epoch_end(val_outputs)
        if self.current_epoch >= self.num_epochs - averaged_epochs(self.task.shape, self.num_epochs):
            self._average()

    def _average(self) -> None:
        weights = copied_weights(self.network)
        self.averaged += 1
        if self.average is None:
            self.average = weights
            return
        done: set[int] = set()  # names that share one tensor are averaged once
        for name, tensor in self.average.items():
            if tensor.data_ptr() not in done:
                done.add(tensor.data_ptr())
                tensor.add_((weights[name] - tensor) / self.averaged)

    def final_weights(self) -> Weights:
        """The average, as soon as there is one."""
        return super().final_weights() if self.average is None else self.average

    def state(self) -> dict[str, Any]:
        """nnU-Net's state with the averaged weights."""
        return {**super().state(), "average": self.average, "averaged": self.averaged}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        super().resume(checkpoint)
        average, self.averaged = checkpoint.state["average"], checkpoint.state["averaged"]
        self.average = None if average is None else {name: tensor.cpu() for name, tensor in average.items()}


@dataclass(frozen=True)
class _AtEpochStart:
    """What nnU-Net's trainer asks for the rate at the start of an epoch, which it logs."""

    trainer: DetectorTrainer

    def step(self, epoch: int) -> None:
        """Set the rate of the epoch's first step."""
        self.trainer.set_rate()
