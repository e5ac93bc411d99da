import os

import pytest
import torch
from refusals import refused_with

from training.campaign.devices import chosen_devices, in_a_child, see_only, visible_devices


def test_asking_leaves_cuda_asleep_in_this_process():
    visible_devices()
    assert not torch.cuda.is_initialized()


def test_on_the_cpu_no_device_is_chosen():
    assert chosen_devices(None, device="cpu") == ()
    assert chosen_devices([3], device="cpu") == ()


def test_devices_that_are_not_there_are_refused():
    with refused_with(expected="CUDA device 99", found=r"(no CUDA device|\d+ \(0 to)"):
        chosen_devices([99], device="auto")


def test_a_gpu_that_torch_cannot_use_is_refused_in_the_process_that_asked(useless_gpu):
    with refused_with("--device auto", expected=r"to use the machine's GPU \(Tesla T4\)"):
        chosen_devices(None, device="auto")
    assert chosen_devices(None, device="cpu") == ()


@pytest.mark.gpu
def test_a_visible_device_reports_its_free_memory():
    first = chosen_devices([0], device="cuda")[0]
    assert first.index == 0
    assert first.free_bytes > 10**9


@pytest.mark.parametrize(("before", "index", "after"), [(None, 1, "1"), ("4,7", 1, "7"), ("GPU-a,GPU-b", 0, "GPU-a")])
def test_a_process_sees_one_of_the_visible_devices(monkeypatch, before, index, after):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    see_only(index)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after


def test_a_child_that_dies_is_a_bug_and_no_hang():
    with pytest.raises(RuntimeError, match="ended with 7"):
        in_a_child(lambda: os._exit(7))
