"""Steps of a training on CUDA tensors (``test/fake_cuda.py``): devices are not mixed, and the host hardly waits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fake_cuda import GPU, OnGpu, fake_cuda, network_on_gpu, on_gpu

from network.model.weights import load_weights, save_weights
from training.dataloading.instance_studies import InstanceStudies
from training.make_run import execute
from training.nnunet.trainer import Trainer, build_trainer
from training.retina_unet.trainer import DetectorTrainer
from training.run_folder.checkpoint_state import decode_state, encode_state
from training.run_folder.folder import RunFolder


@pytest.fixture
def build(planned, tmp_path):
    """A trainer with its batches, at the beginning of the first epoch."""

    def make(configuration, device="cpu"):
        run, folder = planned(configuration), RunFolder(tmp_path / "run")
        if configuration == "retina-unet":
            run.engine.plan_anchors(run, folder)
        task = run.engine.task(run, folder, device)
        built = build_trainer(task, DetectorTrainer if configuration == "retina-unet" else Trainer)
        built.initialize()
        built.dataloader_train, built.dataloader_val = built.get_dataloaders()
        built.on_epoch_start()
        return built

    return make


@dataclass(frozen=True)
class Studies:
    """Resident studies on the GPU."""

    by_id: Mapping[str, Any]
    device: torch.device


def move(trainer):
    """Put a trainer on the GPU: network, optimiser, gradient scaler, studies."""
    trainer.device = GPU
    network_on_gpu(trainer.network)
    trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
    trainer.grad_scaler = torch.amp.GradScaler("cuda")
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        by_id = {
            case_id: replace(study, image=on_gpu(study.image.half()), label=on_gpu(study.label))
            for case_id, study in loader.studies.by_id.items()
        }
        loader.device, loader.dtype = GPU, torch.float16
        of_instances = isinstance(loader.studies, InstanceStudies)
        loader.studies = InstanceStudies(by_id, loader.studies.instances, GPU) if of_instances else Studies(by_id, GPU)
    if isinstance(trainer, DetectorTrainer):
        trainer.anchors = [on_gpu(level) for level in trainer.anchors]


@pytest.mark.parametrize(("configuration", "waits"), [("ce-focal", 0), ("ce-dice", 0), ("retina-unet", 2)])
def test_steps_stay_on_the_gpu_and_hardly_make_the_host_wait(build, monkeypatch, configuration, waits):
    on_cpu, gpu, generator = build(configuration), build(configuration), torch.Generator
    expected = [float(on_cpu.train_step(next(on_cpu.dataloader_train))["loss"]) for _ in range(4)]
    monkeypatch.setattr("training.augmentation.intensity.torch.Generator", lambda _: generator())
    gpu.on_epoch_start()
    losses = []
    with fake_cuda() as mode:
        move(gpu)
        for _ in expected:
            mode.waits.clear()
            batch = next(gpu.dataloader_train)  # cut, turned and augmented on the GPU
            loss = gpu.train_step(batch)["loss"]
            assert isinstance(batch["data"], OnGpu)
            assert isinstance(loss, OnGpu)
            losses.append(float(loss.values))
            assert len(mode.waits) <= waits, mode.waits
    assert losses == pytest.approx(expected, rel=0.02)  # images are in half precision there


@pytest.mark.parametrize("configuration", ["ce-focal", "ce-dice", "retina-unet"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_take_half_precision_as_autocast_gives_it(build, configuration, dtype):
    trainer = build(configuration)
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        exact = float(trainer.batch_loss(batch))
    if configuration == "retina-unet":
        trainer.on_epoch_start()  # the same anchors are drawn
    with torch.autocast("cpu", dtype=dtype):
        loss = trainer.batch_loss(batch)
    (1024 * loss).backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.1)
    gradients = [each.grad for each in trainer.network.parameters() if each.grad is not None]
    assert gradients and all(each.isfinite().all() for each in gradients)


def test_channels_last_and_a_compiled_network_train_the_same_network(build, tmp_path):
    """By dynamo without a compiler behind it; weights are written as by any other run."""
    plain, other = build("ce"), build("ce")
    other.network.to(memory_format=torch.channels_last_3d).compile(backend="eager")
    other.on_device = lambda data: data.contiguous(memory_format=torch.channels_last_3d)
    losses = [
        [float(each.train_step(next(each.dataloader_train))["loss"]) for _ in range(3)] for each in (plain, other)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    save_weights(tmp_path / "weights.safetensors", other.final_weights())
    written = load_weights(tmp_path / "weights.safetensors")
    assert written.keys() == plain.final_weights().keys()
    state = decode_state(encode_state(other.state()), device="cpu")
    other.network.load_state_dict(state["network"])
    other.optimizer.load_state_dict(state["optimizer"])
    assert math.isfinite(float(other.train_step(next(other.dataloader_train))["loss"]))


@pytest.mark.gpu
@pytest.mark.parametrize(("configuration", "waits"), [("ce-focal", 0), ("retina-unet", 2)])
def test_a_real_gpu_waits_no_more_often(build, recwarn, configuration, waits):
    """By torch's own count, for steps after the first, which fills caches."""
    trainer = build(configuration, "cuda")
    for _ in range(6):
        recwarn.clear()
        torch.cuda.set_sync_debug_mode("warn")
        trainer.train_step(next(trainer.dataloader_train))
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing CUDA operation" in str(each.message) for each in recwarn) <= waits


@pytest.mark.gpu
@pytest.mark.parametrize("configuration", ["ce-dice", "retina-unet"])
def test_a_run_with_all_fast_settings_finishes_on_a_gpu(planned, edited_profile, tmp_path, configuration):
    table = 'deterministic = false\ncudnn_benchmark = true\ncompile = "auto"\nchannels_last = true\namp = "fp16"'
    profile = edited_profile(("[plan]", f"[compute]\n{table}\n\n[plan]"))
    record = execute(planned(configuration, profile=profile), tmp_path / "run", device="cuda")
    assert (record.state, record.torch["amp"], record.torch["channels_last"]) == ("finished", "fp16", True)
