"""A run and the engine interface.

An engine is a way to train. A configuration names it; :data:`ENGINES` says in which module it is. That module holds
one object, ``ENGINE``, of a class that is derived from :class:`Engine` and overrides what differs from a network whose
weights the algorithm loads. A further engine is a folder and a line of the table; its configurations have a schema of
its own. An engine whose bundle members need further files also adds them to ``contract.records.Member``.

The modules of the table import nothing that takes seconds (torch, nnU-Net) before they train.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, RootModel

from contract.errors import OncoduetError
from contract.files.reading import sha256_json
from contract.records import CheckpointPolicy, Epoch, RunKey, RunRecord, TrainingStudiesRecord
from contract.schema import named_toml, parse_toml
from network.device import Device, Kind, choose_device
from training.configuration import CONFIGURATIONS, Configuration
from training.dataset.prepared import Fold, Prepared
from training.profile import Profile, edited_plans
from training.run_folder import environment
from training.run_folder.checkpoints import Checkpoints
from training.run_folder.folder import RunFolder

if TYPE_CHECKING:
    import torch

ENGINES: Mapping[str, str] = {
    "nnunet": "training.trainers.engine",
    "retina-unet": "training.retina_unet.engine",
    "nndet": "training.nndetection.engine",
}
"""By the word ``engine`` of a configuration: the module of each. The first makes what carries no mark."""


def engine_named(name: str) -> "Engine":
    """The engine of a configuration's word, which is one of the table's."""
    engine: Engine = import_module(ENGINES[name]).ENGINE
    return engine


def engine_of(record: RunRecord) -> "Engine":
    """The engine by whose rules a finished run is checked, packed and used: that of its mark, else the first."""
    engines = [engine_named(name) for name in ENGINES]
    return next((engine for engine in engines if engine.mark in record.parents), engines[0])


def load_configuration(name_or_path: str | Path) -> Configuration:
    """Read a configuration by its name in ``training/configurations`` or by the path of a TOML file.

    Raises ``OncoduetError``: no such configuration, or faults in it: all of them, in one line.
    """
    kinds = tuple(engine_named(name).configuration for name in ENGINES)
    either: Any = Annotated[Union[kinds], Field(discriminator="engine")]  # noqa: UP007 - of a tuple
    model: type[RootModel[Configuration]] = RootModel[either]
    return parse_toml(named_toml(name_or_path, CONFIGURATIONS, what="configuration"), model).root


@dataclass(frozen=True)
class Trained:
    """What a training gives; the seconds count interrupted parts as far as they were kept."""

    weights: "dict[str, torch.Tensor] | None"
    """None if the engine keeps its own model in the run folder."""
    epochs: tuple[Epoch, ...]
    wall_s: float
    cpu_s: float
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what trained it, in addition to those of our packages."""


@dataclass(frozen=True)
class Workplace:
    """Where a run is made, and its callbacks."""

    folder: RunFolder
    device: Kind
    archive: Path | None = None
    """Current folder of the archive, if it was moved since ``prepare``."""
    earlier_s: tuple[float, float] = (0.0, 0.0)
    """Wall and CPU seconds of interrupted parts, by the run's record."""
    on_iteration: Callable[[int], None] = lambda _: None
    """Called after each step with the number done in all."""
    on_progress: Callable[[Sequence[Epoch], float, float], None] = lambda *_: None
    """Called now and then, and after each epoch, with all epochs so far and the wall and CPU seconds in all."""


HashedFile = tuple[Path, str | None, Callable[[], str]]
"""A file, the hash that the run recorded, and how that is taken again."""


