"""What trainings take, and where their training set is kept by that; GPUs are stand-ins for what CUDA says of them."""

import gc
import math
from dataclasses import replace

import blosc2
import pytest
import torch
from refusals import refused_with

from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.records import RunRecord, read_record
from network.machine.memory import Budget
from training.dataloading.resident_studies import resident_studies, study_sizes
from training.make_run import execute
from training.memory_bill import AUTO, bills, choose_training_set, needs

MUCH = 10**12


@pytest.fixture
def free(monkeypatch):
    """Say what is free of the main memory and a GPU's; torch's cache holds what was reserved and is not allocated."""

    def say(host=MUCH, device=MUCH, reserved=0, allocated=0):
        gc.collect()  # trainers of earlier tests, which were never run to their end, held studies
        monkeypatch.setattr("network.machine.memory.memory_budget", lambda: Budget(host, "a stand-in"))
        monkeypatch.setattr("network.machine.memory.held_bytes", lambda: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device - reserved, MUCH))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")

    say()
    return say


@pytest.fixture
def forced(edited_profile):
    """The profile with a loader of its own."""

    def force(loader):
        return edited_profile(("threads = 1", f'threads = 1\nloader = "{loader}"'), name=f"{loader}.toml")

    return force


def by_place(run, kind, **more):
    return {bill.place: bill for bill in bills([run], kind, **more)}


def test_images_are_billed_by_precision_and_labels_as_they_are_stored(planned, prepared_folder):
    run = planned()
    shapes = [blosc2.open(str(path)).shape for path in prepared_folder.glob("cases/*_seg.b2nd")]
    voxels = sum(math.prod(shape) for shape in shapes)
    sizes = study_sizes(prepared_folder, [*run.fold.train, *run.fold.validation])
    assert (sizes.studies, sizes.voxels, sizes.values, sizes.labels) == (7, voxels, 3 * voxels, voxels)  # int8
    on_cpu, on_cuda = by_place(run, "cpu"), by_place(run, "cuda")
    assert on_cpu["device"].images == voxels * (3 * 4 + 1) + sizes.places
    assert on_cpu["host"].images == on_cuda["host"].images == voxels * (3 * 2 + 1) + sizes.places
    assert on_cuda["device"].images == voxels * (3 * 2 + 1)  # places stay in the main memory
    assert on_cpu["nnunet"].images == on_cuda["nnunet"].images == 0


def test_labels_of_more_classes_than_a_byte_holds_take_two(own_prepared):
    before = study_sizes(own_prepared, ["100_1"])
    dataset = read_json(own_prepared / "dataset.json")
    for classes, each in ((128, 1), (129, 2)):
        write_json(own_prepared / "dataset.json", dataset | {"labels": {str(value): value for value in range(classes)}})
        assert study_sizes(own_prepared, ["100_1"]).labels == each * before.labels


def test_studies_take_what_they_are_billed_for(planned, prepared_folder):
    ids = [*planned().fold.train, *planned().fold.validation]
    for bill in bills([planned()], "cpu")[:2]:
        dtype = {"device": torch.float32, "host": torch.float16}[bill.place]
        studies = resident_studies(prepared_folder, ids, device=torch.device("cpu"), dtype=dtype).by_id.values()
        taken = sum(study.image.nbytes + study.label.nbytes for study in studies)
        assert taken <= bill.images < 1.3 * taken


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_first_place_that_leaves_room_for_network_and_step_is_taken(planned, free, kind):
    run, packed = planned(), 3
    bill = by_place(run, kind, packed=packed)
    memory = "host" if kind == "cpu" else "device"
    step = bill["nnunet"].step_host if kind == "cpu" else packed * needs(run).on_cuda
    assert getattr(bill["device"], f"step_{memory}") == step
    least = {place: getattr(each, memory) for place, each in bill.items()}
    assert least["device"] == bill["device"].images + step
    choices = [(MUCH, MUCH, "device"), (least["device"], MUCH, "device"), (least["device"] - 1, MUCH, "host")]
    if kind == "cpu":
        choices += [(least["host"], MUCH, "host"), (least["host"] - 1, MUCH, "nnunet"), (step, MUCH, "nnunet")]
    else:
        choices += [(step, bill["host"].host, "host"), (step, bill["host"].host - 1, "nnunet")]
    for tight, other, expected in choices:
        free(**({"host": tight} if kind == "cpu" else {"device": tight, "host": other}))
        assert choose_training_set(run, "run", kind, packed=packed).place == expected
    free(**{memory: step - 1 if kind == "cuda" else bill["nnunet"].least - 1})
    with refused_with(
        str(run.prepared.folder), expected="at most .* GB", found="0 GB for the training set and .* step"
    ):
        choose_training_set(run, "run", kind, packed=packed)


