"""Batches cut from resident studies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.cropping import crop_tensor

from training.dataloading.batches import Cut, ResidentBatches
from training.dataloading.patch_sampling import PatchSampler
from training.dataloading.resident_studies import ResidentStudy, resident_studies
from training.make_run import RunRequest, execute, execute_together
from training.nnunet.trainer import build_trainer
from training.run_folder.folder import RunFolder

CPU = torch.device("cpu")
IDS = ["100_1", "101_1", "102_1"]  # every other has a lesion
MEBIBYTE = 2**20


@pytest.fixture
def trainer(tmp_path, planned):
    def build(**settings):
        run = planned()
        task = run.engine.task(run, RunFolder(tmp_path / "run"), "cpu")
        built = build_trainer(replace(task, profile=task.profile.model_copy(update=settings)))
        built.initialize()
        return built

    return build


@pytest.fixture
def batches(trainer):
    """The trainer's training batches, with another size or share of foreground."""
    stock, _ = trainer().get_dataloaders()

    def build(
        batch_size=4, foreground=0.5, sampler=stock.sampler, case_ids=stock.case_ids, studies=stock.studies, device=None
    ):
        return ResidentBatches(
            studies,
            case_ids,
            recipe=stock.recipe,
            sampler=sampler,
            batch_size=batch_size,
            foreground=foreground,
            device=device,
        )

    return build


def tensors(batch):
    return [batch["data"], *batch["target"]]


def equal(first, second):
    return all(torch.equal(*pair) for pair in zip(tensors(first), tensors(second), strict=True))


def test_batches_depend_on_the_seed_only(batches):
    first, second, other = batches(), batches(), batches()
    for loader, seed in [(first, 1), (second, 1), (other, 2)]:
        loader.seed([seed])
    differing = 0
    for _ in range(10):
        expected = next(first)
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 - nothing may depend on the global generator
        differing += not equal(expected, next(other))
        assert equal(expected, next(second))
    assert differing == 10


def test_the_global_generators_do_not_change(batches):
    state, numpy = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    for _, batch in zip(range(10), batches(), strict=False):
        assert torch.isfinite(batch["data"]).all()
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy, np.random.get_state()[1])  # noqa: NPY002


def test_a_patch_is_the_same_in_a_batch_of_any_size(batches):
    small, large = batches(2, foreground=0), batches(8, foreground=0)
    for _ in range(5):
        pairs = [next(small) for _ in range(4)]
        whole = next(large)
        assert [key for pair in pairs for key in pair["keys"]] == whole["keys"]
        for number, tensor in enumerate(tensors(whole)):
            joined = torch.cat([tensors(pair)[number] for pair in pairs])
            torch.testing.assert_close(joined, tensor, rtol=1e-5, atol=1e-5)  # sums may be ordered otherwise


def test_forced_patches_hold_foreground_and_studies_without_do_no_harm(batches):
    loader = batches(4, foreground=0.5)
    lesion = {key: bool(study.classes) for key, study in loader.studies.by_id.items()}
    loader.recipe = replace(loader.recipe, spatial=None, steps=loader.recipe.steps[-1:])
    held = {True: 0, False: 0}
    for _ in range(50):
        batch = next(loader)
        for number, (key, label) in enumerate(zip(batch["keys"], batch["target"][0], strict=True)):
            if number >= 2 and lesion[key]:
                assert (label == 1).any()
            elif number < 2 and lesion[key]:
                held[bool((label == 1).any())] += 1
            else:
                assert not (label != 0).any()
    assert held[False] > 0


def test_a_patch_larger_than_the_study_is_filled(batches):
    size = (20, 48, 48)
    loader = batches(sampler=PatchSampler(size, size))
    loader.recipe = replace(loader.recipe, spatial=None, steps=())
    batch = next(loader)
    assert batch["data"].shape[2:] == size
    for key, image, label in zip(batch["keys"], batch["data"], batch["target"][0], strict=True):
        study = loader.studies.by_id[key]
        inside = label[0] >= 0
        assert int(inside.sum()) == int((study.label >= 0).sum())
        assert float(image.sum()) == pytest.approx(float(study.image.sum()), abs=0.1)
        assert not image[:, ~inside].any()


def test_validation_is_cut_without_augmentation(trainer):
    _, validation = trainer().get_dataloaders()
    assert validation.recipe.spatial is None
    assert validation.sampler.box == validation.sampler.patch
    for _, batch in zip(range(10), validation, strict=False):
        for key, image in zip(batch["keys"], batch["data"], strict=True):
            values = validation.studies.by_id[key].image
            assert image[0, 4, 8, 8] in values[0]
        assert batch["target"][0].min() == 0


def test_half_precision_takes_half_the_memory_and_gives_nearly_the_same(prepared_folder, batches):
    single, half = (
        resident_studies(prepared_folder, IDS, device=CPU, dtype=each) for each in (torch.float32, torch.float16)
    )
    assert half.by_id["100_1"].image.nbytes * 2 == single.by_id["100_1"].image.nbytes
    first, second = (next(batches(case_ids=IDS, studies=studies)) for studies in (single, half))
    assert second["data"].dtype == torch.float32
    torch.testing.assert_close(first["data"], second["data"], rtol=2e-3, atol=2e-3)
    assert equal({"data": first["data"], "target": second["target"]}, first)


