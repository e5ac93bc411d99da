"""The Slurm executor: missing runs become an array of jobs, submitted through submitit.

The truth about a run is its folder; Slurm is asked one question only, with one ``squeue`` per look: which of our jobs
are still in the queue. So it works on clusters without accounting, where submitit's own watcher knows nothing and waits
for a cancelled job forever. A job that has left the queue while its run is unfinished is lost, and the run submitted
again. ``slurm/jobs.json`` says which job makes which run before ``sbatch`` is called, and gets the job's number right
after: a campaign that was killed in between finds the job by its name.

Jobs are idempotent: the run's folder, lock and checkpoint decide what there is to do. Therefore Slurm may start one
again whenever it likes, and a job that comes too late does nothing.
"""

import contextlib
import io
import itertools
import logging
import os
import shlex
import shutil
import stat
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from contract.errors import OncoduetError
from contract.files.locks import is_locked, kind_of_locks
from contract.text import one_line
from network.machine.device import Device, choose_device
from training.campaign.campaign_file import SlurmOptions
from training.campaign.console import Display
from training.campaign.estimate import Capacity, estimate_costs
from training.campaign.planned_runs import Campaign, PlannedRun, RunSpec, campaign_lock
from training.campaign.slurm_queue import JobBook, Queued, SlurmJob, job_name, largest_array, look_at_queue, messages_of
from training.campaign.status import ExecutorMessage, Progress, StatusMonitor
from training.campaign.worker import Ended, Stepped, make_pack, raise_for
from training.dataset.plain_pickle import read_plain_pickle

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

TICK_S = 0.5

logger = logging.getLogger(__name__)

_ASKING = ("gpu", "gres", "tres")
"""Parts of the names of sbatch options that request a GPU."""
_TIME_LIMIT = "UncompletedJobError"
"""Exception of submitit in a job that may not requeue."""


@dataclass(frozen=True)
class Work:
    """What a job does: some runs, in packs. submitit pickles it, and calls ``checkpoint`` before a time limit."""

    specs: tuple[RunSpec, ...]
    packed: int
    device: Device

    def __call__(self) -> list[tuple[str, str, bool]]:
        """Make the runs; what ended each of them, in plain words, which are read without unpickling."""
        logging.getLogger("training").setLevel(logging.INFO)
        device = choose_device(self.device)
        print(device, flush=True)
        planned_runs = [spec.planned() for spec in self.specs]

        def say(event: Stepped | Ended) -> None:
            if isinstance(event, Ended):
                print(f"{event.name}: {event.message or 'finished'}", flush=True)

        ended = []
        for first in range(0, len(planned_runs), self.packed):
            ended += make_pack(planned_runs[first : first + self.packed], device=device.kind, tell=say)
        return [(each.name, each.message, each.is_bug) for each in ended]

    def checkpoint(self) -> "DelayedSubmission":
        """What a requeued job does: the same; the runs have their own checkpoints."""
        from submitit.core.utils import DelayedSubmission  # noqa: PLC0415

        return DelayedSubmission(self)


def make_on_slurm(campaign: Campaign, *, console: Console, device: Device) -> None:
    """Submit every run that is missing and stay until all have ended; jobs of an earlier call are waited for.

    Raises
    ------
    OncoduetError
        No Slurm here, or one that takes no such jobs; another campaign works in the folder; too little disk or
        memory; runs failed for their input's fault, or were lost too often.
    RuntimeError
        Runs failed, at least one by a bug.
    KeyboardInterrupt
        The user interrupts; the jobs continue.
    """
    missing = next((command for command in ("sbatch", "squeue", "srun") if shutil.which(command) is None), None)
    if missing is not None:
        raise OncoduetError("--executor slurm", f"command {missing} not found on this machine")
    monitor = StatusMonitor(campaign)
    estimate_costs(campaign, monitor.look(), slurm_capacity(campaign)).refuse_if_short(campaign)
    with campaign_lock(campaign.output):
        console.print(kind_of_locks(campaign.output), soft_wrap=True, markup=False)
        with Display(monitor, console) as display:
            ended = _Dispatcher(campaign, monitor, display, device).make()
    raise_for(campaign, ended)


def job_device(options: SlurmOptions, device: Device) -> tuple[Device, str]:
    """Where the runs of a job compute, and why: on the GPU that is asked for them, and without asking on none.

    Other options of sbatch may ask for a GPU too: then each job finds out for itself.
    """
    if device != "auto":
        return device, "as asked for"
    if options.gpus_per_run:
        return "cuda", f"slurm.gpus_per_run is {options.gpus_per_run}"
    asking = next((name for name in options.additional if any(word in name for word in _ASKING)), None)
    return ("auto", f"slurm.additional has {asking}") if asking else ("cpu", "slurm.gpus_per_run is 0")


