import math
import os
import shutil

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading import data_loader
from refusals import refused_with

from training.dataset.nnunet_folders import batches_on_one_thread, nnunet_folders
from training.dataset.prepared import load_prepared
from training.nnunet.epoch_log import EpochLog
from training.nnunet.focused_cases import FocusedCases
from training.nnunet.seeds import seed_generators
from training.nnunet.trainer import build_trainer
from training.run_folder.checkpoints import Checkpoint
from training.run_folder.folder import RunFolder


@pytest.fixture
def trainer(tmp_path, planned):
    def build(configuration="ce", profile="demo", training_set="device"):
        run = planned(configuration, profile=profile)
        return build_trainer(run.engine.task(run, RunFolder(tmp_path / "run"), "cpu", training_set=training_set))

    return build


def test_the_profiles_numbers_replace_nnunets(trainer):
    built = trainer()
    built.initialize()
    (group,) = built.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.9, True, 3e-5)
    assert (built.num_epochs, built.num_iterations_per_epoch, built.num_val_iterations_per_epoch) == (10, 20, 1)
    assert built.oversample_foreground_percent == 0.67
    assert built.network.encoder.output_channels == [8, 16, 32, 64]


def test_our_loss_is_inside_nnunets_deep_supervision(trainer):
    # Three resolutions: nnU-Net's weights 1, 1/2 and 0, divided by their sum.
    for configuration, at_half in [("ce", math.log(2)), ("focal", (0.129956 + 0.043319) / 2)]:
        built = trainer(configuration)
        built.initialize()
        assert built.loss.weight_factors == pytest.approx((2 / 3, 1 / 3, 0))
        sizes = [(2, 8, 8), (2, 4, 4), (2, 2, 2)]
        label = [torch.tensor([0, 1]).view(1, 1, 2, 1, 1).expand(1, 1, *size) for size in sizes]
        even = [torch.zeros(1, 2, *size) for size in sizes]
        assert built.loss(even, label).item() == pytest.approx(at_half, abs=2e-6)
        certain = torch.cat([1e3 * (1 - label[0]), 1e3 * label[0]], dim=1)
        assert built.loss([certain, *even[1:]], label).item() == pytest.approx(at_half / 3, abs=2e-6)


def test_nnunets_loader_runs_in_this_process_with_its_augmentation(trainer, tmp_path):
    built = trainer(training_set="nnunet")
    with nnunet_folders(raw=tmp_path, preprocessed=tmp_path, results=tmp_path, loader_processes=0):
        built.initialize()
        training, validation = built.get_dataloaders()
    assert (training.processes, validation.processes) == (0, 0)
    assert isinstance(training.batches, SingleThreadedAugmenter)
    transforms = [getattr(each, "transform", each) for each in training.batches.data_loader.transforms.transforms]
    names = [type(each).__name__ for each in transforms]
    assert {"SpatialTransform", "GammaTransform", "MirrorTransform", "SimulateLowResolutionTransform"} <= set(names)
    (blur,) = (each for each in transforms if isinstance(each, GaussianBlurTransform))
    assert blur.benchmark is False


def test_training_and_validation_studies_are_the_folds(trainer, prepared_folder):
    fold = load_prepared(prepared_folder).fold(0)
    built = trainer()
    training, validation = built.get_tr_and_val_datasets()
    assert (tuple(training.identifiers), tuple(validation.identifiers)) == (fold.train, fold.validation)
    built.initialize()
    training, validation = built.get_dataloaders()
    assert (tuple(training.case_ids), tuple(validation.case_ids)) == (fold.train, fold.validation)


@pytest.mark.parametrize("training_set", ["device", "host", "nnunet"])
def test_every_place_gives_batches_of_the_same_shapes_and_types(trainer, tmp_path, training_set):
    built = trainer(training_set=training_set)
    with nnunet_folders(raw=tmp_path, preprocessed=tmp_path, results=tmp_path, loader_processes=0):
        built.initialize()
        loaders = built.get_dataloaders()
    for batch in map(next, loaders):
        assert (batch["data"].shape, batch["data"].dtype) == ((4, 3, 12, 32, 32), torch.float32)
        sizes = [(12, 32, 32), (12, 16, 16), (6, 8, 8)]
        assert [(each.shape, each.dtype) for each in batch["target"]] == [
            ((4, 1, *size), torch.int16) for size in sizes
        ]
        assert len(batch["keys"]) == 4


