import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from refusals import refused_with

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file, sha256_json
from contract.records import RunRecord, read_record, write_record
from network.machine.device import ComputeDevice
from network.model.architecture import build_network
from network.model.weights import load_weights, tensors_sha256
from training.make_run import execute
from training.run_folder.folder import RunFolder


class PowerCutError(Exception):
    pass


def test_a_finished_run_is_complete(planned, tmp_path):
    run = planned("ce-dice", fold=1, restart=2)
    steps = []
    returned = execute(run, tmp_path / "run", device="cpu", on_iteration=steps.append)
    record = read_record(tmp_path / "run" / "run.json", RunRecord)
    assert record == returned
    assert record.state == "finished"
    assert record.key == run.key
    assert record.data_licence == "CC0-1.0"
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [epoch.epoch for epoch in record.epochs] == [0, 1, 2]
    assert [epoch.learning_rate for epoch in record.epochs] == pytest.approx(
        [0.01 * (1 - epoch / 3) ** 0.9 for epoch in range(3)]
    )
    assert all(math.isfinite(epoch.train_loss) and epoch.wall_s > 0 for epoch in record.epochs)
    assert record.hardware["threads"] == 1
    assert all(epoch.pseudo_dice is None or 0 <= epoch.pseudo_dice <= 1 for epoch in record.epochs)
    assert record.cpu_s > 0
    assert record.gpu_s == 0
    weights = load_weights(tmp_path / "run" / "weights.safetensors")
    assert tensors_sha256(weights) == record.weights_sha256
    plans, dataset = (read_json(tmp_path / "run" / name) for name in ("plans.json", "dataset.json"))
    build_network(plans, dataset, deep_supervision=False).load_state_dict(weights)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", ".oncoduet", "card.toml", "dataset.json", "plans.json", "run.json", "training.log",
        "training_studies.json", "weights.safetensors",
    ]  # fmt: skip


def test_same_seed_gives_the_same_bits_and_another_restart_others(planned, tmp_path):
    first, again, other = (
        execute(planned(restart=restart), tmp_path / name, device="cpu").weights_sha256
        for restart, name in [(1, "first"), (1, "again"), (2, "other")]
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("keep", ["final", "best"])
def test_a_killed_run_resumes_to_the_same_bits(planned, tmp_path, keep, kill_after, edited_profile):
    profile = edited_profile(('checkpoint = "final"', f'checkpoint = "{keep}"'))
    run = planned("focal", profile=profile)
    whole = execute(run, tmp_path / "whole", device="cpu")
    kill_after(2, run, tmp_path / "killed")
    assert read_record(tmp_path / "killed" / "run.json", RunRecord).state == "running"
    names = [path.name for path in run.checkpoints(RunFolder(tmp_path / "killed")).files()]
    assert names == ["epoch_000002.pt", "epoch_000001.pt"]
    steps = []
    resumed = execute(run, tmp_path / "killed", device="cpu", resume=True, on_iteration=steps.append)
    assert steps == [5, 6]
    assert resumed.weights_sha256 == whole.weights_sha256
    assert [epoch.train_loss for epoch in resumed.epochs] == [epoch.train_loss for epoch in whole.epochs]


def test_a_run_killed_before_its_first_checkpoint_restarts(planned, tmp_path, kill_after, edited_profile):
    profile = edited_profile(("checkpoint_every_epochs = 1", "checkpoint_every_epochs = 2"))
    run = planned(profile=profile)
    kill_after(1, run, tmp_path / "killed")
    steps = []
    execute(run, tmp_path / "killed", device="cpu", on_iteration=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_best_weights_are_those_of_the_epoch_with_the_best_pseudo_dice(planned, tmp_path, kill_after, edited_profile):
    profile = edited_profile(('checkpoint = "final"', 'checkpoint = "best"'))
    for restart in range(1, 9):  # until one tells best from final
        run, place = planned(profile=profile, restart=restart), tmp_path / f"best{restart}"
        best = execute(run, place, device="cpu")
        epochs = (place / "training.log").read_text().split("Current learning rate")[1:]
        improved = [number for number, part in enumerate(epochs) if "New best EMA pseudo Dice" in part]
        if improved[-1] < 2:
            break
    assert improved[-1] < 2
    kill_after(improved[-1] + 1, run, tmp_path / "killed")
    checkpoint = run.checkpoints(RunFolder(tmp_path / "killed")).newest()
    assert checkpoint.epoch == improved[-1] + 1
    assert tensors_sha256(checkpoint.state["network"]) == best.weights_sha256
    assert best.checkpoint == "best"
    final = execute(planned(restart=restart), tmp_path / "final", device="cpu")
    assert final.weights_sha256 != best.weights_sha256


def test_a_finished_run_is_not_made_again(planned, tmp_path, caplog):
    run = planned()
    first = execute(run, tmp_path / "run", device="cpu")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    with caplog.at_level("INFO", logger="training"):
        assert execute(run, tmp_path / "run", device="cpu", resume=True) == first
    assert "finished already, nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before if path.name != ".lock"} == {
        path: time for path, time in before.items() if path.name != ".lock"
    }
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "work").symlink_to(tmp_path / "mine")
    with refused_with("work", "is a link"):
        execute(run, tmp_path / "run", device="cpu")
    assert (tmp_path / "mine" / "checkpoints").is_dir()


