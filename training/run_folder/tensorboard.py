"""Curves for TensorBoard: losses, learning rate, pseudo Dice and seconds of every epoch, in one event file per process.

A resumed run starts a new file, and no other is touched: it writes the earlier epochs first, which are in its
checkpoint, and tells TensorBoard that what other files hold of these and later epochs is void. Each epoch is on disk
when it has ended.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboardX.summary import scalar  # type: ignore[import-untyped]

from contract.records import Epoch


class Curves:
    """The event file of one run; nothing is touched before the first epoch is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: EventsWriter | None = None

    def add(self, epochs: Sequence[Epoch]) -> None:
        """Write the last epoch, and in a new file those before it; ``epochs`` are all so far."""
        new = epochs[-1:]
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The writer that TensorBoard users know has a thread of its own, which a forked process would lack. Files
            # are read in the order of their names, which begin with seconds.
            self._writer = EventsWriter(str(self.folder / "events"), f".{time.time_ns()}.{os.getpid()}")
            start = Event(step=epochs[0].epoch + 1, session_log=SessionLog(status=SessionLog.START))
            start.wall_time = time.time()
            self._writer.write_event(start)
            new = epochs
        for epoch in new:
            for name, value in _values(epoch).items():
                event = Event(step=epoch.epoch + 1, summary=scalar(name, value))
                event.wall_time = time.time()
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _values(epoch: Epoch) -> dict[str, float]:
    values = {
        "loss/training": epoch.train_loss,
        "loss/validation": epoch.validation_loss,
        "learning_rate": epoch.learning_rate,
        "seconds": epoch.wall_s,
    }
    return values | ({} if epoch.pseudo_dice is None else {"pseudo_dice": epoch.pseudo_dice})
