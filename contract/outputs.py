"""Where a command may write: nothing of the user's is replaced, and obstacles are reported before work begins.

An output folder records in ``.oncoduet`` what each command wrote into it: the files with their sha256, and what they
are results of (the identity). A file of ours is replaced only by the same command, with results of the same identity,
and only while it is unchanged: a file that was edited is the user's. Everything else in the folder stays. A folder that
is filled step by step, such as a run's, records each file before it takes its name (:func:`own_file`). Also:

* output and inputs are separate: neither is the other, nor inside the other, however the paths are spelt;
* nor is an output in a folder that is known as another command's, or anywhere below one;
* a link inside the output folder is never written through; the folder itself may be one;
* on the platform, where a folder may hold only the declared outputs, there is no ``.oncoduet``: the process itself
  knows what it wrote, so that a server's answer replaces its last one. Later processes find the same in an extended
  attribute of each file; without such attributes they replace nothing.

Outputs appear together: written in a temporary folder, synced, moved file by file, the record of the others last.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from contract.errors import OncoduetError
from contract.files.atomic import (
    atomic_file,
    full_disk_said,
    held_folder,
    is_unused,
    nearest_folder,
    remove_partial_files,
    sync,
    writable,
    write_json,
)
from contract.files.leases import require_leases
from contract.files.locks import folder_lock
from contract.files.reading import inside, open_regular, read_json, sha256_file
from contract.provenance import Writer, writer
from contract.schema import Frozen, RelativePath, parse

MANIFEST = ".oncoduet"
EXPORT = "export.sh"
_ATTRIBUTE = "user.oncoduet"
_LONGEST_LINE = 2**16

_OWNERS = {
    "run.json": ("training run",),
    "prepared.json": ("training prepare",),
    "bundle.json": (),
    "archive.json": ("phantom",),
    "batch.json": ("algorithm batch", "algorithm baseline", "training predict"),
    "verdict.json": ("evaluation compare",),
    "metrics.json": ("evaluation", "evaluation score"),
    ".campaign.lock": ("training campaign", "training run", "training bundle"),
}
"""Files that identify a folder's owners, by name: no other command writes into such a folder."""
_COMMON = "metrics.json"
"""A name that files of other programs have too."""
_AT_WORK = ", at work"

_made: dict[tuple[Path, str], Mapping[str, tuple[str, ...]]] = {}
"""Files this process wrote on the platform, where there is no ``.oncoduet``, by folder and command."""


class Written(Frozen):
    """Files that one command wrote into a folder, and their identity."""

    identity: Mapping[str, Any]
    files: Mapping[RelativePath, tuple[str, ...]]
    """sha256 by path relative to the folder; two while a file is being replaced."""


_NOTHING = Written(identity={}, files={})


class Manifest(Frozen):
    """``.oncoduet``."""

    schema_version: Literal[1] = 1
    written_by: Writer = Field(default_factory=writer)
    commands: Mapping[str, Written] = {}


