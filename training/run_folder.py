"""The folder of one run: what lies where."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. After it has finished only the record, the weights, the log and what a bundle needs are left."""

    path: Path

    @property
    def record(self) -> Path:
        """What the run is and how far it got (``contract.records.RunRecord``)."""
        return self.path / "run.json"

    @property
    def weights(self) -> Path:
        """The weights that it keeps, there once it is finished."""
        return self.path / "weights.safetensors"

    @property
    def card(self) -> Path:
        """The use case."""
        return self.path / "card.toml"

    @property
    def plans(self) -> Path:
        """nnU-Net's plans with the profile's edits."""
        return self.path / "plans.json"

    @property
    def dataset(self) -> Path:
        """nnU-Net's description of channels and labels."""
        return self.path / "dataset.json"

    @property
    def log(self) -> Path:
        """What libraries had to say."""
        return self.path / "training.log"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def work(self) -> Path:
        """Gone when the run is finished."""
        return self.path / "work"

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted run goes on."""
        return self.work / "checkpoint.pt"

    @property
    def engine(self) -> Path:
        """For the engine's own files."""
        return self.work / "engine"
