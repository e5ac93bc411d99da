"""The Retina U-Net as an engine: networks that find boxes, in nnU-Net's trainer."""

import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contract.files.reading import sha256_file
from contract.records import read_record, write_record
from network.machine.device import Kind
from training.configuration import DetectorConfiguration
from training.dataloading.training_set import Place
from training.engine import Engine, Trained, TrainingContext
from training.nnunet.engine import common_of_tasks
from training.run_folder.folder import RunFolder
from training.run_identity import RunIdentity

if TYPE_CHECKING:
    import torch

    from training.retina_unet import trainer

logger = logging.getLogger(__name__)


class RetinaUNetEngine(Engine):
    """What a network that finds boxes has of its own: anchors before it is trained, a rule for its boxes after."""

    title = "Retina U-Net"
    configuration = DetectorConfiguration
    mark = "anchors"
    places = ("device", "host")
    """nnU-Net's loader knows no lesion numbers."""
    own_bytes_per_voxel = 2
    """Bytes of the lesions' numbers."""
    chosen_files = ("box_rule",)

    def chooses(self, run: RunIdentity) -> bool:
        """True: validation studies choose the box rule."""
        return True

    def steps(self, run: RunIdentity, context: TrainingContext) -> Generator[None, None, Trained]:
        """Plan the anchors and train; see :func:`training.retina_unet.trainer.steps`."""
        from training.retina_unet import trainer  # noqa: PLC0415 - takes seconds to import

        self.plan_anchors(run, context.folder)
        task = self.task(run, context.folder, context.device, training_set=context.training_set)
        return trainer.steps(task, on_iteration=context.on_iteration, on_epoch=context.on_progress)

    def finish(
        self, run: RunIdentity, context: TrainingContext, weights: "dict[str, torch.Tensor] | None"
    ) -> Mapping[str, str]:
        """Sweep the rule of its boxes."""
        from training.retina_unet import trainer  # noqa: PLC0415

        assert weights is not None
        path = box_rule_file(context.folder)
        with context.folder.writing(path) as partial:
            task = self.task(run, context.folder, context.device, training_set=context.training_set)
            write_record(partial, trainer.sweep_box_rule(task, weights))
        return {"box_rule": sha256_file(path)}

    def network(self, run: RunIdentity) -> "tuple[torch.nn.Module, int]":
        """The network; its anchors' sizes do not matter here, and are not planned before it starts."""
        from network.detection.anchors import (  # noqa: PLC0415
            AnchorPlan,
            anchors_of_patch,
            detection_levels,
            level_strides,
        )
        from network.detection.retina_unet import build_retina_unet  # noqa: PLC0415
        from network.preprocessing.nnunet_preprocessing import patch_size_zyx  # noqa: PLC0415

        strides, patch_size = level_strides(run.plans), patch_size_zyx(run.plans)
        sizes = ((1.0, 1.0, 1.0),) * cast(DetectorConfiguration, run.configuration).sizes_per_axis ** 3
        anchors = AnchorPlan(levels=detection_levels(len(strides)), sizes_voxels_zyx=sizes)
        anchors_of_patch(anchors, strides, patch_size)  # refuses a patch that does not fit
        network = build_retina_unet(run.plans, run.prepared.dataset, anchors)
        return network, _convolved(network, (len(run.prepared.dataset["channel_names"]), *patch_size))

    def files(self, folder: RunFolder) -> Mapping[str, Path]:
        """Anchors and rule."""
        return {"anchors": anchors_file(folder), "box_rule": box_rule_file(folder)}

    def task(
        self, run: RunIdentity, folder: RunFolder, device: Kind, *, training_set: Place = "device"
    ) -> "trainer.DetectorTask":
        """What the trainer is asked to do; the anchors are planned."""
        from network.detection.anchors import AnchorPlan  # noqa: PLC0415
        from training.retina_unet import trainer  # noqa: PLC0415

        shape = cast(DetectorConfiguration, run.configuration)
        anchors = read_record(anchors_file(folder), AnchorPlan)
        common = common_of_tasks(run, folder, device, training_set=training_set, keep=self.keep(run))
        return trainer.DetectorTask(**common, loss=(), anchors=anchors, shape=shape)

    def plan_anchors(self, run: RunIdentity, folder: RunFolder) -> None:
        """Plan the anchors, where that was not done yet.

        Raises ``OncoduetError``: no training lesion is left after preprocessing, or a study is damaged.
        """
        from network.detection.anchors import level_strides  # noqa: PLC0415
        from training.retina_unet.anchor_planning import plan_anchors  # noqa: PLC0415
        from training.retina_unet.lesion_sizes import lesion_sizes  # noqa: PLC0415

        if anchors_file(folder).is_file():
            return
        prepared = run.prepared
        edits, configuration = run.profile.plan, cast(DetectorConfiguration, run.configuration)
        sizes = lesion_sizes(prepared.folder, run.fold.train, lesion_class=prepared.card.lesion_index)
        planned = plan_anchors(
            sizes,
            level_strides(run.plans),
            source=prepared.folder,
            sizes_per_axis=(edits and edits.anchor_sizes_per_axis) or configuration.sizes_per_axis,
        )
        logger.info("anchors fit the %d training lesions with a mean IoU of %.2f", len(sizes), planned.mean_iou)
        with folder.writing(anchors_file(folder)) as partial:
            write_record(partial, planned.plan)


def anchors_file(folder: RunFolder) -> Path:
    """The anchors of a run's network (``network.detection.anchors.AnchorPlan``)."""
    return folder.path / "anchors.json"


def box_rule_file(folder: RunFolder) -> Path:
    """Which predictions of a run's network count, and how they are clustered, chosen on the validation studies.

    The content is a ``network.detection.clustering.BoxPostprocessing``.
    """
    return folder.path / "box_rule.json"


def _convolved(network: "torch.nn.Module", shape: tuple[int, ...]) -> int:
    """Elements of all feature maps that the convolutions give of a patch (channel, z, y, x)."""
    import torch  # noqa: PLC0415

    elements = 0

    def count(_: Any, __: Any, output: Any) -> None:
        nonlocal elements
        elements += output.numel()

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            layer.register_forward_hook(count)
    network(torch.empty(1, *shape))
    return elements


ENGINE = RetinaUNetEngine()