@dataclass(frozen=True)
class Output:
    """A folder, and what a command is going to write there."""

    folder: Path
    command: str
    """Command name, e.g. ``evaluation score``."""
    files: Sequence[str]
    """All files that may be written, relative to the folder, known before work begins."""
    identity: Mapping[str, str | int | float | bool | frozenset[str] | None] = field(kw_only=True)
    """Every argument, and the content of every input, that changes the files, by name: results of others are replaced
    only with ``replaces``. Of a set, earlier results may have had a subset: inputs that arrive one by one. Names that
    older results lack are not compared. Empty on the platform, and only there."""
    by_file: bool = False
    """Whether the folder may hold several results of the command, one per file, each with an identity."""
    replaces: bool = False
    """Whether the user allows results of another identity to be replaced."""
    record: str | None = None
    """The file that is removed first and written last, since it means that the others are complete."""
    on_platform: bool = False
    """Whether the folder may hold only the declared outputs, each replacing the last one."""

    def __post_init__(self) -> None:
        if bool(self.identity) == self.on_platform:
            raise ValueError(f"{self.command}: an output has an identity, or is the platform's")

    def check(self) -> None:
        """Raise ``OncoduetError`` if the folder cannot be written to, or something that is not ours is in the way."""
        require_folder(self.folder)
        require_unowned(self.folder, self.command)
        known = self._known()
        ours = {name: value for name, value in self.identity.items() if not _covers(value, known.identity.get(name))}
        theirs = {name: value for name, value in known.identity.items() if name in ours or name not in self.identity}
        if theirs and not self.replaces and any((self.folder / name).exists() for name in known.files):
            raise OncoduetError(
                self.folder,
                expected=f"results of {_described(ours)} or none",
                found=f"some of {_described(theirs)}; give another output or move them away",
            )
        for name in dict.fromkeys([*self.files, *(self._in_sockets() if self.on_platform else ())]):
            _require_ours(self.folder, name, known.files.get(name, ()), self.command)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Give an empty folder; on success what it holds appears in the output folder, else that stays as it was.

        Raises ``OncoduetError`` as :meth:`check`, at the beginning and again at the end; or the disk is full.
        """
        self.check()
        existed = self.folder.exists()
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            remove_partial_files(self.folder)
            with full_disk_said(self.folder), held_folder(self.folder) as stage:
                try:
                    yield stage
                except OncoduetError as error:  # by the names that the files were going to have
                    raise error.moved(stage, self.folder) from None
                self._put(stage)
        finally:
            if not existed and self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _put(self, stage: Path) -> None:
        paths = [path for path in sorted(stage.rglob("*")) if not path.is_dir()]
        new = {path.relative_to(stage).as_posix(): sha256_file(path) for path in paths}
        unclaimed = sorted(set(new) - set(self.files))
        if unclaimed:
            raise ValueError(f"{self.command}: {unclaimed[0]} was written, but not declared")
        for path in paths:
            if self.on_platform:
                with suppress(OSError):
                    os.setxattr(path, _ATTRIBUTE, f"{self.command} {sha256_file(path)}".encode())
            sync(path)
        with folder_lock(self.folder):
            self.check()  # another process may have written here since
            old = self._known().files
            self._remember({name: (*old.get(name, ()), *([new[name]] if name in new else [])) for name in {*old, *new}})
            if self.record is not None:
                (self.folder / self.record).unlink(missing_ok=True)
            for name in sorted(set(old) - set(new)):
                _remove_if_ours(self.folder, name, old[name])
            for name in sorted(new, key=lambda each: each == self.record):
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                require_leases(target)
                (stage / name).replace(target)
                sync(target.parent)
            self._remember({name: (sha256,) for name, sha256 in new.items()})

    def _known(self) -> Written:
        if self.on_platform:
            made = _made.get((self.folder.resolve(), self.command), {})
            return Written(identity={}, files={**self._marked(), **made})
        return _manifest(self.folder).commands.get(self._entry, _NOTHING)

    @property
    def _entry(self) -> str:
        return f"{self.command} {self.files[0]}" if self.by_file else self.command

    def _marked(self) -> dict[str, tuple[str, ...]]:
        """Files of an earlier process, by their extended attributes."""
        found: dict[str, tuple[str, ...]] = {}
        for place in {(self.folder / name).parent for name in self.files}:
            for path in place.iterdir() if place.is_dir() else ():
                with suppress(OSError):
                    mark = os.getxattr(path, _ATTRIBUTE, follow_symlinks=False).decode(errors="replace")
                    command, _, sha256 = mark.rpartition(" ")
                    if command == self.command:
                        found[path.relative_to(self.folder).as_posix()] = (sha256,)
        return found

    def _in_sockets(self) -> list[str]:
        """Entries in the folders of the declared outputs; the platform imports no image if there are two."""
        places = {(self.folder / name).parent for name in self.files} - {self.folder}
        found = [path for place in sorted(places) if place.is_dir() for path in inside(place, "[!.]*")]
        return [path.relative_to(self.folder).as_posix() for path in found]

    def _remember(self, files: Mapping[str, tuple[str, ...]]) -> None:
        if self.on_platform:
            _made[self.folder.resolve(), self.command] = files
            return
        identity = {
            name: sorted(value) if isinstance(value, frozenset) else value for name, value in self.identity.items()
        }
        written = Written(identity=identity, files=dict(sorted(files.items())))
        _write_manifest(self.folder, {**_manifest(self.folder).commands, self._entry: written})


def remove_last_answers() -> None:
    """Remove what this process wrote on the platform: a server's next case begins, and the answer is about another."""
    for (folder, _), files in _made.items():
        for name, sha256 in files.items():
            _remove_if_ours(folder, name, sha256)
    _made.clear()


def subfolder(output: Path, name: str) -> Path:
    """A folder inside an output. Raises ``OncoduetError`` where that is a link, perhaps to the user's files."""
    if name and (output / name).is_symlink():
        raise OncoduetError(output / name, "is a link; give another output")
    return output / name


def file_output(path: Path, command: str, **identity: str | int | float | bool | frozenset[str] | None) -> Output:
    """The output of a command that writes a single file."""
    return Output(path.parent, command, [path.name], identity=identity, by_file=True)


