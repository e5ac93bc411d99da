"""A profile: how long and how hard a network is trained, for any configuration and card.

It is a TOML file, in ``training/profiles`` or anywhere else.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import sha256_json
from contract.records import CheckpointPolicy
from contract.schema import Count, Factor, Frozen, Name, later, named_toml, parse_toml
from network.device import Precision
from network.plans import edited_full_resolution

PROFILES = Path(__file__).parent / "profiles"

Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count, Count]


class Stage(Frozen):
    """One resolution of the U-Net; the stride leads into it."""

    features: Count
    kernel_size_zyx: Size
    stride_zyx: Size


class PlanEdits(Frozen):
    """What replaces nnU-Net's own plan; axes in the plan's order (the coarsest first)."""

    batch_size: Count
    patch_size_zyx: Size
    """In voxels; larger than the image is fine (it is padded)."""
    convolutions_per_stage_encoder: Count
    convolutions_per_stage_decoder: Count
    stages: Annotated[tuple[Stage, ...], Field(min_length=3)]
    anchor_sizes_per_axis: Count | None = None
    """For configurations that find boxes, in place of theirs: most of their heads' time goes into the 27 anchors of
    each position."""


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
    """What networks compute in; see :mod:`network.precision`. Weights and sums are float32 always."""
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
    """At the start; it falls to zero as (1 - epoch / epochs)^0.9."""
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1e6)]
    foreground_oversampling: Fraction
    """Fraction of the patches in a batch that are centred on a foreground voxel, where the study has one."""
    foreground_focus: Literal["any", "lesion"] = "any"
    """The voxel's class: any of the study's classes by equal chance, as nnU-Net has it, or the lesion where there is
    one. They differ for cards with organs in addition to the lesion."""
    loader: Literal["resident", "nnunet"] = "resident"
    """``resident``: studies are in the device's memory, patches are cut and augmented there (``training.dataloading``).
    ``nnunet``: nnU-Net's own loader, in this process. The distribution of patches is the same, single patches are not.
    """
    checkpoint: Literal["best", "final", "detection", "card"]
    """``best``: by the moving average of the pseudo Dice on the validation fold. ``detection``: by the ranking score on
    the validation fold's studies, see ``training.validation.checkpoint_selection``. ``card``: what the card says."""
    checkpoint_every_epochs: Count
    """A run that is killed loses at most so many epochs."""
    keep_every_epochs: Count = 50
    """For ``detection``: the weights of every so many epochs are kept until the choice among them and the last."""
    threads: Annotated[int, Field(ge=1, le=256)]
    """Threads of one operation on the CPU. Pinned, since another number gives other bits."""
    plan: PlanEdits | None = None
    compute: Compute = later(Compute())

    @property
    def sha256(self) -> str:
        """Hash of what the profile says; comments and layout of the file do not count."""
        return sha256_json(self.model_dump(mode="json"))

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
