"""A profile: how long and how hard a network is trained, for any configuration and card.

It is a TOML file, in ``training/profiles`` or anywhere else.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import sha256_json
from contract.records import CheckpointPolicy
from contract.schema import Count, Factor, Frozen, Name, later, named_toml, parse_toml
from network.machine.device import Precision
from network.model.plans import edited_full_resolution

PROFILES = Path(__file__).parent / "profiles"

Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count, Count]


Loader = Annotated[
    Literal["auto", "device", "host", "nnunet"], BeforeValidator(lambda said: "device" if said == "resident" else said)
]
"""The older word for ``device`` is ``resident``."""


class Stage(Frozen):
    """One resolution of the U-Net; the stride leads into it."""

    features: Count
    kernel_size_zyx: Size
    stride_zyx: Size


class PlanEdits(Frozen):
    """What replaces nnU-Net's own plan; axes in the plan's order (the coarsest first)."""

    batch_size: Count
    patch_size_zyx: Size
    """Size in voxels; larger than the image is fine (it is padded)."""
    convolutions_per_stage_encoder: Count
    convolutions_per_stage_decoder: Count
    stages: Annotated[tuple[Stage, ...], Field(min_length=3)]
    anchor_sizes_per_axis: Count | None = None
    """Anchor sizes per axis, in place of the configuration's; most of the heads' time goes into the 27 anchors of each
    position."""


class Compute(Frozen):
    """How a GPU computes a training; docs/reproducibility.md says what each key costs and gives up.

    On the CPU none of these counts.
    """

    deterministic: bool = True
    """Algorithms that give the same bits each time, as far as torch has them."""
    cudnn_benchmark: bool = False
    """cuDNN times its convolutions for each shape and takes the quickest, perhaps another one each time."""
    compile: bool | Literal["auto"] = False
    """Networks are compiled by torch; ``auto``: where the machine has what that needs."""
    amp: Precision = "fp16"
    """What networks compute in; see :mod:`network.machine.precision`. Weights and sums are float32 always."""
    channels_last: bool = False
    """Channels are the innermost axis in memory."""

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Timing decides nothing where bits have to repeat."""
        if values.get("deterministic", True) is True and values.get("cudnn_benchmark", False) is True:
            return ["cudnn_benchmark: expected false where deterministic is true, found true"]
        return []


class Profile(Frozen):
    """How long a network is trained."""

    schema_version: Literal[1]
    name: Name
    title: str
    epochs: Count
    iterations_per_epoch: Count
    validation_iterations_per_epoch: Count
    learning_rate: Factor
    """Initial learning rate; it falls to zero as (1 - epoch / epochs)^0.9."""
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1e6)]
    foreground_oversampling: Fraction
    """Fraction of the patches in a batch that are centred on a foreground voxel, where the study has one."""
    foreground_focus: Literal["any", "lesion"] = "any"
    """Class on which such patches are centred: any of the study's classes with equal chance, as by nnU-Net, or the
    lesion where the study has one. They differ for cards with organs in addition to the lesion."""
    loader: Loader = "auto"
    """Where the training set is kept and batches are made (``training.dataloading.training_set``). ``auto``: the first
    of the others that fits. The distribution of patches is the same, single patches are not."""
    loader_processes: Annotated[int, Field(ge=0, le=256)] | None = None
    """Worker processes of nnU-Net's loader for training patches, and half as many for validation; 0: this process makes
    them. The number has no influence on the result. None: nnUNet_n_proc_DA if that is set; else on a GPU 12, at most
    one per core, and on the CPU 0."""
    checkpoint: Literal["best", "final", "detection", "card"]
    """How the weights are chosen. ``best``: by the moving average of the pseudo Dice on the validation fold.
    ``detection``: by the ranking score on the validation fold's studies, see
    ``training.validation.checkpoint_selection``. ``card``: as the card says."""
    checkpoint_every_epochs: Count
    """Epochs between checkpoints, the most that a killed run loses."""
    keep_every_epochs: Count = 50
    """Epochs between weights that are kept for the choice by ``detection``; the last are kept too."""
    threads: Annotated[int, Field(ge=1, le=256)]
    """Threads of one operation on the CPU. Pinned, since another number gives other bits."""
    plan: PlanEdits | None = None
    compute: Compute = later(Compute())

    @property
    def sha256(self) -> str:
        """Hash of what the profile says and results depend on; comments and layout of the file do not count.

        Where ``auto`` keeps the training set is part of a run's record; here both words are the older one.
        """
        said = self.model_dump(mode="json", exclude={"loader_processes"})
        return sha256_json(said | {"loader": "resident" if self.loader in ("auto", "device") else self.loader})

    def checkpoint_for(self, card: Card) -> CheckpointPolicy:
        """Which weights a run keeps.

        Raises ``OncoduetError``: the profile leaves it to the card, and the card does not say.
        """
        if self.checkpoint != "card":
            return self.checkpoint
        if card.checkpoint is None:
            raise OncoduetError(f"card {card.name}", f"no checkpoint for the profile {self.name}")
        return card.checkpoint


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile by its name in ``training/profiles`` or by the path of a TOML file.

    Raises ``OncoduetError``: no such profile, or faults in it: all of them, in one line.
    """
    return parse_toml(named_toml(name_or_path, PROFILES, what="profile"), Profile)


def edited_plans(plans: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """A copy of nnU-Net's plans with the profile's edits; the preprocessed data stays usable, since spacing does."""
    edits = profile.plan
    if edits is None:
        return copy.deepcopy(dict(plans))
    changes = {"batch_size": edits.batch_size, "patch_size": list(edits.patch_size_zyx)}
    network = {
        "n_stages": len(edits.stages),
        "features_per_stage": [stage.features for stage in edits.stages],
        "kernel_sizes": [list(stage.kernel_size_zyx) for stage in edits.stages],
        "strides": [list(stage.stride_zyx) for stage in edits.stages],
        "n_conv_per_stage": [edits.convolutions_per_stage_encoder] * len(edits.stages),
        "n_conv_per_stage_decoder": [edits.convolutions_per_stage_decoder] * (len(edits.stages) - 1),
    }
    name = f"{plans['plans_name']}-{profile.name}"
    return edited_full_resolution(plans, name=name, changes=changes, network=network)
