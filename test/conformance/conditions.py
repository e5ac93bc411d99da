"""The platform's own conditions, around any image: folders, user, rights, limits, variables, and how it is started.

``/input`` is a symbolic link to a folder below ``/opt/ml/input/data`` that only root may write to; ``/output`` is
empty and open to all; ``/tmp`` is empty and in memory; model and truth lie below ``/opt/ml``. There is no network, no
capability and no way to gain one. Memory is limited twice, as the platform does it: by the container, and 1 GB lower
for the data segment of each process, so that Python sees a ``MemoryError`` before the kernel kills.

A helper container, as root on the same volumes, lays studies out and takes outputs away; it needs ``/bin/sh`` in the
image. A server is asked by the image's own ``python3``, since nothing reaches it from outside.
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from conformance.engine import Engine, last_line
from contract.errors import OncoduetError
from contract.serving import PORT

Files = Mapping[str, bytes]
"""Contents by path below a folder."""

INPUT_TARGET = "/opt/ml/input/data/case-input"
MODEL = "/opt/ml/model"
TRUTH = "/opt/ml/input/data/ground_truth"
API_LABEL = "org.grand-challenge.api-method"
GB = 1 << 30


@dataclass(frozen=True)
class Profile:
    """A machine of the platform."""

    memory_gb: int
    cpus: int
    gpu: bool


PROFILES = {
    "cpu-8": Profile(8, 2, gpu=False),
    "cpu-16": Profile(16, 2, gpu=False),
    "t4-16": Profile(16, 4, gpu=True),
    "t4-32": Profile(32, 8, gpu=True),
}


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds."""

    case: float = 1200.0
    start: float = 300.0
    health: float = 10.0
    stop: float = 5.0


@dataclass(frozen=True)
class Case:
    """How one case ended."""

    status: int | None
    """Exit code, or HTTP status of an invocation; None: it did not end in time, or the server was never ready."""
    success: int
    stdout: bytes
    stderr: bytes
    seconds: float
    output: Path
    """What ``/output`` held afterwards."""
    note: str = ""
    """What is known about a failure beyond the status."""

    @property
    def succeeded(self) -> bool:
        return self.status == self.success

    @property
    def how(self) -> str:
        """In a few words, with the last line of stderr."""
        word = "exit code" if self.success == 0 else "HTTP status"
        ended = "no answer" if self.status is None else f"{word} {self.status}"
        return ", ".join(part for part in (ended, self.note, last_line(self.stderr)[:300]) if part)


Variant = Literal["plain", "read-only root", "another user", "no model", "one core"]


