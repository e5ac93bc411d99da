"""What nnDetection trained, as a run keeps it: its files as they are, and a record that says where they come from.

The files are checkpoints and pickles that only nnDetection's own programs load. Their hashes are in
``nndetection.json``, whose hash is in ``run.json``.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError
from contract.files.reading import read_json, sha256_file
from contract.records import Record, RunKey, read_record, write_record
from training.nndetection.dataset_layout import COMMIT, MODEL, Layout
from training.nndetection.run_files import NEEDED, REPORTS, model_folder, model_record
from training.run_folder.folder import RunFolder


class UpstreamRecord(Record):
    """``nndetection.json``."""

    key: RunKey
    targeted_commit: str = COMMIT
    """The commit of nnDetection that the adapter supports."""
    reported_commit: str | None
    """The commit that nnDetection reports; null where it does not know."""
    reported_torch: str | None
    task: str
    model: str = MODEL
    programs: Mapping[str, str]
    """Path of each program, by name."""
    files: Mapping[str, str]
    """sha256 of each file in the run's folder ``nndetection``, by name."""


def keep_model(layout: Layout, folder: RunFolder, *, key: RunKey, programs: Mapping[str, Path]) -> UpstreamRecord:
    """Copy what predictions need, and what nnDetection says of itself, into the run's folder.

    Raises ``OncoduetError``: a file is missing, although the programs reported success.
    """
    sources = [layout.consolidated / name for name in NEEDED]
    for path in sources:
        require(path, program="nndet_consolidate")
    sources += [path for path in (layout.trained / name for name in REPORTS) if path.is_file()]
    for path in sources:
        with folder.writing(model_folder(folder) / path.name) as partial:
            shutil.copyfile(path, partial)
    reported = reported_versions(layout.trained / "meta.json")
    git = reported.get("git")
    record = UpstreamRecord(
        key=key,
        reported_commit=_text(git.get("hash")) if isinstance(git, dict) else None,
        reported_torch=_text(reported.get("torch_version")),
        task=layout.task,
        programs={name: str(path) for name, path in programs.items()},
        files={path.name: sha256_file(model_folder(folder) / path.name) for path in sources},
    )
    with folder.writing(model_record(folder)) as partial:
        write_record(partial, record)
    return record


def model_files(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Each file of a run's model, and the hash that it has to have.

    Raises ``OncoduetError``: ``nndetection.json`` is missing or malformed.
    """
    for name, sha256 in sorted(read_record(model_record(folder), UpstreamRecord).files.items()):
        yield model_folder(folder) / name, sha256


def require(path: Path, *, program: str) -> None:
    """Raise ``OncoduetError`` unless a program left what it is run for."""
    if not path.exists():
        raise OncoduetError(path, f"not found, although {program} reported success")


def reported_versions(path: Path) -> dict[str, Any]:
    """What nnDetection says of itself; it writes this for people, so nothing depends on it."""
    try:
        values = read_json(path)
    except OncoduetError:
        return {}
    return values if isinstance(values, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
