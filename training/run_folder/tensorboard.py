"""Curves for TensorBoard: losses, learning rate, pseudo Dice and seconds of every epoch, in one event file per run.

A resumed run starts a new file and writes the earlier epochs first: they are in its checkpoint, and an event
file to which two processes have added would show epochs twice. Each epoch is on disk when it has ended.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
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
            for earlier in self.folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            # The writer that TensorBoard users know has a thread of its own, which a forked process would lack.
            self._writer = EventsWriter(str(self.folder / "events"))
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
