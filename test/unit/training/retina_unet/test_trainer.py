"""The configuration ``retina-unet`` as a run like any other."""

import math
import shutil

import numpy as np
import pytest
import torch
from refusals import refused_with

from contract.files.reading import read_json, sha256_file
from contract.records import read_record
from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.boxes import iou
from network.detection.clustering import BoxPostprocessing
from network.detection.retina_unet import build_retina_unet
from network.detection.whole_study import Detector
from network.model.weights import load_weights
from network.preprocessing.nnunet_preprocessing import patch_size_zyx
from training.configuration import CONFIGURATIONS
from training.dataloading.instance_studies import numbered_studies
from training.dataloading.resident_studies import resident_studies
from training.dataset.lesion_instances import lesion_boxes
from training.dataset.prepared import load_prepared
from training.engine import load_configuration
from training.make_run import RunRequest, execute, execute_together
from training.nnunet.trainer import build_trainer
from training.retina_unet.anchor_planning import plan_anchors
from training.retina_unet.box_rule_sweep import search
from training.retina_unet.engine import anchors_file, box_rule_file
from training.retina_unet.lesion_sizes import lesion_sizes
from training.retina_unet.trainer import DetectorTrainer, averaged_epochs, learning_rate
from training.run_folder.folder import RunFolder

SHAPE = load_configuration("retina-unet")


@pytest.fixture
def planned(planned):
    return lambda configuration="retina-unet", restart=1, **more: planned(configuration, restart, **more)


@pytest.fixture
def long_profile(edited_profile):
    """Six epochs, of which the last two are averaged by the configuration's share of a third."""
    return edited_profile(("epochs = 3", "epochs = 6"))


@pytest.fixture
def averaging(tmp_path):
    path = tmp_path / "averaging.toml"
    text = (CONFIGURATIONS / "retina-unet.toml").read_text()
    path.write_text(text.replace("averaged = 0.1667", "averaged = 0.3333"))
    return str(path)


@pytest.fixture
def trainer(planned, tmp_path):
    run, folder = planned(), RunFolder(tmp_path / "run")
    run.engine.plan_anchors(run, folder)
    built = build_trainer(run.engine.task(run, folder, "cpu"), DetectorTrainer)
    built.initialize()
    built.dataloader_train, built.dataloader_val = built.get_dataloaders()
    return built


def test_a_finished_run_is_complete_and_its_weights_fit_its_anchors(planned, tmp_path):
    record = execute(planned(), tmp_path / "run", device="cpu")
    folder = RunFolder(tmp_path / "run")
    assert record.state == "finished"
    assert all(math.isfinite(epoch.train_loss) for epoch in record.epochs)
    assert record.parents["anchors"] == sha256_file(anchors_file(folder))
    plans, dataset = read_json(folder.plans), read_json(folder.dataset)
    network = build_retina_unet(plans, dataset, read_record(anchors_file(folder), AnchorPlan))
    network.load_state_dict(load_weights(folder.weights))


def test_anchors_are_planned_from_the_training_lesions_only(planned, prepared_folder, tmp_path):
    run, folder = planned(), RunFolder(tmp_path / "run")
    run.engine.plan_anchors(run, folder)
    sizes = lesion_sizes(prepared_folder, run.fold.train, lesion_class=1)
    held = {study.case_id: study.lesions for study in run.prepared.record.studies}
    assert len(sizes) == sum(held[case_id] for case_id in run.fold.train)
    expected = plan_anchors(sizes, level_strides(run.plans), source=prepared_folder).plan
    assert read_record(anchors_file(folder), AnchorPlan) == expected


def test_studies_that_lose_every_lesion_are_refused(planned, tmp_path, monkeypatch):
    run = planned()
    without = [study.case_id for study in run.prepared.record.studies if not study.lesions]
    monkeypatch.setattr(
        type(run), "fold", property(lambda self: self.prepared.folds[0].model_copy(update={"train": tuple(without)}))
    )
    with refused_with(problem="no training lesion to plan anchors from"):
        run.engine.plan_anchors(run, RunFolder(tmp_path / "run"))


