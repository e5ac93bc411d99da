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
"""Task of a network: detect lesions, or locate the organ that a card asks for."""


class Record(Frozen):
    """Fields common to all records."""

    schema_version: Literal[1] = SCHEMA_VERSION
    written_by: Writer = Field(default_factory=writer)
    parents: Mapping[str, str] = {}
    """Hashes (sha256) of the inputs, by name."""


CheckpointPolicy = Literal["best", "final", "detection"]
"""Which weights of a training are kept: those with the best moving average of the pseudo Dice, the last ones, or, among
weights kept every so many epochs, those with the best ranking score on the fold's validation studies."""


class RunKey(Frozen):
    """Identity of a run; together with the dataset it determines the result."""

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
        """``<configuration>_fold<K>_restart<R>``, also the name of folders."""
        return f"{self.configuration}_fold{self.fold}_restart{self.restart}"


class TrainingStudiesRecord(Record):
    """``training_studies.json``: the studies a network was trained on, by hashes of their voxels and without names.

    The hash is that of ``network.study.scan.content_sha256``; each list is sorted.
    """

    trained_on: tuple[str, ...]
    chosen_by: tuple[str, ...] = ()
    """Validation studies whose score chose the weights or the postprocessing of boxes."""


class Epoch(Frozen):
    """One epoch of a run."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    wall_s: float
    pseudo_dice: float | None = None
    """Dice on the validation patches, mean over the foreground classes; null where they contain none."""


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
    """Torch's build, libraries, threads and switches, which decide the last bits together with the hardware."""
    container: str | None = None
    """Name of the image, or null outside of one."""
    command_line: tuple[str, ...] = ()
    """Command line of the last process that worked on the run."""
    prepared_folder: str | None = None
    """Folder of the dataset; not part of the run's identity."""
    wall_s: float
    cpu_s: float
    gpu_s: float
    epochs: tuple[Epoch, ...]
    weights_sha256: str | None
    """Hash of the weights' tensors (not of the file); null until finished."""


class ScoredCheckpoint(Frozen):
    """Weights of one epoch and how they detect."""

    epoch: int
    """Number of completed epochs."""
    weights_sha256: str
    auroc: float
    ap: float
    score: float
    """Strict ranking score, (auroc + ap) / 2, on the fold's validation studies."""


class SelectionRecord(Record):
    """``selection.json`` in a run's folder: which weights it kept by detection, and how the others did."""

    key: RunKey
    validation: tuple[str, ...]
    """Case ids of the studies that were predicted."""
    mirroring: bool
    """Whether mirrored copies were predicted too."""
    checkpoints: tuple[ScoredCheckpoint, ...]
    chosen_epoch: int
    """Epoch with the best score; the earliest of equal ones."""
    optimism: str
    """Warning that scores on the same studies are optimistic."""


class Member(Frozen):
    """One network of a bundle."""

    name: Annotated[str, Field(max_length=200)]
    """Name of the key."""
    file: str
    """Relative path of the safetensors file."""
    weights_sha256: str
    run_sha256: str
    """Hash of the run's ``run.json``."""
    key: RunKey
    anchors_file: str | None = None
    """Relative path of the anchors of a network that finds boxes; null for one that segments."""
    box_rule_file: str | None = None
    """Relative path of the postprocessing of its boxes; null: the defaults, or none is needed."""
    training_studies_file: str | None = None
    """Relative path of the studies that it was trained on; null: not known (trained by an older program)."""
    prepared_sha256: str | None = None
    """Hash of the dataset with folds that it was trained on; null: not known (packed by an older program)."""

    @model_validator(mode="after")
    def _named_by_its_key(self) -> Self:
        """Predictions of a member go to a folder of its name: no bundle chooses where that is."""
        if self.name != self.key.name:
            raise PydanticCustomError("name", "expected the name {name}", {"name": self.key.name})
        return self


class StageRecord(Frozen):
    """Networks that share one plan, and the path of the plan in the bundle."""

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
    """Other settings that decide the predictions, such as mirroring, by name; absent ones are not known."""
    prepared_sha256: str | None = None
    """Hash of the dataset with its folds that the runs were trained on; null: not known, or there are several."""
    method_sha256: str | None = None
    """Hash of bundle, runs and settings, as in each ``study.json``; null: not known (older program)."""


class BatchRecord(Record):
    """``batch.json``: what a batch's output folder holds, and so which batch may resume there."""

    members: tuple[str, ...]
    """Values of ``--members``, sorted."""
    settings: Mapping[str, bool | str]
    """Every option that changes the predictions, by name."""


class StudyRecord(Record):
    """``study.json`` with a study's predictions: the images that they were made from."""

    case_id: str
    images: tuple[ImageStamp, ...]
    content_sha256: str | None = None
    """Hash of the reference channel's voxels (``network.study.scan``); null: not known (older program)."""
    outputs: Mapping[RelativePath, str] = {}
    """Hash of each output by path relative to the study's folder, to detect edits; empty: not known (older program)."""
    method_sha256: str | None = None
    """Hash of the method, as in the ``source.json`` of the batch; null: not known (older program)."""

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
    """Number of studies in the archive."""
    failures: tuple[Failure, ...]


class Metrics(Frozen):
    """One answer, strict or picai. A value that the cases leave undefined is null and says why in ``reason``."""

    auroc: float | None
    ap: float | None
    score: float | None
    """Ranking score, (auroc + ap) / 2."""
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
    """Difference, submission minus baseline."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval; patients are resampled."""
    p: float
    """Two-sided p-value; patients' outputs are swapped."""


class MetricsRecord(Record):
    """``metrics.json``: aggregates only, so that hidden truth does not leak."""

    strict: Metrics | None
    strict_reason: str | None = None
    """Why there is no strict answer (``--picai-only``)."""
    picai: Metrics
    trained_on: int | None = None
    """Number of cases that a network of this run was trained on; null: not known."""
    baselines: Mapping[str, Mapping[str, AgainstBaseline]] = {}
    """Comparisons on the platform by frozen baseline and metric; empty if the truth has no baselines."""


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as strict JSON, atomically."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path, model: type[Model]) -> Model:
    """Read a record; an ``OncoduetError`` names the file and every fault."""
    values: Any = read_json(path)
    return parse(values, model, path)
