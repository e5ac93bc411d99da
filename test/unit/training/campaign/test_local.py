import fcntl
import io
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from rich.console import Console

from contract.files import read_json
from contract.records import RunRecord, read_record
from training.__main__ import main
from training.campaign import load_campaign
from training.prepared import load_prepared
from training.run import execute, plan_run
from training.run_folder import RunFolder


@pytest.fixture
def campaign_file(prepared_folder, profile, tmp_path):
    def write(**changes) -> Path:
        values = {
            "schema_version": 1,
            "prepared": str(prepared_folder),
            "output": "runs",
            "profile": str(profile),
            "configurations": ["ce", "focal"],
            "folds": [0, 2],
            "restarts": [1],
            "workers": 2,
        } | changes
        path = tmp_path / "campaign.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def records(folder: Path) -> dict[str, RunRecord]:
    return {path.parent.name: read_record(path, RunRecord) for path in folder.glob("*/run.json")}


def test_a_campaign_gives_the_same_bits_as_single_runs(campaign_file, prepared_folder, profile, tmp_path, outcome):
    assert outcome("campaign", campaign_file(), "--device", "cpu") == (0, "")
    made = records(tmp_path / "runs")
    assert sorted(made) == ["ce_fold0_restart1", "ce_fold2_restart1", "focal_fold0_restart1", "focal_fold2_restart1"]
    prepared = load_prepared(prepared_folder)
    for name, record in made.items():
        configuration, fold = record.key.configuration, record.key.fold
        run = plan_run(prepared, configuration=configuration, fold=fold, restart=1, profile=str(profile))
        assert run.key == record.key
        assert execute(run, tmp_path / "single" / name, device="cpu").weights_sha256 == record.weights_sha256
    assert len({record.weights_sha256 for record in made.values()}) == 4


def test_a_campaign_makes_only_what_is_missing(campaign_file, prepared_folder, profile, tmp_path, outcome):
    path = campaign_file(configurations=["ce"])
    run = plan_run(load_prepared(prepared_folder), configuration="ce", fold=0, restart=1, profile=str(profile))
    execute(run, tmp_path / "runs" / run.name, device="cpu")
    before = (tmp_path / "runs" / run.name / "run.json").stat().st_mtime_ns
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    assert (tmp_path / "runs" / run.name / "run.json").stat().st_mtime_ns == before
    assert {record.state for record in records(tmp_path / "runs").values()} == {"finished"}


def test_a_campaign_killed_without_warning_goes_on(campaign_file, prepared_folder, profile, tmp_path, outcome):
    longer = tmp_path / "longer.toml"
    longer.write_text(profile.read_text().replace("epochs = 3", "epochs = 20"))
    path = campaign_file(profile="longer.toml", configurations=["ce"])

    def work() -> None:
        load_campaign(path).make(console=Console(file=io.StringIO()), device="cpu")

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    while sum(len(record.epochs) > 1 for record in records(tmp_path / "runs").values()) < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    folders = [RunFolder(folder) for folder in (tmp_path / "runs").iterdir()]
    for folder in folders:  # its forked processes notice at their next step
        with folder.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
    assert {record.state for record in records(tmp_path / "runs").values()} == {"running"}
    assert all(folder.checkpoint.is_file() for folder in folders)
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    run = plan_run(load_prepared(prepared_folder), configuration="ce", fold=2, restart=1, profile=str(longer))
    whole = execute(run, tmp_path / "whole", device="cpu")
    assert records(tmp_path / "runs")[run.name].weights_sha256 == whole.weights_sha256


def test_a_dry_run_and_the_status_train_nothing(campaign_file, tmp_path, capsys, outcome):
    path = campaign_file()
    for command in (["campaign", path, "--dry-run"], ["status", path]):
        assert outcome(*command) == (0, "")
        assert not (tmp_path / "runs").exists()
    campaign = load_campaign(path)
    assert [(place.run.name, place.state) for place in campaign.places] == [
        ("ce_fold0_restart1", "planned"),
        ("ce_fold2_restart1", "planned"),
        ("focal_fold0_restart1", "planned"),
        ("focal_fold2_restart1", "planned"),
    ]