@dataclass
class Place:
    """One image under the platform's conditions."""

    engine: Engine
    image: str
    work: Path
    profile: Profile = PROFILES["cpu-8"]
    limits: Limits = Limits()
    model: Files = field(default_factory=dict)
    truth: Files = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image's own settings: user, entry point, labels, variables."""
        return self.engine.image(self.image).get("Config") or {}

    @property
    def api(self) -> str:
        """How the platform would start it; quotes and case do not matter to the platform."""
        label = (self.config.get("Labels") or {}).get(API_LABEL, "exec")
        return str(label).strip().strip("\"'").lower()

    @cached_property
    def derived(self) -> str:
        """The image with the platform's folders, in one layer more: its own content at these places vanishes."""
        tag = f"oncoduet-conformance-{self.engine.name}"
        user = str(self.config.get("User") or "0")
        name, _, value = self.engine.label.partition("=")
        folders = (
            "rm -rf /input /output /opt/ml && mkdir -p /opt/ml/input/data /opt/ml/model /output && "
            f"chmod 777 /output && ln -s {INPUT_TARGET} /input"
        )
        self.engine.build(
            f'FROM {self.image}\nUSER 0:0\nRUN ["/bin/sh", "-c", "{folders}"]\nUSER {user}\nLABEL {name}={value}\n',
            tag=tag,
        )
        return tag

    @cached_property
    def volumes(self) -> dict[str, str]:
        """Names of the volumes."""
        return {name: self.engine.volume() for name in ("input", "output", "model", "truth", "void")}

    @cached_property
    def helper(self) -> str:
        """A container as root on all volumes, with the model and the truth laid out."""
        container = self._as_root_on(self.volumes)
        for place, files in (("model", self.model), ("truth", self.truth)):
            self.engine("cp", "-", f"{container}:/volumes", given=_tar({place: files}))
        return container

    def _as_root_on(self, volumes: Mapping[str, str]) -> str:
        """Start a container that does nothing, with volumes below ``/volumes``.

        It has to run: podman mounts the volumes of a container that does, and copies into no other.
        """
        mounts = [f"--volume={name}:/volumes/{place}:nocopy" for place, name in volumes.items()]
        container = self.engine.create(
            *["--user", "0:0", "--network", "none", *mounts, "--entrypoint", "/bin/sh", self.derived],
            *["-c", "while :; do sleep 3600; done"],
        )
        self.engine("start", container)
        return container

    def flags(self, variant: Variant = "plain", *, truth: Files | None = None) -> list[str]:
        """Options of the engine's ``create``."""
        profile = self.profile
        data = (profile.memory_gb - 1) * GB
        flags = ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        flags += ["--memory", f"{profile.memory_gb}g", "--memory-swap", f"{profile.memory_gb}g"]
        flags += ["--ulimit", f"data={data}:{data}", "--shm-size", f"{profile.memory_gb * GB // 2}"]
        flags += ["--cpus", "1" if variant == "one core" else str(profile.cpus), "--pids-limit", "512"]
        flags += ["--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777"]
        flags += ["--env", "LOG_LEVEL=INFO", "--env", "PYTHONUNBUFFERED=1"]
        for place, target, mode in (
            ("input", INPUT_TARGET, "ro,"),
            ("output", "/output", ""),
            ("void" if variant == "no model" else "model", MODEL, "ro,"),
        ):
            flags += ["--volume", f"{self.volumes[place]}:{target}:{mode}nocopy"]
        truth_volume = self.volumes["truth"] if truth is None else self._other_truth(truth)
        flags += ["--volume", f"{truth_volume}:{TRUTH}:ro,nocopy"]
        if profile.gpu and self.engine.has_gpu:
            flags += ["--gpus", "all"]
        else:
            flags += ["--env", "CUDA_VISIBLE_DEVICES="]  # this host's /proc may tell of a GPU that is not lent
        if variant == "read-only root":
            flags += ["--read-only"]
        if variant == "another user":
            flags += ["--user", "12345:0"]
        return flags

    def _other_truth(self, truth: Files) -> str:
        volume = self.engine.volume()
        filler = self._as_root_on({"truth": volume})
        self.engine("cp", "-", f"{filler}:/volumes", given=_tar({"truth": truth}))
        self.engine("rm", "--force", filler)
        return volume

    def lay_out(self, study: Files) -> None:
        """Give ``/input`` this content, and ``/output`` none."""
        helper = self.helper
        empty = "for d in input output; do find /volumes/$d -mindepth 1 -delete; done; chmod 777 /volumes/output"
        self.engine("exec", helper, "/bin/sh", "-c", empty)
        self.engine("cp", "-", f"{helper}:/volumes", given=_tar({"input": study}))

    def take(self) -> Path:
        """What ``/output`` holds now, copied."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        content = self.engine("cp", f"{self.helper}:/volumes/output", "-")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                if member.isfile() or member.isdir():
                    member.uid = member.gid = 0
                    tar.extract(member, folder, filter="data")
        return folder / "output"

    def run_once(self, study: Files, variant: Variant = "plain", *, truth: Files | None = None) -> Case:
        """Start the image for one case, as the platform's ``exec`` does."""
        self.lay_out(study)
        container = self.engine.create(*self.flags(variant, truth=truth), self.derived)
        begun = time.monotonic()
        with _Attached(self.engine, container, self.work) as attached:
            status = attached.wait(self.limits.case)
            seconds = time.monotonic() - begun
            if status is None:
                self.engine("kill", container)
                attached.wait(60)
            note = "out of memory" if self._killed_for_memory(container) else ""
            if status is None:
                note = f"did not end within {self.limits.case:g} s"
            output = self.take()
            self.engine("rm", "--force", container)
            return Case(status, 0, attached.stdout(), attached.stderr(), seconds, output, note)

    def probe(self, code: str) -> dict[str, Any]:
        """Run a few lines of Python in the image, under the conditions of a case; they print JSON.

        Raises
        ------
        OncoduetError
            The image has no ``python3``.
        """
        self.lay_out({"inputs.json": b"[]"})
        status, stdout, stderr = self.engine.ask(
            *["run", "--rm", "--label", self.engine.label, *self.engine.own_limits, *self.flags()],
            *["--entrypoint", "python3", self.derived, "-c", code],
        )
        if status != 0:
            raise OncoduetError(
                f"{self.image}: expected python3 in the image, to look around, found: {last_line(stderr)}"
            )
        found: dict[str, Any] = json.loads(stdout)
        return found

    def _killed_for_memory(self, container: str) -> bool:
        return self.engine("inspect", "--format", "{{.State.OOMKilled}}", container).strip() == b"true"