def test_a_fold_without_training_lesion_is_refused(write_study, profile, tmp_path, outcome, refusal):
    archive, prepared = tmp_path / "archive", tmp_path / "prepared"
    for number in range(3):
        write_study(archive, f"{number}_1", kind=number, lesion=number == 1)
    card = ["--card", "cspca-picai"]
    assert outcome("prepare", *card, "--archive", archive, "--output", prepared, "--folds", 3) == (0, "")
    folds = load_prepared(prepared).folds
    (without,) = (number for number, fold in enumerate(folds) if "1_1" in fold.validation)
    arguments = ["run", "--prepared", prepared, "--configuration", "retina-unet", "--restart", 1, "--profile", profile]
    message = refusal(*arguments, "--fold", without, "--output", tmp_path / "run")
    assert f"{prepared}: no lesion in the training part of fold {without}" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epochs", [2, 5])
def test_a_run_killed_in_its_averaged_epochs_resumes_to_the_same_bits(
    planned, long_profile, averaging, tmp_path, epochs, kill_after
):
    run = planned(averaging, profile=long_profile)
    whole = execute(run, tmp_path / "whole", device="cpu")
    kill_after(epochs, run, tmp_path / "killed")
    resumed = execute(run, tmp_path / "killed", device="cpu", resume=True)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert [each.train_loss for each in resumed.epochs] == [each.train_loss for each in whole.epochs]


def test_a_detector_trains_and_chooses_its_rule_on_the_same_rounded_images(
    planned, tmp_path, edited_profile, monkeypatch
):
    searched = []
    monkeypatch.setattr(
        "training.retina_unet.trainer.search",
        lambda detector, studies, ids, **more: (
            searched.extend(studies.by_id[case_id].image.dtype for case_id in ids)
            or search(detector, studies, ids, **more)
        ),
    )
    run = planned("retina-unet", profile=edited_profile(("threads = 1", 'threads = 1\nloader = "host"')))
    record = execute(run, tmp_path / "run", device="cpu")
    assert (record.state, record.hardware["training_set"]) == ("finished", "host")
    assert set(searched) == {torch.float16}


def test_packed_with_a_segmentation_run_the_bits_are_the_same(planned, tmp_path):
    runs = [("retina-unet", 1), ("ce", 1), ("retina-unet", 2)]
    alone = [execute(planned(*run), tmp_path / f"alone{n}", device="cpu").weights_sha256 for n, run in enumerate(runs)]
    requests = [RunRequest(planned(*run), tmp_path / f"packed{n}") for n, run in enumerate(runs)]
    packed = [record.weights_sha256 for record in execute_together(requests, device="cpu")]
    assert packed == alone
    assert len(set(packed)) == 3


def test_the_kept_weights_are_the_mean_over_the_averaged_epochs(planned, long_profile, averaging, tmp_path):
    run, ends = planned(averaging, profile=long_profile), []
    run.engine.plan_anchors(run, RunFolder(tmp_path / "run"))

    class Watched(DetectorTrainer):
        def on_epoch_end(self):
            super().on_epoch_end()
            ends.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})

    watched = build_trainer(run.engine.task(run, RunFolder(tmp_path / "run"), "cpu"), Watched)
    (tmp_path / "run" / "work" / "engine").mkdir(parents=True, exist_ok=True)
    watched.on_train_start()
    for _ in watched.steps():
        pass
    kept = watched.kept_weights()
    assert len(ends) == 6
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, (ends[4][name] + ends[5][name]) / 2)


