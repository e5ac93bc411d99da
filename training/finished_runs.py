"""Finished runs as ``bundle`` and ``sweep`` take them: found among folders, and checked against their records."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import OncoduetError
from contract.files.reading import inside
from contract.records import RunRecord
from network.model.weights import load_weights, tensors_sha256
from training.engine import engine_of
from training.run_folder.folder import RunFolder, require_distinct


@dataclass(frozen=True)
class FinishedRun:
    """A run folder whose record and weights have been checked against each other."""

    folder: RunFolder
    record: RunRecord

    @property
    def name(self) -> str:
        """The run's name."""
        return self.record.key.name

    @property
    def accompanying(self) -> dict[str, Path]:
        """Files that its network needs in addition to the weights, by their names among the record's parents."""
        files = engine_of(self.record).files(self.folder)
        return {what: path for what, path in files.items() if what in self.record.parents}

    @property
    def training_studies(self) -> Path | None:
        """The list of the studies that its network knows; None where an older program trained it."""
        return self.folder.training_studies if "training_studies" in self.record.parents else None


def finished_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Runs among the given folders or right below them, each checked and there once, by name.

    Raises ``OncoduetError``: a folder holds no run; a run is not finished, or of an engine whose models no bundle
    takes, or its weights or the files that accompany them are missing or not those that its record names; a run is
    listed twice, or a copy of another.
    """
    finished = sorted((_finished(folder) for folder in find_runs(folders)), key=lambda run: run.name)
    for before, run in itertools.pairwise(finished):
        if before.name == run.name:
            raise OncoduetError(run.folder.path, f"duplicate run {run.name}, also in {before.folder.path}")
    require_distinct((run.folder, run.record) for run in finished)
    return finished


def find_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """Run folders among the given ones or right below them.

    Raises ``OncoduetError``: one of the given folders neither is a run folder nor holds any, or a folder holds the
    weights of a run without its record.
    """
    found: list[RunFolder] = []
    for folder in folders:
        subfolders = [path for path in inside(folder) if path.is_dir()] if folder.is_dir() else []
        candidates = [RunFolder(path) for path in (folder, *subfolders)]
        held = [run for run in candidates if run.record.is_file()]
        half = [run for run in candidates if run not in held and run.weights.is_file()]
        if half:
            raise OncoduetError(half[0].record, f"file not found next to {half[0].weights.name}")
        if not held:
            raise OncoduetError(folder, "neither a run folder nor a folder of run folders: run.json not found")
        found += [run for run in held if run not in found]
    return found


def _finished(folder: RunFolder) -> FinishedRun:
    record = folder.finished_record()
    if (refusal := engine_of(record).no_bundle) is not None:
        raise OncoduetError(folder.record, refusal)
    run = FinishedRun(folder, record)
    known = {"training_studies": run.training_studies} if run.training_studies is not None else {}
    for path in (folder.plans, folder.dataset):
        if not path.is_file():
            raise OncoduetError(path, "file not found in a run folder")
    folder.require_as_recorded(record, run.accompanying | known)
    if tensors_sha256(load_weights(folder.weights)) != record.weights_sha256:
        raise OncoduetError(folder.weights, "does not match the hash in run.json")
    return run
