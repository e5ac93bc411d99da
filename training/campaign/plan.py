"""The plan: a campaign file, and its runs and their folders.

A campaign is configurations × folds × restarts under one profile. Each run has a folder of its own in the campaign's
output and a seed that follows from what it is, so that the plan alone says what is to be made: what was made already,
by whom and where, is read from the folders.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from contract.card import load_card
from contract.errors import OncoduetError
from contract.files.atomic import is_unused, writable
from contract.files.locks import is_work_lock
from contract.files.reading import read_regular
from contract.names import duplicates
from contract.outputs import require_apart, require_folder, require_unowned, subfolder
from contract.records import RunRecord, write_record
from contract.schema import Count, Factor, Frozen, Index, parse_toml
from training.dataset.archive_stamps import recorded_archive
from training.dataset.prepared import Prepared, load_prepared
from training.engine import load_configuration
from training.execution import RunOptions
from training.run import Run, existing_record, plan_run
from training.run_folder.folder import RunFolder, require_distinct
from training.run_folder.lock import work_lock

LOCK_PATIENCE_S = 2.0
"""Wait for the lock: processes of a killed campaign hold it until their next step."""

MOST_RUNS = 2000
"""Most runs of one campaign; its page and its table list each."""

LOCK, PAGE, SLURM = ".campaign.lock", "status.html", "slurm"
"""A campaign's own files and folder next to the runs' folders."""

_SEAL = "sha256 of all above: "
_HTML = ("<!-- ", " -->")


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


@dataclass(frozen=True)
class RunSpec:
    """A run in the words of ``python -m training run``: what another process needs to make it. Paths are absolute."""

    prepared: Path
    configuration: str
    fold: int
    restart: int
    profile: str
    seed: int
    output: Path
    options: RunOptions

    def planned(self) -> "PlannedRun":
        """Plan the run. Raises ``OncoduetError`` as :func:`training.run.plan_run` does."""
        run = plan_run(
            load_prepared(self.prepared),
            configuration=self.configuration,
            fold=self.fold,
            restart=self.restart,
            profile=self.profile,
            base_seed=self.seed,
        )
        return PlannedRun(run, RunFolder(self.output), self)


@dataclass(frozen=True)
class PlannedRun:
    """One run of the campaign, its folder, and how to ask for it."""

    run: Run
    folder: RunFolder
    spec: RunSpec

    @property
    def name(self) -> str:
        """The run's name, which is also the folder's."""
        return self.run.name

    @property
    def iterations(self) -> int:
        """Training steps of the whole run."""
        return self.run.profile.epochs * self.run.profile.iterations_per_epoch

    def announce(self) -> None:
        """Write the run's record as planned, unless it has one."""
        if existing_record(self.run, self.folder) is None:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            write_record(self.folder.record, self.run.record(state="planned"))


@dataclass(frozen=True)
class Campaign:
    """A campaign file with its runs, in the order in which they are made."""

    path: Path
    file: CampaignFile
    prepared: Prepared
    output: Path
    planned: tuple[PlannedRun, ...]