def test_an_epochs_batches_follow_from_the_seed_and_the_epoch(trainer):
    built = trainer()
    built.initialize()
    built.dataloader_train, built.dataloader_val = built.get_dataloaders()

    def first(epoch):
        built.current_epoch = epoch
        built.on_epoch_start()
        return [next(loader)["data"] for loader in (built.dataloader_train, built.dataloader_val)]

    (early, validation), (late, _), (again, _) = first(3), first(4), first(3)
    assert torch.equal(early, again)
    assert not torch.equal(early, late)
    assert not torch.equal(early, validation)


def test_what_studies_in_memory_cannot_do_is_refused(trainer):
    built = trainer()
    built.initialize()
    built.is_cascaded = True
    with refused_with(problem='support neither cascades .*loader = "nnunet"'):
        built.get_dataloaders()


def test_a_resumed_trainer_keeps_its_best_weights_in_the_main_memory(trainer):
    class OnGpu:
        def cpu(self):
            return "here"

    begun, built = trainer(), trainer()
    begun.initialize()
    state = begun.state() | {"best_weights": {"weight": OnGpu()}}
    built.resume(Checkpoint(epoch=1, seed=0, state=state))
    assert built.best_weights == {"weight": "here"}


def test_equal_seeds_and_moments_give_equal_numbers():
    def draw(seed, moment):
        seed_generators(seed, moment)
        return float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002 - the global generator is meant

    assert draw(1, "epoch 3") == draw(1, "epoch 3")
    drawn = [draw(1, "epoch 3"), draw(1, "epoch 4"), draw(2, "epoch 3"), draw(1, "initial weights")]
    assert len({value for pair in drawn for value in pair}) == 8


def test_an_undefined_pseudo_dice_does_not_change_the_moving_average(tmp_path):
    log = EpochLog(str(tmp_path), False)
    for step, dice in enumerate([math.nan, 0.5, math.nan, 0.7]):
        log.log("mean_fg_dice", dice, step)
    averages = log.get_value("ema_fg_dice", None)
    assert averages == pytest.approx([0.0, 0.05, 0.05, 0.9 * 0.05 + 0.1 * 0.7])


def test_nnunets_loader_leaves_the_studies_as_they_are(trainer, tmp_path):
    # Its transforms work in place. In a study held as an array they would change the study itself, wherever a patch
    # lies inside.
    built = trainer(training_set="nnunet")
    with nnunet_folders(raw=tmp_path, preprocessed=tmp_path, results=tmp_path, loader_processes=0):
        built.initialize()
        training, _ = built.get_dataloaders()
    loader = training.batches.data_loader
    loader.patch_size = loader.final_patch_size = (6, 12, 12)
    loader.need_to_pad = np.zeros(3, int)
    loader.transforms.transforms = loader.transforms.transforms[1:-1]  # without rotation, which copies
    case_id = loader._data.identifiers[0]
    before = loader._data.load_case(case_id)[0][:]
    loader.indices = [case_id]
    for _ in range(10):
        next(training)
    np.testing.assert_array_equal(loader._data.load_case(case_id)[0][:], before)


@pytest.mark.parametrize(("focus", "expected"), [(2, [2]), (3, [1, 2]), (None, [1, 2])])
def test_the_focus_is_the_only_class_where_a_study_has_it(prepared_folder, tmp_path, focus, expected):
    shutil.copytree(prepared_folder / "cases", tmp_path / "cases")
    path = str(tmp_path / "cases" / "100_1.pkl")
    properties = load_pickle(path)
    properties["class_locations"] |= {2: properties["class_locations"][1][:3], 3: []}
    write_pickle(properties, path)
    _, _, _, properties = FocusedCases(str(tmp_path / "cases"), ["100_1"], focus=focus).load_case("100_1")
    assert [value for value, voxels in properties["class_locations"].items() if len(voxels)] == expected


def test_the_environment_is_afterwards_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "before")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    before = dict(os.environ)
    with nnunet_folders(raw=tmp_path, preprocessed=tmp_path, results=tmp_path / "r", loader_processes=0):
        inside = dict(os.environ)
    assert inside["nnUNet_results"] == str(tmp_path / "r")
    assert (inside["nnUNet_n_proc_DA"], inside["nnUNet_wandb_enabled"], inside["nnUNet_compile"]) == ("0", "0", "false")
    assert dict(os.environ) == before


def test_batches_are_made_on_one_thread_and_steps_on_the_profiles():
    before = torch.get_num_threads()
    stock = data_loader.threadpool_limits
    torch.set_num_threads(2)
    with batches_on_one_thread():
        with data_loader.threadpool_limits(limits=1, user_api=None):
            inside = torch.get_num_threads()
        afterwards = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (inside, afterwards) == (1, 2)
    assert data_loader.threadpool_limits is stock
