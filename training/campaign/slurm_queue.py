"""Which job makes which run, and its state in Slurm's queue.

``slurm/jobs.json`` in a campaign's output is written by the running campaign only, and read by ``status``. Slurm is
asked with ``squeue``, which every cluster has, and never with ``sacct``, which many have without the accounting behind.
"""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from contract.records import Record, read_record, write_record
from contract.schema import Frozen
from training.campaign.planned_runs import SLURM
from training.campaign.status import CampaignStatus, ExecutorMessage, Progress

ANSWER_LIMIT_S = 20.0
"""Longest wait for an answer: commands hang while the controller is overloaded or down."""

IN_QUEUE = frozenset(
    [
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING"),
        *("SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "SPECIAL_EXIT", "PREEMPTED", "RESV_DEL_HOLD"),
    ]
)
"""States of a job that runs or is going to run."""
ORDINARY_REASONS = frozenset(["None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning"])
"""Reasons to wait that need no action of the user."""


logger = logging.getLogger(__name__)


class SlurmJob(Frozen):
    """One job: which runs it makes, and its number once Slurm has given it one."""

    batch: str
    """Name of the jobs that were submitted together; their names in the queue end with it."""
    runs: tuple[str, ...]
    id: Annotated[str, Field(pattern=r"^\d{1,20}(_\d{1,20})?$")] | None = None
    """Slurm's job number, also the name of the job's folder below ``slurm/``."""
    submitted: str
    """Time of submission, in UTC."""
    over: str | None = None
    """Why the job is no longer waited for."""


class JobsRecord(Record):
    """``slurm/jobs.json``: every job that the campaign has submitted."""

    jobs: tuple[SlurmJob, ...] = ()


@dataclass(frozen=True)
class Queued:
    """A job as Slurm sees it."""

    state: str
    reason: str
    name: str

    @property
    def is_waited_for(self) -> bool:
        """Whether it runs or is going to run."""
        return self.state in IN_QUEUE


class JobBook:
    """``slurm/jobs.json`` in a campaign's output."""

    def __init__(self, output: Path) -> None:
        self.folder = output / SLURM
        self.path = self.folder / "jobs.json"
        self.jobs: list[SlurmJob] = list(read_record(self.path, JobsRecord).jobs) if self.path.is_file() else []

    @property
    def open(self) -> list[SlurmJob]:
        """Jobs that are waited for."""
        return [job for job in self.jobs if job.over is None]

    def announce(self, batch: str, packs: Sequence[Sequence[str]]) -> None:
        """Note what is about to be submitted."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self._write([*self.jobs, *(SlurmJob(batch=batch, runs=tuple(pack), submitted=now) for pack in packs)])

    def number(self, batch: str, ids: Sequence[str]) -> None:
        """Note the numbers that Slurm gave to a batch, in its order."""
        numbers = iter(ids)
        self._write([job.model_copy(update={"id": next(numbers)}) if job.batch == batch else job for job in self.jobs])

    def withdraw(self, batch: str) -> None:
        """Strike out a batch that Slurm never took."""
        self._write([job for job in self.jobs if job.batch != batch])

    def close(self, done: Sequence[SlurmJob], reason: str) -> None:
        """Wait for some jobs no longer."""
        over = set(map(id, done))
        self._write([job.model_copy(update={"over": reason}) if id(job) in over else job for job in self.jobs])

    def _write(self, jobs: list[SlurmJob]) -> None:
        self.jobs = jobs
        write_record(self.path, JobsRecord(jobs=tuple(jobs)))


def queue_messages(status: CampaignStatus) -> dict[str, ExecutorMessage]:
    """What the queue adds to a campaign that was submitted; nothing where there is no queue or it does not answer."""
    book = JobBook(status.campaign.output)
    if not book.open or shutil.which("squeue") is None:
        return {}
    return messages_of(book.open, look_at_queue() or {}, {run.planned.name: run for run in status.runs})


def look_at_queue() -> dict[str, Queued] | None:
    """All jobs of this user by their number, ended ones as long as Slurm remembers; None where it does not answer.

    The user is named by number: ``--me`` is not known before Slurm 20.02.
    """
    user = f"--user={os.getuid()}"
    answer = _asked("squeue", user, "--array", "--noheader", "--states=all", "--format=%i|%T|%r|%j")
    if answer is None:
        return None
    lines = [line.split("|", 3) for line in answer.splitlines()]
    return {line[0]: Queued(*line[1:]) for line in lines if len(line) == 4}


def largest_array() -> int | None:
    """How many jobs an array may have in this Slurm (MaxArraySize); None if it does not say."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)\s*$", _asked("scontrol", "show", "config") or "", re.MULTILINE)
    return None if found is None else int(found[1])


def _asked(*command: str) -> str | None:
    """What a command of Slurm's answers; None where it fails, or does not answer in time."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_LIMIT_S, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        logger.debug("%s: %s", command[0], error)
        return None
    return answer.stdout


def messages_of(
    jobs: Sequence[SlurmJob], queue: Mapping[str, Queued], runs: Mapping[str, Progress]
) -> dict[str, ExecutorMessage]:
    """What the table says of runs whose jobs are in the queue."""
    messages = {}
    for job in jobs:
        found = queue.get(job.id or "")
        if found is None or not found.is_waited_for:
            continue
        for name in job.runs:
            at_work = found.state == "RUNNING" and name in runs and runs[name].state in ("running", "interrupted")
            reason = "" if found.state == "RUNNING" or found.reason in ORDINARY_REASONS else found.reason
            messages[name] = ExecutorMessage("running") if at_work else ExecutorMessage("queued", message=reason)
    return messages


def job_name(batch: str) -> str:
    """Name in the queue of all jobs of a batch."""
    return f"oncoduet-{batch}"