_HEALTH = """
import http.client, json, sys, time
begun, statuses, slowest = time.monotonic(), [], 0.0
while time.monotonic() - begun < float(sys.argv[2]):
    asked = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=float(sys.argv[3]))
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError as error:
        status = type(error).__name__
    slowest = max(slowest, time.monotonic() - asked)
    statuses += [] if statuses[-1:] == [status] else [status]
    if status == 200 or isinstance(status, int) and 300 <= status < 400:
        break
    time.sleep(0.1)
print(json.dumps({"statuses": statuses, "slowest_s": slowest}))
"""
_INVOKE = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=float(sys.argv[2]))
try:
    connection.request("POST", "/invoke")
    print(json.dumps(connection.getresponse().status))
except OSError as error:
    print(json.dumps(None))
"""


@dataclass
class Server:
    """A container that was started once and is asked for several cases."""

    place: Place
    container: str
    attached: "_Attached"
    health: dict[str, Any]
    """Statuses in turn, how long the slowest answer took, and when it was ready (None: never)."""
    processes: int = 0
    """How many ran in it before the first case."""

    @property
    def ready(self) -> bool:
        return self.health["ready_s"] is not None

    def invoke(self, study: Files) -> Case:
        """Ask for one case."""
        place = self.place
        place.lay_out(study)
        before = len(self.attached.stdout()), len(self.attached.stderr())
        begun = time.monotonic()
        status = self.post(place.limits.case) if self.ready else None
        seconds = time.monotonic() - begun
        time.sleep(0.2)  # what was printed last is on its way through the engine
        stdout, stderr = self.attached.stdout()[before[0] :], self.attached.stderr()[before[1] :]
        note = "" if self.ready else f"/health never said 200 ({self.health['statuses']})"
        return Case(status, 201, stdout, stderr if self.ready else self.attached.stderr(), seconds, place.take(), note)

    def post(self, seconds: float) -> int | None:
        """Ask for a case and return the status."""
        answered, stdout, _ = self.place.engine.ask(
            "exec", self.container, "python3", "-c", _INVOKE, str(PORT), str(seconds), seconds=seconds + 60
        )
        return json.loads(stdout) if answered == 0 else None

    def begin_post(self) -> subprocess.Popen[bytes]:
        """Ask for a case and do not wait."""
        return self.place.engine.start(
            *["exec", self.container, "python3", "-c", _INVOKE, str(PORT), str(self.place.limits.case)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def count_processes(self) -> int:
        """How many run in it now."""
        return max(0, len(self.place.engine("top", self.container).splitlines()) - 1)

    def peak_memory_gb(self) -> float | None:
        """The largest memory that it held, by the kernel's account; None where that is not kept."""
        paths = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
        _, stdout, _ = self.place.engine.ask("exec", self.container, "/bin/sh", "-c", f"cat {paths} 2>/dev/null")
        numbers = [int(word) for word in stdout.split() if word.isdigit()]
        return numbers[0] / 1e9 if numbers else None

    def stop(self) -> float | None:
        """Send SIGTERM; how many seconds it took to end, or None where it did not within the limit (it is killed)."""
        begun = time.monotonic()
        self.place.engine.ask("kill", "--signal", "TERM", self.container)
        status = self.attached.wait(self.place.limits.stop)
        seconds = time.monotonic() - begun
        if status is None:
            self.place.engine.ask("kill", self.container)
            self.attached.wait(60)
        self.place.engine.ask("rm", "--force", self.container)
        return None if status is None else seconds


