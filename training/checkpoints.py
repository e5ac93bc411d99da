"""Checkpoints: where an interrupted run goes on. Two are kept, the newest and the one before.

A checkpoint is the whole state of a training between two epochs. It is written beside, synced and renamed. Its first
line holds a hash over all of it: a file that was cut, or in which a bit flipped, is noticed before anything is taken
from it, and the one before counts. It also names the run that it belongs to (a hash over the run's key and parents), so
that a file copied from another run is refused. It is read without pickle's power to run code.

No state of a random generator is in it. All of them are seeded anew at the start of every epoch, from the run's seed
and the epoch's number (``training.engines.nnunet.seed_generators``), and checkpoints are written between epochs: seed
and epoch number, which are in it, are the state.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError, one_line
from contract.files import atomic_file

KEPT = 2
"""How many are kept."""

_FORMAT = "oncoduet-checkpoint-1"
_LONGEST_HEADER_BYTES = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after so many epochs."""

    epoch: int
    """Epochs done; the next one to be trained has this number, counted from 0."""
    seed: int
    """Of the run. Together with ``epoch`` it is the state of every random generator."""
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

        Raises
        ------
        OncoduetError
            The disk is full; the earlier checkpoints are still there.
        """
        import torch  # noqa: PLC0415 - takes seconds to import

        buffer = io.BytesIO()
        torch.save(dict(checkpoint.state), buffer)
        content = buffer.getbuffer()
        claims = {
            "format": _FORMAT,
            "run": self.run_sha256,
            "epoch": checkpoint.epoch,
            "seed": checkpoint.seed,
            "bytes": len(content),
        }
        header = json.dumps(claims | {"sha256": _sha256(claims, content)}).encode() + b"\n"
        path = self.folder / f"epoch_{checkpoint.epoch:06d}.pt"
        with atomic_file(path, size_bytes=len(header) + len(content)) as partial, partial.open("wb") as stream:
            stream.write(header)
            stream.write(content)
        for older in self.files()[KEPT:]:
            older.unlink()
        return path

    def files(self) -> list[Path]:
        """Files of checkpoints, the newest first."""
        return sorted(self.folder.glob("epoch_*.pt"), reverse=True)

    def newest(self, *, device: str = "cpu") -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        A damaged one is removed and told of in the log: left there, it would count as one of the two that are kept.

        Raises
        ------
        OncoduetError
            A whole checkpoint belongs to another run.
        """
        import torch  # noqa: PLC0415

        files = self.files()
        for path in files:
            try:
                claims, content = self._open(path)
            except _DamagedError as error:
                logger.warning("%s: expected a whole checkpoint, found %s; it is removed", path, error)
                path.unlink()
                continue
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            return Checkpoint(epoch=claims["epoch"], seed=claims["seed"], state=state)
        if files:
            logger.warning("%s: no checkpoint is whole; the training begins anew, at epoch 0", self.folder)
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
        raise OncoduetError(f"{self.folder}: expected a checkpoint to resume from, found {found}")

    def _open(self, path: Path) -> tuple[dict[str, Any], bytes]:
        """What a file's first line claims, and its content, each checked."""
        with path.open("rb") as stream:
            header = stream.readline(_LONGEST_HEADER_BYTES)
            content = stream.read()
        try:
            claims = json.loads(header)
            sha256, size = claims.pop("sha256"), claims["bytes"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _DamagedError(f"a first line that cannot be read ({one_line(str(error))})") from None
        if len(content) != size:
            raise _DamagedError(f"{len(content)} bytes in place of {size}")
        if _sha256(claims, content) != sha256:
            raise _DamagedError("another hash than that of its content")
        if (claims["format"], claims["run"]) != (_FORMAT, self.run_sha256):
            raise OncoduetError(
                f"{path}: expected a checkpoint of this run ({self.run_sha256[:12]}…), "
                f"found one of another ({claims['run'][:12]}…)"
            )
        return claims, content


def _sha256(claims: Mapping[str, Any], content: bytes | memoryview) -> str:
    total = hashlib.sha256(json.dumps(claims, sort_keys=True).encode())
    total.update(content)
    return total.hexdigest()
