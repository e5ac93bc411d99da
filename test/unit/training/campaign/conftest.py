import os
import stat
from pathlib import Path

import pytest

from contract.records import Epoch, RunRecord, read_record, write_record
from training.campaign import PlannedRun


@pytest.fixture
def records():
    def read(folder: Path) -> dict[str, RunRecord]:
        return {path.parent.name: read_record(path, RunRecord) for path in folder.glob("*/run.json")}

    return read


@pytest.fixture
def write_run():
    """Write a run's record as its process would have left it."""

    def write(planned: PlannedRun, state: str, *, epochs: int = 0, epoch_s: float = 10.0, device: str = "cpu") -> None:
        done = [
            Epoch(
                epoch=number,
                train_loss=1.0 / (number + 1),
                validation_loss=1.5 / (number + 1),
                learning_rate=0.01,
                wall_s=epoch_s,
            )
            for number in range(epochs)
        ]
        planned.folder.path.mkdir(parents=True, exist_ok=True)
        record = planned.run.record(state=state, epochs=done, wall_s=epochs * epoch_s, cpu_s=epochs * epoch_s)
        if device == "cuda":
            record = record.model_copy(update={"gpu_s": record.wall_s})
        write_record(planned.folder.record, record)

    return write


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Commands in front of, or in place of, all others."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(only: bool = False, **scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder) if only else f"{folder}{os.pathsep}{os.environ['PATH']}")

    return write
