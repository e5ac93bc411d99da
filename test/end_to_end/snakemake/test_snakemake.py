"""A campaign through its Snakefile, here and on a real Slurm: runs are killed and cancelled, and all is made once.

Snakemake is in an environment of its own (``requirements/snakemake.lock`` in ``build/snakemake``), as at a user's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import SNAKEMAKE
from programs import python
from tiny import tiny_profile

from contract.records import RunRecord, read_record

pytestmark = [pytest.mark.snakemake, pytest.mark.slow, pytest.mark.timeout(400)]

EPOCHS = 16
PROFILE = tiny_profile(epochs=EPOCHS, iterations=6, patch_size_zyx=(8, 32, 32), features=(8, 16, 16), convolutions=2)
CAMPAIGN = """
schema_version = 1
prepared = "prepared"
output = "the runs"
profile = "profile.toml"
configurations = ["ce", "focal"]
folds = [1]
restarts = [1]

[slurm]
time_limit_minutes = 30
memory_gb = 2
setup = ["true ${HOME}"]
"""
NAMES = ["ce_fold1_restart1", "focal_fold1_restart1"]
ON_SLURM = [
    "--executor=slurm",
    "--slurm-no-account",
    "--slurm-status-command=squeue",
    "--seconds-between-status-checks=2",
]
ON_SLURM += ["--slurm-init-seconds-before-status-checks=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared dataset, a profile and a campaign file."""
    folder = tmp_path_factory.mktemp("snakemake")
    card = ["--card", "cspca-picai"]
    made = ["--cases", 8, "--positive-fraction", 0.5, "--seed", 3]
    assert python("-m", "phantom", *card, *made, "--output", folder / "archive").returncode == 0
    read = ["--archive", folder / "archive", "--folds", 2]
    assert python("-m", "training", "prepare", *card, *read, "--output", folder / "prepared").returncode == 0
    (folder / "profile.toml").write_text(PROFILE)
    (folder / "campaign.toml").write_text(CAMPAIGN)
    return folder


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of Snakemake; whatever is left of them is ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("where", ["here", pytest.param("slurm", marks=pytest.mark.slurm)])
def test_a_snakemake_campaign_survives_killed_jobs_with_the_same_bits(place, started, where):
    campaign = ["campaign", place / "campaign.toml", "--device", "cpu"]
    local = place / "local"
    if not local.is_dir():
        assert python("-m", "training", *campaign, "--output", local).returncode == 0
    runs = place / f"runs {where}"
    work = place / where
    work.mkdir()
    emitted = python("-m", "training", *campaign, "--output", runs, "--emit", "snakemake", work / "Snakefile")
    assert (emitted.returncode, emitted.stderr) == (0, "")
    assert emitted.stdout.splitlines()[-1] == f"{work / 'Snakefile'}: 2 runs"

    first = snakemake(work, started, where)
    lost = until_at_work(runs, first)
    if where == "here":
        os.kill(json.loads((runs / lost / ".lock").read_text())["pid"], signal.SIGKILL)
    else:
        jobs = subprocess.run(["squeue", "--noheader", "--format=%i %k"], capture_output=True, text=True, check=True)
        job = next(line.split()[0] for line in jobs.stdout.splitlines() if lost in line)
        subprocess.run(["scancel", job], check=True)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, said
    assert "Trying to restart job" in said

    for name in NAMES:
        record = read_record(runs / name / "run.json", RunRecord)
        assert read_record(runs / name / "finished.json", RunRecord) == record
        assert record.state == "finished"
        assert record.weights_sha256 == read_record(local / name / "run.json", RunRecord).weights_sha256
        log = (runs / name / "training.log").read_text()
        begun = list(map(int, re.findall(r"Epoch (\d+)\s*$", log, re.MULTILINE)))
        assert sorted(set(begun)) == list(range(EPOCHS))
        assert len(begun) <= EPOCHS + (name == lost)
    assert "2 finished" in python("-m", "training", "status", place / "campaign.toml", "--output", runs).stdout
    assert "2 finished" in python("-m", "training", *campaign, "--output", runs).stdout

    again = snakemake(work, started, where)
    assert "Nothing to be done" in again.communicate(timeout=120)[0]
    if where == "slurm":
        return
    shutil.rmtree(runs / NAMES[0])  # as a user does who wants it made again
    finished, weights = runs / NAMES[1] / "finished.json", runs / NAMES[1] / "weights.safetensors"
    finished.unlink()  # the run itself is not made again
    written = weights.stat().st_mtime_ns
    planned = snakemake(work, started, where, "--dry-run")
    assert re.search(r"^train +2$", planned.communicate(timeout=120)[0], re.MULTILINE)
    marked = snakemake(work, started, where, str(finished))
    assert "1 of 1 steps" in marked.communicate(timeout=120)[0]
    assert finished.is_file()
    assert weights.stat().st_mtime_ns == written


def snakemake(work: Path, started: list[subprocess.Popen[str]], where: str, *more: str) -> "subprocess.Popen[str]":
    options = [*ON_SLURM, "--jobs=2"] if where == "slurm" else ["--cores=2"]
    process = subprocess.Popen(
        [str(SNAKEMAKE), *options, *more],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    started.append(process)
    return process


def until_at_work(runs: Path, process: "subprocess.Popen[str]") -> str:
    """A run that has checkpoints behind it and is not about to end, once there is one."""
    while process.poll() is None:
        records = {name: runs / name / "run.json" for name in NAMES}
        epochs = {name: len(read_record(path, RunRecord).epochs) for name, path in records.items() if path.is_file()}
        if found := next((name for name, done in epochs.items() if 2 < done < EPOCHS - 5), None):
            return found
        time.sleep(0.1)
    pytest.fail(process.communicate()[0])