def slurm_capacity(campaign: Campaign) -> Capacity:
    """How much of a campaign Slurm may make at a time."""
    options = campaign.file.slurm
    return Capacity(options.jobs_at_once, campaign.file.resources.packed, elsewhere=True, memory_gb=options.memory_gb)


class _Dispatcher:
    """Submits, watches, and resubmits what was lost."""

    def __init__(self, campaign: Campaign, monitor: StatusMonitor, display: Display, device: Device) -> None:
        self.campaign, self.monitor, self.display, self.device = campaign, monitor, display, device
        self.options = campaign.file.slurm
        self.book = JobBook(campaign.output)
        self.planned = {planned.name: planned for planned in campaign.planned}
        self.attempts: Counter[str] = Counter()
        self.looks_without: Counter[str] = Counter()
        self.ended: dict[str, Ended] = {}
        self.is_silent = False

    def make(self) -> list[Ended]:
        """Stay until every run has ended."""
        self._adopt()
        self.attempts.update(name for job in self.book.open for name in job.runs)
        messages: dict[str, ExecutorMessage] = {}
        array_jobs = self._array_jobs()
        while True:
            runs = {run.planned.name: run for run in self.monitor.look().runs}
            self._close_finished(runs)
            queue = look_at_queue() if self.book.open else {}
            self._mind(queue)
            for job in self.book.open:
                self._settle(job, queue, runs)
            for each in _batches(self._waiting(runs), runs_per_job=self.options.runs_per_job, array_jobs=array_jobs):
                self._submit(each)
            messages = messages_of(self.book.open, queue or {}, runs)
            messages |= {name: ended.executor_message for name, ended in self.ended.items()}
            if not self.book.open:
                break
            until = time.monotonic() + self.options.poll_seconds
            while time.monotonic() < until:
                self.display.show(messages)
                time.sleep(min(TICK_S, self.options.poll_seconds))
        self.display.show(messages, is_last=True)
        return list(self.ended.values())

    def _array_jobs(self) -> int:
        """Jobs of an array: as many as were asked for and as the cluster takes; one is submitted without an array."""
        largest = largest_array()
        return self.options.array_jobs if largest is None else max(1, min(self.options.array_jobs, largest))

    def _mind(self, queue: Mapping[str, Queued] | None) -> None:
        """Say once that squeue is silent, and once that it answers again."""
        if (queue is None) is not self.is_silent:
            self.is_silent = queue is None
            silence = "does not answer; until it does, progress is read from the runs' folders only"
            logger.warning("squeue %s", silence if self.is_silent else "answers again")

    def _adopt(self) -> None:
        """Give jobs their numbers that were submitted by a process that died before it could note them."""
        batches = list(dict.fromkeys(job.batch for job in self.book.open if job.id is None))
        if not batches:
            return
        queue = look_at_queue()
        if queue is None:
            self._close_finished({run.planned.name: run for run in self.monitor.look().runs})
            if all(job.id is not None for job in self.book.open):
                return
            raise OncoduetError(self.book.path, "squeue does not answer, so the state of its jobs is unknown")
        for batch in batches:
            ids = sorted((id_ for id_, job in queue.items() if job.name == job_name(batch)), key=_array_index)
            if len(ids) == sum(job.batch == batch for job in self.book.jobs):
                self.book.number(batch, ids)
            else:
                self.book.withdraw(batch)

    def _waiting(self, runs: Mapping[str, Progress]) -> list[PlannedRun]:
        taken = {name for job in self.book.open for name in job.runs}
        return [
            self.planned[name]
            for name, run in runs.items()
            if run.state != "finished" and name not in taken and name not in self.ended
        ]

    def _close_finished(self, runs: Mapping[str, Progress]) -> None:
        """Close jobs whose runs are finished, even if the queue still has them."""
        if done := [job for job in self.book.open if not _unfinished(job, runs)]:
            self.book.close(done, "finished")

    def _settle(self, job: SlurmJob, queue: Mapping[str, Queued] | None, runs: Mapping[str, Progress]) -> None:
        """Close a job that has left the queue or, where that is silent, one that has left its result."""
        unfinished = _unfinished(job, runs)
        assert job.id is not None
        found = None if queue is None else queue.get(job.id)
        outcome = job_outcome(self.book.folder, job.id) if queue is None else {}
        if (found is not None and found.is_waited_for) or (queue is None and not outcome):
            self.looks_without[job.id] = 0
            return
        self.looks_without[job.id] += 1
        if self.looks_without[job.id] < 2 or any(is_locked(self.planned[name].folder.lock) for name in unfinished):
            return  # files of other machines may show late
        gone = "ended" if queue is None else "left the queue"
        reason = gone if found is None else found.state.lower().replace("_", " ")
        outcome = outcome or job_outcome(self.book.folder, job.id)
        self.book.close([job], reason)
        for name in unfinished:
            self._end(name, outcome, runs[name], reason, job.id)

    def _end(self, name: str, outcome: Mapping[str, Ended], run: Progress, reason: str, job_id: str) -> None:
        """Decide whether a run whose job is over has failed or was lost."""
        what = outcome.get(name) or outcome.get("")
        message = what.message if what else ""
        if what and message and _TIME_LIMIT not in message and (run.state == "failed" or what.is_bug):
            self.ended[name] = Ended(name, message, what.is_bug)
        elif self.attempts[name] >= self.options.max_attempts:
            why = message or f"its job {job_id}: {reason}, see {self.book.folder / job_id}"
            self.ended[name] = Ended(name, f"submitted {self.attempts[name]} times and never finished; {why}")

    def _submit(self, packs: Sequence[Sequence[PlannedRun]]) -> None:
        """Hand one array of jobs to Slurm. Raises ``OncoduetError``: Slurm does not take it."""
        batch = uuid.uuid4().hex[:12]
        executor = _executor(self.book.folder, self.options, batch)
        packed = self.campaign.file.resources.packed
        works = [Work(tuple(planned.spec for planned in pack), packed, self.device) for pack in packs]
        for planned in itertools.chain(*packs):
            planned.announce()
        self.book.announce(batch, [[planned.name for planned in pack] for pack in packs])
        try:
            with contextlib.redirect_stderr(io.StringIO()) as complaint:  # submitit prints what sbatch said
                jobs = executor.submit_array(works)
        except Exception as error:
            self.book.withdraw(batch)
            said = one_line(complaint.getvalue() or str(error))
            hint = "; smaller slurm.array_jobs or larger slurm.runs_per_job may help" if "array" in said else ""
            raise OncoduetError(self.campaign.path, f"sbatch rejected {len(packs)} jobs: {said}{hint}") from error
        self.book.number(batch, [job.job_id for job in jobs])
        self.attempts.update(planned.name for pack in packs for planned in pack)


