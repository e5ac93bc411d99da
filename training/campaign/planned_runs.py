"""A campaign's runs and their folders, as its file plans them.

A campaign is configurations × folds × restarts under one profile. Each run has a folder of its own in the campaign's
output and a seed that follows from what it is, so that the plan alone says what is to be made: what was made already,
by whom and where, is read from the folders.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contract.card import load_card
from contract.errors import OncoduetError
from contract.files.atomic import is_unused, writable
from contract.files.locks import is_work_lock
from contract.files.reading import read_regular
from contract.names import duplicates
from contract.outputs import require_apart, require_folder, require_unowned, subfolder
from contract.records import RunRecord, write_record
from contract.schema import parse_toml
from training.campaign.campaign_file import CampaignFile
from training.campaign.sealed_text import is_sealed
from training.dataset.archive_stamps import recorded_archive
from training.dataset.prepared import Prepared, load_prepared
from training.engine import load_configuration
from training.make_run import RunOptions
from training.planned_run import Run, existing_record, plan_run
from training.run_folder.folder import RunFolder, require_distinct
from training.run_folder.lock import work_lock

LOCK_PATIENCE_S = 2.0
"""Wait for the lock: processes of a killed campaign hold it until their next step."""

MOST_RUNS = 2000
"""Most runs of one campaign; its page and its table list each."""

LOCK, PAGE, SLURM = ".campaign.lock", "status.html", "slurm"
"""A campaign's own files and folder next to the runs' folders."""


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
        """Plan the run. Raises ``OncoduetError`` as :func:`training.planned_run.plan_run` does."""
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
                found="a file of another program, or an edited one; move it away",
            )
    jobs = subfolder(output, SLURM)
    if os.path.lexists(jobs) and not (jobs / "jobs.json").is_file() and (not jobs.is_dir() or not is_unused(jobs)):
        raise OncoduetError(jobs, expected="nothing or a campaign's jobs", found="files of another program")


def _is_lock(path: Path) -> bool:
    """A lock, also as an older version wrote it, in words."""
    return is_work_lock(path) or re.match(r"process \d+ on ", read_regular(path).decode(errors="replace")) is not None


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
