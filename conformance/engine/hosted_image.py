"""An image under the platform's conditions: folders, user, rights, limits, variables, and how it is started.

``/input`` is a symbolic link to a folder below ``/opt/ml/input/data`` that only root may write to; ``/output`` is
empty and open to all; ``/tmp`` is empty and in memory; model and truth are below ``/opt/ml``. There is no network, no
capability and no way to gain one. Memory is limited twice, as the platform does it: by the container, and 1 GiB lower
for the data segment of each process, so that Python sees a ``MemoryError`` before the kernel kills.

Nothing of an image runs as root here, nor with a network: the platform's folders are laid over it without a program,
outputs come as the tar that the engine makes, and an image whose user is root is not run. Between cases a helper, the
image's own ``/bin/sh`` as a user without rights, empties the volumes.
"""

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from conformance.engine.attached import Attached
from conformance.engine.conditions import Conditions
from conformance.engine.container_engine import ContainerEngine, Files, entry, last_line, pack
from conformance.engine.machines import PROFILES, Limits, Machine
from contract.errors import OncoduetError
from contract.upload import user_and_group

INPUT_TARGET = "/opt/ml/input/data/case-input"
MODEL = "/opt/ml/model"
TRUTH = "/opt/ml/input/data/ground_truth"
API_LABEL = "org.grand-challenge.api-method"
GIB = 1 << 30
MOST_OUTPUT_BYTES, MOST_OUTPUT_FILES = 2 * GIB, 1000
"""Limits of what is copied from ``/output``; a case that writes more has failed."""
_MOST_PASSWD_BYTES = 1 << 20
_HELPER, _OTHER = 65531, 12345
"""User ids of the helper container, and of a user other than the image's."""
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class CaseRun:
    """How one case ended."""

    status: int | None
    """Exit code, or HTTP status of an invocation; None: not ended in time, or the server was never ready."""
    success: int
    stdout: bytes
    stderr: bytes
    seconds: float
    output: Path
    """Copy of ``/output`` after the case."""
    note: str = ""
    """Cause of a failure, as far as known."""

    @property
    def succeeded(self) -> bool:
        """Whether the case ended with the status that means success."""
        return self.status == self.success

    @property
    def how(self) -> str:
        """The outcome in a few words, with the last line of stderr."""
        word = "exit code" if self.success == 0 else "HTTP status"
        ended = "no answer" if self.status is None else f"{word} {self.status}"
        return ", ".join(part for part in (ended, self.note, last_line(self.stderr)[:300]) if part)


class NotRunError(OncoduetError):
    """The image is not run, since its user is root or unknown."""


Variant = Literal["plain", "read-only root", "another user", "no model", "one core"]


