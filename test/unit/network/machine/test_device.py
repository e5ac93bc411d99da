"""A machine by stand-ins at its border: nvidia-smi on PATH, the driver's files, and what torch says of CUDA."""

import os
import stat

import pytest
import torch
from refusals import refused_with

from algorithm.__main__ import main as algorithm
from contract.errors import OncoduetError
from network.machine import device
from network.machine.device import (
    MachineGpu,
    choose_device,
    machine_gpu,
    memory_or_refuse,
    out_of_memory,
    require_same_device,
)
from training.__main__ import main as training


def no_kernel(*_, **__):
    """What torch raises on a GPU that is too old, or too new, for its build."""
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nSearch for ...")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine: what nvidia-smi does, what the driver's files tell, torch's CUDA and whether it sees a GPU."""

    def make(smi=None, *, files="", lent=False, cuda="13.0", visible=False):
        programs, root = tmp_path / "bin", tmp_path / "root"
        programs.mkdir()
        if smi is not None:
            (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
            (programs / "nvidia-smi").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
        (root / "dev").mkdir(parents=True)
        if lent:
            (root / "dev/nvidia1").touch()  # one of several was lent
        if files:
            folder = root / "proc/driver/nvidia"
            (folder / "gpus/0000:0a:00.0").mkdir(parents=True)
            (folder / "gpus/0000:0a:00.0/information").write_text(f"Model: \t\t {files}\nIRQ: 1\n")
            (folder / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
        monkeypatch.setattr(torch, "ones", no_kernel)
        return root

    return make


T4 = 'echo "Tesla T4, 535.104.05"'
H200 = 'echo "NVIDIA H200, 580.65.06"; echo "NVIDIA H200, 580.65.06"'


def test_without_a_gpu_auto_is_the_cpu_and_says_why(machine):
    found = choose_device("auto", root=machine())
    assert found.kind == "cpu"
    assert str(found).startswith(f"device: cpu, {found.name}, torch {torch.__version__}")
    assert str(found).endswith("no NVIDIA driver (the machine has no GPU)")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("how", "parts"),
    [
        (
            {"smi": T4},
            ["GPU (Tesla T4)", "driver 535.104.05", "for CUDA 13.0", "asks for driver 580 or newer", "older CUDA"],
        ),
        ({"smi": T4, "cuda": None}, ["a build of torch without CUDA", "driver 535.104.05", "one with CUDA"]),
        ({"smi": H200}, ["GPU (NVIDIA H200)", "driver 580.65.06", "found that torch sees none", "restart the driver"]),
        ({"smi": H200, "visible": True}, ["found that torch cannot compute on it: CUDA error: no kernel image"]),
        ({"files": "Tesla T4"}, ["GPU (Tesla T4)", "driver 535.104.05", "docker run --gpus all"]),
        ({"files": "Tesla T4", "lent": True}, ["GPU (Tesla T4)", "asks for driver 580 or newer"]),
        ({"lent": True}, ["GPU (an NVIDIA GPU)", "driver unknown"]),
        (
            {"smi": 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18', "lent": True},
            ["nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch"],
        ),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused_with_what_helps(machine, how, parts, wanted):
    root = machine(**how)
    with pytest.raises(OncoduetError) as refused:
        choose_device(wanted, root=root)
    message = str(refused.value)
    assert message.startswith(f"--device {wanted}: expected to use the machine's GPU (")
    assert message.endswith(", or accept the CPU with --device cpu")
    for part in parts:
        assert part in message
    assert choose_device("cpu", root=root).kind == "cpu"


def test_a_gpu_that_is_asked_for_and_not_there_is_refused(machine):
    with refused_with("--device cuda", expected="a CUDA device", found="none "):
        choose_device("cuda", root=machine())


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_a_gpu_that_is_hidden_on_purpose_is_not_used(machine, monkeypatch, visible):
    root = machine(T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_device("auto", root=root).why == f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    with refused_with(found="hides every GPU, or accept the CPU"):
        choose_device("cuda", root=root)


@pytest.mark.parametrize("visible", ["7", "GPU-0a1b", "7,8"])
def test_a_gpu_by_a_name_that_does_not_exist_is_refused(machine, monkeypatch, visible):
    root = machine(H200)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for wanted in ("auto", "cuda"):
        with refused_with(f"--device {wanted}", found=f"does CUDA_VISIBLE_DEVICES='{visible}' name a GPU that is not"):
            choose_device(wanted, root=root)


def test_an_unused_gpu_is_mentioned(machine):
    assert choose_device("cpu", root=machine(T4)).why == "as asked for, although the machine has Tesla T4"


@pytest.mark.parametrize(
    "smi",
    ["exit 9", 'echo "No devices were found"; exit 6', "echo", "echo Tesla T4", "printf '\\377\\n'", "kill -9 $$"],
)
def test_an_nvidia_smi_that_names_no_gpu_is_none(machine, smi):
    assert machine_gpu(machine(smi)) is None


def test_an_nvidia_smi_that_never_answers_is_not_waited_for(machine, monkeypatch):
    monkeypatch.setattr(device, "_ASKING_S", 0.2)
    assert machine_gpu(machine("sleep 60")) is None


def test_what_nvidia_smi_calls_a_gpu_stays_on_its_line(machine):
    found = machine_gpu(machine("printf 'Te\\tsla  T4, 535.1\\n'"))
    assert found == MachineGpu("Te sla T4", "535.1", lent=True)


@pytest.mark.parametrize(
    "command",
    [
        [algorithm],
        [algorithm, "batch", "--archive", "A", "--output", "O"],
        [algorithm, "serve", "--port", "0"],
        [training, "sweep", "--runs", "R", "--output", "O"],
    ],
    ids=["single", "batch", "serve", "sweep"],
)
def test_every_command_that_computes_refuses_such_a_gpu_first(machine, command, capfd, monkeypatch):
    machine(T4)
    monkeypatch.setattr("algorithm.__main__.end_process", lambda status: None)  # the test's process continues
    main, *words = command
    assert callable(main)
    assert main(words) == 3
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --device auto: expected to use the machine's GPU (Tesla T4), found ")


@pytest.mark.parametrize(
    ("error", "is_about_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_exhausted_memory_is_distinguished_from_bugs(error, is_about_memory):
    assert out_of_memory(error) is is_about_memory
    expected = OncoduetError if is_about_memory else type(error)
    with pytest.raises(expected), memory_or_refuse("study s", remedy="less"):
        raise error


def test_memory_that_runs_out_is_one_line_with_what_helps():
    said = "CUDA out of memory. Tried 2 GiB.\n If reserved but unallocated memory is large try PYTORCH_ALLOC_CONF"
    with pytest.raises(OncoduetError) as refused, memory_or_refuse("study s", remedy="fewer members take less"):
        raise torch.OutOfMemoryError(said)
    assert refused.value.where == "study s"
    assert refused.value.problem == "not enough memory: CUDA out of memory. Tried 2 GiB.; fewer members take less"


def test_a_training_stays_on_its_kind_of_device():
    require_same_device("runs/a", begun="cuda", now="cuda")
    with refused_with("runs/a", problem="written on cpu", found="cuda; use --device cpu"):
        require_same_device("runs/a", begun="cpu", now="cuda")
