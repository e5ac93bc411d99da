import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import fork
from rich.console import Console

from contract.files.reading import read_json
from contract.records import write_record
from training.__main__ import main
from training.campaign import load_campaign
from training.campaign.local_executor import make_locally
from training.campaign.planned_runs import campaign_lock
from training.dataset.prepared import load_prepared
from training.make_run import execute
from training.planned_run import plan_run
from training.run_folder.folder import RunFolder


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_a_campaign_first_prints_its_device(campaign_file, capsys, executor):
    path = campaign_file(configurations=["ce"], folds=[0])
    assert main(["campaign", str(path), "--executor", executor, "--device", "cpu", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("device: cpu, ")


def test_a_campaign_does_not_fall_back_to_the_cpu(campaign_file, tmp_path, useless_gpu, refusal):
    message = refusal("campaign", campaign_file(configurations=["ce"], folds=[0]))
    assert message.startswith("error: --device auto: expected to use the machine's GPU (Tesla T4), found ")
    assert not (tmp_path / "runs").exists()


def test_a_campaign_gives_the_same_bits_as_single_runs(
    campaign_file, prepared_folder, profile, tmp_path, outcome, records
):
    assert outcome("campaign", campaign_file(workers=2), "--device", "cpu") == (0, "")
    made = records(tmp_path / "runs")
    assert sorted(made) == ["ce_fold0_restart1", "ce_fold2_restart1", "focal_fold0_restart1", "focal_fold2_restart1"]
    prepared = load_prepared(prepared_folder)
    for name, record in made.items():
        configuration, fold = record.key.configuration, record.key.fold
        run = plan_run(prepared, configuration=configuration, fold=fold, restart=1, profile=str(profile))
        assert run.key == record.key
        assert execute(run, tmp_path / "single" / name, device="cpu").weights_sha256 == record.weights_sha256
    assert len({record.weights_sha256 for record in made.values()}) == 4


def test_a_campaign_makes_only_what_is_missing(campaign_file, tmp_path, outcome, records, planned):
    path = campaign_file(configurations=["ce"])
    run = planned()
    execute(run, tmp_path / "runs" / run.name, device="cpu")
    before = (tmp_path / "runs" / run.name / "run.json").stat().st_mtime_ns
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    assert (tmp_path / "runs" / run.name / "run.json").stat().st_mtime_ns == before
    assert {record.state for record in records(tmp_path / "runs").values()} == {"finished"}


def test_a_killed_campaign_resumes(campaign_file, tmp_path, outcome, records, planned, edited_profile):
    longer = edited_profile(("epochs = 3", "epochs = 20"), name="longer.toml")
    path = campaign_file(profile="longer.toml", configurations=["ce"], workers=2)

    process = fork(lambda: make_locally(load_campaign(path), console=Console(file=io.StringIO()), device="cpu"))
    while sum(len(record.epochs) > 1 for record in records(tmp_path / "runs").values()) < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    folders = [RunFolder(folder) for folder in (tmp_path / "runs").iterdir() if folder.is_dir()]
    for folder in folders:  # its forked processes notice at their next step
        with folder.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
    assert {record.state for record in records(tmp_path / "runs").values()} == {"running"}
    assert all(any(folder.checkpoints.iterdir()) for folder in folders)
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    run = planned(fold=2, profile=longer)
    whole = execute(run, tmp_path / "whole", device="cpu")
    assert records(tmp_path / "runs")[run.name].weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("loader", ["host", "nnunet"])
def test_a_campaign_keeps_the_training_set_where_the_profile_says(
    loader, campaign_file, tmp_path, outcome, records, planned, edited_profile
):
    profile = edited_profile(("threads = 1", f'threads = 1\nloader = "{loader}"'))
    path = campaign_file(profile="edited.toml", configurations=["ce"], workers=2)
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    made = records(tmp_path / "runs")
    assert {record.hardware["training_set"] for record in made.values()} == {loader}
    run = planned(fold=2, profile=profile)
    assert made[run.name].weights_sha256 == execute(run, tmp_path / "alone", device="cpu").weights_sha256


def test_failed_runs_are_named_and_the_others_made(campaign_file, tmp_path, records, refusal, edited_profile):
    edited_profile(("learning_rate = 0.01", "learning_rate = 1e6"), name="steep.toml")
    campaign = campaign_file(profile="steep.toml", configurations=["ce"])
    message = refusal("campaign", campaign, "--device", "cpu")
    assert "2 of 2 runs failed: ce_fold0_restart1:" in message
    assert "expected a finite loss" in message
    assert {record.state for record in records(tmp_path / "runs").values()} == {"failed"}


def _break_the_first_run(path: Path) -> None:
    """A run, begun earlier, whose log cannot be opened: nothing that the program foresees."""
    planned = load_campaign(path).planned[0]
    planned.folder.log.mkdir(parents=True)
    write_record(planned.folder.record, planned.run.record(state="running", device="cpu"))


def test_a_bug_in_a_run_is_a_bug_of_the_campaign(campaign_file, capsys):
    path = campaign_file(configurations=["ce"], folds=[0])
    _break_the_first_run(path)
    assert main(["campaign", str(path), "--device", "cpu"]) == 1
    assert "RuntimeError: 1 of 1 runs failed: ce_fold0_restart1: IsADirectoryError" in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(
    campaign_file, tmp_path, outcome, records, refusal
):
    path = campaign_file(configurations=["ce"], folds=[0])
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    message = refusal("campaign", campaign_file(configurations=["focal", "ce"], folds=[0], seed=5))
    assert "ce_fold0_restart1/run.json: expected the run ce" in message
    assert list(records(tmp_path / "runs")) == ["ce_fold0_restart1"]


def test_options_take_the_place_of_the_files_folders(campaign_file, prepared_folder, tmp_path, outcome, records):
    path = campaign_file(prepared=None, output=None, configurations=["ce"], folds=[1])
    options = ["--prepared", prepared_folder, "--output", tmp_path / "elsewhere"]
    assert outcome("campaign", path, *options, "--device", "cpu") == (0, "")
    assert list(records(tmp_path / "elsewhere")) == ["ce_fold1_restart1"]
    assert read_json(tmp_path / "elsewhere" / "ce_fold1_restart1" / "run.json")["state"] == "finished"


def test_an_executor_that_does_not_exist_is_wrong_usage(campaign_file):
    with pytest.raises(SystemExit) as ended:
        main(["campaign", str(campaign_file()), "--executor", "carrier-pigeon"])
    assert ended.value.code == 2


def test_packed_runs_give_the_same_bits(campaign_file, tmp_path, outcome, records, planned):
    path = campaign_file(resources={"workers": 1, "packed": 3})
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    made = records(tmp_path / "runs")
    assert len(made) == 4
    run = planned("focal")
    assert execute(run, tmp_path / "single", device="cpu").weights_sha256 == made[run.name].weights_sha256


def test_a_failing_run_of_a_pack_does_not_stop_the_others(campaign_file, tmp_path, capsys, records):
    path = campaign_file(configurations=["ce"], resources={"packed": 2})
    _break_the_first_run(path)
    assert main(["campaign", str(path), "--device", "cpu"]) == 1
    assert "1 of 2 runs failed: ce_fold0_restart1: IsADirectoryError" in capsys.readouterr().err
    assert records(tmp_path / "runs")["ce_fold2_restart1"].state == "finished"


def test_a_process_that_is_killed_fails_its_runs_and_no_others(
    campaign_file, tmp_path, records, monkeypatch, capsys, edited_profile
):
    edited_profile(("epochs = 3", "epochs = 30"), name="longer.toml")
    path = campaign_file(profile="longer.toml", configurations=["ce"], workers=1)

    process = fork(lambda: os._exit(main(["campaign", str(path), "--device", "cpu"])))
    while not any(len(record.epochs) > 1 for record in records(tmp_path / "runs").values()):
        time.sleep(0.01)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    process.join()
    assert process.exitcode == 1
    assert {name: record.state for name, record in records(tmp_path / "runs").items()} == {
        "ce_fold0_restart1": "running",
        "ce_fold2_restart1": "finished",
    }


def test_a_second_campaign_on_the_folder_is_refused(campaign_file, tmp_path, outcome):
    path = campaign_file()
    with campaign_lock(tmp_path / "runs"):
        code, message = outcome("campaign", path, "--device", "cpu")
    assert code == 3
    assert re.search(
        r"runs: expected no other process at work on this campaign, found process \d+ on \S+, since 20", message
    )
    assert not list((tmp_path / "runs").glob("*/run.json"))


def test_the_status_page_is_there_at_the_end(campaign_file, tmp_path, outcome):
    assert outcome("campaign", campaign_file(configurations=["ce"], folds=[0]), "--device", "cpu") == (0, "")
    assert "1 of 1" in re.sub(r"<[^>]+>", "", (tmp_path / "runs" / "status.html").read_text())


def test_ctrl_c_ends_quietly_and_the_campaign_can_resume(campaign_file, tmp_path, records, outcome, edited_profile):
    edited_profile(("epochs = 3", "epochs = 30"), name="longer.toml")
    path = campaign_file(profile="longer.toml", configurations=["ce"], folds=[0])
    command = [sys.executable, "-m", "training", "campaign", str(path), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any(len(record.epochs) > 1 for record in records(tmp_path / "runs").values()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (130, "error: stopped by Ctrl-C; the same command resumes\n")
    assert outcome("campaign", path, "--device", "cpu") == (0, "")


def test_runs_write_event_files_if_the_campaign_file_enables_them(campaign_file, tmp_path, outcome):
    path = campaign_file(configurations=["ce"], folds=[0], tensorboard=True)
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    assert list((tmp_path / "runs" / "ce_fold0_restart1" / "tensorboard").glob("events.*"))
