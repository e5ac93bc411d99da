"""``CAMPAIGN.toml``: which runs a campaign consists of, and what they may use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from contract.schema import Count, Factor, Frozen, Index


class Resources(Frozen):
    """What the local executor may use of this machine."""

    workers: Count = 1
    """Short form of ``resources.workers``."""
    devices: Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)] | None = None
    """Indices of CUDA devices, among those that are visible; all of them if absent."""
    packed: Count = 1
    """Runs trained in turn in one process, and so on one device."""

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """A device named twice would get two processes."""
        devices = values.get("devices")
        if isinstance(devices, list | tuple) and len(set(map(str, devices))) < len(devices):
            return ["devices: duplicate device"]
        return []


class SlurmOptions(Frozen):
    """What one job asks of Slurm, and how often it may ask."""

    partition: str | None = None
    account: str | None = None
    time_limit_minutes: Count = 24 * 60
    """Time limit of one job. 90 s before it ends, the job requeues itself and resumes from its checkpoint."""
    cpus_per_run: Count = 1
    memory_gb: Factor | None = None
    """Memory of one job; Slurm's default if absent."""
    gpus_per_run: Index = 0
    """1: a job gets one GPU, which the runs of a pack share. No run uses more than one."""
    runs_per_job: Count = 1
    """Runs of a job, made one after another, or ``resources.packed`` at a time."""
    array_jobs: Count = 500
    """Jobs that are submitted as one array; fewer where the cluster's MaxArraySize is smaller."""
    jobs_at_once: Count = 256
    """How many jobs of an array Slurm may run at the same time."""
    max_attempts: Count = 3
    """How often a run is submitted before it is given up, if its jobs disappear without having failed."""
    max_time_limits: Count = 20
    """How often a job may reach its time limit and queue again."""
    poll_seconds: Factor = 10.0
    """Interval between two queries of the queue."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the command, such as ``module load cuda``."""
    additional: Mapping[str, str | int | bool] = {}
    """More options of sbatch, by their long names, such as ``{ qos = "low" }``."""

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """More than one GPU would be idle."""
        gpus = values.get("gpus_per_run")
        return [f"gpus_per_run: expected 0 or 1, found {gpus}"] if isinstance(gpus, int) and gpus > 1 else []


class CampaignFile(Frozen):
    """``CAMPAIGN.toml``. Paths are relative to the file."""

    schema_version: Literal[1]
    card: str | None = None
    """Name or path; if given, the prepared dataset must have been made with this card."""
    prepared: Path | None = None
    output: Path | None = None
    profile: str
    configurations: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    """Names or paths. If the card locates an organ first and none of these does, a run of ``localisation`` per fold is
    added."""
    folds: Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)]
    restarts: Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)]
    workers: Count | None = None
    """Short form of ``resources.workers``."""
    seed: NonNegativeInt = 0
    tensorboard: bool = False
    """Each run writes event files into its folder ``tensorboard``."""
    archive: Path | None = None
    """Current folder of the archive, if it was moved since ``prepare``; for checkpoints that are chosen by
    detection."""
    resources: Resources = Resources()
    slurm: SlurmOptions = SlurmOptions()

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """The number of workers is given once."""
        resources = values.get("resources")
        inner = resources.get("workers", 1) if isinstance(resources, Mapping) else 1
        if values.get("workers") is not None and inner not in (1, values["workers"]):
            return [f"workers: {values['workers']} here and {inner} in resources"]
        return []

    @property
    def processes(self) -> int:
        """Processes of the local executor at a time, on the CPU."""
        return self.workers if self.workers is not None else self.resources.workers
