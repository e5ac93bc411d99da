"""The checkpoint that detects best on the fold's validation studies, found by our own programs."""

import json
import shutil
from pathlib import Path

import pytest
from refusals import refused_with

from contract.files.reading import sha256_file
from contract.records import RunRecord, ScoredCheckpoint, SelectionRecord, read_record
from network.model.weights import load_weights, tensors_sha256
from training.dataset.prepared import load_prepared
from training.make_run import RunOptions, execute
from training.planned_run import plan_run
from training.run_folder.folder import RunFolder
from training.validation import checkpoint_selection
from training.validation.checkpoint_selection import OPTIMISM, best


def by_detection(profile: Path, folder: Path) -> Path:
    """The tiny profile, whose weights are kept after the second of three epochs, and after the third."""
    text = profile.read_text().replace('checkpoint = "final"', 'checkpoint = "detection"\nkeep_every_epochs = 2')
    path = folder / "detection.toml"
    path.write_text(text)
    return path


@pytest.fixture
def planned(prepared_folder, profile, tmp_path):
    def plan(fold=0, prepared=prepared_folder, profile=None):
        path = profile or by_detection(default, tmp_path)
        return plan_run(load_prepared(prepared), configuration="ce", fold=fold, restart=1, profile=str(path))

    default = profile
    return plan


@pytest.fixture(scope="module")
def chosen(prepared_folder, profile, tmp_path_factory):
    """One run whose checkpoint was chosen by detection."""
    folder = tmp_path_factory.mktemp("chosen")
    path = by_detection(profile, folder)
    run = plan_run(load_prepared(prepared_folder), configuration="ce", fold=0, restart=1, profile=str(path))
    execute(run, folder / "run", device="cpu")
    return run, RunFolder(folder / "run")


def scored(epoch, score):
    return ScoredCheckpoint(epoch=epoch, weights_sha256="a", auroc=score, ap=score, score=score)


def test_the_best_score_wins_and_of_equal_ones_the_earliest():
    assert best([scored(2, 0.5), scored(4, 0.75), scored(6, 0.625)]).epoch == 4
    assert best([scored(2, 0.5), scored(4, 0.75), scored(6, 0.75)]).epoch == 4
    assert best([scored(2, 0.75), scored(4, 0.5), scored(6, 0.75)]).epoch == 2


def test_the_chosen_weights_are_kept_with_the_scores_of_all(chosen):
    run, folder = chosen
    record = read_record(folder.record, RunRecord)
    selection = read_record(folder.selection, SelectionRecord)
    assert (record.checkpoint, record.state) == ("detection", "finished")
    assert record.parents["selection"] == sha256_file(folder.selection)
    assert selection.key == run.key
    assert selection.validation == run.fold.validation
    assert selection.mirroring is False
    assert selection.optimism == OPTIMISM
    assert [each.epoch for each in selection.checkpoints] == [2, 3]
    assert all(each.score == pytest.approx((each.auroc + each.ap) / 2) for each in selection.checkpoints)
    assert selection.chosen_epoch == best(selection.checkpoints).epoch
    (sha256,) = [each.weights_sha256 for each in selection.checkpoints if each.epoch == selection.chosen_epoch]
    assert sha256 == record.weights_sha256 == tensors_sha256(load_weights(folder.weights))
    assert not folder.work.exists()


def test_the_last_epochs_weights_are_those_of_the_policy_final(chosen, profile, planned, tmp_path):
    final = execute(planned(profile=profile), tmp_path / "final", device="cpu")
    selection = read_record(chosen[1].selection, SelectionRecord)
    assert selection.checkpoints[-1].weights_sha256 == final.weights_sha256
    assert selection.checkpoints[0].weights_sha256 != final.weights_sha256


def test_the_scores_are_those_that_the_programs_give_a_user(chosen, prepared_folder, tmp_path):
    """The chosen weights again, as a user would judge them: bundled, predicted from the whole archive, scored."""
    from algorithm.__main__ import main as algorithm  # noqa: PLC0415
    from evaluation.__main__ import main as evaluation  # noqa: PLC0415
    from training.__main__ import main as training  # noqa: PLC0415

    run, folder = chosen
    validation, archive = tmp_path / "archive", prepared_folder.parent / "archive"
    for case_id in run.fold.validation:
        patient = case_id.partition("_")[0]
        shutil.copytree(archive / patient, validation / patient, dirs_exist_ok=True)
        (validation / "labels").mkdir(exist_ok=True)
        shutil.copy(archive / "labels" / f"{case_id}.nii.gz", validation / "labels")
    model, predictions, scores = tmp_path / "model", tmp_path / "predictions", tmp_path / "scores"
    assert training(["bundle", "--runs", str(folder.path), "--output", str(tmp_path / "model.tar.gz")]) == 0
    shutil.unpack_archive(tmp_path / "model.tar.gz", model, filter="data")
    command = ["batch", "--archive", str(validation), "--model", str(model), "--output", str(predictions)]
    assert algorithm([*command, "--no-mirroring", "--threads", "1"]) == 0
    command = ["score", "--predictions", str(predictions), "--truth", str(validation / "labels")]
    assert evaluation([*command, "--output", str(scores)]) == 0
    strict = json.loads((scores / "metrics.json").read_text())["strict"]
    selection = read_record(folder.selection, SelectionRecord)
    expected = {each.epoch: each for each in selection.checkpoints}[selection.chosen_epoch]
    assert (strict["auroc"], strict["ap"], strict["score"]) == (expected.auroc, expected.ap, expected.score)


