"""Schemas of the files that outlive a process, each with its version, its writer and its parents' hashes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from contract.file_stamps import ImageStamp, look_at
from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.provenance import Writer, writer
from contract.schema import Frozen, Model, Name, RelativePath, Shown, parse

SCHEMA_VERSION: Literal[1] = 1

Stage = Literal["detection", "localisation"]
"""What a network is for: lesions, or the organ that a card locates first."""


class Record(Frozen):
    """What every such file begins with."""

    schema_version: Literal[1] = SCHEMA_VERSION
    written_by: Writer = Field(default_factory=writer)
    parents: Mapping[str, str] = {}
    """sha256 of what this was made from, by name."""


CheckpointPolicy = Literal["best", "final", "detection"]
"""Which weights of a training count: those with the best moving average of the pseudo Dice, the last ones, or, among
weights kept every so many epochs, those with the best ranking score on the fold's validation studies."""


class RunKey(Frozen):
    """Which run: together with the dataset it determines everything."""

    card: Name
    card_sha256: str
    profile: Name
    configuration: Name
    fold: NonNegativeInt
    restart: NonNegativeInt
    seed: int
    stage: Stage = "detection"

    @property
    def name(self) -> str:
        """``<configuration>_fold<K>_restart<R>``: of folders, too."""
        return f"{self.configuration}_fold{self.fold}_restart{self.restart}"


class TrainingStudiesRecord(Record):
    """``training_studies.json``: which studies a network knows, by hashes of their voxels and without any name.

    The hash is that of ``network.study.content_sha256``; each list is sorted.
    """

    trained_on: tuple[str, ...]
    chosen_by: tuple[str, ...] = ()
    """Set apart, but its weights or the rule of its boxes were chosen by the score on them."""


class Epoch(Frozen):
    """One epoch of a run."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    wall_s: float
    pseudo_dice: float | None = None
    """On the validation patches, mean over the foreground classes; null where they held none of them."""


class RunRecord(Record):
    """``run.json`` of one training run."""

    key: RunKey
    state: Literal["planned", "running", "finished", "failed"]
    dataset_fingerprint: str
    data_licence: str
    checkpoint: CheckpointPolicy
    versions: Mapping[str, str]
    hardware: Mapping[str, str | int]
    torch: Mapping[str, str | int | bool] = {}
    """What decides the last bits, apart from the hardware: torch's build and libraries, its threads, its switches."""
    container: str | None = None
    """Name of the image, or null outside of one."""
    command_line: tuple[str, ...] = ()
    """Of the process that worked on the run last; it may have had several."""
    prepared_folder: str | None = None
    """Where the dataset lay; no part of what the run is."""
    wall_s: float
    cpu_s: float
    gpu_s: float
    epochs: tuple[Epoch, ...]
    weights_sha256: str | None
    """Hash over the weights' tensors (not the file), or null until finished."""


class ScoredCheckpoint(Frozen):
    """Weights of one epoch and how they detect."""

    epoch: int
    """Epochs done."""
    weights_sha256: str
    auroc: float
    ap: float
    score: float
    """(auroc + ap) / 2, strict, on the fold's validation studies."""


class SelectionRecord(Record):
    """``selection.json`` in a run's folder: which weights it kept by detection, and how the others did."""

    key: RunKey
    validation: tuple[str, ...]
    """Case ids of the studies that were predicted."""
    mirroring: bool
    """Whether mirrored copies were predicted too."""
    checkpoints: tuple[ScoredCheckpoint, ...]
    chosen_epoch: int
    """Best score; of equal ones the earliest."""
    optimism: str
    """What this choice does to scores on the same studies."""


class Member(Frozen):
    """One network of a bundle."""

    name: Annotated[str, Field(max_length=200)]
    """The key's."""
    file: str
    """Relative path of the safetensors file."""
    weights_sha256: str
    run_sha256: str
    """Hash of the run's ``run.json``."""
    key: RunKey
    anchors_file: str | None = None
    """Relative path of the anchors of a network that finds boxes; null for one that segments."""
    box_rule_file: str | None = None
    """Relative path of the rule by which its predictions become boxes; null: the rule's defaults, or none is needed."""
    training_studies_file: str | None = None
    """Relative path of the studies that it was trained on; null where an older program trained it: not known."""
    prepared_sha256: str | None = None
    """Hash of the dataset with its folds that it was trained on; null where an older program packed it."""

    @model_validator(mode="after")
    def _named_by_its_key(self) -> Self:
        """Predictions of a member go to a folder of its name: no bundle chooses where that is."""
        if self.name != self.key.name:
            raise PydanticCustomError("name", "expected the name {name}", {"name": self.key.name})
        return self


