"""A configuration: which engine trains a network, and how.

It is a TOML file, in ``training/configurations`` or anywhere else. The engine ``nnunet`` segments lesions; its loss is
a weighted sum of terms, so that a new combination is a file and not a class. The engine ``retina-unet`` finds boxes
around them, with a loss of its own (``training.retina_unet.loss``). The engine ``nndet`` is upstream nnDetection, run
as programs of its own (``training.nndetection``). A further engine brings a schema of its own (``training.engine``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from contract.files.reading import sha256_json
from contract.records import Stage
from contract.schema import Factor, Frozen, Name

CONFIGURATIONS = Path(__file__).parent / "configurations"

Smoothing = Annotated[float, Field(ge=0, lt=0.5)]


class CrossEntropyTerm(Frozen):
    """Mean voxel-wise cross entropy, unweighted."""

    term: Literal["cross-entropy"]
    weight: Factor = 1.0


class ClassWeights(Frozen):
    """Factors of the focal loss by the voxel's true class: 0 is background, all others are foreground."""

    background: Factor
    foreground: Factor


class FocalTerm(Frozen):
    """Focal loss; see :class:`training.nnunet.segmentation_losses.FocalLoss`."""

    term: Literal["focal"]
    weight: Factor = 1.0
    gamma: Annotated[float, Field(ge=1, le=1e3)]
    alpha: ClassWeights | None = None
    """Weights of the classes; absent: 1 for each."""
    smoothing: Smoothing


class SoftDiceTerm(Frozen):
    """nnU-Net's soft Dice over the foreground classes."""

    term: Literal["soft-dice"]
    weight: Factor = 1.0
    smoothing: Smoothing


LossTerm = Annotated[CrossEntropyTerm | FocalTerm | SoftDiceTerm, Field(discriminator="term")]


class Configuration(Frozen):
    """What every configuration says, of any engine."""

    schema_version: Literal[1]
    name: Name
    title: str
    engine: str
    """What trains the network: a word of ``training.engine.ENGINES``."""
    stage: Stage = "detection"
    """What the network learns: ``detection``: the lesions; ``localisation``: the organ that the card locates first."""

    @property
    def sha256(self) -> str:
        """Hash of what the configuration says; comments and layout of the file do not count."""
        return sha256_json(self.model_dump(mode="json"))


class SegmentationConfiguration(Configuration):
    """How a network is trained that segments."""

    engine: Literal["nnunet"]
    loss: Annotated[tuple[LossTerm, ...], Field(min_length=1)]


class DetectorConfiguration(Configuration):
    """How a network is trained that finds boxes: the shape of its learning rate; its height is the profile's.

    The rate rises in a straight line, then falls to zero as (1 - progress)^0.9. In the last epochs it falls again
    in each epoch, from a tenth of its height to a thousandth, and the weights are averaged over these epochs' ends.
    """

    engine: Literal["retina-unet"]
    stage: Literal["detection"] = "detection"
    sizes_per_axis: Annotated[int, Field(ge=1, le=5)] = 3
    """Anchor sizes per axis, planned from the training lesions; each position has an anchor per combination, by default
    27. A profile's plan may ask for fewer."""
    warm_up: Annotated[float, Field(ge=0, lt=1)]
    """Fraction of the steps before the averaged epochs in which the learning rate rises."""
    last_layer_learning_rate: Factor
    """Upper bound of the learning rate of the heads' last convolutions. Their inputs are many and none is negative, so
    that one step at a U-Net's rate moves a score from one end to the other."""
    averaged: Annotated[float, Field(ge=0, lt=1)]
    """Fraction of the epochs whose weights are averaged, rounded; 0: the last weights are kept."""


UpstreamSetting = Annotated[str, Field(pattern=r"^(augment_cfg|model_cfg|trainer_cfg)(\.\w+)+$")]
"""Name of one of upstream's settings that may be changed; its fold, folders and mode are the adapter's."""


class UpstreamConfiguration(Configuration):
    """How upstream nnDetection is trained: by its own schedule, so that of a profile nothing but the name counts."""

    engine: Literal["nndet"]
    stage: Literal["detection"] = "detection"
    overwrites: Mapping[UpstreamSetting, bool | int | float | str] = {}
    """Settings of upstream's training in place of V001's, by their names there, such as
    ``trainer_cfg.max_num_epochs``."""