def test_patches_are_copied_to_a_gpu_in_half_precision_from_pinned_memory(prepared_folder, batches, monkeypatch):
    """Torch's meta device stands in for a GPU: the buffers are looked at before they cross."""
    half = resident_studies(prepared_folder, IDS, device=CPU, dtype=torch.float16)
    here, crossing = (batches(case_ids=IDS, studies=half, device=device) for device in (None, torch.device("meta")))
    cuts = {1: Cut(half.by_id["100_1"], (-2, 3, 4))}
    expected = here._filled(2, (6, 8, 8), cuts)
    buffers = []

    def made(make):
        def wrapped(*arguments, pin_memory=False, **more):
            buffers.append((make(*arguments, **more), pin_memory))
            return buffers[-1][0]

        return wrapped

    monkeypatch.setattr(torch, "zeros", made(torch.zeros))
    monkeypatch.setattr(torch, "full", made(torch.full))
    found = crossing._filled(2, (6, 8, 8), cuts)
    (image, _), (label, _) = buffers
    assert [pinned for _, pinned in buffers] == [True, True]
    assert (image.dtype, label.dtype) == (torch.float16, torch.int16)
    assert torch.equal(image.float(), expected.image)
    assert torch.equal(label, expected.label)
    assert (found.image.device.type, found.image.dtype, found.label.device.type) == ("meta", torch.float32, "meta")


def test_runs_of_every_loader_finish_and_differ(profile, tmp_path, planned):
    hashes = []
    for loader in ("auto", "host", "nnunet"):
        path = tmp_path / f"{loader}.toml"
        path.write_text(f'loader = "{loader}"\n' + profile.read_text())
        run = planned(profile=path)
        hashes.append(execute(run, tmp_path / loader, device="cpu").weights_sha256)
        together = execute_together([RunRequest(run, tmp_path / f"{loader}-again")], device="cpu")
        assert [record.weights_sha256 for record in together] == hashes[-1:]
    assert len(set(hashes)) == 3


@pytest.mark.gpu
def test_studies_in_either_memory_give_a_gpu_the_same_batches(prepared_folder, batches):
    cuda = torch.device("cuda", 0)
    there, here = (
        batches(
            case_ids=IDS,
            studies=resident_studies(prepared_folder, IDS, device=device, dtype=torch.float16),
            device=cuda,
        )
        for device in (cuda, CPU)
    )
    for _ in range(20):
        torch.cuda.manual_seed(1)  # noise is drawn there
        expected = next(there)
        torch.cuda.manual_seed(1)
        assert equal(expected, next(here))


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_cpu_but_for_noise_and_rounding(prepared_folder, batches):
    cuda = torch.device("cuda", 0)
    on_cpu, on_gpu = (
        batches(case_ids=IDS, studies=resident_studies(prepared_folder, IDS, device=device, dtype=torch.float32))
        for device in (CPU, cuda)
    )
    quiet = tuple(step for step in on_cpu.recipe.steps if type(step).__name__ != "Noise")
    for loader in (on_cpu, on_gpu):
        loader.recipe = replace(loader.recipe, steps=quiet)
    for _ in range(20):
        ours, theirs = next(on_cpu), next(on_gpu)
        assert theirs["data"].device == cuda
        torch.testing.assert_close(ours["data"], theirs["data"].cpu(), rtol=1e-3, atol=1e-3)
        for expected, found in zip(ours["target"], theirs["target"], strict=True):
            assert (expected != found.cpu()).float().mean() < 1e-3


def study(shape=(9, 20, 17), *, voxels=None):
    z, y, x = np.indices(shape)
    image = torch.from_numpy(np.stack([z, y, x])).float() + 1
    label = torch.zeros(shape, dtype=torch.int8)
    label[4, 10, 8] = 1
    return ResidentStudy(image, label, voxels or {}, (1,), ((4, 10, 8), (5, 11, 9)))


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 5, 4), (-4, -7, -2), (6, 15, 13), (9, 0, 0)])
def test_a_cut_reaches_beyond_the_study_into_filling(corner):
    size, given = (5, 8, 9), study()
    image, label = torch.zeros(3, *size), torch.full(size, -1, dtype=torch.int16)
    Cut(given, corner).into(image, label)
    centre = [at + length // 2 for at, length in zip(corner, size, strict=True)]
    assert torch.equal(image, crop_tensor(given.image, centre, size))
    expected = crop_tensor(given.label[None].short(), centre, size, pad_kwargs={"value": -1})
    assert torch.equal(label, expected[0])


def test_a_cut_knows_whether_it_may_hold_foreground():
    size = (5, 8, 9)
    assert Cut(study(), (0, 3, 0)).may_hold_foreground(size)  # its last voxels are the lesion's
    assert not Cut(study(), (0, 2, 0)).may_hold_foreground(size)
    assert not Cut(study(), (5, 10, 8)).may_hold_foreground(size)