@contextmanager
def own_file(folder: Path, name: str, command: str) -> Iterator[Path]:
    """Give a temporary path for one file of a folder that a command fills step by step; it appears on success.

    Raises ``OncoduetError`` as :func:`contract.files.atomic.atomic_file`, or where something else bears the name.
    """
    path = folder / name
    with atomic_file(path) as partial:
        try:
            yield partial
        except OncoduetError as error:
            raise error.moved(partial, path) from None
        _require_ours(folder, name, own_sha256(folder, name, command), command)
        claim_file(folder, name, sha256_file(partial), command)


def own_sha256(folder: Path, name: str, command: str) -> tuple[str, ...]:
    """The sha256 by which a file of a command is known; of a killed process's there may be two, of another's none."""
    return _manifest(folder).commands.get(command, _NOTHING).files.get(name, ())


def require_own(folder: Path, name: str, command: str, *, first_line: bool = False) -> None:
    """Raise ``OncoduetError`` if something that is not as a command wrote it bears a name in a folder.

    ``first_line`` is True for a file that grows, which is known by that line.
    """
    path = folder / name
    found = None
    if path.is_file() and not path.is_symlink():  # before the list is read: what another process adds is listed first
        found = sha256_first_line(path) if first_line else sha256_file(path)
    known = own_sha256(folder, name, command)
    if found is None or found not in known:
        _require_ours(folder, name, () if first_line else known, command)


def sha256_first_line(path: Path) -> str:
    """SHA-256 of a file's first line, by which a log is known."""
    with open_regular(path) as stream:
        return hashlib.sha256(stream.readline(_LONGEST_LINE)).hexdigest()


def keeps_list(folder: Path, command: str) -> bool:
    """Whether a folder lists what a command wrote there: older versions, and copies without hidden files, do not."""
    return command in _manifest(folder).commands


def claim_file(folder: Path, name: str, sha256: str, command: str) -> None:
    """List a file as a command's, besides what it was before."""
    commands = _manifest(folder).commands
    files = commands.get(command, _NOTHING).files
    hashes = tuple(dict.fromkeys([*files.get(name, ())[-1:], sha256]))
    _write_manifest(folder, {**commands, command: Written(identity={}, files={**files, name: hashes})})


def remove_own(folder: Path, name: str, command: str) -> None:
    """Remove a file that is as a command wrote it, and the folders that it leaves empty; any other file stays."""
    _remove_if_ours(folder, name, own_sha256(folder, name, command))


def require_apart(output: Path, **inputs: Path | Sequence[Path] | None) -> None:
    """Raise ``OncoduetError`` if the output is one of the inputs, or is inside one or around it.

    Links, ``..`` and the case of letters, where the file system does not mind it, hide nothing.
    """
    for name, given in inputs.items():
        for path in [given] if isinstance(given, Path) else given or ():
            inside, around = _lies_in(output, path), _lies_in(path, output)
            if inside or around:
                how, which = ("", "") if inside and around else ("inside " if inside else "around ", f" {path}")
                found = f"{how}the {name.replace('_', ' ')}{which}"
                raise OncoduetError(output, expected="an output folder of its own", found=found)


def require_unowned(folder: Path, command: str) -> None:
    """Raise ``OncoduetError`` if a folder, or one around it, is known as another command's by what it holds.

    Where a command works (:func:`claim_scratch`), it may have other commands write.
    """
    own = folder.resolve()
    for place in (own, *own.parents):
        if _is_scratch(place):
            return
        for name, owners in _OWNERS.items():
            if command in owners:
                continue
            if is_our_record(place / name, by_name=place == own and name != _COMMON):
                where = "in it" if place == own else f"in {place}"
                raise OncoduetError(
                    folder,
                    expected=f"a folder for the results of {command}",
                    found=f"{name} of another command {where}; give another output",
                )


def require_free(folder: Path, names: Iterable[str], command: str) -> None:
    """Raise ``OncoduetError`` if something bears one of the names that a command is going to give in a folder."""
    for name in names:
        _require_ours(folder, name, (), command)


def require_scratch(folder: Path, command: str) -> None:
    """Raise ``OncoduetError`` unless a folder is one that a command worked in (:func:`scratch`), or empty, or none."""
    subfolder(folder.parent, folder.name)
    if f"{command}{_AT_WORK}" in _manifest(folder).commands:
        return
    if not folder.is_dir() or not is_unused(folder):
        require_free(folder.parent, [folder.name], command)


@contextmanager
def scratch(folder: Path, command: str) -> Iterator[None]:
    """Make a folder to work in that says whose it is, in place of what a killed process left; it is gone afterwards.

    Raises ``OncoduetError`` as :func:`require_scratch`.
    """
    require_scratch(folder, command)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        claim_scratch(folder, command)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def claim_scratch(folder: Path, command: str) -> None:
    """Write into a folder that a command works there."""
    _write_manifest(folder, {f"{command}{_AT_WORK}": Written(identity={}, files={})})


