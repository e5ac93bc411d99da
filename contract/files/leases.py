"""Locks for file systems whose ``flock`` is missing or ends at the machine, as Lustre, NFS and BeeGFS may be mounted.

A lease on a file is a numbered file beside it, ``<name>.lease-<number>``. Who creates the next number, exclusively,
holds the lease. The holder renews the file's time every ``BEAT_S`` seconds; after ``LIFETIME_S`` without, the next
number is anyone's. Ages are differences between two files' times, so that the machines' clocks do not matter. The file
with the highest number always stays: who acts on an old look at the folder cannot take a lease that is held. A file of
such a name that no holder wrote is the user's: it stays, and is an error.

A holder that was suspended, or cut off from the file system, may have lost its lease without knowing. Therefore
whatever is about to replace a file calls :func:`require_leases` first.
"""

import contextlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError
from contract.files.reading import read_json, read_text

BEAT_S = 10.0
LIFETIME_S = 60.0
_MOST = 10**15 - 1

_UNSHARED: dict[str, Callable[[set[str]], object]] = {
    "nfs": lambda options: options & {"nolock", "local_lock=flock", "local_lock=all"},
    "nfs4": lambda options: options & {"nolock", "local_lock=flock", "local_lock=all"},
    "lustre": lambda options: "flock" not in options,
    "beegfs": lambda options: True,  # by default; its setting is not among the mount's options
    "gpfs": lambda options: True,  # says little about flock between nodes
    "cifs": lambda options: "nobrl" in options,
    "smb3": lambda options: "nobrl" in options,
    "fuse.sshfs": lambda options: True,
}
"""By type of file system: whether ``flock`` ends at the machine, by the options of its mount."""