class Engine(ABC):
    """A way to train, as the commands ask for it. What is given here holds for networks that the algorithm loads."""

    title: str
    """For people."""
    configuration: type[Configuration]
    """The schema of its configurations; their field ``engine`` is a Literal of the table's word."""
    mark: str | None = None
    """The parent in ``run.json`` by which :func:`engine_of` knows its finished runs. None: they are like nnU-Net's."""
    counts_epochs: bool = True
    """Whether it trains for the profile's epochs; ``status`` counts them, and a campaign's costs follow from them."""
    archive_need: str | None = None
    """Why ``run`` needs the archive, for messages. None: its training reads the preprocessed studies alone; ``run``
    checks them before, and a campaign holds them in memory for all processes."""
    own_bytes_per_voxel: int = 0
    """Memory that each process of a campaign takes per voxel of the preprocessed studies, besides what all share."""
    chosen_files: tuple[str, ...] = ()
    """Names of those of :meth:`files` that :meth:`finish` writes; the others are there before the weights."""
    model: str = "weights"
    """What ``verify`` calls :meth:`model_files`."""
    no_bundle: str | None = None
    """Why ``bundle`` refuses its runs, for the message. None: they are packed."""

    def choose_device(self, wanted: Device) -> tuple[Kind, str]:
        """Where ``run`` computes, and the line that says so. Raises ``OncoduetError``: there is no such device."""
        device = choose_device(wanted)
        return device.kind, str(device)

    def require_machine(self, run: "Run", device: Kind) -> None:
        """Raise ``OncoduetError`` unless the device can do what the profile asks of it; asked before ``run`` writes."""
        from training.gpu_settings import require_settings  # noqa: PLC0415 - takes seconds to import

        require_settings(run.profile, device)

    def keep(self, run: "Run") -> CheckpointPolicy:
        """Which weights a run keeps; asked by :class:`Run`.

        A network that locates an organ detects no lesion by which one could choose.

        Raises ``OncoduetError``: the profile leaves it to the card, and the card does not say.
        """
        policy = run.profile.checkpoint_for(run.prepared.card)
        return "final" if policy == "detection" and run.configuration.stage != "detection" else policy

    def chooses(self, run: "Run") -> bool:
        """Whether the fold's validation studies choose what predictions rest on, as ``training_studies.json`` says."""
        return run.keep != "final"

    def require_step(self, run: "Run", folder: RunFolder) -> None:
        """Raise ``OncoduetError`` unless an interrupted run can resume; asked by ``run --resume``."""
        run.checkpoints(folder).require()

    @abstractmethod
    def steps(self, run: "Run", place: Workplace) -> Generator[None, None, Trained]:
        """Train or resume, in steps that may be interleaved with those of other runs; asked by ``run``.

        Raises ``OncoduetError``: the training diverges, or an input is wrong.
        """

    def finish(self, run: "Run", place: Workplace, weights: "dict[str, torch.Tensor] | None") -> Mapping[str, str]:
        """Write what belongs to the weights that were chosen; returns its hashes, by name, for the record's parents.

        Asked by ``run`` after the training, and after the choice by detection where there is one.
        """
        return {}

    def network(self, run: "Run") -> "tuple[torch.nn.Module, int]":
        """The network that a run trains, and the elements of all feature maps that its convolutions give of one patch.

        Asked by ``campaign`` on torch's meta device, without memory for weights, where epochs are counted. Here: the
        plan's U-Net, and nnU-Net's own count.

        Raises ``OncoduetError``: the plan's patch does not suit the network.
        """
        from network.architecture import build_network  # noqa: PLC0415 - takes seconds to import
        from network.preprocessing import patch_size_zyx  # noqa: PLC0415

        network: Any = build_network(run.plans, run.prepared.dataset, deep_supervision=True)
        return network, int(network.compute_conv_feature_map_size(patch_size_zyx(run.plans)))

    def files(self, folder: RunFolder) -> Mapping[str, Path]:
        """Files in the run's folder that may accompany the weights, by their names among the record's parents.

        Asked wherever runs are made, checked and packed; ``bundle.json`` has a field ``<name>_file`` of each.
        """
        return {}

    def written(self, folder: RunFolder) -> Sequence[Path]:
        """Files in the run's folder that training writes; asked by ``run`` before it replaces any."""
        return list(self.files(folder).values())

    def model_files(self, folder: RunFolder, record: RunRecord) -> Iterator[HashedFile]:
        """The files of a finished run's model; asked by ``verify``.

        Raises ``OncoduetError``: what names them is missing or malformed.
        """
        from network.weights import load_weights, tensors_sha256  # noqa: PLC0415 - takes seconds to import

        path = folder.weights
        yield path, record.weights_sha256, lambda: tensors_sha256(load_weights(path))

    def predict(self, folder: RunFolder, *, archive: Path, output: Path) -> int:
        """Predict every study of an archive with a finished run that no bundle takes; returns how many there were.

        Asked by ``predict``.

        Raises ``OncoduetError``: a bundle takes it; or an input is wrong. No prediction was written then.
        """
        raise OncoduetError(
            folder.record,
            f"a run of {folder.finished_record().key.configuration} predicts from a bundle; python -m training bundle "
            "packs it, and python -m algorithm batch predicts",
        )


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
    def engine(self) -> Engine:
        """What trains it."""
        return engine_named(self.configuration.engine)

    @property
    def keep(self) -> CheckpointPolicy:
        """Which weights it keeps."""
        return self.engine.keep(self)

    @cached_property
    def plans(self) -> dict[str, Any]:
        """nnU-Net's plans with the profile's edits."""
        return edited_plans(self.prepared.plans, self.profile)

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
        """Hashes of the studies that the network was trained on or chosen by; None for datasets of older versions."""
        contents = {study.case_id: study.content_sha256 for study in self.prepared.record.studies}
        if None in contents.values():
            return None
        train, validation = (
            tuple(sorted({str(contents[case_id]) for case_id in cases}))
            for cases in (self.fold.train, self.fold.validation if self.engine.chooses(self) else ())
        )
        return TrainingStudiesRecord(trained_on=train, chosen_by=validation, parents={"prepared": self.prepared.sha256})

    def files_before_weights(self, folder: RunFolder) -> dict[str, Path]:
        """Files in its folder that are there before the weights, by their names among the record's parents."""
        chosen = self.engine.chosen_files
        files = {what: path for what, path in self.engine.files(folder).items() if what not in chosen}
        files["training_studies"] = folder.training_studies
        return {what: path for what, path in files.items() if path.is_file()}

    def checkpoints(self, folder: RunFolder) -> Checkpoints:
        """Its checkpoints, which name the run by what it is and by what it is made from."""
        return Checkpoints(folder.checkpoints, sha256_json([self.key.model_dump(mode="json"), self.parents]))

    def _computed(self, device: str) -> Mapping[str, str | bool]:
        """How a GPU computes it, in addition to what holds for the whole process; on the CPU nothing."""
        if device == "cpu":
            return {}
        from training.gpu_settings import compiles  # noqa: PLC0415 - takes seconds to import

        compute = self.profile.compute
        return {"amp": compute.amp, "channels_last": compute.channels_last, "compiled": compiles(compute)}

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
            torch={**environment.torch_build(), **self._computed(device)} if state != "planned" else {},
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


def derived_seed(*parts: str | int) -> int:
    """A seed below 2^32 that follows from what the run is; runs that differ anywhere are independent."""
    text = "\n".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
