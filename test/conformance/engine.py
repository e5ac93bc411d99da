"""The container engine, by its command line; whatever is made here bears one label, by which it is removed at the end.

Docker, or podman under the same commands. Only ``engine.py`` starts the engine's client. Its processes get a session of
their own, so that Ctrl-C reaches us alone and what was made can still be removed.
"""

import json
import resource
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any

from contract.errors import OncoduetError, one_line

LABEL = "oncoduet.conformance"
_ANSWER_S = 1800
"""Within which the engine answers; loading and saving large images take minutes."""

_MOST_FILES, _PROCESSES = 1 << 20, 4096


@dataclass(frozen=True)
class Engine:
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
        """Run one command of the client.

        Raises
        ------
        OncoduetError
            The engine refuses.
        """
        ended = self._run(arguments, given=given, seconds=_ANSWER_S)
        if ended.returncode != 0:
            said = one_line(ended.stderr.decode(errors="replace")) or f"exit code {ended.returncode}"
            raise OncoduetError(f"{self.command} {arguments[0]}: expected the engine to do it, found: {said}")
        return ended.stdout

    def ask(self, *arguments: str, seconds: float = _ANSWER_S) -> tuple[int, bytes, bytes]:
        """Run one command whose failure is an answer too; status, stdout and stderr."""
        ended = self._run(arguments, given=None, seconds=seconds)
        return ended.returncode, ended.stdout, ended.stderr

    def _run(self, arguments: Sequence[str], *, given: bytes | None, seconds: float) -> CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self.command, *arguments],
                input=given,
                capture_output=True,
                timeout=seconds,
                check=False,
                start_new_session=True,
            )
        except OSError as error:
            raise OncoduetError(
                f"{self.command}: expected the command of a container engine, found: {error.strerror}"
            ) from None

    def start(self, *arguments: str, stdout: IO[bytes] | int, stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Begin a command and do not wait for it."""
        return subprocess.Popen([self.command, *arguments], stdout=stdout, stderr=stderr, start_new_session=True)

    def create(self, *arguments: str) -> str:
        """Create a container and return its id."""
        return self("create", "--label", self.label, *self.own_limits, *arguments).decode().strip()

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

    def build(self, dockerfile: str, *, tag: str) -> None:
        """Build an image from a Dockerfile without any context."""
        self("build", "--quiet", "--tag", tag, "-", given=dockerfile.encode())

    def image(self, name: str) -> dict[str, Any]:
        """What the engine knows about an image.

        Raises
        ------
        OncoduetError
            There is no such image.
        """
        status, stdout, _ = self.ask("image", "inspect", name)
        if status != 0:
            raise OncoduetError(f"{name}: expected an image that the engine holds or an archive of one, found none")
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
                f"{self.command}: expected an engine on amd64, as the platform's machines are, found {architecture}; "
                "run the conformance on such a machine, an emulated one says nothing about time and memory"
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
        raise OncoduetError(f"{self.command} {command}: expected an answer, found: {last_line(stderr)}")

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
def session(command: str, name: str | None = None) -> Iterator[Engine]:
    """Give an engine; in the end, however it comes, nothing is left of what was made with it."""
    engine = Engine(command) if name is None else Engine(command, name)
    try:
        yield engine
    finally:
        engine.remove_everything()


def last_line(text: bytes) -> str:
    """The last line that is not empty, as the platform shows it; empty where there is none."""
    lines: Sequence[str] = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
