import os

import pytest

from algorithm.prediction.threads import usable_cores


@pytest.fixture(autouse=True)
def _six_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("odd", 6)]
)
def test_the_containers_quota_limits_the_cores(tmp_path, text, cores):
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{text}\n")
    assert usable_cores(tmp_path) == cores


def test_without_a_quota_the_affinity_mask_counts(tmp_path):
    assert usable_cores(tmp_path) == 6
