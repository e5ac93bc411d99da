import json
from pathlib import Path

import pytest

from contract.records import Epoch, RunRecord, read_record, write_record
from training.campaign import PlannedRun


@pytest.fixture
def campaign_file(prepared_folder, profile, tmp_path):
    """Write a campaign file; a value may be a whole table, None leaves a key out."""

    def write(name: str = "campaign.toml", **changes) -> Path:
        values = {
            "schema_version": 1,
            "prepared": str(prepared_folder),
            "output": "runs",
            "profile": str(profile),
            "configurations": ["ce", "focal"],
            "folds": [0, 2],
            "restarts": [1],
        } | changes
        path = tmp_path / name
        tables = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None and key not in tables
        ]
        for table, content in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


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
