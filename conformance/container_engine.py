"""The container engine, by its command line; everything made here bears one label, by which it is removed at the end.

Docker, or podman under the same commands. Only ``engine.py`` starts the engine's client. Its processes get a session of
their own, so that Ctrl-C reaches us only and what was made can still be removed. A client's output is untrusted: a
bounded part of each stream is kept, and an image's files are taken as the tar that the engine makes.
"""

import io
import json
import os
import re
import resource
import signal
import subprocess
import tarfile
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
"""Within which the engine answers; loading and saving large images take minutes."""

_MOST_FILES, _PROCESSES = 1 << 20, 4096
MOST_BYTES = 16 << 20
"""Kept of one stream, more than any honest one says."""
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
"""Any name or id of an image; nothing else enters a Dockerfile."""


class Kept:
    """The first bytes of a stream, up to a limit; the rest is read and dropped, so that the writer is not blocked."""

    def __init__(self, stream: IO[bytes], *, flooded: Callable[[], None] = lambda: None) -> None:
        self.too_much = False
        self._kept = bytearray()
        self._flooded = flooded
        self._thread = Thread(target=self._read, args=[stream], daemon=True)
        self._thread.start()

    def so_far(self) -> bytes:
        """What was kept until now."""
        return bytes(self._kept)

    def whole(self) -> bytes:
        """The same, once the stream has ended."""
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
    """An engine that answers, and everything that one check of an image makes with it."""

    command: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of what is made here, by which it can be found."""
    loaded: dict[str, str] = field(default_factory=dict)
    """Names of images that were not there before, and the ids of those that had these names (empty: none)."""

    @property
    def label(self) -> str:
        """Borne by all that is made here."""
        return f"{LABEL}={self.name}"

    def __call__(self, *arguments: str, given: bytes | None = None) -> bytes:
        """Run one command of the client. Raises ``OncoduetError``: the engine refuses."""
        ended = self._run(arguments, given=given, seconds=_ANSWER_S)
        if ended.returncode != 0:
            said = one_line(ended.stderr.decode(errors="replace")) or f"exit code {ended.returncode}"
            raise OncoduetError(f"{self.command} {arguments[0]}", said)
        return ended.stdout

    def ask(self, *arguments: str, seconds: float = _ANSWER_S) -> tuple[int, bytes, bytes]:
        """Run one command whose failure is an answer too; status, stdout and stderr."""
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
            raise OncoduetError(f"{self.command} {arguments[0]}", f"no end within {seconds:g} s") from None
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
        """Begin a command and do not wait for it; its stdout and stderr are pipes."""
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
        """What a path in a container holds, entry by entry as the engine packs it; none where there is no such path.

        Nothing runs in the container for it, and a link comes as a link.
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
        """Options of ``create`` and ``run`` without which podman asks for more files and processes than it may give.

        Its own defaults are a million files, and more processes than runc grants. Every case is held to 512 processes
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
        """Raise ``OncoduetError`` where an image has steps of its own for a build, or a name that is none."""
        if not _REFERENCE.fullmatch(image):
            raise OncoduetError(image, expected="the name of an image", found="other characters in it")
        if steps := (self.image(image).get("Config") or {}).get("OnBuild"):
            raise OncoduetError(image, expected="no ONBUILD, whose steps would run here as root", found=f"{steps[0]!r}")

    def add_layer(self, image: str, layer: bytes, *, tag: str) -> None:
        """Put a tar's content over an image, under another name; nothing runs, so nothing of the image's does."""
        self.require_silent(image)
        name, _, value = self.label.partition("=")
        files = {"Dockerfile": f"FROM {image}\nADD layer.tar /\nLABEL {name}={value}\n".encode(), "layer.tar": layer}
        self("build", "--quiet", "--network", "none", "--tag", tag, "-", given=pack(files))

    def image(self, name: str) -> dict[str, Any]:
        """What the engine knows about an image. Raises ``OncoduetError``: there is no such image."""
        status, stdout, _ = self.ask("image", "inspect", name)
        if status != 0:
            raise OncoduetError(name, "neither an image of the engine nor an archive of one")
        found: dict[str, Any] = json.loads(stdout)[0]
        return found

    def load(self, archive: Path) -> str:
        """Load an image from its archive and return its name; what that changed is undone in the end."""
        rows = self("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").decode().splitlines()
        before = {name: id for id, name in (row.split(" ", 1) for row in rows)}
        known = {row.split(" ", 1)[0].removeprefix("sha256:") for row in rows}
        said = self("load", "--input", str(archive)).decode().splitlines()
        name = said[-1].partition(":")[2].strip()
        if self.image(name)["Id"].removeprefix("sha256:") not in known:
            self.loaded[name] = before.get(name, "")
        return name

    def require_amd64(self) -> None:
        """Raise ``OncoduetError`` where the engine's machine is not of the platform's kind."""
        architecture = self._first("info", "{{.Architecture}}", "{{.Host.Arch}}")
        if architecture not in ("x86_64", "amd64"):
            raise OncoduetError(
                self.command,
                expected="an engine on amd64, as the platform's machines are",
                found=(
                    f"{architecture}; run the conformance on such a machine, an emulated one says nothing "
                    "about time and memory"
                ),
            )

    @property
    def version(self) -> str:
        """Of the engine itself."""
        return self._first("version", "{{.Server.Version}}", "{{.Client.Version}}")

    def _first(self, command: str, *templates: str) -> str:
        """What the first template gives that the engine knows: Docker and podman name things differently."""
        for template in templates:
            status, stdout, stderr = self.ask(command, "--format", template)
            if status == 0:
                return stdout.decode(errors="replace").strip()
        raise OncoduetError(f"{self.command} {command}", expected="an answer", found=last_line(stderr))

    @property
    def has_gpu(self) -> bool:
        """Whether containers can be given an NVIDIA GPU."""
        status, stdout, _ = self.ask("info", "--format", "{{json .Runtimes}}")
        return status == 0 and b'"nvidia"' in stdout

    def remove_everything(self) -> None:
        """Remove all that bears the label, containers, volumes and images, and the images that were loaded."""
        chosen = ["--filter", f"label={self.label}"]
        for listing, removal in (
            (["ps", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
            (["volume", "ls", "--quiet"], ["volume", "rm", "--force"]),
            (["images", "--quiet"], ["rmi", "--force"]),
        ):
            names = self(*listing, *chosen).decode().split()
            if names:
                self(*removal, *dict.fromkeys(names))
        for name, before in self.loaded.items():
            self("rmi", "--force", name)
            if before:
                self("tag", before, name)


@contextmanager
def session(command: str, name: str | None = None) -> Iterator[ContainerEngine]:
    """Give an engine; in the end, however it comes, nothing is left of what was made with it."""
    engine = ContainerEngine(command) if name is None else ContainerEngine(command, name)
    try:
        yield engine
    finally:
        engine.remove_everything()


def pack(files: Mapping[str, bytes], *, owner: int = 0) -> bytes:
    """A tar of files and their folders, which everyone may read.

    Parameters
    ----------
    files
        Contents by path; a path that ends with ``/`` is a folder without any.
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
    """End a client and all processes that it started, which would continue to write."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _feed(stream: IO[bytes], given: bytes) -> None:
    with suppress(BrokenPipeError), stream:
        stream.write(given)


def last_line(text: bytes) -> str:
    """The last line that is not empty, as the platform shows it; empty where there is none."""
    lines: Sequence[str] = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
