"""``python -m training verify``: recompute every hash of a run, from its weights back to the archive.

What cannot be reached (the dataset was deleted, the archive is on another machine) is reported as unchecked and is no
fault; what is there has to be what the run was made from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.table import Table

from contract.archive.studies import archive_licence
from contract.card import load_card
from contract.errors import OncoduetError
from contract.files.reading import read_json, sha256_file, sha256_json
from contract.records import RunRecord, SelectionRecord, read_record
from contract.text import short_hash
from training.dataset.archive_stamps import recorded_archive, unchanged_archive
from training.dataset.prepared import LOCALISATION, Prepared, load_prepared
from training.dataset.prepared import RECORD as PREPARED
from training.engine import Engine, engine_of
from training.finished_runs import find_runs
from training.run_folder.folder import RunFolder


@dataclass(frozen=True)
class HashCheck:
    """One thing that was looked at."""

    run: str
    what: str
    found: str
    """What was found: ``as recorded``, ``unchecked: …``, or the fault in one line."""
    fault: str | None = None
    """The error message, or None where nothing is wrong."""


@dataclass(frozen=True)
class _Shared:
    """What several runs may have been made from, and what was found when it was looked at, by folder."""

    prepared: Path | None
    archive: Path | None
    files: dict[Path, str | None] = field(default_factory=dict)
    archives: dict[Path, str | None] = field(default_factory=dict)

    def dataset(self, record: RunRecord) -> Path | None:
        """Current folder of the run's dataset, if known."""
        if self.prepared is not None:
            return self.prepared / LOCALISATION if record.key.stage == "localisation" else self.prepared
        return Path(record.prepared_folder) if record.prepared_folder else None


class _UncheckedError(Exception):
    """It cannot be looked at."""


def verify(runs: Sequence[Path], *, prepared: Path | None = None, archive: Path | None = None) -> list[HashCheck]:
    """HashCheck finished runs and, once for all of them, each dataset that they were made from.

    Raises ``OncoduetError``: a given folder holds no run, or a ``run.json`` is malformed.

    Parameters
    ----------
    runs
        Run folders, or folders of them.
    prepared, archive
        Current folders of the dataset and its archive; None: where they were.
    """
    checks: list[HashCheck] = []
    shared = _Shared(prepared, archive)
    for folder in find_runs(runs):
        record = read_record(folder.record, RunRecord)
        for what, look in _looks(folder, record, shared):
            checks.append(_check(folder, what, look))
    return checks


