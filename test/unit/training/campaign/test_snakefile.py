"""What a Snakefile says of a campaign; test/end_to_end/snakemake has Snakemake execute one."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from training.__main__ import main
from training.campaign import load_campaign
from training.campaign.estimate import Capacity, estimate_costs
from training.campaign.probe import EpochTime
from training.campaign.snakefile import write_snakefile
from training.campaign.status import StatusMonitor


@pytest.fixture(autouse=True)
def an_epoch_takes(monkeypatch):
    """A minute, for whoever asks."""
    asked = []
    monkeypatch.setattr(
        "training.campaign.estimate.probe", lambda run, devices: asked.append(run) or EpochTime(60.0, "a table")
    )
    return asked


def content(snakefile: Path):
    """The data in a Snakefile, which is both JSON and Python."""
    text = snakefile.read_text()
    found, _ = json.JSONDecoder().raw_decode(text, text.index("CAMPAIGN = ") + len("CAMPAIGN = "))
    return found


@pytest.fixture
def emitted(tmp_path):
    def emit(campaign: Path, *more: str):
        assert main(["campaign", str(campaign), *more, "--emit", "snakemake", str(tmp_path / "Snakefile")]) == 0
        return content(tmp_path / "Snakefile")

    return emit


def test_each_run_has_its_command_line_and_resources(campaign_file, emitted, prepared_folder, tmp_path, capsys):
    path = campaign_file(slurm={"partition": "long", "setup": ["module load x"], "cpus_per_run": 3, "max_attempts": 4})
    made = emitted(path)
    campaign = load_campaign(path)
    assert list(made["runs"]) == [planned.name for planned in campaign.planned]
    assert (made["setup"], made["retries"]) == ("module load x", 3)
    assert made["resources"] == {"slurm_partition": "long"}
    first, planned = made["runs"]["ce_fold0_restart1"], campaign.planned[0]
    assert shlex.split(first["options"]) == [
        *("--prepared", str(prepared_folder), "--configuration", "ce", "--fold", "0", "--restart", "1"),
        *("--profile", planned.spec.profile, "--seed", "0", "--device", "cpu"),
    ]
    memory = estimate_costs(campaign, StatusMonitor(campaign).look(), Capacity(1, 1, elsewhere=True)).memory
    assert memory is not None
    assert {name: value for name, value in first.items() if name != "options"} == {
        "after": [],
        "threads": 3,
        "mem_mb": pytest.approx(memory.needed / 10**6, abs=1),
        "runtime": 10 + 2 * 3,  # three epochs
    }
    assert capsys.readouterr().out == (
        f"device: cpu, of each run (slurm.gpus_per_run is 0)\n{tmp_path / 'Snakefile'}: 4 runs\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_longer_than_a_job_may_try_more_often(campaign_file, emitted, an_epoch_takes):
    made = emitted(campaign_file(slurm={"time_limit_minutes": 5, "memory_gb": 1.5}))
    assert {(run["runtime"], run["mem_mb"]) for run in made["runs"].values()} == {(5, 1500)}
    assert made["retries"] == 2 + 3
    assert len(an_epoch_takes) == 1


def test_on_gpus_that_are_not_here_the_time_limit_is_asked_for(campaign_file, emitted, an_epoch_takes, useless_gpu):
    made = emitted(campaign_file(slurm={"gpus_per_run": 1, "time_limit_minutes": 77}))
    assert {(run["runtime"], run["gpu"]) for run in made["runs"].values()} == {(77, 1)}
    assert all(run["options"].endswith("--device cuda") for run in made["runs"].values())
    assert an_epoch_takes == []


def test_runs_that_choose_by_detection_wait_for_the_one_that_locates(campaign_file, tmp_path, monkeypatch):
    path = campaign_file()
    status = StatusMonitor(load_campaign(path)).look()
    monkeypatch.setattr("training.engine.Engine.keep", lambda engine, run: "detection")
    for run in status.runs:
        if run.planned.name.startswith("focal"):
            monkeypatch.setitem(run.planned.run.configuration.__dict__, "stage", "localisation")
    write_snakefile(tmp_path / "Snakefile", status, device="cpu", timed_on=None)
    assert {name: run["after"] for name, run in content(tmp_path / "Snakefile")["runs"].items()} == {
        "ce_fold0_restart1": ["focal_fold0_restart1"],
        "ce_fold2_restart1": ["focal_fold2_restart1"],
        "focal_fold0_restart1": [],
        "focal_fold2_restart1": [],
    }


def test_runs_made_otherwise_tell_how_long_an_epoch_takes(campaign_file, emitted, write_run, an_epoch_takes):
    path = campaign_file()
    write_run(load_campaign(path).planned[1], "running", epochs=1, epoch_s=600)
    assert {run["runtime"] for run in emitted(path)["runs"].values()} == {10 + 2 * 30}
    assert an_epoch_takes == []


def test_a_run_of_an_uncounted_engine_requests_no_memory(campaign_file, emitted):
    made = emitted(campaign_file(configurations=["nndet"], folds=[0]))
    (run,) = made["runs"].values()
    assert run["runtime"] == 24 * 60
    assert "mem_mb" not in run


@pytest.mark.parametrize("edit", [lambda text: "rule all:\n", lambda text: text.replace("retries", "retry", 1)])
def test_a_snakefile_is_replaced_unless_it_is_the_users(campaign_file, emitted, tmp_path, refusal, edit):
    path, snakefile = campaign_file(), tmp_path / "Snakefile"
    emitted(path)
    emitted(path)
    mine = edit(snakefile.read_text())
    snakefile.write_text(mine)
    message = refusal("campaign", path, "--emit", "snakemake", snakefile)
    assert "Snakefile: file was edited since training campaign wrote it; give another output" in message
    assert snakefile.read_text() == mine


def test_a_snakefile_goes_into_no_input_and_replaces_no_other_campaigns(
    campaign_file, emitted, prepared_folder, tmp_path, refusal
):
    path = campaign_file()
    emitted(path)
    for where, found in [
        (prepared_folder / "cases" / "Snakefile", "found inside the dataset"),
        (prepared_folder.parent / "archive" / "labels" / "1.nii.gz", "found inside the archive"),
        (tmp_path / "Snakefile", "found some of campaign"),
    ]:
        other = shutil.copy(path, path.with_name("other.toml"))
        assert found in refusal("campaign", other, "--emit", "snakemake", where)


def test_braces_in_a_path_are_refused(campaign_file, tmp_path, refusal):
    message = refusal("campaign", campaign_file(output="{runs}"), "--emit", "snakemake", tmp_path / "Snakefile")
    assert "{runs}: braces in a path are wildcards to Snakemake" in message
    assert not (tmp_path / "Snakefile").exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["nextflow"], "expected snakemake [FILE], found nextflow"),
        (["snakemake", "a", "b"], "expected snakemake [FILE], found snakemake a b"),
        (["snakemake", "a", "--dry-run"], "expected no --dry-run, found both"),
    ],
)
def test_other_words_are_wrong_usage(campaign_file, outcome, words, found):
    code, message = outcome("campaign", campaign_file(), "--emit", *words)
    assert (code, found in message) == (2, True), message
