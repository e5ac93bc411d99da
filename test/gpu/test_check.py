"""The check of a GPU, as a toy on the CPU: each phase measures what it says."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHECK = Path(__file__).with_name("check.sh")
MEASURED = {
    "facts": "device",
    "tests": "tests",
    "determinism": "configuration",
    "steps": "steps_per_s",
    "stock": "steps_per_s",
    "packs": "steps_per_s",
    "inference": "seconds",
    "memory": "outcome",
}
"""By phase: what each of its rows has, unless it says that it was refused."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_phase_measures_toys_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "check.jsonl"
    done = subprocess.run([CHECK, "--toy", "--output", output], capture_output=True, text=True, check=False)
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.read_text().splitlines()]
    ends = {line["phase"]: line for line in lines if line["state"] != "measured"}
    assert {phase: end["state"] for phase, end in ends.items()} == dict.fromkeys(MEASURED, "passed"), done.stdout
    assert done.returncode == 0
    for line in lines:
        if line["state"] == "measured":
            assert MEASURED[line["phase"]] in line or "refused" in line, line
    for row in (line for line in lines if line["phase"] == "determinism" and "configuration" in line):
        assert row["repeated"] and row["resumed"] and row["packed"]
    for row in (line for line in lines if "steps_per_s" in line):
        assert row["steps_per_s"] > 0
    assert all(f"\n{phase}: passed" in done.stdout for phase in MEASURED)


def test_failed_phase_is_named_and_the_next_one_begins(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('driver too old')\n")
    output = tmp_path / "check.jsonl"
    done = subprocess.run(
        [CHECK, "--phase", "facts", "memory", "--output", output],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["phase"], line["state"]) for line in lines] == [("facts", "failed"), ("memory", "failed")]
    assert all("driver too old" in line["fault"] for line in lines)
    assert "memory: failed" in done.stdout
