"""The container engine, by its command line; everything made here has one label, by which it is removed at the end.

Docker, or podman with the same commands. Only this module starts the engine's client. Its processes get a session of
their own, so that Ctrl-C reaches only us and everything can still be removed. A client's output is untrusted: a bounded
part of each stream is kept, and an image's files are read from the tar that the engine makes.
"""

import io
import json
import os
import re
import resource
import signal
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import IO, Any

from contract.errors import OncoduetError, problem_of
from contract.text import one_line

LABEL = "oncoduet.conformance"
_ANSWER_S = 1800
"""Time limit of an engine command; loading and saving large images take minutes."""

_REMOVALS, _BETWEEN_REMOVALS_S = 10, 1.0
_MOST_FILES, _PROCESSES = 1 << 20, 4096
Files = Mapping[str, bytes]
"""File contents by path relative to a folder."""

MOST_BYTES = 16 << 20
"""Limit of one stream, more than honest output needs."""
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
"""Names and ids of images; nothing else is written into a Dockerfile."""


class Kept:
    """The first bytes of a stream, up to a limit; the rest is read and dropped, so that the writer is not blocked."""

    def __init__(self, stream: IO[bytes], *, flooded: Callable[[], None] = lambda: None) -> None:
        self.too_much = False
        self._kept = bytearray()
        self._flooded = flooded
        self._thread = Thread(target=self._read, args=[stream], daemon=True)
        self._thread.start()

    def so_far(self) -> bytes:
        """The bytes kept until now."""
        return bytes(self._kept)

    def whole(self) -> bytes:
        """The bytes kept, once the stream has ended."""
        self._thread.join()
        return self.so_far()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
                room = MOST_BYTES - len(self._kept)
                self._kept += chunk[:room]
                if len(chunk) > room and not self.too_much:
                    self.too_much = True
                    self._flooded()