def test_a_failed_run_is_recorded_and_can_resume(planned, tmp_path, interrupt_after):
    run = planned()
    interrupt_after(2, run, tmp_path / "run", PowerCutError)
    record = read_record(tmp_path / "run" / "run.json", RunRecord)
    assert (record.state, len(record.epochs), record.weights_sha256) == ("failed", 2, None)
    assert "PowerCutError" in (tmp_path / "run" / "training.log").read_text()
    resumed = execute(run, tmp_path / "run", device="cpu")
    assert resumed.weights_sha256 == execute(run, tmp_path / "whole", device="cpu").weights_sha256


def test_a_diverging_training_is_refused(planned, tmp_path, edited_profile):
    profile = edited_profile(("learning_rate = 0.01", "learning_rate = 1e6"))
    with refused_with("run", expected="a finite loss", found=".* is the learning rate too high"):
        execute(planned(profile=profile), tmp_path / "run", device="cpu")
    assert read_record(tmp_path / "run" / "run.json", RunRecord).state == "failed"


@pytest.mark.parametrize("fold", [3, -1])
def test_an_unknown_fold_is_refused(planned, fold):
    with refused_with(r"splits\.json", expected="a fold from 0 to 2", found=str(fold)):
        planned(fold=fold)


def test_unknown_names_are_refused(planned):
    with refused_with("configuration 'dice-only'", expected="one of"):
        planned("dice-only")
    with refused_with("profile 'fast'", expected="one of"):
        planned(profile="fast")


def test_a_negative_restart_is_wrong_usage(planned):
    with refused_with("restart and seed", expected="at least 0", found="-1 and 0") as error:
        planned(restart=-1)
    assert error.value.exit_code == 2


def test_a_fold_that_trains_on_no_lesion_is_refused(planned, own_prepared):
    path = own_prepared / "prepared.json"
    values = read_json(path)
    validation = read_json(own_prepared / "splits.json")["folds"][1]["validation"]
    for study in values["studies"]:
        study["lesions"] = int(study["case_id"] in validation)
    write_json(path, values)
    with refused_with(problem="no lesion in the training part of fold 1"):
        planned(fold=1, prepared=own_prepared)


