"""Runs that share a process: each as if it were alone."""

import gc
import os
import signal

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from programs import fork
from refusals import refused_with

from contract.errors import OncoduetError
from contract.records import RunRecord, read_record
from training.make_run import RunRequest, execute, execute_together
from training.nnunet.trainer import Trainer

LOSSES = [("ce", 1), ("ce", 2), ("focal", 1), ("ce-dice", 1)]


@pytest.fixture
def alone(planned, tmp_path):
    """Weights' hashes of runs made one after the other."""

    def hashes(runs, **more):
        return [
            execute(planned(*run, **more), tmp_path / f"alone{number}", device="cpu").weights_sha256
            for number, run in enumerate(runs)
        ]

    return hashes


def requests(planned, folder, runs, **more):
    return [RunRequest(planned(*run, **more), folder / f"packed{number}") for number, run in enumerate(runs)]


def test_packed_runs_are_bit_identical_to_single_runs(planned, alone, tmp_path):
    records = execute_together(requests(planned, tmp_path, LOSSES), device="cpu")
    packed = [record.weights_sha256 for record in records]
    assert packed == alone(LOSSES)
    assert len(set(packed)) == len(LOSSES)
    assert all(read_record(tmp_path / f"packed{i}" / "run.json", RunRecord) == each for i, each in enumerate(records))


def test_packed_runs_are_interleaved(planned, tmp_path):
    heard = []
    told = [
        RunRequest(
            planned(*run), tmp_path / str(number), on_iteration=lambda done, number=number: heard.append((number, done))
        )
        for number, run in enumerate(LOSSES[:2])
    ]
    execute_together(told, device="cpu")
    assert heard[:4] == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_killed_pack_resumes_to_the_same_bits(planned, alone, tmp_path):
    def work() -> None:
        def on_epoch(epoch) -> None:
            if epoch.epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        first, second = requests(planned, tmp_path, LOSSES[:2])
        execute_together([first, RunRequest(second.run, second.output, on_epoch=on_epoch)], device="cpu")

    process = fork(work)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = execute_together(requests(planned, tmp_path, LOSSES[:2]), device="cpu", resume=True)
    assert [record.weights_sha256 for record in resumed] == alone(LOSSES[:2])


def test_a_failing_run_is_reported_at_once_and_the_others_continue(planned, alone, tmp_path):
    class PowerCutError(Exception):
        pass

    def fail(epoch) -> None:
        raise PowerCutError

    ended = []
    first, second = requests(planned, tmp_path, LOSSES[:2])
    failing = RunRequest(first.run, first.output, on_epoch=fail, on_end=ended.append)
    error, record = execute_together(
        [failing, RunRequest(second.run, second.output, on_end=ended.append)], device="cpu"
    )
    assert isinstance(error, PowerCutError)
    assert ended == [error, record]
    assert read_record(first.output / "run.json", RunRecord).state == "failed"
    assert "PowerCutError" in (first.output / "training.log").read_text()
    assert "PowerCutError" not in (second.output / "training.log").read_text()
    assert [record.weights_sha256] == alone(LOSSES[1:2])


def test_a_failed_run_frees_its_memory_while_the_others_continue(planned, alone, tmp_path):
    """By the networks and trainers that are alive in later steps of the other run."""
    alive = []

    def fail(done) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def count(done) -> None:
        if done > 1:
            alive.append(len(networks_and_trainers()) - len(earlier))

    def networks_and_trainers() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, Trainer | PlainConvUNet)]

    first, second = requests(planned, tmp_path, LOSSES[:2])
    gc.collect()
    earlier = networks_and_trainers()  # of other tests
    failing = RunRequest(first.run, first.output, on_iteration=fail)
    error, record = execute_together([failing, RunRequest(second.run, second.output, on_iteration=count)], device="cpu")
    assert alive == [2] * 5  # one trainer and its network
    assert isinstance(error, OncoduetError)
    assert str(error).startswith(f"{first.output}: on cpu: not enough memory: CUDA out of memory.")
    assert "resources.packed" in str(error)
    assert "torch.OutOfMemoryError" in (first.output / "training.log").read_text()
    assert [record.weights_sha256] == alone(LOSSES[1:2])


def test_each_packed_run_has_its_own_log(planned, tmp_path):
    execute_together(requests(planned, tmp_path, LOSSES[:2]), device="cpu")
    for number in range(2):
        log = (tmp_path / f"packed{number}" / "training.log").read_text()
        assert log.count("Current learning rate") == 3  # one per epoch
        assert "Training done." in log


def test_an_interrupted_pack_lets_its_locks_go(planned, tmp_path):
    def interrupt(done) -> None:
        raise KeyboardInterrupt

    first, second = requests(planned, tmp_path, LOSSES[:2])
    with pytest.raises(KeyboardInterrupt):
        execute_together([first, RunRequest(second.run, second.output, on_iteration=interrupt)], device="cpu")
    assert read_record(first.output / "run.json", RunRecord).state == "running"
    assert [record.state for record in execute_together([first, second], device="cpu")] == ["finished"] * 2


def test_two_runs_for_one_folder_are_refused(planned, tmp_path):
    with refused_with("run", "folder of two runs"):
        execute_together(
            [RunRequest(planned(), tmp_path / "run"), RunRequest(planned("focal"), tmp_path / "run")], device="cpu"
        )