def checks_table(checks: Sequence[HashCheck]) -> Table:
    """The checks as a table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "what", "found"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.run, check.what, check.found, style="red" if check.fault else None)
    return table


def require_sound(checks: Sequence[HashCheck]) -> None:
    """Raise ``OncoduetError`` with the first fault, if there is any."""
    faults = [check.fault for check in checks if check.fault]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise OncoduetError(f"{faults[0]}{more}")


def _check(folder: RunFolder, what: str, look: Callable[[], None]) -> HashCheck:
    name = folder.path.resolve().name
    try:
        look()
    except _UncheckedError as reason:
        return HashCheck(name, what, f"unchecked: {reason}")
    except OncoduetError as error:
        return HashCheck(name, what, "NOT as recorded", fault=str(error))
    return HashCheck(name, what, "as recorded")


def _looks(folder: RunFolder, record: RunRecord, shared: "_Shared") -> Iterator[tuple[str, Callable[[], None]]]:
    engine = engine_of(record)
    yield engine.model, partial(_model, engine, folder, record)
    yield "card", partial(_same, folder.card, record.key.card_sha256, lambda: load_card(folder.card).sha256)
    for name, path in [("plans", folder.plans), ("dataset", folder.dataset)]:
        yield name, partial(_same, path, record.parents.get(name), partial(_sha256_json_file, path))
    accompanying = {**engine.files(folder), "training_studies": folder.training_studies}
    for name, path in accompanying.items():
        if name in record.parents:
            yield name, partial(_same, path, record.parents[name], partial(sha256_file, path))
    if record.checkpoint == "detection":
        yield "selection", partial(_selection, folder, record)
    dataset = shared.dataset(record)
    yield "prepared", partial(_prepared, dataset, record)
    yield "data licence", partial(_licence, dataset, shared.archive, folder, record)
    yield "preprocessed files", partial(_files, dataset, shared.files)
    yield "archive", partial(_archive, dataset, shared.archive, shared.archives)


def _model(engine: Engine, folder: RunFolder, record: RunRecord) -> None:
    if record.state != "finished":
        raise _UncheckedError(f"the run is {record.state}")
    for path, expected, found in engine.model_files(folder, record):
        _same(path, expected, found)


def _selection(folder: RunFolder, record: RunRecord) -> None:
    if record.state != "finished":
        raise _UncheckedError(f"the run is {record.state}")
    _same(folder.selection, record.parents.get("selection"), lambda: sha256_file(folder.selection))
    selection = read_record(folder.selection, SelectionRecord)
    chosen = {each.epoch: each.weights_sha256 for each in selection.checkpoints}.get(selection.chosen_epoch)
    _same(folder.selection, record.weights_sha256, lambda: str(chosen))


def _prepared(folder: Path | None, record: RunRecord) -> None:
    dataset = _load(folder)
    _same(dataset.folder, record.parents.get("prepared"), lambda: dataset.sha256)
    _same(dataset.folder, record.dataset_fingerprint, lambda: dataset.record.dataset_fingerprint)


def _licence(dataset: Path | None, archive: Path | None, run: RunFolder, record: RunRecord) -> None:
    """The run, its dataset and, where it is there, the archive name one licence: no hash covers it."""
    prepared = _load(dataset)
    known = archive or recorded_archive(prepared)
    licences = {run.record: record.data_licence, prepared.folder / PREPARED: prepared.record.data_licence}
    expected = record.data_licence if known is None else archive_licence(known)
    for path, found in licences.items():
        if found != expected:
            raise OncoduetError(path, expected=f"the data licence {expected}", found=found)


def _files(folder: Path | None, done: dict[Path, str | None]) -> None:
    dataset = _load(folder)

    def look() -> None:
        for name, sha256 in sorted(dataset.record.files.items()):
            path = dataset.folder / "cases" / name
            _same(path, sha256, partial(sha256_file, path))

    _once(dataset.folder, look, done)


def _archive(folder: Path | None, archive: Path | None, done: dict[Path, str | None]) -> None:
    dataset = _load(folder)

    def look() -> None:
        if unchanged_archive(dataset, archive=archive, hash_all=True) is None:
            raise _UncheckedError("the archive cannot be reached")

    _once(dataset.folder, look, done)


def _once(folder: Path, look: Callable[[], None], done: dict[Path, str | None]) -> None:
    """HashCheck once what several runs share, and report it for each of them."""
    if folder not in done:
        done[folder] = None
        try:
            look()
        except OncoduetError as error:
            done[folder] = str(error)
    fault = done[folder]
    if fault is not None:
        raise OncoduetError(fault)


def _load(folder: Path | None) -> Prepared:
    if folder is None or not folder.is_dir():
        raise _UncheckedError("the prepared dataset cannot be reached; --prepared names its current folder")
    return load_prepared(folder)


def _same(path: Path, expected: str | None, found: Callable[[], str]) -> None:
    if expected is None:
        raise _UncheckedError("run.json does not name its hash")
    if not path.exists():
        raise OncoduetError(path, f"file with the hash {short_hash(expected)}… not found")
    sha256 = found()
    if sha256 != expected:
        raise OncoduetError(path, expected=f"the hash {short_hash(expected)}…", found=f"{short_hash(sha256)}…")


def _sha256_json_file(path: Path) -> str:
    return sha256_json(read_json(path))