def unshared_flock(folder: Path, *, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The mount that a folder is on, in words, if ``flock`` does not reach its other machines; else None."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words, _, rest = line.partition(" - ")
        fields, (kind, _, *more) = words.split(), [*rest.split(), "", ""]
        options = set(",".join([fields[5], *more]).split(","))
        if fields[2] == number and kind in _UNSHARED and _UNSHARED[kind](options):
            return f"{kind} at {fields[4]}"
    return None


class Lease:
    """A lease that this process holds, and renews in a thread until it is released.

    Raises ``BlockingIOError``: another process holds it.

    Parameters
    ----------
    path
        What it is on.
    holder
        Who holds it, for the others.
    """

    def __init__(self, path: Path, holder: str = "") -> None:
        self.path, self.holder, self._process = path, holder, os.getpid()
        self.file = self._next()
        self._renewed_s = _since_boot_s()
        self._is_lost, self._ended, self._guard = False, threading.Event(), threading.Lock()
        _held[id(self)] = self
        threading.Thread(target=self._beat, daemon=True, name=f"lease on {path}").start()

    def require(self) -> None:
        """Raise ``OncoduetError`` unless it is still held; then it is for most of ``LIFETIME_S`` to come."""
        with self._guard:
            if not self._is_lost:
                self._renew()
            if self._is_lost:
                raise OncoduetError(
                    self.path, f"lease lost: it was not renewed for {LIFETIME_S:.0f} s, and another process took it"
                )

    def release(self) -> None:
        """Leave it to the next, at once."""
        if os.getpid() != self._process:
            return  # a fork, whose parent holds it
        self._ended.set()
        with self._guard:
            _held.pop(id(self), None)
            with contextlib.suppress(OSError):
                if not self._is_lost:
                    os.utime(self.file, (0, 0))

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with self._guard, contextlib.suppress(OSError):  # a server that does not answer may do so next time
                if self._is_lost or self._ended.is_set():
                    return
                self._renew()

    def _renew(self) -> None:
        """Renew it or, if that was long ago and so it may be about to be taken, take the next number."""
        try:
            if _newest(self.path) != self.file:
                raise BlockingIOError
            if _since_boot_s() - self._renewed_s < LIFETIME_S / 2:
                os.utime(self.file)
            else:
                self.file = self._next(instead_of=self.file)
        except (BlockingIOError, FileNotFoundError):
            self._is_lost = True
        self._renewed_s = _since_boot_s()

    def _next(self, *, instead_of: Path | None = None) -> Path:
        """Create the file of the next number, unless there is a holder other than ``instead_of``."""
        newest = _newest(self.path)
        if newest is not None and newest != instead_of and _is_held(newest):
            raise BlockingIOError
        if _number(newest) >= _MOST:
            raise OncoduetError(newest, "a file not written by oncoduet; move it away")
        mine = _numbered(self.path, _number(newest) + 1)
        try:
            descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            raise BlockingIOError from None
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({**_ourselves(), "holder": self.holder}, stream)
        with contextlib.suppress(FileNotFoundError):
            os.utime(mine)  # by the file system's clock
        if _newest(self.path) != mine:  # the look was old
            mine.unlink(missing_ok=True)
            raise BlockingIOError
        for number, file in _files(self.path).items():
            if number < _number(mine) and _said(file) is not None:
                file.unlink(missing_ok=True)
        return mine


def lease_holder(path: Path) -> str | None:
    """What the holder of a lease says of itself; None if nobody holds it."""
    newest = _newest(path)
    return str((_said(newest) or {}).get("holder", "")) if newest is not None and _is_held(newest) else None


def require_leases(path: Path) -> None:
    """Raise ``OncoduetError`` if this process has lost a lease on a file in a folder that a path is in."""
    if _held:
        folders = {os.path.realpath(folder) for folder in path.absolute().parents}
        for lease in list(_held.values()):
            if os.path.realpath(lease.path.parent) in folders:
                lease.require()


_held: dict[int, Lease] = {}
os.register_at_fork(after_in_child=_held.clear)  # they are the parent's


def _is_held(file: Path) -> bool:
    try:
        renewed_s = file.stat().st_mtime
    except FileNotFoundError:  # by a later one
        return True
    if renewed_s == 0:
        return False
    said, ours = _said(file), _ourselves()
    is_recent = abs(_now_s(file.parent) - renewed_s) < LIFETIME_S  # no holder renews it for the future
    if said is None:
        if not os.path.lexists(file) or (is_recent and file.is_file() and not file.is_symlink()):
            return True  # its holder is writing it, or it was taken meanwhile
        raise OncoduetError(file, "a file not written by oncoduet; move it away")
    if all(said.get(each) == ours[each] for each in ("boot", "pid_space")) and not _is_process(said.get("pid")):
        return False
    return is_recent


def _is_process(pid: Any) -> bool:
    return isinstance(pid, int) and Path(f"/proc/{pid}").is_dir()


def _now_s(folder: Path) -> float:
    """The file system's time; ours where the folder cannot be written to."""
    touched = folder / f".now-{uuid.uuid4().hex}"
    try:
        os.close(os.open(touched, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.utime(touched)
        return touched.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            touched.unlink()


def _since_boot_s() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ourselves() -> dict[str, str | int]:
    """What tells this process from those of other machines and containers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"boot": boot, "pid_space": str(Path("/proc/self/ns/pid").readlink()), "pid": os.getpid()}


def _said(file: Path) -> dict[str, Any] | None:
    """What the holder wrote; nothing where it has not come to writing; None where no holder wrote it."""
    try:
        if file.is_symlink():
            return None
        if not read_text(file):
            return {}
        found = read_json(file)
    except (OSError, ValueError, OncoduetError):
        return None if os.path.lexists(file) else {}  # taken by another process meanwhile
    return found if isinstance(found, dict) and {*_ourselves(), "holder"} <= {*found} else None


def _files(path: Path) -> dict[int, Path]:
    pattern = re.compile(re.escape(path.name) + r"\.lease-([1-9]\d{0,14})")
    found = [(match, file) for file in path.parent.iterdir() if (match := pattern.fullmatch(file.name))]
    return {int(match[1]): file for match, file in found}


def _newest(path: Path) -> Path | None:
    files = _files(path)
    return files[max(files)] if files else None


def _number(file: Path | None) -> int:
    return 0 if file is None else int(file.name.rpartition("-")[2])


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")
