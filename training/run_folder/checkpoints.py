"""Checkpoints: where an interrupted run resumes. Two are kept, the newest and the one before.

A checkpoint is the whole state of a training between two epochs. It is written to a temporary file, synced and renamed.
Its first line holds a hash over all of it: a file that was cut, or in which a bit flipped, is noticed before anything
is taken from it, and the one before counts. It also names the run that it belongs to (a hash over the run's key and
parents): a file copied from another run is refused, and only files of this run are replaced or removed. No pickle is
written or read (:mod:`training.run_folder.checkpoint_state`).

No state of a random generator is in it. All of them are reseeded at the start of every epoch, from the run's seed
and the epoch's number (``training.nnunet.seeds.seed_generators``), and checkpoints are written between epochs: seed
and epoch number, which are in it, are the state.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.files.reading import kind_of
from contract.schema import Frozen, parse
from contract.text import one_line, short_hash

KEPT = 2
"""Number of checkpoints that are kept."""

_FORMAT = "oncoduet-checkpoint-2"
_BEGINNING = b'{"format": "oncoduet-checkpoint-'
_LONGEST_HEADER_BYTES = 1024
_NAME = re.compile(r"epoch_\d+\.pt")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after so many epochs."""

    epoch: int
    """Epochs done, and so the number, from 0, of the next one."""
    seed: int
    """The run's seed; with ``epoch`` the state of every random generator."""
    state: Mapping[str, Any]
    """What the engine needs: tensors, numbers and text."""


class _DamagedError(Exception):
    """The file is not what was written."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    run_sha256: str
    """Hash over what the run is and what it is made from."""

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove all but the newest two.

        Raises ``OncoduetError``: the disk is full, or a file not written by oncoduet has the name; the earlier
        checkpoints are still there.
        """
        from training.run_folder.checkpoint_state import encode_state  # noqa: PLC0415 - takes seconds to import

        content = encode_state(checkpoint.state)
        claims = {
            "format": _FORMAT,
            "run": self.run_sha256,
            "epoch": checkpoint.epoch,
            "seed": checkpoint.seed,
            "bytes": len(content),
        }
        header = json.dumps(claims | {"sha256": _sha256(claims, content)}).encode() + b"\n"
        path = self.folder / f"epoch_{checkpoint.epoch:06d}.pt"
        if os.path.lexists(path) and not self._is_own(path):
            raise OncoduetError(path, "file not written by oncoduet where a checkpoint is to be written; move it away")
        with atomic_file(path, size_bytes=len(header) + len(content)) as partial, partial.open("wb") as stream:
            stream.write(header)
            stream.write(content)
        for older in [each for each in self.files() if self._is_own(each)][KEPT:]:
            older.unlink()
        return path

    def files(self) -> list[Path]:
        """Files with a checkpoint's name, the newest first."""
        return sorted((path for path in self.folder.glob("epoch_*.pt") if _NAME.fullmatch(path.name)), reverse=True)

    def require_own(self) -> None:
        """Raise ``OncoduetError`` if something that no run wrote has a checkpoint's name."""
        for path in self.files():
            if not is_checkpoint(path):
                raise OncoduetError(path, expected="a checkpoint", found="a file not written by oncoduet; move it away")

    def remove(self) -> None:
        """Remove the checkpoints of this run."""
        for path in self.files():
            if self._is_own(path):
                path.unlink()

    def _is_own(self, path: Path) -> bool:
        """Whether a file is a checkpoint that names this run, or is too damaged to name any."""
        if not is_checkpoint(path):
            return False
        with path.open("rb") as stream:
            header = stream.readline(_LONGEST_HEADER_BYTES)
        try:
            return parse(json.loads(header), _Claims, "claims").run == self.run_sha256
        except (ValueError, OncoduetError):
            return True

    def newest(self, *, device: str = "cpu") -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        A damaged one of this run is removed: left there, it would count as one of the two that are kept.

        Raises ``OncoduetError``: a whole checkpoint belongs to another run, or was written by another version.
        """
        from training.run_folder.checkpoint_state import decode_state  # noqa: PLC0415

        files = self.files()
        for path in files:
            try:
                claims, content = self._open(path)
            except _DamagedError as error:
                is_own = self._is_own(path)
                done = "removed" if is_own else "left alone"
                logger.warning("%s: expected a whole checkpoint, found %s; it is %s", path, error, done)
                if is_own:
                    path.unlink()
                continue
            try:
                state = decode_state(content, device=device)
            except ValueError as error:
                raise OncoduetError(path, expected="the state of a training", found=one_line(str(error))) from None
            return Checkpoint(epoch=claims.epoch, seed=claims.seed, state=state)
        if files:
            logger.warning("%s: no checkpoint is whole; the training restarts at epoch 0", self.folder)
        return None

    def require(self) -> None:
        """Raise ``OncoduetError`` unless there is a whole checkpoint of this run; nothing is changed."""
        found = "none"
        for path in self.files():
            try:
                self._open(path)
            except _DamagedError as error:
                found = f"{path.name} with {error}"
                continue
            return
        raise OncoduetError(self.folder, expected="a checkpoint to resume from", found=found)

    def _open(self, path: Path) -> tuple["_Claims", bytes]:
        """What a file's first line claims, and its content, each checked."""
        if not path.is_file():
            raise _DamagedError(kind_of(path.lstat()))
        with path.open("rb") as stream:
            header = stream.readline(_LONGEST_HEADER_BYTES)
            content = stream.read()
        try:
            claims = parse(json.loads(header), _Claims, "claims")
        except (ValueError, OncoduetError) as error:
            raise _DamagedError(f"a first line that cannot be read ({one_line(str(error))})") from None
        if len(content) != claims.size_bytes:
            raise _DamagedError(f"{len(content)} bytes in place of {claims.size_bytes}")
        if _sha256(claims.model_dump(by_alias=True, exclude={"sha256"}), content) != claims.sha256:
            raise _DamagedError("another hash than that of its content")
        if claims.format != _FORMAT:
            raise OncoduetError(
                path,
                expected=f"the format {_FORMAT}",
                found=(
                    f"{claims.format[:40]}; the version that began the run can finish it, or remove this "
                    "folder and it restarts"
                ),
            )
        if claims.run != self.run_sha256:
            raise OncoduetError(
                path,
                expected=f"a checkpoint of this run ({short_hash(self.run_sha256)}…)",
                found=f"one of another ({short_hash(claims.run)}…)",
            )
        return claims, content


def is_checkpoint(path: Path) -> bool:
    """Whether a regular file begins as a checkpoint does, or is empty: it may be damaged."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_BEGINNING)) in (_BEGINNING, b"")


class _Claims(Frozen):
    """A checkpoint's first line."""

    format: str
    run: str
    epoch: NonNegativeInt
    seed: NonNegativeInt
    size_bytes: Annotated[NonNegativeInt, Field(alias="bytes")]
    sha256: str


def _sha256(claims: Mapping[str, Any], content: bytes) -> str:
    total = hashlib.sha256(json.dumps(claims, sort_keys=True).encode())
    total.update(content)
    return total.hexdigest()
