import os
from pathlib import Path

import pytest

from algorithm import resources


@pytest.fixture
def quota_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "_QUOTA_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(resources, "_QUOTA_V1", (tmp_path / "quota", tmp_path / "period"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("odd", 6)]
)
def test_the_containers_quota_limits_the_cores(quota_file: Path, text: str, cores: int) -> None:
    quota_file.write_text(f"{text}\n")
    assert resources.usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 6), ("400000", 4)])
def test_the_older_quota_files_are_read_too(quota_file: Path, quota: str, cores: int) -> None:
    (quota_file.parent / "quota").write_text(quota)
    (quota_file.parent / "period").write_text("100000\n")
    assert resources.usable_cores() == cores


def test_without_a_quota_the_affinity_mask_counts(quota_file: Path) -> None:
    assert not quota_file.exists()
    assert resources.usable_cores() == 6