def load_campaign(
    path: Path, *, prepared: Path | None = None, output: Path | None = None, runs_are_made: bool = True
) -> Campaign:
    """Read a campaign file and compare the folders that there are with its runs.

    Raises ``OncoduetError``: faults in the file, an unknown card, configuration, profile or fold, a dataset of another
    card, or a folder that holds another run or a copy of one.

    Parameters
    ----------
    prepared, output
        Take the place of the file's own.
    runs_are_made
        False to look only: the output may then be another user's.
    """
    file = parse_toml(path, CampaignFile)
    folders = {}
    for name, given, own in [("prepared", prepared, file.prepared), ("output", output, file.output)]:
        if given is None and own is None:
            raise OncoduetError(path, f"{name} is missing: set it here or pass --{name}")
        folders[name] = given if given is not None else path.parent / str(own)
    require_folder(folders["output"], is_written=runs_are_made)
    require_unowned(folders["output"], "training campaign")
    require_apart(folders["output"], prepared=folders["prepared"])
    _require_ours(folders["output"])
    card = None if file.card is None else load_card(_relative(path, file.card))
    dataset = load_prepared(folders["prepared"])
    if card is not None and card.sha256 != dataset.record.card_sha256:
        raise OncoduetError(
            path,
            expected=f"a dataset of card {card.name} ({card.sha256[:8]})",
            found=f"one of {dataset.record.card} ({dataset.record.card_sha256[:8]}) in {dataset.folder}",
        )
    archive = None if file.archive is None else (path.parent / file.archive).absolute()
    require_apart(folders["output"], archive=archive or recorded_archive(dataset))
    options = RunOptions(tensorboard=file.tensorboard, archive=archive)
    planned_runs: list[PlannedRun] = []
    existing: list[tuple[RunFolder, RunRecord]] = []
    profile = _relative(path, file.profile)
    if (count := len(file.restarts) * len(file.configurations) * len(file.folds)) > MOST_RUNS:
        raise OncoduetError(path, expected=f"at most {MOST_RUNS} runs", found=count)
    wanted = list(itertools.product(file.restarts, [_relative(path, each) for each in file.configurations], file.folds))
    for restart, configuration, fold in [*_locating(dataset, wanted), *wanted]:
        run = plan_run(
            dataset, configuration=configuration, fold=fold, restart=restart, profile=profile, base_seed=file.seed
        )
        folder = RunFolder(subfolder(folders["output"], run.name))
        record = existing_record(run, folder, is_made=runs_are_made)
        existing += [(folder, record)] if record else []
        spec = RunSpec(
            prepared=folders["prepared"].absolute(),
            configuration=_absolute(configuration),
            fold=fold,
            restart=restart,
            profile=_absolute(profile),
            seed=file.seed,
            output=folder.path.absolute(),
            options=options,
        )
        planned_runs.append(PlannedRun(run, folder, spec))
    doubled = duplicates(run.name for run in planned_runs)
    if doubled:
        raise OncoduetError(path, f"duplicate run {doubled[0]}")
    require_distinct(existing)
    return Campaign(path, file, dataset, folders["output"], tuple(planned_runs))


def _require_ours(output: Path) -> None:
    """Raise ``OncoduetError`` unless files under the campaign's own names are unedited files of a campaign."""
    for name, is_own in [(LOCK, _is_lock), (PAGE, is_sealed)]:
        path = output / name
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or not is_own(path)):
            raise OncoduetError(
                path,
                expected="nothing or a campaign's own file",
                found="a file of other origin, or edited since; move it away",
            )
    jobs = subfolder(output, SLURM)
    if os.path.lexists(jobs) and not (jobs / "jobs.json").is_file() and (not jobs.is_dir() or not is_unused(jobs)):
        raise OncoduetError(jobs, expected="nothing or a campaign's jobs", found="something of other origin")


def _is_lock(path: Path) -> bool:
    """A lock, also as an older version wrote it, in words."""
    return is_work_lock(path) or re.match(r"process \d+ on ", read_regular(path).decode(errors="replace")) is not None


def sealed(text: str, *, comment: tuple[str, str] = _HTML) -> str:
    """A text with a last line by which :func:`is_sealed` knows it, unless it is edited.

    Parameters
    ----------
    comment
        How a comment begins and ends.
    """
    begin, end = comment
    return f"{text}{begin}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}{end}\n"


def is_sealed(path: Path, *, comment: tuple[str, str] = _HTML) -> bool:
    """Whether a file is a text as we wrote it."""
    text = read_regular(path).decode(errors="replace")
    return text == sealed(text.rpartition(comment[0] + _SEAL)[0], comment=comment)


@contextmanager
def campaign_lock(output: Path) -> Iterator[None]:
    """Keep a second campaign away from this output for as long as the block lasts.

    Raises ``OncoduetError``: there is one already; the message says where and since when.
    """
    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
    with work_lock(output / LOCK, work="on this campaign", patience_s=LOCK_PATIENCE_S):
        yield


def _locating(dataset: Prepared, wanted: Sequence[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
    """One run per fold of stage 1, for a card that first locates an organ, unless the file itself asks for such."""
    if dataset.card.localisation is None:
        return []
    if any(load_configuration(configuration).stage == "localisation" for _, configuration, _ in wanted):
        return []
    first_restart = min(restart for restart, _, _ in wanted)
    return [(first_restart, "localisation", fold) for fold in dict.fromkeys(fold for _, _, fold in wanted)]


def _relative(campaign: Path, name: str) -> str:
    """A card, configuration or profile by name, or by a path relative to the campaign file."""
    return str(campaign.parent / name) if name.endswith(".toml") else name


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if name.endswith(".toml") else name