class StageRecord(Frozen):
    """Networks that share one plan, and its path in the bundle."""

    plans_file: str
    dataset_file: str
    members: tuple[Member, ...]


class BundleRecord(Record):
    """``bundle.json``: a set of finished runs packed for inference."""

    card: str
    card_sha256: str
    data_licence: str
    plans_file: str
    dataset_file: str
    members: tuple[Member, ...]
    localisation: StageRecord | None = None
    """Networks of stage 1, for a card that first locates an organ."""


class Source(Record):
    """``source.json`` in a folder of predictions or scores: the runs they come from."""

    card: str
    card_sha256: str
    configuration: Shown
    """A training configuration, ``ensemble-…`` for several runs, ``control-…`` for runs of one configuration as many as
    an ensemble has, or ``baseline-…``."""
    fold: NonNegativeInt | None
    restart: int | None
    profile: str
    runs: tuple[str, ...]
    """Hashes of the ``run.json`` files; several for an ensemble, none for a baseline."""
    bundle_sha256: str | None
    data_licence: str
    trained_on: tuple[str, ...] | None = None
    """Case ids among these predictions on which a network of these runs was trained; null: not known."""
    settings: Mapping[str, bool | str] = {}
    """What else decided the predictions, such as mirroring, by name; what is not here is not known."""
    prepared_sha256: str | None = None
    """Hash of the dataset with its folds that the runs were trained on; null: not known, or there are several."""
    method_sha256: str | None = None
    """Of bundle, runs and settings, as in each ``study.json`` beside it; null where an older program predicted."""


class BatchRecord(Record):
    """``batch.json``: what a batch's output folder is filled with, and so who may go on filling it."""

    members: tuple[str, ...]
    """The words of ``--members``, sorted."""
    settings: Mapping[str, bool | str]
    """Every option that changes the predictions, by name."""


class StudyRecord(Record):
    """``study.json`` with a study's predictions: the images that they were made from."""

    case_id: str
    images: tuple[ImageStamp, ...]
    content_sha256: str | None = None
    """Of the reference channel's voxels (``network.study.content_sha256``); null where an older program predicted."""
    outputs: Mapping[RelativePath, str] = {}
    """The sha256 of each file, relative to the study's folder, by which it is known as unchanged; none where an older
    program predicted."""
    method_sha256: str | None = None
    """Whose prediction it is, as in the ``source.json`` of its batch; null where an older program predicted."""

    @classmethod
    def of(cls, case_id: str, channels: Mapping[str, Path]) -> Self:
        """For a study's images as they are now, by channel; to be called before they are read."""
        images = tuple(ImageStamp(channel=channel, **look_at(path)) for channel, path in channels.items())
        return cls(parents={each.channel: each.sha256 for each in images}, case_id=case_id, images=images)


class Failure(Frozen):
    """A study without prediction."""

    case_id: str
    reason: str
    """One line: which file, what was expected, what was found."""


class FailuresRecord(Record):
    """``failures.json``: the studies of a batch that could not be predicted; there is none where all could."""

    studies: int
    """How many the archive has."""
    failures: tuple[Failure, ...]


class Metrics(Frozen):
    """One answer, strict or picai. A value that the cases leave undefined is null and says why in ``reason``."""

    auroc: float | None
    ap: float | None
    score: float | None
    """(auroc + ap) / 2"""
    cases: int
    positive_cases: int
    lesions: int
    missing: int
    lesion_sensitivity_at_fp: Mapping[str, float | None] = {}
    """Lesion sensitivity at 0.125 … 2 false positives per case; keys such as ``fp_0_125`` (no dots: the platform
    splits its ranking path there)."""
    reason: str | None = None


class AgainstBaseline(Frozen):
    """One metric of a submission against a frozen baseline's: both models as they are, over cases."""

    difference: float
    """Submission minus baseline."""
    interval: tuple[float, float] | None
    """95 %, patients resampled."""
    p: float
    """Two-sided, patients' outputs swapped."""


class MetricsRecord(Record):
    """``metrics.json``: aggregates only, so that hidden truth does not leak."""

    strict: Metrics | None
    strict_reason: str | None = None
    """Why there is no strict answer (``--picai-only``)."""
    picai: Metrics
    trained_on: int | None = None
    """How many of the cases a network of this run was trained on; null: not known."""
    baselines: Mapping[str, Mapping[str, AgainstBaseline]] = {}
    """By frozen baseline and metric, on the platform; empty where none ships with the truth."""


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as strict JSON, atomically."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, model: type[Model]) -> Model:
    """Read a record; an ``OncoduetError`` names the file and every fault."""
    values: Any = read_json(path)
    return parse(values, model, path)