def test_the_status_tells_how_far_each_run_is(campaign_file, prepared_folder, profile, tmp_path, capsys):
    run = plan_run(load_prepared(prepared_folder), configuration="ce", fold=0, restart=1, profile=str(profile))
    execute(run, tmp_path / "runs" / run.name, device="cpu")
    assert main(["status", str(campaign_file())]) == 0
    shown = capsys.readouterr().out
    first, last = shown.splitlines()[1], shown.splitlines()[-1]
    assert first.split()[:2] == ["ce_fold0_restart1", "finished"]
    assert "3/3" in first
    assert last == "3 planned, 1 finished"


def test_failed_runs_are_named_and_the_others_made(campaign_file, profile, tmp_path, outcome):
    path = tmp_path / "steep.toml"
    path.write_text(profile.read_text().replace("learning_rate = 0.01", "learning_rate = 1e30"))
    campaign = campaign_file(profile="steep.toml", configurations=["ce"])
    code, message = outcome("campaign", campaign, "--device", "cpu")
    assert code == 3
    assert "2 of 2 runs failed: ce_fold0_restart1:" in message
    assert "expected a finite loss" in message
    assert {record.state for record in records(tmp_path / "runs").values()} == {"failed"}


def test_a_bug_in_a_run_is_a_bug_of_the_campaign(campaign_file, tmp_path, capsys):
    path = campaign_file(configurations=["ce"], folds=[0])
    (tmp_path / "runs" / "ce_fold0_restart1" / "weights.safetensors" / "in the way").mkdir(parents=True)
    assert main(["campaign", str(path), "--device", "cpu"]) == 1
    assert "RuntimeError: 1 of 1 runs failed: ce_fold0_restart1: IsADirectoryError" in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(campaign_file, tmp_path, outcome):
    path = campaign_file(configurations=["ce"], folds=[0])
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    code, message = outcome("campaign", campaign_file(configurations=["focal", "ce"], folds=[0], seed=5))
    assert code == 3
    assert "ce_fold0_restart1/run.json: expected the run ce" in message
    assert list(records(tmp_path / "runs")) == ["ce_fold0_restart1"]


def test_options_take_the_place_of_the_files_folders(campaign_file, prepared_folder, tmp_path, outcome):
    path = campaign_file(prepared=None, output=None, configurations=["ce"], folds=[1])
    options = ["--prepared", prepared_folder, "--output", tmp_path / "elsewhere"]
    assert outcome("campaign", path, *options, "--device", "cpu") == (0, "")
    assert list(records(tmp_path / "elsewhere")) == ["ce_fold1_restart1"]
    assert read_json(tmp_path / "elsewhere" / "ce_fold1_restart1" / "run.json")["state"] == "finished"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"surprise": 1, "workers": 0}, "campaign.toml: 2 faults"),
        ({"output": None}, "campaign.toml: expected output, there or as --output, found neither"),
        ({"prepared": None}, "campaign.toml: expected prepared, there or as --prepared, found neither"),
        ({"configurations": ["ce", "ce"]}, "campaign.toml: expected each run once, found ce_fold0_restart1 twice"),
        ({"configurations": ["nonsense"]}, "configuration 'nonsense': expected one of"),
        ({"folds": [0, 3]}, "expected a fold from 0 to 2, found 3"),
    ],
)
def test_faults_of_a_campaign_file_are_refused(campaign_file, changes, expected, outcome, tmp_path):
    code, message = outcome("campaign", campaign_file(**changes))
    assert code == 3
    assert expected in message
    assert not (tmp_path / "runs").exists()


def test_an_executor_that_does_not_exist_is_wrong_usage(campaign_file):
    with pytest.raises(SystemExit) as ended:
        main(["campaign", str(campaign_file()), "--executor", "carrier-pigeon"])
    assert ended.value.code == 2
