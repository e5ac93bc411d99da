"""The engine interface, and the table of engines.

An engine is a way to train. A configuration names it; :data:`ENGINES` says in which module it is. That module holds
one object, ``ENGINE``, of a class that is derived from :class:`Engine` and overrides what differs from a network whose
weights the algorithm loads. A further engine is a folder and a line of the table; its configurations have a schema of
its own. An engine whose bundle members need further files also adds them to ``contract.records.Member``.

The modules of the table import nothing that takes seconds (torch, nnU-Net) before they train.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, RootModel

from contract.errors import OncoduetError
from contract.records import CheckpointPolicy, Epoch, RunRecord
from contract.schema import named_toml, parse_toml
from network.machine.device import Device, Kind, choose_device
from training.configuration import CONFIGURATIONS, Configuration
from training.dataloading.training_set import PLACES, Place
from training.run_folder.folder import RunFolder
from training.run_identity import RunIdentity

if TYPE_CHECKING:
    import torch

ENGINES: Mapping[str, str] = {
    "nnunet": "training.nnunet.engine",
    "retina-unet": "training.retina_unet.engine",
    "nndet": "training.nndetection.engine",
}
"""Module of each engine, by the word ``engine`` of a configuration. Runs without a mark are the first one's."""


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
    """Trained weights; None if the engine keeps its own model in the run folder."""
    epochs: tuple[Epoch, ...]
    wall_s: float
    cpu_s: float
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what trained it, in addition to those of our packages."""


@dataclass(frozen=True)
class TrainingContext:
    """Where a run is made, and its callbacks."""

    folder: RunFolder
    device: Kind
    training_set: Place = "device"
    """Where the training set is kept."""
    archive: Path | None = None
    """Current folder of the archive, if it was moved since ``prepare``."""
    earlier_s: tuple[float, float] = (0.0, 0.0)
    """Wall and CPU seconds of interrupted parts, from the run's record."""
    on_iteration: Callable[[int], None] = lambda _: None
    """Called after each step with the number done in all."""
    on_progress: Callable[[Sequence[Epoch], float, float], None] = lambda *_: None
    """Called after each epoch, and sometimes in between, with all epochs so far and the wall and CPU seconds in all."""


HashedFile = tuple[Path, str | None, Callable[[], str]]
"""A file, the hash in the run's record, and a function that computes the current one."""


class Engine(ABC):
    """A way to train, as the commands ask for it. What is given here holds for networks that the algorithm loads."""

    title: str
    """Name in tables and messages."""
    configuration: type[Configuration]
    """Schema of its configurations; their field ``engine`` is a Literal of the table's word."""
    mark: str | None = None
    """Parent in ``run.json`` by which :func:`engine_of` recognises its finished runs. None: they are treated like
    nnU-Net's."""
    counts_epochs: bool = True
    """Whether it trains for the profile's epochs; ``status`` counts them, and a campaign's costs follow from them."""
    archive_need: str | None = None
    """Why ``run`` needs the archive, for messages. None: training reads only the preprocessed studies; ``run`` checks
    them first, and a campaign holds them in memory for all processes."""
    places: tuple[Place, ...] = PLACES
    """Where the training set may be kept."""
    own_bytes_per_voxel: int = 0
    """Memory that each process of a campaign takes per voxel of the preprocessed studies, besides what all share."""
    chosen_files: tuple[str, ...] = ()
    """Names of those of :meth:`files` that :meth:`finish` writes; the others are written before the training, once."""
    model: str = "weights"
    """Name of :meth:`model_files` in the table of ``verify``."""
    no_bundle: str | None = None
    """Why ``bundle`` refuses its runs, for the message. None: they can be packed."""

    def choose_device(self, wanted: Device) -> tuple[Kind, str]:
        """Where ``run`` computes, and the line that says so. Raises ``OncoduetError``: there is no such device."""
        device = choose_device(wanted)
        return device.kind, str(device)

    def require_machine(self, run: RunIdentity, device: Kind) -> None:
        """Raise ``OncoduetError`` unless the device can do what the profile asks of it; asked before ``run`` writes."""
        from training.gpu_settings import require_settings  # noqa: PLC0415 - takes seconds to import

        require_settings(run.profile, device)

    def keep(self, run: RunIdentity) -> CheckpointPolicy:
        """Which weights a run keeps; asked by :class:`training.planned_run.Run`.

        A network that locates an organ detects no lesion by which one could choose.

        Raises ``OncoduetError``: the profile leaves it to the card, and the card does not say.
        """
        policy = run.profile.checkpoint_for(run.prepared.card)
        return "final" if policy == "detection" and run.configuration.stage != "detection" else policy

    def chooses(self, run: RunIdentity) -> bool:
        """Whether the fold's validation studies choose what predictions rest on, as ``training_studies.json`` says."""
        return self.keep(run) != "final"

    def require_step(self, run: RunIdentity, folder: RunFolder) -> None:
        """Raise ``OncoduetError`` unless an interrupted run can resume; asked by ``run --resume``."""
        run.checkpoints(folder).require()

    @abstractmethod
    def steps(self, run: RunIdentity, context: TrainingContext) -> Generator[None, None, Trained]:
        """Train or resume, in steps that may be interleaved with those of other runs; asked by ``run``.

        Raises ``OncoduetError``: the training diverges, or an input is wrong.
        """

    def finish(
        self, run: RunIdentity, context: TrainingContext, weights: "dict[str, torch.Tensor] | None"
    ) -> Mapping[str, str]:
        """Write what belongs to the weights that were chosen; returns its hashes, by name, for the record's parents.

        Asked by ``run`` after the training, and after the choice by detection where there is one.
        """
        return {}

    def network(self, run: RunIdentity) -> "tuple[torch.nn.Module, int]":
        """The network that a run trains, and the elements of all feature maps that its convolutions give of one patch.

        Asked by ``campaign`` on torch's meta device, without memory for weights, where epochs are counted. Here: the
        plan's U-Net, and nnU-Net's own count.

        Raises ``OncoduetError``: the plan's patch does not suit the network.
        """
        from network.model.architecture import build_network  # noqa: PLC0415 - takes seconds to import
        from network.preprocessing.nnunet_preprocessing import patch_size_zyx  # noqa: PLC0415

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

    def programs_folder(self, folder: RunFolder) -> Path | None:
        """The folder below ``work`` in which the programs of another project write while they train; None: no such.

        Asked by ``run`` before a training resumes and after its end; see :mod:`training.run_folder.foreign_programs`.
        """
        return None

    def model_files(self, folder: RunFolder, record: RunRecord) -> Iterator[HashedFile]:
        """The files of a finished run's model; asked by ``verify``.

        Raises ``OncoduetError``: what names them is missing or malformed.
        """
        from network.model.weights import load_weights, tensors_sha256  # noqa: PLC0415 - takes seconds to import

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