def test_resume_without_a_checkpoint_is_refused(planned, tmp_path):
    with refused_with("checkpoints", expected="a checkpoint to resume from", found="none"):
        execute(planned(), tmp_path / "run", device="cpu", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused(planned, tmp_path):
    execute(planned(), tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with refused_with(expected="the run ce, fold 0, restart 2.", found="the run ce, fold 0, r"):
        execute(planned(restart=2), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_data_that_changed_under_a_half_finished_run_are_refused(planned, tmp_path, sealed, kill_after, own_prepared):
    kill_after(1, planned(prepared=own_prepared), tmp_path / "run")
    path = own_prepared / "splits.json"
    values = read_json(path)
    values["folds"] = [values["folds"][1], values["folds"][0], values["folds"][2]]
    path.write_text(json.dumps(values))
    sealed(own_prepared)
    with refused_with(r"run\.json", "prepared dataset changed since the run was begun"):
        execute(planned(prepared=own_prepared), tmp_path / "run", device="cpu")


def test_a_configuration_that_changed_under_its_name_is_refused(planned, profile, tmp_path, edited_profile):
    execute(planned(), tmp_path / "run", device="cpu")
    changed = edited_profile(("momentum = 0.9", "momentum = 0.8"))
    with refused_with(problem="profile changed since the run was begun"):
        execute(planned(profile=changed), tmp_path / "run", device="cpu")


def test_a_gpu_that_is_asked_for_and_not_there_is_refused(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused_with("--device cuda", found=".* accept the CPU with --device cpu"):
        execute(planned(), tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("by", ["record", "checkpoint"])
def test_a_run_does_not_resume_on_another_kind_of_device(planned, tmp_path, by, interrupt_after):
    """The checkpoint of a run on a GPU, as far as the CPU can tell: by its record, and by its own word."""
    run, folder = planned(), RunFolder(tmp_path / "run")
    interrupt_after(2, run, folder.path, PowerCutError)
    checkpoints = run.checkpoints(folder)
    written = checkpoints.newest()
    assert written.state["device"] == "cpu"
    record = read_record(folder.record, RunRecord)
    hardware = {key: value for key, value in record.hardware.items() if key != "device"}
    if by == "record":
        hardware["device"] = "cuda"
    else:
        checkpoints.write(replace(written, state={**written.state, "device": "cuda"}))
    write_record(folder.record, record.model_copy(update={"hardware": hardware}))
    with refused_with(problem="the checkpoint was written on cuda", found="cpu; "):
        execute(run, folder.path, device="cpu")
    assert checkpoints.newest().epoch == written.epoch


def test_a_run_begun_on_the_cpu_does_not_resume_on_a_gpu(planned, tmp_path, monkeypatch, interrupt_after):
    run, folder = planned(), RunFolder(tmp_path / "run")
    interrupt_after(2, run, folder.path, PowerCutError)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    monkeypatch.setattr("training.make_run.choose_device", lambda _: ComputeDevice("cuda", "a GPU", "torch", "a test"))
    with refused_with(problem="the checkpoint was written on cpu", found="cuda; use --device cpu, or a new --output"):
        execute(run, folder.path, device="cuda")
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_record_names_all_that_decides_the_last_bits(planned, prepared_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ONCODUET_IMAGE", "oncoduet-train")
    run = planned()
    record = execute(run, tmp_path / "run", device="cpu")
    assert record.written_by.git_revision
    assert record.container == "oncoduet-train"
    assert record.command_line == tuple(sys.orig_argv)
    assert record.prepared_folder == str(prepared_folder)
    assert record.versions["torch"] == torch.__version__
    assert record.torch["deterministic_algorithms"] is torch.are_deterministic_algorithms_enabled()
    assert record.torch["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert {"host", "cpu", "cpu_count", "device", "threads"} <= set(record.hardware)
    folder = RunFolder(tmp_path / "run")
    assert record.parents == {
        "prepared": run.prepared.sha256,
        "configuration": run.configuration.sha256,
        "profile": run.profile.sha256,
        "card": record.key.card_sha256,
        "plans": sha256_json(read_json(folder.plans)),
        "dataset": sha256_json(read_json(folder.dataset)),
        "training_studies": sha256_file(folder.training_studies),
    }
    monkeypatch.delenv("ONCODUET_IMAGE")
    assert execute(planned(restart=2), tmp_path / "other", device="cpu").container is None


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_bits_on_a_gpu_and_after_a_failure(planned, tmp_path, recwarn, interrupt_after):
    """Where this fails, torch's warnings name each operation that has no deterministic kernel."""

    first, again = (execute(planned(), tmp_path / name, device="cuda").weights_sha256 for name in ("first", "again"))
    interrupt_after(2, planned(), tmp_path / "interrupted", device="cuda")
    resumed = execute(planned(), tmp_path / "interrupted", device="cuda", resume=True).weights_sha256
    named = [str(each.message) for each in recwarn if "deterministic" in str(each.message)]
    assert (first, first) == (again, resumed), named


@pytest.mark.gpu
def test_a_run_on_a_gpu_finishes_and_resumes_after_a_failure(planned, tmp_path, interrupt_after):
    interrupt_after(2, planned(), tmp_path / "run", device="cuda")
    record = execute(planned(), tmp_path / "run", device="cuda", resume=True)
    assert record.state == "finished"
    assert record.gpu_s > 0
    assert all(
        torch.isfinite(tensor).all() for tensor in load_weights(tmp_path / "run" / "weights.safetensors").values()
    )


def test_a_preprocessed_file_that_is_not_as_recorded_is_not_trained_on(planned, tmp_path, own_prepared):
    run = planned(prepared=own_prepared)
    path = own_prepared / "cases" / f"{run.fold.train[0]}.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused_with(path.name, r"does not match the hash in prepared\.json"):
        execute(run, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_in_the_archive_that_its_dataset_was_made_from_is_refused(planned, prepared_folder):
    archive = prepared_folder.parent / "archive"
    with pytest.raises(OncoduetError) as caught:
        execute(planned(), archive / "run", device="cpu")
    assert caught.value.found == f"inside the archive {archive}"
    assert not (archive / "run").exists()
