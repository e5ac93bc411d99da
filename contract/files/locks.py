"""Locks on files, which are free again when their holder ends, even if it is killed.

They are ``flock``'s, which the kernel releases. Where the file system has none, or none that reaches other machines,
they are leases (``contract.files.leases``), which end after a time.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from contract.errors import OncoduetError, problem_of
from contract.files.leases import LIFETIME_S, Lease, lease_holder, unshared_flock
from contract.text import one_line

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
_RETRY_S, _WAIT_S = 0.01, 1.0
_LONGEST = 1 << 16


@contextmanager
def exclusive_lock(
    path: Path,
    where: object,
    others: str,
    *,
    patience_s: float = 0.0,
    holder: str = "",
    describe: Callable[[str], str] = one_line,
    is_own: Callable[[str], bool] = lambda text: not text,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold a lock file, for this process only.

    Raises ``OncoduetError``: another process holds the lock; the file is a link, was not written by oncoduet or cannot
    be written to.

    Parameters
    ----------
    path
        The lock file; it is made if needed, and stays.
    where, others
        What the lock protects, and what it excludes ("other process at work here"), for the message.
    patience_s
        How long to try while another process has the lock.
    holder
        Content of the file as long as the lock is held: who holds it.
    describe
        The content in words; an empty text where it says nothing.
    is_own
        Whether the file has the content of such a lock. Anything else is a file of the user's, and stays.
    on_wait
        Wait for the other process, after this call with its description; None: raise.
    """
    with _open(path) as lock, ExitStack() as held:
        until = time.monotonic() + patience_s
        while not (taken := _take(path, lock, holder, held)):
            if time.monotonic() < until:
                time.sleep(_RETRY_S)
                continue
            lock.seek(0)
            found = describe(lease_holder(path) or lock.read()) or "one"
            if on_wait is None:
                raise OncoduetError(where, expected=f"no {others}", found=found)
            on_wait(found)
            while not (taken := _take(path, lock, holder, held, wait=True)):
                time.sleep(_WAIT_S)
            break
        lock.seek(0)
        if not is_own(lock.read(_LONGEST)):
            raise OncoduetError(path, "a file not written by oncoduet; move it away")
        if not holder or taken == "lease":
            yield
            return
        lock.truncate(0)
        lock.write(holder)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _take(
    path: Path, lock: IO[str], holder: str, held: ExitStack, *, wait: bool = False
) -> Literal["flock", "lease"] | None:
    """Take the lock until the stack is left, and say which kind it is; None if another process holds it.

    A lease is not waited for.
    """
    if unshared_flock(path.parent) is None:
        with suppress(_NoLocksError):
            return "flock" if try_lock(lock, wait=wait) else None
    try:
        held.enter_context(Lease(path, holder))
    except BlockingIOError:
        return None
    except OSError as error:
        raise OncoduetError(path.parent, f"cannot be written to: {problem_of(error)}") from None
    return "lease"


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file. Asking takes it for a moment, shared, if it is flock's."""
    if not path.is_file():  # a pipe would be waited for
        return False
    if unshared_flock(path.parent) is None:
        try:
            with path.open() as stream:
                return not try_lock(stream, shared=True)
        except FileNotFoundError:
            return False
        except _NoLocksError:
            pass
    return lease_holder(path) is not None


def kind_of_locks(folder: Path) -> str:
    """One line: what locks there are in a folder that can be written to."""
    why = unshared_flock(folder)
    if why is None:
        path = folder / f".partial-{uuid.uuid4().hex}"
        try:
            with path.open("x", encoding="utf-8") as stream:
                try_lock(stream)
            return "locks: flock, which ends with its process"
        except _NoLocksError as error:
            why = error.problem
        finally:
            path.unlink(missing_ok=True)
    return f"locks: lease files, where flock reaches no other machine ({why}); they end {LIFETIME_S:.0f} s after a kill"


class _NoLocksError(OncoduetError):
    """The file system has no ``flock``."""


def _open(path: Path) -> IO[str]:
    """A lock file, made if needed; neither a link is followed nor a holder's name erased."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OncoduetError(path, "not a plain file")
    except OSError as error:
        problem = "is a link" if path.is_symlink() else f"cannot be written to: {problem_of(error)}"
        raise OncoduetError(path, problem) from None
    return os.fdopen(descriptor, "a+", encoding="utf-8", errors="replace")


def try_lock(file: IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file, until it is closed; False if another process holds it.

    Raises ``OncoduetError``: the file is on a file system without locks.

    Parameters
    ----------
    shared
        Other processes may share the lock.
    wait
        Wait until the holder releases it.
    """
    try:
        return _flock(file.fileno(), shared=shared, wait=wait)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise _NoLocksError(file.name, problem_of(error)) from None


def lock_if_possible(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder as :func:`try_lock` does; None if the file system has no locks."""
    try:
        return _flock(descriptor, wait=wait)
    except OSError:
        return None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep other processes away from a folder for a moment, where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_if_possible(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def this_process() -> str:
    """Who holds a lock, as the JSON text of its file: host, process, start and, in a Slurm job, its number."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    job = os.environ.get("SLURM_JOB_ID")
    return json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "since": since} | ({"slurm_job": job} if job else {})
    )


def holder_in_words(text: str) -> str:
    """The text of :func:`this_process` in words; any other in one line."""
    try:
        holder = json.loads(text)
        job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return one_line(text)


def names_holder(text: str) -> bool:
    """Whether a file's text is that of :func:`this_process`, or nothing, as while no process holds the lock."""
    try:
        return not text or set(json.loads(text)) >= {"host", "pid", "since"}
    except (ValueError, TypeError):
        return False


def is_work_lock(path: Path) -> bool:
    """Whether a file is a lock that is empty or names its holder."""
    try:
        return path.is_file() and names_holder(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
