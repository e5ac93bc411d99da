"""Leases, on a file system whose ``flock`` fails by a stand-in; times are moved instead of waited for."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import PROJECT
from refusals import refused_with

from contract.files import leases
from contract.files.atomic import write_text
from contract.files.leases import LIFETIME_S, Lease, lease_holder, require_leases, unshared_flock
from contract.files.locks import exclusive_lock, is_locked, kind_of_locks

WITHOUT_FLOCK = """
import errno, fcntl, os, sys, time
from pathlib import Path
def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
from contract.files import leases
from contract.files.atomic import write_text
from contract.files.locks import exclusive_lock
path = Path(sys.argv[1])
"""
"""Beginning of programs for which the file system has none."""
HOLD = (
    WITHOUT_FLOCK
    + """
with exclusive_lock(path, path.parent, "other process at work", holder="the first"):
    print("held", flush=True)
    sys.stdin.readline()
    write_text(path.parent / "result", "from the first")
"""
)
RACE = (
    WITHOUT_FLOCK
    + """
leases.BEAT_S = 0.02
until = time.monotonic() + 3
while time.monotonic() < until:
    with exclusive_lock(path, path.parent, "other", holder="x", patience_s=30):
        with open(path.parent / "alone", "x") as file:  # fails where another process is in here
            pass
        (path.parent / "alone").unlink()
        print("turn", flush=True)
"""
)


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def no_flock(monkeypatch, request):
    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def foreign(monkeypatch):
    """Holders are on another machine, as far as one can tell."""
    monkeypatch.setattr(leases, "_is_process", lambda pid: True)


def start(program: str, path: Path) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=PROJECT, text=True, **pipes)


def newest(path: Path) -> Path:
    return max(path.parent.glob(f"{path.name}.lease-*"), key=lambda file: int(file.name.rpartition("-")[2]))


def age(path: Path, seconds: float) -> None:
    """As if the lease had not been renewed for a while."""
    file = newest(path)
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


@pytest.mark.usefixtures("no_flock")
def test_a_lease_without_flock_excludes_others_and_is_freed_at_once(path):
    assert not is_locked(path)
    for _ in range(3):
        with exclusive_lock(path, path.parent, "other process at work", holder="the first"):
            assert is_locked(path)
            with (
                refused_with(expected="no other process at work", found="the first"),
                exclusive_lock(path, path.parent, "other process at work"),
            ):
                pass
        assert not is_locked(path)
    assert [file.name for file in path.parent.glob(".lock.lease-*")] == [".lock.lease-3"]
    assert path.read_text() == ""
    assert kind_of_locks(path.parent).startswith("locks: lease files, where flock reaches no other machine (")
    assert sorted(each.name for each in path.parent.iterdir()) == [".lock", ".lock.lease-3"]


def test_where_there_is_flock_there_are_no_leases(path):
    with exclusive_lock(path, path.parent, "other"):
        assert is_locked(path)
    assert kind_of_locks(path.parent) == "locks: flock, which ends with its process"
    assert [each.name for each in path.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("kind", "mount_options", "options", "is_unshared"),
    [
        ("nfs4", "rw,relatime", "rw,vers=4.2,local_lock=none", False),
        ("nfs", "rw,relatime", "rw,vers=3,local_lock=none", False),
        ("nfs", "rw", "rw,vers=3,nolock,local_lock=all", True),
        ("nfs", "rw", "rw,vers=3,local_lock=flock", True),
        ("nfs", "rw", "rw,vers=3,local_lock=posix", False),
        ("lustre", "rw", "rw,flock,lazystatfs", False),
        ("lustre", "rw", "rw,localflock", True),
        ("lustre", "rw", "rw,lazystatfs", True),
        ("beegfs", "rw", "rw,cfgFile=/etc/beegfs/beegfs-client.conf", True),
        ("gpfs", "rw", "rw", True),
        ("cifs", "rw", "rw,nobrl", True),
        ("cifs", "rw", "rw", False),
        ("ext4", "rw,relatime", "rw", False),
        ("fuse.sshfs", "rw", "rw", True),
    ],
)
def test_a_mount_tells_whether_flock_reaches_other_machines(tmp_path, kind, mount_options, options, is_unshared):
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:999 / / rw shared:1 - lustre x rw\n"
        f"36 35 {number} / /scratch\\040a {mount_options} shared:7 master:3 - {kind} server:/export {options}\n"
    )
    assert unshared_flock(tmp_path, mounts=table) == (f"{kind} at /scratch\\040a" if is_unshared else None)


def test_of_many_processes_one_at_a_time_is_inside(path):
    """Each makes a file that must not exist, again and again; the leases' time is short enough to be renewed within."""
    programs = [start(RACE, path) for _ in range(3)]
    said = [program.communicate(timeout=120) for program in programs]
    assert [(program.returncode, complaint) for program, (_, complaint) in zip(programs, said, strict=True)] == [
        (0, "")
    ] * 3
    turns = sum(output.count("turn") for output, _ in said)
    assert int(newest(path).name.rpartition("-")[2]) >= turns > 10