def start_server(
    place: Place, variant: Variant = "plain", *, truth: Files | None = None, patience: float | None = None
) -> Server:
    """Start the image's server and wait until it is ready, or for ``patience`` seconds (default: the platform's)."""
    place.lay_out({})
    container = place.engine.create(*place.flags(variant, truth=truth), place.derived)
    begun = time.monotonic()
    attached = _Attached(place.engine, container, place.work).start()
    limits = place.limits
    wait = limits.start if patience is None else patience
    health: dict[str, Any] = {"statuses": [], "slowest_s": 0.0}
    while time.monotonic() - begun < wait and attached.status() is None:
        left = wait - (time.monotonic() - begun)
        status, stdout, stderr = place.engine.ask(
            *["exec", container, "python3", "-c", _HEALTH, str(PORT), str(min(left, 20.0)), str(limits.health)]
        )
        if status == 0:
            found = json.loads(stdout)
            health = {
                "statuses": health["statuses"] + found["statuses"],
                "slowest_s": max(health["slowest_s"], found["slowest_s"]),
            }
            last = found["statuses"][-1:]
            if last == [200] or (last and isinstance(last[0], int) and 300 <= last[0] < 400):
                break
        elif b"python3" in stdout + stderr and b"not found" in stdout + stderr:
            raise OncoduetError(f"{place.image}: expected python3 in the image, to call its server, found none")
        else:
            time.sleep(0.1)
    ready = health["statuses"][-1:] == [200]
    server = Server(place, container, attached, {**health, "ready_s": time.monotonic() - begun if ready else None})
    server.processes = server.count_processes() if ready else 0
    return server


class _Attached:
    """The streams of a container, byte for byte: the engine's own log would replace what is not UTF-8."""

    def __init__(self, engine: Engine, container: str, work: Path) -> None:
        self.engine, self.container = engine, container
        self.folder = Path(tempfile.mkdtemp(dir=work))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "_Attached":
        with (self.folder / "stdout").open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
            self.process = self.engine.start("start", "--attach", self.container, stdout=stdout, stderr=stderr)
        return self

    def __enter__(self) -> "_Attached":
        return self.start()

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def status(self) -> int | None:
        """The exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None where it runs still after so long."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stdout(self) -> bytes:
        return (self.folder / "stdout").read_bytes()

    def stderr(self) -> bytes:
        return (self.folder / "stderr").read_bytes()


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for what comes out of the containers."""
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tar(folders: Mapping[str, Files]) -> bytes:
    """Folders of files that root owns and everyone may read."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        known: set[str] = set()
        for top, files in folders.items():
            for name in [top, *(f"{top}/{path}" for path in files)]:
                parts = name.split("/")
                parents = parts if name == top else parts[:-1]
                for depth in range(1, len(parents) + 1):
                    folder = "/".join(parents[:depth])
                    if folder not in known:
                        known.add(folder)
                        entry = tarfile.TarInfo(folder)
                        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                        tar.addfile(entry)
            for path, content in files.items():
                entry = tarfile.TarInfo(f"{top}/{path}")
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Without what pads a tar to whole records: podman closes the pipe at the end of the tar.
    return stream.getvalue()[:end]