def test_what_torch_keeps_of_a_gpu_for_later_is_not_taken(planned, free):
    run = planned()
    enough = by_place(run, "cuda")["device"].device
    free(device=enough, reserved=enough // 2)
    assert choose_training_set(run, "run", "cuda").place == "device"
    free(device=enough, reserved=enough // 2, allocated=1)
    assert choose_training_set(run, "run", "cuda").place == "host"


def test_a_tenth_of_the_memory_stays_free_however_small_the_network_is(planned):
    bill = replace(bills([planned()], "cpu")[0], images=900, step_host=50)
    assert bill.host == 1000


def test_what_another_run_of_the_process_has_loaded_is_taken(planned, free, prepared_folder):
    run = planned()
    ids = [*run.fold.train, *run.fold.validation]
    held = resident_studies(prepared_folder, ids, device=torch.device("cpu"), dtype=torch.float16)
    assert choose_training_set(run, "run", "cpu").place == "host"
    assert choose_training_set(run, "run", "cpu", begun="float32").place == "device"
    assert choose_training_set(run, "run", "cpu", given="nnunet").place == "nnunet"
    del held


@pytest.mark.parametrize(
    ("loader", "begun", "fields"),
    [
        ("device", None, {"expected": "at most .* GB .a stand-in.", "found": f"for the training set .* step; {AUTO}"}),
        ("host", None, {"expected": "at most .* GB .a stand-in.", "found": f"for the training set .* step; {AUTO}"}),
        ("auto", "float32", {"expected": "at most .* GB .a stand-in.", "found": "for the training set .* step; a sm"}),
        ("device", "float16", {"where": "^run$", "problem": "begun with studies in float16", "found": '"device"'}),
        ("device", "nnunet", {"where": "^run$", "problem": "begun with nnU-Net's loader", "found": '"device"'}),
    ],
)
def test_what_cannot_be_kept_as_it_must_be_is_refused(planned, free, forced, loader, begun, fields):
    run = planned(profile=forced(loader))
    free(host=by_place(run, "cpu")[loader if loader == "host" else "device"].least - 1)
    with refused_with(**fields):
        choose_training_set(run, "run", "cpu", begun=begun)


@pytest.mark.parametrize("loader", ["device", "host", "nnunet", "auto"])
def test_what_may_fit_the_main_memory_is_warned_of_and_tried(planned, free, forced, caplog, loader):
    run = planned(profile=forced(loader))
    bill = by_place(run, "cpu")["nnunet" if loader == "auto" else loader]
    assert bill.images < bill.least < bill.host
    for host, warned in ((bill.least, True), (bill.host - 1, True), (bill.host, False)):
        caplog.clear()
        free(host=host)
        assert choose_training_set(run, "the run", "cpu") == bill
        assert ("the run: the training takes" in caplog.text) is warned


def test_hashes_depend_on_the_loader_but_not_on_its_older_name(planned, forced):
    plain, auto, older, host, stock = (
        planned(profile=path).profile
        for path in (forced("device"), forced("auto"), forced("resident"), forced("host"), forced("nnunet"))
    )
    assert older.loader == "device"
    assert plain.sha256 == auto.sha256 == older.sha256
    assert len({plain.sha256, host.sha256, stock.sha256}) == 3
    assert stock.model_copy(update={"loader_processes": 3}).sha256 == stock.sha256


def test_a_run_goes_on_as_it_was_begun_whatever_the_memory_is_then(planned, free, forced, tmp_path, interrupt_after):
    run = planned()
    whole = execute(planned(profile=forced("host")), tmp_path / "whole", device="cpu")
    single = execute(run, tmp_path / "single", device="cpu")
    free(host=by_place(run, "cpu")["device"].host - 1)
    said = []
    interrupt_after(2, run, tmp_path / "run", on_start=said.append)
    assert said == [str(by_place(run, "cpu")["host"])]
    assert said[0] in (tmp_path / "run" / "training.log").read_text()
    free()
    resumed = execute(run, tmp_path / "run", device="cpu", resume=True)
    assert resumed.hardware["training_set"] == whole.hardware["training_set"] == "host"
    assert resumed.weights_sha256 == whole.weights_sha256 != single.weights_sha256


def test_a_run_begun_in_single_precision_is_not_continued_in_half(planned, free, tmp_path, interrupt_after):
    run = planned()
    interrupt_after(2, run, tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    free(host=by_place(run, "cpu")["device"].least - 1)
    with refused_with(str(run.prepared.folder), found="for the training set"):
        execute(run, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    free()
    assert execute(run, tmp_path / "run", device="cpu", resume=True).hardware["training_set"] == "device"


def test_a_run_that_fits_nowhere_is_one_line(profile, prepared_folder, tmp_path, free, outcome, capsys):
    command = ["run", "--prepared", prepared_folder, "--configuration", "ce", "--fold", 0, "--restart", 1]
    command += ["--profile", profile, "--device", "cpu", "--output", tmp_path / "run"]
    free(host=1000)
    code, message = outcome(*command)
    assert code == 3
    assert "a training that takes at most 1e-06 GB (a stand-in)" in message
    assert not (tmp_path / "run" / "run.json").exists()
    free()
    assert outcome(*command) == (0, "")
    assert read_record(tmp_path / "run" / "run.json", RunRecord).hardware["training_set"] == "device"