def require_folder(folder: Path, *, is_written: bool = True) -> None:
    """Raise ``OncoduetError`` unless a path is a folder that can be written to, or one could be made there.

    ``is_written`` is False for a command that only reads the folder, which may belong to another user.
    """
    nearest = nearest_folder(folder)
    with writable(nearest):
        if not nearest.is_dir():
            raise OncoduetError(folder, f"cannot be written to: {nearest} is not a folder")
        if is_written:
            _require_access(folder, nearest)


def _require_access(folder: Path, nearest: Path) -> None:
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):  # what cannot be listed is neither cleaned nor synced
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        why = "read-only file system" if read_only else "permission denied"
        raise OncoduetError(folder, f"cannot be written to: {why}")


def require_unedited(folder: Path, names: Iterable[str]) -> None:
    """Raise ``OncoduetError`` if a file is not as its command wrote it; a copy without the list of files passes.

    Parameters
    ----------
    names
        Files that are going to be read, relative to the folder; of some there may be none.
    """
    for written in _manifest(folder).commands.values():
        require_as_written(folder, {name: written.files[name] for name in names if name in written.files})


def require_as_written(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Raise ``OncoduetError`` if a file that is there has none of the sha256 that were recorded for it."""
    for name, sha256 in files.items():
        if (folder / name).exists() and sha256_file(folder / name) not in sha256:
            raise OncoduetError(folder / name, "edited since it was written")


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return Manifest()
    if path.is_symlink() or not path.is_file():
        raise OncoduetError(path, "not a plain file")
    return parse(read_json(path), Manifest, path)


def _write_manifest(folder: Path, commands: Mapping[str, Written]) -> None:
    write_json(folder / MANIFEST, Manifest(commands=commands).model_dump(mode="json"))


def _is_scratch(folder: Path) -> bool:
    try:
        return any(name.endswith(_AT_WORK) for name in _manifest(folder).commands)
    except OncoduetError:  # a folder around ours, which is no business of ours
        return False


def is_our_record(path: Path, *, by_name: bool = False) -> bool:
    """Whether there is a record, and one of our programs wrote it, unless its name alone is to decide."""
    if by_name or path.suffix != ".json" or not path.is_file():
        return path.is_file()
    try:
        record = read_json(path)
    except OncoduetError:
        return False
    program = isinstance(record, dict) and record.get("written_by")
    return isinstance(program, dict) and program.get("program") == writer().program


def _require_ours(folder: Path, name: str, sha256: Sequence[str], command: str) -> None:
    path = folder / name
    for place in [*reversed([each for each in path.parents if folder in each.parents]), path]:
        subfolder(place.parent, place.name)
        if place is not path and place.exists() and not place.is_dir():
            raise OncoduetError(place, expected="a folder or nothing", found="a file; give another output")
    if not path.exists():
        return
    if not sha256 or not path.is_file():
        what = "a file" if path.is_file() else "a folder" if path.is_dir() else "something"
        raise OncoduetError(
            path,
            expected=f"nothing or what {command} wrote there",
            found=f"{what} not written by oncoduet; give another output or move it away",
        )
    if sha256_file(path) not in sha256:
        raise OncoduetError(
            path,
            f"file was edited since {command} wrote it; give another output or move it away",
        )


def _remove_if_ours(folder: Path, name: str, sha256: Sequence[str]) -> None:
    """Take away a file of an earlier result, unless it was changed since, and the folders that it leaves empty."""
    path = folder / name
    places = [each for each in (path, *path.parents) if folder in each.parents]
    if any(each.is_symlink() for each in places) or not path.is_file() or sha256_file(path) not in sha256:
        return
    path.unlink()
    for parent in path.parents:
        if parent == folder or any(parent.iterdir()):
            return
        parent.rmdir()


def _lies_in(inner: Path, outer: Path) -> bool:
    inner, outer = inner.resolve(), outer.resolve()
    places = [inner, *inner.parents]
    if not outer.exists():
        return outer in places
    return any(place.exists() and place.samefile(outer) for place in places)


def _covers(asked: object, known: object) -> bool:
    """Whether results of the identity that is asked for may replace those of a known one."""
    return set(known) <= asked if isinstance(asked, frozenset) and isinstance(known, list) else asked == known


def _described(identity: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in identity.items()) or "this kind"


def _short(value: object) -> str:
    if isinstance(value, frozenset | list):
        return f"({len(value)})"
    return f"{value}"[: 12 if re.fullmatch("[0-9a-f]{64}", f"{value}") else 80]
