import fcntl
import os
import time

import pytest
from refusals import refused_with

from contract.records import write_record
from training.__main__ import main
from training.campaign import load_campaign
from training.campaign.status import ExecutorMessage, StatusMonitor, clock_time, hours
from training.campaign.status_page import write_status_page
from training.make_run import execute


@pytest.fixture
def campaign(campaign_file):
    return load_campaign(campaign_file())


def quiet_for(planned, seconds):
    then = time.time() - seconds
    os.utime(planned.folder.record, (then, then))


def test_a_dry_run_and_the_status_train_nothing(campaign_file, tmp_path, outcome):
    path = campaign_file()
    for command in (["campaign", path, "--dry-run", "--device", "cpu"], ["status", path]):
        assert outcome(*command) == (0, "")
        assert not (tmp_path / "runs").exists()
    assert [run.state for run in StatusMonitor(load_campaign(path)).look().runs] == ["planned"] * 4


def test_status_prints_the_progress_and_writes_the_page(campaign_file, tmp_path, capsys, planned):
    run = planned()
    execute(run, tmp_path / "runs" / run.name, device="cpu")
    assert main(["status", str(campaign_file())]) == 0
    shown = capsys.readouterr().out
    first, last = shown.splitlines()[1], shown.splitlines()[-1]
    assert first.split()[:2] == ["ce_fold0_restart1", "finished"]
    assert "3/3" in first
    assert last == "3 planned, 1 finished; 0.00 CPU-hours spent"
    assert (tmp_path / "runs" / "status.html").is_file()


def test_status_of_another_users_runs_writes_nothing(campaign_file, write_run, outcome, capsys, monkeypatch):
    path = campaign_file(configurations=["ce"], folds=[0])
    campaign = load_campaign(path)
    write_run(campaign.planned[0], "finished", epochs=3)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    assert outcome("campaign", path, "--dry-run", "--device", "cpu") == (0, "")
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "1 finished" in shown
    assert f"{campaign.output} cannot be written to: no status page" in shown
    assert not (campaign.output / "status.html").exists()


def test_a_campaign_counts_no_run_twice(campaign_file):
    path = campaign_file()
    first, second, *_ = load_campaign(path).planned
    for planned in (first, second):
        record = planned.run.record(state="finished").model_copy(update={"weights_sha256": "0" * 64})
        planned.folder.path.mkdir(parents=True)
        write_record(planned.folder.record, record)
    with refused_with(str(second.folder.path), problem=f"has the weights of {first.folder.path}: one is a copy"):
        load_campaign(path)


def test_an_edited_page_is_refused_and_kept(campaign_file, write_run, outcome, capsys, refusal):
    path = campaign_file(configurations=["ce"], folds=[0])
    campaign = load_campaign(path)
    write_run(campaign.planned[0], "finished", epochs=3)
    page = campaign.output / "status.html"
    assert [outcome("status", path), outcome("status", path)] == [(0, "")] * 2
    mine = page.read_text().replace("</main>", "my notes</main>")
    page.write_text(mine)
    said = refusal("status", path)
    assert (
        f"{page}: expected nothing or a campaign's own file, found a file of another program, or an edited one" in said
    )
    write_status_page(StatusMonitor(campaign).look())
    assert f"{page}: edited by hand, left unchanged" in capsys.readouterr().out
    assert page.read_text() == mine


def test_watching_ends_when_all_runs_are_finished(campaign_file, write_run, capsys):
    path = campaign_file(configurations=["ce"], folds=[0])
    write_run(load_campaign(path).planned[0], "finished", epochs=3)
    assert main(["status", str(path), "--watch"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 finished; 0.01 CPU-hours spent"


def test_a_run_whose_process_is_gone_is_interrupted(campaign, write_run):
    planned = campaign.planned[0]
    write_run(planned, "running", epochs=1)
    quiet_for(planned, 60)
    assert StatusMonitor(campaign).look().runs[0].state == "interrupted"
    with planned.folder.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert StatusMonitor(campaign).look().runs[0].state == "running"
    assert StatusMonitor(campaign).look().runs[0].state == "interrupted"


def test_the_time_to_go_comes_from_the_last_epochs_and_runs_down(campaign, write_run):
    planned = campaign.planned[0]
    write_run(planned, "running", epochs=1, epoch_s=100.0)  # of 3
    with planned.folder.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        quiet_for(planned, 60)
        status = StatusMonitor(campaign).look()
    assert status.runs[0].remaining_s(status.at_s) == pytest.approx(2 * 100 - 60, abs=2)
    assert status.runs[1].remaining_s(status.at_s) is None


def test_a_failed_run_says_why_by_its_logs_last_line(campaign, write_run):
    planned = campaign.planned[0]
    write_run(planned, "failed", epochs=1)
    planned.folder.log.write_text("Traceback\n  some frame\ncontract.errors.OncoduetError: x: expected a, found b\n\n")
    run = StatusMonitor(campaign).look().runs[0]
    assert (run.state, run.message) == ("failed", "x: expected a, found b")


def test_an_executors_message_never_hides_a_finished_run(campaign, write_run):
    finished, planned = campaign.planned[:2]
    write_run(finished, "finished", epochs=3)
    messages = {planned.name: ExecutorMessage("queued") for planned in (finished, planned)}
    assert [run.state for run in StatusMonitor(campaign).look(messages).runs] == [
        "finished",
        "queued",
        "planned",
        "planned",
    ]


def test_only_records_that_changed_are_read_again(campaign, write_run):
    planned = campaign.planned[0]
    write_run(planned, "running", epochs=1)
    monitor = StatusMonitor(campaign)
    assert len(monitor.look().runs[0].epochs) == 1
    before = planned.folder.record.stat()
    size = before.st_size
    planned.folder.record.write_bytes(b"x" * size)  # would not parse
    os.utime(planned.folder.record, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert len(monitor.look().runs[0].epochs) == 1
    os.utime(planned.folder.record)
    with refused_with(r"run\.json", "not valid JSON"):
        monitor.look()


def test_gpu_hours_are_counted_where_there_was_a_gpu(campaign, write_run):
    write_run(campaign.planned[0], "finished", epochs=3, epoch_s=3600, device="cuda")
    assert StatusMonitor(campaign).look().spent == "3.00 GPU-hours"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (99, "99 s"), (600, "10 min"), (3 * 3600 + 1200, "3 h 20 min"), (53 * 3600, "2 d 5 h")],
)
def test_durations_have_two_units_at_most(seconds, words):
    assert clock_time(seconds) == words


def test_hours_have_as_many_digits_as_matter():
    assert [hours(3600 * value) for value in (0.123, 9.5, 12.3, 1234.5)] == ["0.12", "9.50", "12", "1,234"]
