"""Slurm's queue and the book of submitted jobs, with shell scripts for Slurm's commands."""

import os

import pytest
from refusals import refused_with

from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.records import write_record
from training.campaign import load_campaign
from training.campaign.slurm_queue import JobBook, JobsRecord, Queued, look_at_queue, messages_of, queue_messages
from training.campaign.status import StatusMonitor


def test_an_old_squeue_is_asked_in_words_that_it_knows(commands):
    commands(
        squeue='for word; do [ "$word" != --me ] || { echo "squeue: unrecognized option --me" >&2; exit 1; }; done\n'
        f'[ "$1" = --user={os.getuid()} ] && echo "7|RUNNING|None|x"'
    )
    assert look_at_queue() == {"7": Queued("RUNNING", "None", "x")}


def test_one_question_lists_all_jobs_and_silence_is_no_answer(commands):
    commands(squeue='echo "5_0|RUNNING|None|a"; echo "6|PENDING|QOSMaxJobs|b|c"; echo "?"')
    assert look_at_queue() == {"5_0": Queued("RUNNING", "None", "a"), "6": Queued("PENDING", "QOSMaxJobs", "b|c")}
    commands(squeue="exit 1")
    assert look_at_queue() is None


def test_the_table_says_what_waits_and_why(campaign_file, commands, tmp_path, write_run):
    campaign = load_campaign(campaign_file())
    names = [planned.name for planned in campaign.planned]
    write_run(campaign.planned[0], "running", epochs=1)
    book = JobBook(tmp_path / "runs")
    book.announce("aaa", [[name] for name in names])
    book.number("aaa", ["9_0", "9_1", "9_2", "9_3"])
    commands(
        squeue='echo "9_0|RUNNING|None|x"; echo "9_1|PENDING|Priority|x"; echo "9_2|PENDING|QOSMaxJobs|x"\n'
        'echo "9_3|CANCELLED|None|x"'
    )
    monitor = StatusMonitor(campaign)
    messages = queue_messages(monitor.look())
    runs = monitor.look(messages).runs
    assert [(run.state, run.message) for run in runs] == [
        ("running", ""),
        ("queued", ""),
        ("queued", "QOSMaxJobs"),
        ("planned", ""),
    ]
    assert messages_of(book.open, {}, {}) == {}


def test_a_damaged_job_book_is_named(tmp_path):
    (tmp_path / "runs" / "slurm").mkdir(parents=True)
    (tmp_path / "runs" / "slurm" / "jobs.json").write_text("{}x")
    with refused_with(r"jobs\.json", "not valid JSON"):
        JobBook(tmp_path / "runs")


@pytest.mark.parametrize("number", ["../../elsewhere", "/etc/passwd", "", "a_b", "1" * 300])
def test_a_job_number_that_is_none_leads_nowhere(campaign_file, tmp_path, number, refusal):
    job = {"batch": "b", "runs": ["ce_fold0_restart1"], "id": number, "submitted": "x"}
    (tmp_path / "runs" / "slurm").mkdir(parents=True)
    write_record(tmp_path / "runs" / "slurm" / "jobs.json", JobsRecord())
    record = read_json(tmp_path / "runs" / "slurm" / "jobs.json")
    write_json(tmp_path / "runs" / "slurm" / "jobs.json", record | {"jobs": [job]})
    message = refusal("status", campaign_file(configurations=["ce"], folds=[0]))
    assert "jobs.json: 1 fault: jobs.0.id: " in message
