"""The folder of one run: one property per file.

What a run writes is listed in ``.oncoduet`` before it takes its name, so that a resumed run recognises its own files,
wherever it was killed: only these are replaced or removed. ``run.json``, the lock and the checkpoints say themselves
whose they are; the log is known by its first line; event files are only ever added; other temporary files are in
folders that a process holds (:func:`contract.files.atomic.held_folder`).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.card import load_card
from contract.errors import OncoduetError
from contract.files.atomic import remove_partial_files
from contract.files.locks import is_work_lock
from contract.files.reading import inside, read_json, read_text, regular_only, sha256_file
from contract.outputs import (
    claim_file,
    is_our_record,
    keeps_list,
    own_file,
    remove_own,
    require_free,
    require_own,
    require_unowned,
    sha256_first_line,
    subfolder,
)
from contract.records import RunRecord, read_record

COMMAND = "training run"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run. After it has finished, ``work`` is gone, unless the user put something there."""

    path: Path

    def remove_partial_files(self) -> None:
        """Remove what a killed process left half written. For the one process that holds the lock."""
        for folder in (self.path, self.work, self.checkpoints, self.kept, self.selecting):
            if folder.is_dir():
                remove_partial_files(folder)

    def require_free(self, engine_files: Iterable[Path], *, is_planned: bool = False) -> None:
        """Raise ``OncoduetError`` unless a run may begin here: nothing has a name that it is going to give.

        The record of a planned run is its own.
        """
        require_unowned(self.path, COMMAND)
        own = {self.lock.name} | ({self.record.name} if is_planned else set())
        require_free(self.path, [name for name in self._names(engine_files) if name not in own], COMMAND)
        if self.lock.exists() and not is_work_lock(self.lock):
            raise OncoduetError(
                self.lock, expected="the lock of a run or nothing", found="a file not written by oncoduet"
            )

    @contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """Give a temporary path for a file of the run, which takes its name on success.

        Raises ``OncoduetError``: a file not written by oncoduet bears the name, or the disk is full.
        """
        with own_file(self.path, self._name(path), COMMAND) as partial:
            yield partial

    def require_own(
        self,
        engine_files: Iterable[Path],
        made: Mapping[Path, str | Mapping[str, Any]],
        *,
        written_once: Collection[Path] = (),
    ) -> None:
        """Raise ``OncoduetError`` unless all that an interrupted run is going to replace or remove is its own.

        Runs of older versions, and copies without hidden files, list nothing: there a record of ours passes.

        Parameters
        ----------
        engine_files
            What the engine writes besides weights.
        made
            What the run is going to write, where that is known: a file that says the same is kept.
        written_once
            Files of the engine that are only read once they are there; without a list they pass, too.
        """
        for folder in (self.work, self.checkpoints, self.kept, self.selecting, self.tensorboard):
            if subfolder(folder.parent, folder.name).exists() and not folder.is_dir():
                raise OncoduetError(
                    folder, expected="a folder or nothing", found="a file not written by oncoduet; move it away"
                )
        listed = keeps_list(self.path, COMMAND)
        for path in self._written(engine_files):
            if not (path in made and says(path, made[path])) and (
                listed or not (path in written_once or is_our_record(path))
            ):
                require_own(self.path, self._name(path), COMMAND)
        if listed and self.log.is_file() and self.log.stat().st_size:
            require_own(self.path, self.log.name, COMMAND, first_line=True)

    def claim(self, engine_files: Iterable[Path]) -> None:
        """List all files of the run as its own, once they are known to be, and begin the log."""
        for path in self._written(engine_files):
            if path.is_file():
                claim_file(self.path, self._name(path), sha256_file(path), COMMAND)
        if self.log.is_file() and self.log.stat().st_size:
            claim_file(self.path, self.log.name, sha256_first_line(self.log), COMMAND)
            return
        line = f"{self.path.name}, begun {datetime.now(UTC).isoformat()}\n".encode()
        claim_file(self.path, self.log.name, hashlib.sha256(line).hexdigest(), COMMAND)
        with open(self.log, "ab", opener=regular_only) as stream:
            stream.write(line)

    def _written(self, engine_files: Iterable[Path]) -> list[Path]:
        """What is written whole, by any engine and by the run's own."""
        paths = [self.weights, self.card, self.plans, self.dataset, self.selection, self.training_studies]
        return [*paths, *engine_files, *self.all_kept().values(), *self._numbered(self.selecting, "json").values()]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _numbered(self, folder: Path, suffix: str) -> dict[int, Path]:
        """Files of single epochs in a folder, by epoch."""
        found = {
            path: re.fullmatch(rf"epoch_(\d{{6}}|[1-9]\d{{6,}})\.{suffix}", path.name)
            for path in (inside(folder) if folder.is_dir() else ())
        }
        return {int(match[1]): path for path, match in found.items() if match}

    def require_no_links(self, engine_files: Iterable[Path]) -> None:
        """Raise ``OncoduetError`` if a link bears the name of something that the run is going to write."""
        for name in self._names(engine_files):
            if (self.path / name).is_symlink():
                raise OncoduetError(self.path / name, "links are not allowed in a run's folder")

    def _names(self, engine_files: Iterable[Path]) -> list[str]:
        """Names in the folder that a run may give."""
        paths = [*self._written(engine_files), self.record, self.log, self.tensorboard, self.lock, self.work]
        return list(dict.fromkeys(path.relative_to(self.path).parts[0] for path in paths))

    def clear_work(self) -> None:
        """Remove the files of single epochs, and the folders that are left empty."""
        for path in [*self.all_kept().values(), *self._numbered(self.selecting, "json").values()]:
            remove_own(self.path, self._name(path), COMMAND)
        for folder in (self.checkpoints, self.kept, self.selecting, self.work):
            if folder.is_dir() and not inside(folder):
                shutil.rmtree(folder)  # with the system's litter

    def finished_record(self) -> RunRecord:
        """The record of a finished run. Raises ``OncoduetError`` where there is none, or the run is not finished."""
        record = read_record(self.record, RunRecord)
        if record.state != "finished":
            raise OncoduetError(self.record, expected="a finished run", found=f"state {record.state}")
        return record

    def require_as_recorded(self, record: RunRecord, files: Mapping[str, Path]) -> None:
        """Raise ``OncoduetError`` unless the card and some files are those of which ``run.json`` states the hashes.

        Parameters
        ----------
        files
            By their names among the record's parents.
        """
        for path in (self.card, *files.values()):
            if not path.is_file():
                raise OncoduetError(path, "file not found in a run folder")
        found = {what: sha256_file(path) for what, path in files.items()}
        differing = [path for what, path in files.items() if found[what] != record.parents.get(what)]
        if load_card(self.card).sha256 != record.key.card_sha256:
            differing.insert(0, self.card)
        if differing:
            raise OncoduetError(differing[0], "does not match the hash in run.json")

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
    def training_studies(self) -> Path:
        """Which studies the network knows (``contract.records.TrainingStudiesRecord``), if the dataset says."""
        return self.path / "training_studies.json"

    @property
    def log(self) -> Path:
        """What libraries had to say."""
        return self.path / "training.log"

    @property
    def selection(self) -> Path:
        """How the weights were chosen by detection (``contract.records.SelectionRecord``); else there is none."""
        return self.path / "selection.json"

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard, where they were asked for."""
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.path / ".lock"

    @property
    def work(self) -> Path:
        """Gone when the run is finished."""
        return self.path / "work"

    @property
    def checkpoints(self) -> Path:
        """Where an interrupted run resumes (``training.run_folder.checkpoints``)."""
        return self.work / "checkpoints"

    @property
    def kept(self) -> Path:
        """Weights of earlier epochs, among which the detection on the validation studies chooses."""
        return self.work / "kept"

    @property
    def selecting(self) -> Path:
        """Where that choice is made."""
        return self.work / "selection"

    def kept_weights(self, epoch: int) -> Path:
        """The weights after so many epochs, in :attr:`kept`."""
        return self.kept / f"epoch_{epoch:06d}.safetensors"

    def all_kept(self) -> dict[int, Path]:
        """All weights that are kept, by the number of epochs, in its order."""
        return self._numbered(self.kept, "safetensors")

    def scored(self, epoch: int) -> Path:
        """How the weights after so many epochs detect, in :attr:`selecting`."""
        return self.selecting / f"epoch_{epoch:06d}.json"


def require_distinct(runs: Iterable[tuple[RunFolder, RunRecord]]) -> None:
    """Raise ``OncoduetError`` if two runs have the same weights: no two trainings end alike, so one is a copy."""
    seen: dict[str, RunFolder] = {}
    for folder, record in runs:
        if record.weights_sha256 is None:
            continue
        other = seen.setdefault(record.weights_sha256, folder)
        if other.path != folder.path:
            raise OncoduetError(folder.path, f"has the weights of {other.path}: one is a copy of the other")


def says(path: Path, made: str | Mapping[str, Any]) -> bool:
    """Whether a file has a text, or is JSON of the same values, whichever version of this program wrote it."""
    try:
        if isinstance(made, str):
            return read_text(path) == made
        found, value = read_json(path), json.loads(json.dumps(made))
        return bool({**found, "written_by": None} == {**value, "written_by": None})
    except (OSError, ValueError, TypeError, OncoduetError):
        return False