def test_the_learning_rate_rises_falls_and_then_cycles():
    shape = SHAPE.model_copy(update={"warm_up": 0.1, "averaged": 1 / 3})
    rates = [learning_rate(step, peak=1.0, epochs=6, steps_per_epoch=10, shape=shape) for step in range(60)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[22] == pytest.approx(0.5**0.9)  # half of the 36 steps after the warm-up
    assert rates[40:50] == rates[50:60] == pytest.approx(list(np.linspace(0.1, 0.001, 10)))


@pytest.mark.parametrize(
    ("share", "epochs", "expected"), [(0.1667, 60, 10), (0.1667, 1000, 167), (0, 9, 0), (0.9, 1, 0)]
)
def test_a_share_of_the_epochs_is_averaged_but_never_all(share, epochs, expected):
    assert averaged_epochs(SHAPE.model_copy(update={"averaged": share}), epochs) == expected


def test_batches_carry_numbers_from_which_boxes_and_classes_follow(trainer):
    trainer.on_epoch_start()
    seen = 0
    for _ in range(8):
        batch = next(trainer.dataloader_train)
        (target,) = batch["target"]
        assert target.shape == (2, 1, 8, 16, 16)
        for patch, case_id in zip(target, batch["keys"], strict=True):
            boxes = lesion_boxes(patch[0], trainer.instances[case_id])
            assert len(boxes) == (patch > 0).any()  # one lesion at most in each of these studies
            seen += len(boxes)
    assert seen


def test_last_layers_learn_no_faster_than_the_configuration_allows(planned, profile, tmp_path, edited_profile):
    """A profile at ten times the rate of the tests' own: 0.1 for all but the heads' last convolutions."""
    path = edited_profile(("learning_rate = 0.01", "learning_rate = 0.1"), name="fast.toml")
    run, folder = planned(profile=path), RunFolder(tmp_path / "run")
    run.engine.plan_anchors(run, folder)
    trainer = build_trainer(run.engine.task(run, folder, "cpu"), DetectorTrainer)
    trainer.initialize()
    trainer.set_rate()
    first = learning_rate(0, peak=1.0, epochs=3, steps_per_epoch=2, shape=SHAPE)
    by_parameter = {id(each): group["lr"] for group in trainer.optimizer.param_groups for each in group["params"]}
    assert len(by_parameter) == len(list(trainer.network.parameters()))
    for name, parameter in trainer.network.named_parameters():
        last = name in {f"{head}.6.{part}" for head in ("classifier", "regressor") for part in ("weight", "bias")}
        assert by_parameter[id(parameter)] == pytest.approx(first * (SHAPE.last_layer_learning_rate if last else 0.1))


def test_a_profile_may_ask_for_fewer_anchors(planned, tmp_path, edited_profile):
    path = edited_profile(("[plan]", "[plan]\nanchor_sizes_per_axis = 2"), name="fewer.toml")
    run, folder = planned(profile=path), RunFolder(tmp_path / "run")
    run.engine.plan_anchors(run, folder)
    assert len(read_record(anchors_file(folder), AnchorPlan).sizes_voxels_zyx) == 2**3


@pytest.mark.slow
def test_boxes_of_an_unseen_easy_study_overlap_its_lesion(planned, profile, prepared_folder, tmp_path):
    path = tmp_path / "longer.toml"
    text = profile.read_text().replace("epochs = 3", "epochs = 10", 1).replace("per_epoch = 2", "per_epoch = 20", 1)
    text = text.replace("learning_rate = 0.01", "learning_rate = 0.1").replace("batch_size = 2", "batch_size = 4")
    path.write_text(text.replace("[plan]", "[plan]\nanchor_sizes_per_axis = 2"))
    run, folder = planned(profile=path), RunFolder(tmp_path / "run")
    execute(run, folder.path, device="cpu")
    patch, plan = patch_size_zyx(run.plans), read_record(anchors_file(folder), AnchorPlan)
    network = build_retina_unet(run.plans, run.prepared.dataset, plan)
    network.load_state_dict(load_weights(folder.weights))
    detector = Detector(network.eval(), anchors_of_patch(plan, level_strides(run.plans), patch))
    resident = resident_studies(prepared_folder, run.fold.validation, device=torch.device("cpu"))
    studies = numbered_studies(resident, run.fold.validation, lesion_class=1)
    searched = search(detector, studies, run.fold.validation, patch_size=patch)
    positive = [study for study in searched if len(study.lesions)]
    assert positive
    for study in positive:
        found = study.found.clustered(read_record(box_rule_file(folder), BoxPostprocessing))
        assert iou(torch.from_numpy(found.boxes[:1]), torch.from_numpy(study.lesions)).max() >= 0.3


def test_nnunets_loader_is_refused(planned, profile, tmp_path, edited_profile):
    path = edited_profile(("threads = 1", 'threads = 1\nloader = "nnunet"'), name="stock.toml")
    with refused_with("profile tiny", expected="in memory for retina-unet", found='loader = "nnunet"'):
        execute(planned(profile=path), tmp_path / "run", device="cpu")


def test_anchors_made_before_an_interruption_are_kept(planned, tmp_path):
    run, folder = planned(), RunFolder(tmp_path / "run")
    run.engine.plan_anchors(run, folder)
    before = anchors_file(folder).stat().st_mtime_ns
    shutil.copy(anchors_file(folder), tmp_path / "before.json")
    run.engine.plan_anchors(run, folder)
    assert anchors_file(folder).stat().st_mtime_ns == before