_WITHOUT_RIGHTS = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@dataclass
class HostedImage:
    """One image under the platform's conditions."""

    engine: ContainerEngine
    image: str
    work: Path
    profile: Machine = PROFILES["cpu-8"]
    limits: Limits = field(default_factory=Limits)
    model: Files = field(default_factory=dict)
    truth: Files = field(default_factory=dict)
    _writers: set[int] = field(default_factory=set)
    """Ids of users who may have written into ``/output``."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image's own settings: user, entry point, labels, variables."""
        return self.engine.image(self.image).get("Config") or {}

    @property
    def api(self) -> str:
        """How the platform would start the image; it ignores quotes and case."""
        label = (self.config.get("Labels") or {}).get(API_LABEL, "exec")
        return str(label).strip().strip("\"'").lower()

    @cached_property
    def uid(self) -> int:
        """Id of the image's user, which is not root.

        Raises
        ------
        NotRunError
            It is root or unknown.
        """
        user = str(self.config.get("User") or "")
        name, _ = user_and_group(user)
        if not name:
            raise NotRunError(f"user {user!r}")
        uid = int(name) if name.isdigit() else self._uid_of(name)
        if uid is None:
            raise NotRunError(f"user {user!r}, who is not in /etc/passwd")
        if not 0 < uid < 1 << 31:
            raise NotRunError(f"user {user!r}, whose id is {uid}")
        return uid

    def _uid_of(self, name: str) -> int | None:
        """Look the name up in the image's own ``/etc/passwd``; the first entry counts, as for the engine."""
        with self.engine.reading(self.still, "/etc/passwd") as entries:
            for _, content in entries:
                text = content.read(_MOST_PASSWD_BYTES) if content else b""
                for line in text.decode(errors="replace").splitlines():
                    found, _, number, *_ = [*line.split(":"), "", "", ""]
                    if found == name:
                        return int(number) if number.isdecimal() and len(number) < 12 else None
        return None

    @cached_property
    def still(self) -> str:
        """A container of the unchanged image, for reading its files; it never runs."""
        return self.engine.create(self.image, "nothing")

    @cached_property
    def derived(self) -> str:
        """The image with the platform's folders, in one more layer, which hides its own content at these paths."""
        tag = f"oncoduet-conformance-{self.engine.name}"
        self.engine.add_layer(self.image, _platform_folders(), tag=tag)
        return tag

    @cached_property
    def volumes(self) -> dict[str, str]:
        """Names of the engine's volumes, by folder."""
        return {name: self.engine.volume() for name in ("input", "output", "model", "truth", "void")}

    @cached_property
    def helper_container(self) -> str:
        """An unprivileged container with all volumes mounted, model and truth already copied in."""
        container = self._start_helper(self.volumes)
        folders = {f"{name}/": b"" for name in ("input", "void")}
        files = {f"{top}/{path}": content for top in ("model", "truth") for path, content in getattr(self, top).items()}
        self.engine("cp", "-", f"{container}:/volumes", given=pack({**folders, **files}, owner=_HELPER))
        self.engine("cp", "-", f"{container}:/volumes", given=_open_to_all("output"))
        return container

    def _start_helper(self, volumes: Mapping[str, str]) -> str:
        """Start a container that does nothing, with volumes below ``/volumes``.

        It has to run: podman mounts volumes, and copies into them, only while a container runs.
        """
        mounts = [f"--volume={name}:/volumes/{place}:nocopy" for place, name in volumes.items()]
        container = self.engine.create(
            *["--user", f"{_HELPER}:{_HELPER}", *_WITHOUT_RIGHTS, "--memory", "1g", "--pids-limit", "64", *mounts],
            *["--entrypoint", "/bin/sh", self.derived, "-c", "while :; do sleep 3600; done"],
        )
        self.engine("start", container)
        return container

    def _empty(self, folder: str, user: int) -> None:
        """Remove a user's files from a volume."""
        below = f"find /volumes/{folder} -mindepth 1"
        theirs = f"{below} -type d -user {user} ! -perm -700 -exec chmod u+rwx {{}} \\; ; {below} -delete"
        self.engine("exec", "--user", f"{user}:{user}", self.helper_container, "/bin/sh", "-c", theirs)

    def flags(self, variant: Variant = "plain", *, truth: Files | None = None) -> list[str]:
        """Options of the engine's ``create``."""
        profile = self.profile
        data = (profile.memory_gb - 1) * GIB
        self._writers |= {self.uid, *([_OTHER] if variant == "another user" else [])}
        flags = list(_WITHOUT_RIGHTS)
        flags += ["--memory", f"{profile.memory_gb}g", "--memory-swap", f"{profile.memory_gb}g"]
        flags += ["--ulimit", f"data={data}:{data}", "--shm-size", f"{profile.memory_gb * GIB // 2}"]
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
            # /proc of this host may show a GPU that the container does not have.
            flags += ["--env", "CUDA_VISIBLE_DEVICES="]
        if variant == "read-only root":
            flags += ["--read-only"]
        if variant == "another user":
            flags += ["--user", f"{_OTHER}:0"]
        return flags

    def _other_truth(self, truth: Files) -> str:
        volume = self.engine.volume()
        filler = self._start_helper({"truth": volume})
        files = {f"truth/{path}": content for path, content in truth.items()}
        self.engine("cp", "-", f"{filler}:/volumes", given=pack(files, owner=_HELPER))
        self.engine("rm", "--force", filler)
        return volume

    def lay_out(self, study: Files) -> None:
        """Fill ``/input`` with this content, and empty ``/output``."""
        self._empty("input", _HELPER)
        for user in sorted(self._writers):
            self._empty("output", user)
        files = {f"input/{path}": content for path, content in study.items()}
        if files:
            self.engine("cp", "-", f"{self.helper_container}:/volumes", given=pack(files, owner=_HELPER))

    def take(self) -> Path:
        """Copy what ``/output`` holds now: files and folders, never a link.

        Raises ``OncoduetError``: there is too much, or it cannot be copied.
        """
        folder = Path(tempfile.mkdtemp(dir=self.work))
        (folder / "output").mkdir()
        room_bytes, room = MOST_OUTPUT_BYTES, MOST_OUTPUT_FILES
        with self.engine.reading(self.helper_container, "/volumes/output") as entries:
            for member, content in entries:
                room_bytes, room = room_bytes - member.size, room - 1
                if room_bytes < 0 or room < 0:
                    raise OncoduetError(f"more than {MOST_OUTPUT_BYTES} bytes or {MOST_OUTPUT_FILES} files in /output")
                if content is None and not member.isdir():
                    continue
                try:
                    place = folder / tarfile.data_filter(member, str(folder)).name
                    if content is None:
                        place.mkdir(exist_ok=True)
                    else:
                        place.write_bytes(content.read())
                except (OSError, ValueError, tarfile.TarError) as error:
                    raise OncoduetError(f"{member.name!r} in /output cannot be copied: {error}") from None
        return folder / "output"

    def run_once(self, study: Files, variant: Variant = "plain", *, truth: Files | None = None) -> CaseRun:
        """Start the image for one case, as the platform's ``exec`` does."""
        self.lay_out(study)
        container = self.engine.create(*self.flags(variant, truth=truth), self.derived)
        begun = time.monotonic()
        with Attached(self.engine, container) as attached:
            status = attached.wait(self.limits.case)
            seconds = time.monotonic() - begun
            if status is None:
                self.engine("kill", container)
                attached.wait(60)
            note = "out of memory" if self._killed_for_memory(container) else ""
            if status is None:
                note = f"did not end within {self.limits.case:g} s"
            self.engine("rm", "--force", "--volumes", container)
            return self.ended(status, 0, attached.stdout(), attached.stderr(), seconds=seconds, note=note)

    def ended(
        self, status: int | None, success: int, stdout: bytes, stderr: bytes, *, seconds: float, note: str
    ) -> CaseRun:
        """The ended case with its ``/output``; too much there is a failure at any status."""
        try:
            return CaseRun(status, success, stdout, stderr, seconds, self.take(), note)
        except OncoduetError as error:
            return CaseRun(None, success, stdout, stderr, seconds, Path(tempfile.mkdtemp(dir=self.work)), str(error))

    def probe(self, code: str) -> Conditions:
        """Run a few lines of Python in the image, under the conditions of a case; they print JSON.

        Raises ``OncoduetError``: the image has no ``python3``, or its output is unexpected.
        """
        self.lay_out({"inputs.json": b"[]"})
        status, stdout, stderr = self.engine.ask(
            *["run", "--rm", *self.engine.closed, *self.flags()], *["--entrypoint", "python3", self.derived, "-c", code]
        )
        if status != 0:
            raise OncoduetError(
                self.image, expected="python3 in the image, for checking the conditions", found=last_line(stderr)
            )
        return self.said(stdout, TypeAdapter(Conditions))

    def said(self, stdout: bytes, answer: TypeAdapter[_Answer]) -> _Answer:
        """Parse the output of the image's ``python3``. Raises ``OncoduetError``: it is unexpected."""
        try:
            return answer.validate_json(stdout)
        except ValidationError:
            said = last_line(stdout)[:80]
            raise OncoduetError(self.image, f"unexpected output of the image's python3: {said!r}") from None

    def _killed_for_memory(self, container: str) -> bool:
        return self.engine("inspect", "--format", "{{.State.OOMKilled}}", container).strip() == b"true"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for outputs of the containers."""
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _platform_folders() -> bytes:
    """A tar of the platform's folders; replacing a link by a folder removes what the image has there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in ("output", "opt/ml"):
            tar.addfile(entry(path, tarfile.SYMTYPE, link="/nowhere"))
        tar.addfile(entry("input", tarfile.SYMTYPE, link=INPUT_TARGET))
        tar.addfile(entry("output", tarfile.DIRTYPE, mode=0o777))
        for path in ("opt/ml", "opt/ml/input", "opt/ml/input/data", "opt/ml/model"):
            tar.addfile(entry(path, tarfile.DIRTYPE))
    return stream.getvalue()


def _open_to_all(folder: str) -> bytes:
    """A tar of one empty folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry(folder, tarfile.DIRTYPE, mode=0o777, owner=_HELPER))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    return stream.getvalue()[:end]