@dataclass(frozen=True)
class ContainerEngine:
    """The engine, and everything that one run of the conformance makes with it."""

    command: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Value of the label of everything that is made."""
    loaded: dict[str, str] = field(default_factory=dict)
    """Names of loaded images, and the ids of images that had these names before (empty: none)."""

    @property
    def label(self) -> str:
        """Label of everything that is made."""
        return f"{LABEL}={self.name}"

    def __call__(self, *arguments: str, given: bytes | None = None) -> bytes:
        """Run one command of the client. Raises ``OncoduetError``: the engine refuses."""
        ended = self._run(arguments, given=given, seconds=_ANSWER_S)
        if ended.returncode != 0:
            said = one_line(ended.stderr.decode(errors="replace")) or f"exit code {ended.returncode}"
            raise OncoduetError(f"{self.command} {arguments[0]}", said)
        return ended.stdout

    def ask(self, *arguments: str, seconds: float = _ANSWER_S) -> tuple[int, bytes, bytes]:
        """Run one command that may fail; returns status, stdout and stderr."""
        ended = self._run(arguments, given=None, seconds=seconds)
        return ended.returncode, ended.stdout, ended.stderr

    def _run(self, arguments: Sequence[str], *, given: bytes | None, seconds: float) -> CompletedProcess[bytes]:
        command = [self.command, *arguments]
        process = self._begin(command, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        stdout, stderr = (Kept(stream, flooded=lambda: _end(process)) for stream in (process.stdout, process.stderr))
        try:
            if given is not None:
                Thread(target=_feed, args=[process.stdin, given], daemon=True).start()
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise OncoduetError(f"{self.command} {arguments[0]}", f"did not end within {seconds:g} s") from None
        finally:
            _end(process)
            process.wait()
        if stdout.too_much or stderr.too_much:
            raise OncoduetError(f"{self.command} {arguments[0]}", f"more than {MOST_BYTES} bytes of output")
        return CompletedProcess(command, process.returncode, stdout.whole(), stderr.whole())

    def _begin(self, command: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise OncoduetError(self.command, f"cannot run the container engine: {problem_of(error)}") from None

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command without waiting for it; its stdout and stderr are pipes."""
        return self._begin([self.command, *arguments])

    def create(self, *arguments: str) -> str:
        """Create a container without network and log, and return its id."""
        return self("create", *self.closed, *arguments).decode().strip()

    @property
    def closed(self) -> list[str]:
        """Options of every ``create`` and ``run``."""
        alone = ["--network", "none", "--log-driver", "none", "--no-healthcheck"]
        return ["--label", self.label, *alone, *self.own_limits]

    @contextmanager
    def reading(self, container: str, path: str) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]]:
        """Entries below a path in a container, as the engine packs them; none where there is no such path.

        Nothing runs in the container, and links are not followed.
        """
        process = self.start("cp", f"{container}:{path}", "-")
        assert process.stdout is not None and process.stderr is not None
        Kept(process.stderr)
        try:
            yield _entries(process.stdout)
        finally:
            _end(process)
            process.wait()
            process.stdout.close()

    @property
    def own_limits(self) -> list[str]:
        """Options of ``create`` and ``run`` that limit files and processes under podman.

        Its defaults are a million files and more processes than runc grants; every case is limited to 512 processes
        anyway.
        """
        if Path(self.command).name != "podman":
            return []
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = _MOST_FILES if files == resource.RLIM_INFINITY else min(files, _MOST_FILES)
        return ["--ulimit", f"nofile={files}:{files}", "--ulimit", f"nproc={_PROCESSES}:{_PROCESSES}"]

    def volume(self) -> str:
        """Create a volume and return its name."""
        return self("volume", "create", "--label", self.label).decode().strip()

    def require_silent(self, image: str) -> None:
        """Raise ``OncoduetError`` for an image with ONBUILD steps or an invalid name."""
        if not _REFERENCE.fullmatch(image):
            raise OncoduetError(image, "not a valid image name")
        if steps := (self.image(image).get("Config") or {}).get("OnBuild"):
            raise OncoduetError(image, f"has an ONBUILD step, which would run here as root: {steps[0]!r}")

    def add_layer(self, image: str, layer: bytes, *, tag: str) -> None:
        """Add a tar's content to an image, under another name; nothing runs."""
        self.require_silent(image)
        name, _, value = self.label.partition("=")
        files = {"Dockerfile": f"FROM {image}\nADD layer.tar /\nLABEL {name}={value}\n".encode(), "layer.tar": layer}
        self("build", "--quiet", "--network", "none", "--tag", tag, "-", given=pack(files))

    def image(self, name: str) -> dict[str, Any]:
        """The engine's record of an image. Raises ``OncoduetError``: there is no such image."""
        status, stdout, _ = self.ask("image", "inspect", name)
        if status != 0:
            raise OncoduetError(name, "neither an image known to the engine nor an archive of one")
        found: dict[str, Any] = json.loads(stdout)[0]
        return found

    def load(self, archive: Path) -> str:
        """Load an image from its archive and return its name; the change is undone at the end."""
        rows = self("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").decode().splitlines()
        before = {name: id for id, name in (row.split(" ", 1) for row in rows)}
        known = {row.split(" ", 1)[0].removeprefix("sha256:") for row in rows}
        said = self("load", "--input", str(archive)).decode().splitlines()
        name = said[-1].partition(":")[2].strip()
        if self.image(name)["Id"].removeprefix("sha256:") not in known:
            self.loaded[name] = before.get(name, "")
        return name

    def require_amd64(self) -> None:
        """Raise ``OncoduetError`` unless the engine runs on amd64, as the platform does."""
        architecture = self._first("info", "{{.Architecture}}", "{{.Host.Arch}}")
        if architecture not in ("x86_64", "amd64"):
            raise OncoduetError(
                self.command,
                expected="an engine on amd64, as the platform's machines are",
                found=(f"{architecture}; time and memory of an emulated machine say nothing about the platform"),
            )

    @property
    def version(self) -> str:
        """Version of the engine."""
        return self._first("version", "{{.Server.Version}}", "{{.Client.Version}}")

    def _first(self, command: str, *templates: str) -> str:
        """Output for the first template that the engine knows; Docker and podman use different names."""
        for template in templates:
            status, stdout, stderr = self.ask(command, "--format", template)
            if status == 0:
                return stdout.decode(errors="replace").strip()
        raise OncoduetError(f"{self.command} {command}", f"no answer: {last_line(stderr)}")

    @property
    def has_gpu(self) -> bool:
        """Whether containers can be given an NVIDIA GPU."""
        status, stdout, _ = self.ask("info", "--format", "{{json .Runtimes}}")
        return status == 0 and b'"nvidia"' in stdout

    def remove_everything(self) -> None:
        """Remove all containers, volumes and images with the label, and the images that were loaded.

        A container that the engine was still making when its client was killed may appear late, and hold a volume.
        """
        for left in reversed(range(_REMOVALS)):
            try:
                self._remove_made()
                break
            except OncoduetError:
                if not left:
                    raise
                time.sleep(_BETWEEN_REMOVALS_S)
        for name, before in self.loaded.items():
            self("rmi", "--force", name)
            if before:
                self("tag", before, name)

    def _remove_made(self) -> None:
        chosen = ["--filter", f"label={self.label}"]
        for listing, removal in (
            (["ps", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
            (["volume", "ls", "--quiet"], ["volume", "rm", "--force"]),
            (["images", "--quiet"], ["rmi", "--force"]),
        ):
            names = self(*listing, *chosen).decode().split()
            if names:
                self(*removal, *dict.fromkeys(names))


@contextmanager
def session(command: str, name: str | None = None) -> Iterator[ContainerEngine]:
    """Give an engine; everything that was made with it is removed at the end, also after an error."""
    engine = ContainerEngine(command) if name is None else ContainerEngine(command, name)
    try:
        yield engine
    finally:
        engine.remove_everything()


def pack(files: Files, *, owner: int = 0) -> bytes:
    """A tar of files and their folders, which everyone may read.

    Parameters
    ----------
    files
        Contents by path; a path that ends with ``/`` is an empty folder.
    owner
        User and group of all.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        known: set[str] = set()
        for path, content in files.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in known:
                    known.add(folder)
                    tar.addfile(entry(folder, tarfile.DIRTYPE, owner=owner))
            if parts[-1]:
                file = entry(path, tarfile.REGTYPE, mode=0o644, owner=owner)
                file.size = len(content)
                tar.addfile(file, io.BytesIO(content))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Without what pads a tar to whole records: podman closes the pipe at the end of the tar.
    return stream.getvalue()[:end]


def entry(name: str, kind: bytes, *, mode: int = 0o755, owner: int = 0, link: str = "") -> tarfile.TarInfo:
    """A member of a tar."""
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.linkname = kind, mode, link
    made.uid = made.gid = owner
    return made


def _entries(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    begun = False
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                begun = True
                yield member, tar.extractfile(member) if member.isfile() else None
    except tarfile.TarError as error:
        if begun:  # else there is no such path
            raise OncoduetError(f"the engine's tar is not whole: {error}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a client and all processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _feed(stream: IO[bytes], given: bytes) -> None:
    with suppress(BrokenPipeError), stream:
        stream.write(given)


def last_line(text: bytes) -> str:
    """The last line that is not empty, as the platform shows it; empty if there is none."""
    lines: Sequence[str] = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
