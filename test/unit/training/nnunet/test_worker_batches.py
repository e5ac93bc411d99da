"""nnU-Net's loader in processes of its own gives the same bits however many there are, and ends with the training."""

import os
import random
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from refusals import refused_with

from contract.errors import OncoduetError
from training.make_run import execute
from training.nnunet import worker_batches
from training.nnunet.seeds import seed_generators
from training.nnunet.worker_batches import WorkerBatches, processes_of, shared_at_most


@pytest.fixture
def stock(edited_profile):
    """A profile with nnU-Net's loader and so many processes."""

    def write(processes, loader="nnunet"):
        lines = f'threads = 1\nloader = "{loader}"\nloader_processes = {processes}'
        return edited_profile(("threads = 1", lines), name=f"{processes}.toml")

    return write


class Draws:
    """Batches of one number from each generator, and of the process and its threads."""

    def __next__(self):
        numbers = torch.tensor([random.random(), np.random.random(), torch.rand(1).item()])  # noqa: NPY002
        return {"data": numbers, "process": os.getpid(), "threads": torch.get_num_threads()}


def draws(processes, per_epoch=3, source=None):
    def reseed(moment):
        seed_generators(7, moment)

    return WorkerBatches(
        source or Draws(), reseed, purpose="training", per_epoch=per_epoch, processes=processes, pinned=False
    )


def taken(batches, count):
    return torch.stack([next(batches)["data"] for _ in range(count)])


def test_batches_follow_from_seed_epoch_and_number_alone():
    alone, together = draws(0), draws(2)
    for batches in (alone, together):
        batches.begin(0)
    first, again = taken(alone, 3), taken(together, 3)
    assert torch.equal(first, again)
    assert len(first.unique()) == 9
    for batches in (alone, together):
        batches.begin(1)
    assert torch.equal(taken(alone, 3), second := taken(together, 3))
    resumed = draws(1)
    resumed.begin(1)
    assert torch.equal(taken(resumed, 3), second)


def test_workers_have_one_thread_and_leave_the_generators_here_alone():
    batches = draws(2)
    batches.begin(0)
    before = torch.get_rng_state(), random.getstate()
    made = [next(batches) for _ in range(4)]
    assert len({batch["process"] for batch in made} | {os.getpid()}) == 3
    assert {batch["threads"] for batch in made} == {1}
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_an_error_in_a_worker_is_the_line_that_it_would_be_here():
    class Damaged:
        def __next__(self):
            raise OncoduetError("100_1.b2nd", expected="a", found="b")

    batches = draws(1, source=Damaged())
    batches.begin(0)
    with refused_with("^100_1.b2nd$", expected="^a$", found="^b$"):
        next(batches)


def test_bits_depend_on_neither_processes_nor_interruptions(planned, stock, tmp_path, kill_after, profile):
    alone = execute(planned(profile=stock(0)), tmp_path / "alone", device="cpu")
    kill_after(2, planned(profile=stock(2)), tmp_path / "killed")
    resumed = execute(planned(profile=stock(1)), tmp_path / "killed", device="cpu", resume=True)  # the lock is free
    assert resumed.weights_sha256 == alone.weights_sha256
    assert alone.hardware["training_set"] == "nnunet"


@pytest.mark.parametrize(
    ("wanted", "variable", "device", "expected"),
    [(3, "5", "cuda", 3), (0, None, "cuda", 0), (None, "5", "cpu", 5), (None, None, "cpu", 0), (None, None, "cuda", 4)],
)
def test_the_number_of_processes_is_the_profiles_or_nnunets(monkeypatch, wanted, variable, device, expected):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    if variable is not None:
        monkeypatch.setenv("nnUNet_n_proc_DA", variable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(worker_batches, "cores_left", lambda: 4.5)
    assert processes_of(wanted, device) == expected


def test_a_variable_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "-1")
    with refused_with("^nnUNet_n_proc_DA$", expected="a number of processes", found="'-1'"):
        processes_of(None, "cpu")


def test_no_more_processes_than_shared_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(worker_batches, "SHARED_MEMORY", worker_batches.Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(64_000_000))
    assert [shared_at_most(12, size) for size in (10**6, 5 * 10**6, 10**8)] == [12, 4, 0]  # three batches each