@pytest.mark.usefixtures("no_flock")
def test_a_killed_holder_is_known_here_and_elsewhere_after_its_lifetime(path, monkeypatch):
    holder = start(HOLD, path)
    assert holder.stdout.readline() == "held\n"
    assert lease_holder(path) == "the first"
    holder.kill()
    holder.wait()
    with monkeypatch.context() as foreign:
        foreign.setattr(leases, "_is_process", lambda pid: True)
        age(path, LIFETIME_S - 20)
        assert is_locked(path)
        age(path, 20)
        assert not is_locked(path)
        newest(path).touch()
        assert is_locked(path)
    with exclusive_lock(path, path.parent, "other", holder="the second"):
        assert lease_holder(path) == "the second"


@pytest.mark.usefixtures("no_flock")
def test_the_machines_clock_does_not_matter(path, foreign, monkeypatch):
    with Lease(path, "the first"):
        monkeypatch.setattr(time, "time", lambda: 1e12)
        assert lease_holder(path) == "the first"


@pytest.mark.usefixtures("no_flock", "foreign")
def test_a_holder_that_was_suspended_stops_before_it_writes(path):
    holder = start(HOLD, path)
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGSTOP)
    age(path, LIFETIME_S)
    with exclusive_lock(path, path.parent, "other", holder="the second"):
        write_text(path.parent / "result", "from the second")
        os.kill(holder.pid, signal.SIGCONT)
        _, complaint = holder.communicate("go on\n", timeout=60)
        lost = f"{path}: lease lost: it was not renewed for 60 s, and another process took it"
        assert complaint.splitlines()[-1] == f"contract.errors.OncoduetError: {lost}"
        require_leases(path.parent / "result")
        assert lease_holder(path) == "the second"  # the first did not release what is not its own
    assert (path.parent / "result").read_text() == "from the second"
    assert not list(path.parent.glob(".partial-*"))


def test_a_holder_that_slept_takes_its_lease_anew_unless_another_has(path, foreign, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(leases, "_since_boot_s", lambda: now[0])
    with Lease(path, "the first") as first:
        assert newest(path).name == ".lock.lease-1"
        now[0] += LIFETIME_S / 2 - 1
        first.require()
        assert newest(path).name == ".lock.lease-1"
        now[0] += LIFETIME_S * 2
        first.require()
        assert newest(path).name == ".lock.lease-2"
        age(path, LIFETIME_S)
        with Lease(path, "the second"), refused_with(problem="^lease lost"):
            require_leases(path.parent / "folder" / "file")
        require_leases(Path("/elsewhere/file"))


@pytest.mark.parametrize("seen", [None, ".lock.lease-1", ".lock.lease-2"])
def test_who_acts_on_an_old_look_takes_nothing(path, foreign, monkeypatch, seen):
    for holder in ("the first", "the second"):
        Lease(path, holder).release()
    with Lease(path, "the third"):
        looks = iter([seen and path.with_name(seen)])  # then, its holder had released it
        look, is_held = leases._newest, leases._is_held
        monkeypatch.setattr(leases, "_newest", lambda asked: next(looks, look(asked)))
        monkeypatch.setattr(leases, "_is_held", lambda file: file.name != seen and is_held(file))
        with pytest.raises(BlockingIOError):
            Lease(path, "the fourth")
        assert [file.name for file in path.parent.glob(".lock.lease-*")] == [".lock.lease-3"]
        assert lease_holder(path) == "the third"


def test_a_fork_neither_releases_nor_requires_what_its_parent_holds(path, foreign):
    with Lease(path, "the first") as lease:
        child = os.fork()
        if child == 0:
            lease.release()
            require_leases(path)
            os._exit(0 if leases._held == {} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert lease_holder(path) == "the first"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("my notes"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.parent / "notes"),
    ],
    ids=["text", "JSON", "deep", "folder", "link"],
)
@pytest.mark.parametrize("number", [1, 10**15 - 1])
def test_a_file_that_no_holder_wrote_is_named_and_stays(path, no_flock, make, number):
    (path.parent / "notes").write_text("mine")
    file = path.with_name(f".lock.lease-{number}")
    make(file)
    os.utime(file, (1, 1))
    with refused_with(str(file), "a file not written by oncoduet; move it away"), exclusive_lock(path, path, "other"):
        pass
    assert sorted(each.name for each in path.parent.glob(".lock.*")) == [file.name]
    assert (path.parent / "notes").read_text() == "mine"


def test_a_lease_of_the_future_has_ended(path, no_flock, foreign):
    lease = Lease(path)
    lease._ended.set()
    os.utime(lease.file, (time.time() + 1e6, time.time() + 1e6))
    assert lease_holder(path) is None