def test_kept_weights_survive_a_kill_and_the_choice_resumes(chosen, planned, tmp_path, monkeypatch, kill_after):
    _, whole = chosen
    run, folder = planned(), RunFolder(tmp_path / "run")
    kill_after(3, run, folder.path)
    names = ["epoch_000002.safetensors", "epoch_000003.safetensors"]
    assert sorted(path.name for path in folder.kept.iterdir()) == names
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONHOME", str(tmp_path))  # no Python starts with that
        with pytest.raises(RuntimeError, match="python -m algorithm batch, called to choose a checkpoint, failed: "):
            execute(run, folder.path, device="cpu")
    assert read_record(folder.record, RunRecord).state == "failed"
    predicted, predict = [], checkpoint_selection.predict_studies

    def predict_once(*runs, **options) -> None:
        if len(predicted) == 1:
            raise KeyboardInterrupt
        predicted.append(runs)
        predict(*runs, **options)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(checkpoint_selection, "predict_studies", predict_once)
        execute(run, folder.path, device="cpu", resume=True)
    monkeypatch.setattr(
        checkpoint_selection, "predict_studies", lambda *a, **b: predicted.append(a) or predict(*a, **b)
    )
    steps = []
    record = execute(run, folder.path, device="cpu", resume=True, on_iteration=steps.append)
    assert steps == []  # the training was over; only the choice was left
    assert len(predicted) == 2  # each epoch once
    assert not folder.work.exists()
    assert record.weights_sha256 == read_record(whole.record, RunRecord).weights_sha256
    first, second = (read_record(each.selection, SelectionRecord) for each in (folder, whole))
    assert first.checkpoints == second.checkpoints


@pytest.fixture
def copied(prepared_folder, tmp_path, own_prepared) -> tuple[Path, Path]:
    """A dataset and its archive of one's own."""
    archive = tmp_path / "archive"
    shutil.copytree(prepared_folder.parent / "archive", archive)
    sources = own_prepared / "sources.json"
    sources.write_text(sources.read_text().replace(str(prepared_folder.parent / "archive"), str(archive)))
    return own_prepared, archive


def test_an_archive_that_was_moved_is_asked_for_before_training_begins(planned, tmp_path, copied):
    prepared, archive = copied
    archive.rename(tmp_path / "moved")
    with refused_with("archive$", "^archive of .*prepared, from which .*, not found; --archive names its"):
        execute(planned(prepared=prepared), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "run.json").exists()
    options = RunOptions(archive=tmp_path / "moved")
    assert execute(planned(prepared=prepared), tmp_path / "run", device="cpu", options=options).state == "finished"


def test_a_study_that_cannot_be_predicted_is_named(planned, tmp_path, copied):
    prepared, archive = copied
    run = planned(prepared=prepared)
    spoilt = archive / "labels" / f"{run.fold.validation[0]}.nii.gz"

    def spoil(epoch) -> None:
        if epoch.epoch == 2:
            spoilt.write_bytes(spoilt.read_bytes()[:50])

    with refused_with(spoilt.name, "changed since .* was prepared from it"):
        execute(run, tmp_path / "run", device="cpu", on_epoch=spoil)


def test_a_refusal_of_the_programs_is_passed_on_in_one_line(planned, tmp_path, copied):
    """The archive's licence is no study's file: nobody has stamped it, but the algorithm reads it."""
    prepared, archive = copied
    (archive / "archive.json").write_text('{"data_licence": 7}')
    with refused_with(r"called to choose a checkpoint, failed: .*archive\.json: expected the text data_l"):
        execute(planned(prepared=prepared), tmp_path / "run", device="cpu")
    assert read_record(tmp_path / "run" / "run.json", RunRecord).state == "failed"


def test_a_fold_without_both_kinds_of_validation_studies_is_refused(planned, copied):
    prepared, _ = copied
    record = json.loads((prepared / "prepared.json").read_text())
    validation = json.loads((prepared / "splits.json").read_text())["folds"][0]["validation"]
    for study in record["studies"]:
        study["lesions"] = int(study["case_id"] not in validation)
    (prepared / "prepared.json").write_text(json.dumps(record))
    found = f"^0 with and {len(validation)} without"
    with refused_with(expected="with and without lesions in fold 0", found=found):
        planned(prepared=prepared)