def _executor(folder: Path, options: Any, batch: str) -> Any:
    """Submitit's executor for one array."""
    from submitit import SlurmExecutor  # noqa: PLC0415

    logging.getLogger("submitit").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise OncoduetError(folder, "belongs to another user (jobs execute its files)")
    folder.chmod(found.st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))
    project = Path(__file__).resolve().parents[2]
    wanted = {
        "job_name": job_name(batch),
        "partition": options.partition,
        "account": options.account,
        "time": options.time_limit_minutes,
        "cpus_per_task": options.cpus_per_run,
        "mem": None if options.memory_gb is None else f"{round(options.memory_gb * 1000)}M",
        "gpus_per_node": options.gpus_per_run or None,
        "array_parallelism": options.jobs_at_once,
        "signal_delay_s": min(90, 15 * options.time_limit_minutes),
        "setup": [f"export PYTHONPATH={shlex.quote(str(project))}${{PYTHONPATH:+:$PYTHONPATH}}", *options.setup],
        "additional_parameters": {"requeue": True, **options.additional},
    }
    executor = SlurmExecutor(folder / "%j", max_num_timeout=options.max_time_limits)
    executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return executor


def _unfinished(job: SlurmJob, runs: Mapping[str, Progress]) -> list[str]:
    return [name for name in job.runs if name in runs and runs[name].state != "finished"]


def _batches(waiting: Sequence[PlannedRun], *, runs_per_job: int, array_jobs: int) -> Iterator[list[list[PlannedRun]]]:
    """Arrays of jobs; the runs of a job are of one stage, since they may be interleaved."""
    packs = []
    for _, group in itertools.groupby(waiting, key=lambda planned: planned.run.configuration.stage):
        planned_runs = list(group)
        packs += [planned_runs[first : first + runs_per_job] for first in range(0, len(planned_runs), runs_per_job)]
    for first in range(0, len(packs), array_jobs):
        yield packs[first : first + array_jobs]


def job_outcome(folder: Path, job_id: str) -> dict[str, Ended]:
    """What a job left as its result, by run; under no name what ended the whole job.

    Raises ``OncoduetError``: it is no such result.
    """
    from submitit.core.utils import JobPaths  # noqa: PLC0415

    path = JobPaths(folder / "%j", job_id=job_id, task_id=0).result_pickle
    if not path.is_file():
        return {}
    match read_plain_pickle(path, what="a job's result"):
        case ("success", list(result)) if all(_is_ended(each) for each in result):
            return {name: Ended(name, message, is_bug) for name, message, is_bug in result}
        case ("error", str(result)) if result.strip():
            last = one_line(result.strip().splitlines()[-1])
        case _:
            raise OncoduetError(path, "not the result of a job")
    is_bug = not last.startswith("contract.errors.") and _TIME_LIMIT not in last
    return {"": Ended("", last.removeprefix("contract.errors.OncoduetError: "), is_bug)}


def _is_ended(result: Any) -> bool:
    return isinstance(result, tuple) and [type(each) for each in result] == [str, str, bool]


def _array_index(job_id: str) -> int:
    return int(job_id.partition("_")[2] or 0)
