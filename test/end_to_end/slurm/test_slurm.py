"""A campaign on a real Slurm: jobs are cancelled, requeued and signalled, its process is killed, and all is made."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from paths import PROJECT
from tiny import tiny_profile

from contract.records import RunRecord, read_record
from training.campaign.slurm_queue import JobsRecord

T = TypeVar("T")
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(420)]

EPOCHS = 80
PROFILE = tiny_profile(
    epochs=EPOCHS, iterations=6, patch_size_zyx=(8, 32, 32), features=(8, 16, 16), convolutions=2
)  # tiny steps, but enough epochs to be interrupted in
CAMPAIGN = """
schema_version = 1
prepared = "prepared"
output = "runs"
profile = "profile.toml"
configurations = ["ce", "focal"]
folds = [0, 1]
restarts = [1]
workers = 2

[slurm]
time_limit_minutes = 30
memory_gb = 2
poll_seconds = 2
{more}
"""
NAMES = ["ce_fold0_restart1", "ce_fold1_restart1", "focal_fold0_restart1", "focal_fold1_restart1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared dataset, a profile and a campaign file."""
    folder = tmp_path_factory.mktemp("slurm")
    python("phantom", "--card", "cspca-picai", "--cases", "8", "--positive-fraction", "0.5", "--seed", "3", "--output",
           folder / "archive")  # fmt: skip
    python("training", "prepare", "--card", "cspca-picai", "--archive", folder / "archive", "--folds", "2", "--output",
           folder / "prepared")  # fmt: skip
    (folder / "profile.toml").write_text(PROFILE)
    (folder / "campaign.toml").write_text(CAMPAIGN.format(more=""))
    return folder


@pytest.fixture
def submitters() -> Iterator[list[subprocess.Popen[str]]]:
    """Campaign processes; whatever is left of them and of their jobs is ended."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_campaign_survives_cancelled_requeued_and_signalled_jobs(place, submitters) -> None:
    runs = place / "runs"
    first = submit(place, submitters)
    jobs = until(lambda: submitted(runs), "jobs in the book")
    assert sorted(jobs) == NAMES
    cancelled = until(lambda: at_work(runs, without=[]), "a run at work")
    slurm("scancel", jobs[cancelled][0])
    requeued = until(lambda: at_work(runs, without=[cancelled]), "a second run at work")
    slurm("scontrol", "requeue", jobs[requeued][0])
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(3)  # nobody watches now

    second = submit(place, submitters)
    signalled = until(lambda: at_work(runs, without=[cancelled, requeued]), "a third run at work")
    slurm("scancel", "--signal=USR2", jobs[signalled][0])  # what Slurm sends before the time limit
    shown = python("training", "status", place / "campaign.toml")
    assert (
        len(re.findall(r"^\w+_fold\d_restart1 +(?:queued|running|finished|planned|interrupted)", shown, re.MULTILINE))
        == 4
    )

    python("training", "campaign", place / "campaign.toml", "--output", place / "local", "--device", "cpu")
    output, _ = second.communicate(timeout=330)
    assert second.returncode == 0, output
    assert "4 finished" in output
    made = {name: read_record(runs / name / "run.json", RunRecord) for name in NAMES}
    assert {record.state for record in made.values()} == {"finished"}
    for name, record in made.items():
        alone = read_record(place / "local" / name / "run.json", RunRecord)
        assert record.weights_sha256 == alone.weights_sha256, name
        assert len(record.epochs) == EPOCHS

    book = read_record(runs / "slurm" / "jobs.json", JobsRecord)
    submissions = Counter(name for job in book.jobs for name in job.runs)
    assert submissions == Counter(dict.fromkeys(NAMES, 1)) + Counter([cancelled])
    assert all(job.over is not None for job in book.jobs)
    interrupted = {cancelled, requeued, signalled}
    for name in NAMES:
        begun = Counter(re.findall(r"Epoch (\d+)\s*$", (runs / name / "training.log").read_text(), re.MULTILINE))
        assert sorted(map(int, begun)) == list(range(EPOCHS))
        assert sum(begun.values()) - EPOCHS <= (1 if name in interrupted else 0), name
    assert (runs / "status.html").is_file()

    again = python("training", "campaign", place / "campaign.toml", "--executor", "slurm", "--device", "cpu")
    assert "4 finished" in again
    assert read_record(runs / "slurm" / "jobs.json", JobsRecord).jobs == book.jobs


def test_job_that_slurm_rejects_is_one_line_and_is_not_recorded(place) -> None:
    (place / "rejected.toml").write_text(CAMPAIGN.format(more='partition = "no-such-partition"'))
    ended = run("training", "campaign", place / "rejected.toml", "--executor", "slurm", "--output", place / "rejected")
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "rejected.toml: sbatch rejected 4 jobs: " in ended.stderr
    assert "invalid partition" in ended.stderr
    assert read_record(place / "rejected" / "slurm" / "jobs.json", JobsRecord).jobs == ()


def test_a_run_whose_jobs_die_at_once_is_given_up_with_the_reason(place) -> None:
    more = 'max_attempts = 2\nsetup = ["exit 7"]'
    (place / "dying.toml").write_text(CAMPAIGN.format(more=more).replace("folds = [0, 1]", "folds = [0]"))
    ended = run("training", "campaign", place / "dying.toml", "--executor", "slurm", "--output", place / "dying")
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "2 of 2 runs failed: ce_fold0_restart1: submitted 2 times and never finished; its job" in ended.stderr
    assert ": failed, see" in ended.stderr


def submit(place: Path, submitters: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    command = ["campaign", str(place / "campaign.toml"), "--executor", "slurm", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *command],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    submitters.append(process)
    return process


def submitted(runs: Path) -> dict[str, list[str]]:
    """Numbers of the jobs of each run, once all have one."""
    path = runs / "slurm" / "jobs.json"
    jobs = read_record(path, JobsRecord).jobs if path.is_file() else ()
    found: dict[str, list[str]] = {}
    for job in jobs:
        if job.id is None:
            return {}
        for name in job.runs:
            found.setdefault(name, []).append(job.id)
    return found


def at_work(runs: Path, *, without: list[str]) -> str | None:
    """A run that has checkpoints behind it and is not about to end."""
    return next((name for name in NAMES if name not in without and 2 < epochs(runs, name) < EPOCHS - 10), None)


def epochs(runs: Path, name: str) -> int:
    path = runs / name / "run.json"
    return len(read_record(path, RunRecord).epochs) if path.is_file() else 0


def until(ask: Callable[[], T], what: str, limit_s: float = 120) -> T:
    """Ask until there is something."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.1)
    pytest.fail(f"no {what} within {limit_s:.0f} s")


def slurm(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def python(program: str, *arguments: object) -> str:
    ended = run(program, *arguments)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout
