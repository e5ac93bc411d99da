"""What the Slurm executor decides, with shell scripts for Slurm's commands; a real Slurm is in ``end_to_end/slurm``."""

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import PROJECT
from refusals import refused_with
from submitit.core.utils import DelayedSubmission, cloudpickle_dump

from contract.records import read_record, write_record
from training.campaign import load_campaign
from training.campaign.campaign_file import SlurmOptions
from training.campaign.slurm_executor import Work, job_device
from training.campaign.slurm_queue import JobBook, JobsRecord

FAST = {"poll_seconds": 0.05, "max_attempts": 2}


def jobs_of(folder):
    return read_record(folder / "runs" / "slurm" / "jobs.json", JobsRecord).jobs


def leave_result(folder, job_id, outcome, result):
    path = folder / "runs" / "slurm" / job_id / f"{job_id}_0_result.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path.parent.parent / "jobs.json", JobsRecord(jobs=()))  # by which the folder is known as a campaign's
    cloudpickle_dump((outcome, result), path)


def test_without_slurm_the_executor_is_refused(campaign_file, commands, tmp_path, refusal):
    commands(only=True)
    message = refusal("campaign", campaign_file(), "--executor", "slurm")
    assert "--executor slurm: command sbatch not found on this machine" in message
    assert not (tmp_path / "runs").exists()


def test_a_refusal_by_sbatch_is_one_line_and_nothing_is_noted(campaign_file, commands, tmp_path, refusal):
    rejection = 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1'
    commands(sbatch=rejection, squeue="true", srun="true")
    message = refusal("campaign", campaign_file(), "--executor", "slurm")
    assert "campaign.toml: sbatch rejected 4 jobs: sbatch: error: " in message
    assert "Invalid account" in message
    assert jobs_of(tmp_path) == ()


def test_lost_jobs_are_submitted_again_up_to_a_limit(campaign_file, commands, tmp_path, refusal):
    counter = tmp_path / "count"
    commands(sbatch=f'echo x >> {counter}; echo "Submitted batch job $(wc -l < {counter})"', squeue="true", srun="true")
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    message = refusal("campaign", path, "--executor", "slurm")
    assert "ce_fold0_restart1: submitted 2 times and never finished; its job 2: left the queue, see" in message
    assert [(job.id, job.over) for job in jobs_of(tmp_path)] == [("1", "left the queue"), ("2", "left the queue")]


def test_a_failed_run_is_reported_and_not_submitted_again(campaign_file, commands, tmp_path, write_run, refusal):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    commands(sbatch='echo "Submitted batch job 7"', squeue='echo "7|FAILED|None|x"', srun="true")
    leave_result(tmp_path, "7", "success", [("ce_fold0_restart1", "expected a finite loss, found nan", False)])
    write_run(load_campaign(path).planned[0], "failed", epochs=1)
    message = refusal("campaign", path, "--executor", "slurm")
    assert "1 of 1 runs failed: ce_fold0_restart1: expected a finite loss, found nan" in message
    assert len(jobs_of(tmp_path)) == 1


class Calls:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("make", [Calls, lambda _: [("a", 1, False)], lambda _: {"a": 1}])
def test_a_job_s_result_is_read_without_unpickling(campaign_file, commands, tmp_path, write_run, make, refusal):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    commands(sbatch='echo "Submitted batch job 7"', squeue='echo "7|FAILED|None|x"', srun="true")
    leave_result(tmp_path, "7", "success", make(tmp_path / "mark"))
    write_run(load_campaign(path).planned[0], "failed", epochs=1)
    message = refusal("campaign", path, "--executor", "slurm")
    assert "7_0_result.pkl: " in message
    assert not (tmp_path / "mark").exists()


def test_the_jobs_folder_is_writable_by_its_owner_only(campaign_file, commands, tmp_path, outcome):
    (tmp_path / "runs" / "slurm").mkdir(parents=True)
    (tmp_path / "runs" / "slurm").chmod(0o777)
    commands(sbatch="exit 1", squeue="true", srun="true")
    assert outcome("campaign", campaign_file(configurations=["ce"], slurm=FAST), "--executor", "slurm")[0] == 3
    assert stat.S_IMODE((tmp_path / "runs" / "slurm").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("result", "submissions", "expected"),
    [
        ("Traceback\nsubmitit.core.utils.UncompletedJobError: Job not requeued because: timed-out", 2, "2 times"),
        ("Traceback\nModuleNotFoundError: No module named 'torch'", 1, "No module named 'torch'"),
    ],
)
def test_a_time_limit_is_tried_again_and_a_bug_is_not(
    campaign_file, commands, tmp_path, capsys, result, submissions, expected
):
    from training.__main__ import main  # noqa: PLC0415

    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    commands(sbatch='echo "Submitted batch job 7"', squeue='echo "7|COMPLETED|None|x"', srun="true")
    leave_result(tmp_path, "7", "error", result)
    assert main(["campaign", str(path), "--executor", "slurm"]) == (3 if submissions == 2 else 1)
    assert expected in capsys.readouterr().err
    assert len(jobs_of(tmp_path)) == submissions


def test_a_job_in_the_queue_is_watched_again_and_not_submitted_twice(
    campaign_file, commands, tmp_path, outcome, write_run
):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    planned = load_campaign(path).planned[0]
    book = JobBook(tmp_path / "runs")
    book.announce("aaa", [[planned.name]])
    book.number("aaa", ["7"])
    write_run(planned, "finished", epochs=3)
    record = planned.folder.record.read_bytes()
    write_run(planned, "running", epochs=1)
    (tmp_path / "done.json").write_bytes(record)
    asked = tmp_path / "asked"  # the run ends while the campaign watches
    commands(
        sbatch='echo "must not be called" >&2; exit 1',
        squeue=f'echo x >> {asked}; [ "$(wc -l < {asked})" -lt 4 ] || cp {tmp_path}/done.json {planned.folder.record}\n'
        'echo "7|RUNNING|None|x"',
        srun="true",
    )
    assert outcome("campaign", path, "--executor", "slurm") == (0, "")
    assert [(job.id, job.over) for job in jobs_of(tmp_path)] == [("7", "finished")]


@pytest.mark.parametrize("is_there", [True, False])
def test_unnumbered_jobs_are_found_by_their_name(campaign_file, commands, tmp_path, outcome, is_there, write_run):
    path = campaign_file(configurations=["ce"], slurm=FAST)
    planned_runs = load_campaign(path).planned
    JobBook(tmp_path / "runs").announce("aaa", [[planned.name] for planned in planned_runs])
    queue = 'echo "12_1|PENDING|None|oncoduet-aaa"; echo "12_0|RUNNING|None|oncoduet-aaa"' if is_there else "true"
    commands(sbatch="exit 1", squeue=queue, srun="true")
    for planned in planned_runs:
        write_run(planned, "finished", epochs=3)
    assert outcome("campaign", path, "--executor", "slurm") == (0, "")
    assert [job.id for job in jobs_of(tmp_path)] == (["12_0", "12_1"] if is_there else [])


def test_jobs_whose_runs_are_finished_are_closed_in_one_writing(
    campaign_file, commands, tmp_path, outcome, write_run, monkeypatch
):
    path = campaign_file(configurations=["ce"], slurm=FAST)
    planned_runs = load_campaign(path).planned
    book = JobBook(tmp_path / "runs")
    book.announce("aaa", [[planned.name] for planned in planned_runs])
    book.number("aaa", [str(number) for number in range(len(planned_runs))])
    commands(sbatch="exit 1", squeue="true", srun="true")
    for planned in planned_runs:
        write_run(planned, "finished", epochs=3)
    written = []
    monkeypatch.setattr(
        JobBook, "_write", lambda self, jobs, write=JobBook._write: (written.append(1), write(self, jobs))
    )
    assert outcome("campaign", path, "--executor", "slurm") == (0, "")
    assert [job.over for job in jobs_of(tmp_path)] == ["finished"] * len(planned_runs)
    assert (len(planned_runs) > 1, len(written)) == (True, 1)


def test_unnumbered_jobs_need_an_answer_from_the_queue(campaign_file, commands, tmp_path, refusal):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    JobBook(tmp_path / "runs").announce("aaa", [["ce_fold0_restart1"]])
    commands(sbatch="exit 1", squeue="exit 1", srun="true")
    message = refusal("campaign", path, "--executor", "slurm")
    assert "jobs.json: squeue does not answer" in message


def test_an_unanswered_question_about_finished_runs_is_not_asked_again(
    campaign_file, commands, tmp_path, outcome, write_run
):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    JobBook(tmp_path / "runs").announce("aaa", [["ce_fold0_restart1"]])
    commands(sbatch="exit 1", squeue="exit 1", srun="true")
    write_run(load_campaign(path).planned[0], "finished", epochs=3)
    assert outcome("campaign", path, "--executor", "slurm") == (0, "")


@pytest.mark.parametrize("squeue", ["exit 1", "sleep 600"], ids=["fails", "hangs"])
@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_silent_squeue_does_not_keep_a_campaign_from_ending(
    campaign_file, commands, tmp_path, outcome, write_run, monkeypatch, squeue, state
):
    monkeypatch.setattr("training.campaign.slurm_queue.ANSWER_LIMIT_S", 0.2)
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    planned = load_campaign(path).planned[0]
    write_run(planned, state, epochs=3)
    record = planned.folder.record.read_bytes()
    (tmp_path / "later.json").write_bytes(record)
    asked = tmp_path / "asked"
    if state == "finished":
        write_run(planned, "running", epochs=1)
    if state == "failed":
        leave_result(tmp_path, "7", "success", [(planned.name, "expected a finite loss, found nan", False)])
    commands(
        sbatch='echo "Submitted batch job 7"',
        squeue=f'echo x >> {asked}\n[ "$(wc -l < {asked})" -lt 3 ] || '
        f"cp {tmp_path}/later.json {planned.folder.record}\nexec {squeue}",
        srun="true",
    )
    code, message = outcome("campaign", path, "--executor", "slurm")
    assert (code, "found nan" in message) == ((0, False) if state == "finished" else (3, True))
    assert [(job.id, job.over) for job in jobs_of(tmp_path)] == [("7", "finished" if state == "finished" else "ended")]


@pytest.mark.parametrize(
    ("scontrol", "asked", "arrays"),
    [
        ('echo "MaxArraySize            = 3"', {}, ["0-2", "none"]),
        ('echo "MaxArraySize = 0"', {}, ["none"] * 4),
        ('echo "MaxArraySize            = 1001"', {}, ["0-3"]),
        ("exit 1", {}, ["0-3"]),
        ('echo "MaxArraySize            = 3"', {"array_jobs": 2}, ["0-1", "0-1"]),
    ],
)
def test_arrays_are_as_large_as_the_cluster_and_the_campaign_allow(
    campaign_file, commands, tmp_path, outcome, write_run, scontrol, asked, arrays
):
    path = campaign_file(slurm={**FAST, **asked})
    planned_runs = load_campaign(path).planned
    for planned in planned_runs:  # finished as soon as the last array is submitted
        write_run(planned, "finished", epochs=3)
        planned.folder.record.rename(planned.folder.path / "later.json")
    seen = tmp_path / "arrays"
    last = len(arrays)
    commands(
        sbatch=f'grep -o "array=[^%]*" "$1" >> {seen} || echo array=none >> {seen}\n'
        f'[ "$(wc -l < {seen})" -lt {last} ] || '
        f"for run in {tmp_path}/runs/*/; do [ ! -f $run/later.json ] || mv $run/later.json $run/run.json; done\n"
        f'echo "Submitted batch job $(wc -l < {seen})"',
        squeue='echo "1_0|RUNNING|None|x"',
        srun="true",
        scontrol=scontrol,
    )
    assert outcome("campaign", path, "--executor", "slurm") == (0, "")
    assert [line.partition("=")[2] for line in seen.read_text().split()] == arrays


def test_an_array_that_is_too_large_is_refused_with_a_remedy(campaign_file, commands, outcome):
    rejection = 'echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2; exit 1'
    commands(sbatch=rejection, squeue="true", srun="true", scontrol="exit 1")
    _, message = outcome("campaign", campaign_file(), "--executor", "slurm")
    assert "Invalid job array specification" in message
    assert "; smaller slurm.array_jobs or larger slurm.runs_per_job may help" in message


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({"gpus_per_run": 1}, "auto", ("cuda", "slurm.gpus_per_run is 1")),
        ({"gpus_per_run": 1}, "cpu", ("cpu", "as asked for")),
        ({}, "auto", ("cpu", "slurm.gpus_per_run is 0")),
        ({"additional": {"gres": "gpu:1"}}, "auto", ("auto", "slurm.additional has gres")),
        ({}, "cuda", ("cuda", "as asked for")),
    ],
)
def test_a_job_computes_on_the_gpu_that_was_asked_for_it(options, device, expected):
    assert job_device(SlurmOptions(**options), device) == expected


def test_a_job_whose_gpu_cannot_be_used_makes_nothing_on_the_cpu(campaign_file, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    specs = tuple(planned.spec for planned in load_campaign(campaign_file(configurations=["ce"])).planned)
    with refused_with("--device cuda"):
        Work(specs, packed=2, device="cuda")()
    assert not (tmp_path / "runs").exists()


def test_memory_that_a_job_is_given_must_be_enough(campaign_file, commands, refusal):
    commands(sbatch="exit 1", squeue="true", srun="true")
    message = refusal("campaign", campaign_file(slurm={"memory_gb": 0.1}), "--executor", "slurm")
    assert "found 0.1 GB (slurm.memory_gb)" in message


def test_a_job_makes_its_runs_in_packs_and_requeues_itself(campaign_file, records, tmp_path):
    specs = tuple(planned.spec for planned in load_campaign(campaign_file(configurations=["ce"])).planned)
    work = Work(specs, packed=2, device="cpu")
    assert work() == [("ce_fold0_restart1", "", False), ("ce_fold2_restart1", "", False)]
    assert {record.state for record in records(tmp_path / "runs").values()} == {"finished"}
    again = work.checkpoint()
    assert isinstance(again, DelayedSubmission)
    assert again.function == work
    assert work() == [("ce_fold0_restart1", "", False), ("ce_fold2_restart1", "", False)]


def test_ctrl_c_leaves_the_jobs_in_the_queue_and_says_so(campaign_file, commands, tmp_path):
    path = campaign_file(configurations=["ce"], folds=[0], slurm=FAST)
    commands(sbatch='echo "Submitted batch job 7"', squeue='echo "7|PENDING|Priority|x"', srun="true")
    command = [sys.executable, "-m", "training", "campaign", str(path), "--executor", "slurm"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "runs" / "status.html").is_file():  # written once the jobs have been submitted
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)
    said = "error: stopped by Ctrl-C; queued jobs continue; the same command watches them\n"
    assert (process.returncode, complained) == (130, said)
    assert [(job.id, job.over) for job in jobs_of(tmp_path)] == [("7", None)]
