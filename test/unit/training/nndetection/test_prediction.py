"""``python -m training predict`` against a stand-in for ``nndet_predict`` (``fake_nndet``), scored and compared."""

import fcntl
import json
import os
import shutil
import time

import numpy as np
import pytest
from studies import read_study

from algorithm.__main__ import main as algorithm
from contract.card import load_card
from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file
from contract.images.volume import read_grid, read_label, read_volume
from contract.outputs import scratch
from contract.records import BatchRecord, RunRecord, Source, StudyRecord, read_record
from evaluation.__main__ import main as evaluation
from network.detection.clustering import ScoredBoxes
from training.dataset.prepared import load_prepared
from training.nndetection.prediction import COMMAND, paint, write_study_outputs
from training.run_folder.foreign_programs import at_work

CASES = ["100_1", "100_2", "101_1", "102_1", "103_1", "104_1", "105_1"]


@pytest.fixture
def command(finished, prepared_folder, tmp_path):
    """The command's words and its output folder."""
    output = tmp_path / "predictions"
    return output, ["predict", "--run", finished, "--archive", prepared_folder.parent / "archive", "--output", output]


def predicted(output, case_id):
    case = output / case_id / "output"
    return read_volume(case / "images" / "cspca-detection-map" / f"{case_id}.mha"), read_json(
        case / "cspca-case-level-likelihood.json"
    )


def test_predictions_have_the_layout_of_algorithm_batch(command, finished, fake_nndet, outcome, prepared_folder):
    output, words = command
    assert outcome(*words) == (0, "")
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith(".")) == [
        *CASES,
        *("batch.json", "card.toml", "prediction.log", "predictions.json", "source.json"),
    ]
    assert [job["pk"] for job in read_json(output / "predictions.json")] == CASES
    run = sha256_file(finished / "run.json")
    source = read_record(output / "source.json", Source)
    assert (source.configuration, source.fold, source.restart, source.profile) == ("nndet", 1, 1, "tiny")
    assert (source.runs, source.bundle_sha256, source.data_licence) == ((run,), None, "CC0-1.0")
    batch = read_record(output / "batch.json", BatchRecord)
    assert (batch.members, batch.parents) == (("nndet_fold1_restart1",), {"run": run})
    stamps = read_record(output / "100_2" / "study.json", StudyRecord)
    assert stamps.method_sha256 == source.method_sha256 is not None
    image = prepared_folder.parent / "archive" / "100" / "100_2_t2w.mha"
    assert stamps.parents["t2w"] == sha256_file(image)
    assert (
        "['Task001_cspca_picai', 'RetinaUNetV001_D3V001_3d', '--fold', '-1']" in (output / "prediction.log").read_text()
    )


def test_maps_are_on_the_reference_grid_with_boxes_around_the_lesions(command, fake_nndet, outcome, prepared_folder):
    output, words = command
    assert outcome(*words) == (0, "")
    archive = prepared_folder.parent / "archive"
    for case_id in CASES:
        found, likelihood = predicted(output, case_id)
        assert found.grid == read_grid(archive / case_id.partition("_")[0] / f"{case_id}_t2w.mha")
        assert likelihood == found.array.max()
        lesion = read_label(archive / "labels" / f"{case_id}.nii.gz").array > 0
        places = [np.argwhere(each) for each in (found.array > 0, lesion)]
        if lesion.any():  # the box of the map is the box of the lesion
            np.testing.assert_array_equal(*(np.stack([each.min(axis=0), each.max(axis=0)]) for each in places))
        else:
            assert not len(places[0])


def test_score_and_compare_read_them(command, fake_nndet, outcome, prepared_folder, tmp_path, capsys):
    output, words = command
    assert outcome(*words) == (0, "")
    archive = prepared_folder.parent / "archive"
    baseline = ["baseline", "--archive", archive, "--card", "cspca-picai", "--output", tmp_path / "baseline"]
    assert algorithm([str(word) for word in baseline]) == 0
    scored = []
    for predictions in (output, *(tmp_path / "baseline").glob("*hbv*")):
        scored.append(tmp_path / "scores" / predictions.name)
        score = ["score", "--predictions", predictions, "--truth", archive / "labels", "--output", scored[-1]]
        score += ["--training-studies-too"]  # the run was trained on five of the seven
        assert evaluation([str(word) for word in score]) == 0, capsys.readouterr().err
    trained_on = read_record(output / "source.json", Source).trained_on
    assert trained_on is not None
    assert set(load_prepared(prepared_folder).folds[1].train) <= set(trained_on)
    strict = read_json(scored[0] / "metrics.json")["strict"]
    assert (strict["ap"], strict["auroc"], strict["cases"], strict["lesions"]) == (1.0, 1.0, 7, 3)
    assert read_record(scored[0] / "source.json", Source).configuration == "nndet"
    words = ["compare", "--scores", *scored, "--output", tmp_path / "compared", "--few-patients"]
    assert evaluation([str(word) for word in words]) == 0, capsys.readouterr().err
    assert "nndet" in (tmp_path / "compared" / "verdict.json").read_text()


def test_a_card_without_mirroring_predicts_no_mirrored_copies(finished, command, fake_nndet, outcome, refusal):
    _, words = command
    path = finished / "card.toml"
    path.write_text(path.read_text().replace("schema_version = 1", "schema_version = 1\ntest_time_mirroring = false"))
    said = refusal(*words)
    assert "card.toml: does not match the hash in run.json" in said
    record = read_json(finished / "run.json")
    record["key"]["card_sha256"] = load_card(path).sha256
    write_json(finished / "run.json", record)
    assert outcome(*words) == (0, "")
    assert "'--num_tta', '0'" in (command[0] / "prediction.log").read_text()


def test_the_same_command_again_predicts_from_scratch(command, fake_nndet, outcome):
    output, words = command
    assert outcome(*words) == (0, "")
    before = predicted(output, "100_1")[0].array
    shutil.rmtree(output / "101_1")
    assert outcome(*words) == (0, "")
    assert (output / "101_1").is_dir()
    np.testing.assert_array_equal(predicted(output, "100_1")[0].array, before)


def test_boxes_are_painted_exactly_on_the_reference_grid(prepared_folder):
    card = load_card("cspca-picai")
    archive = prepared_folder.parent / "archive"
    channels = {name: archive / "100" / f"100_1_{name}.mha" for name in card.channel_names}
    image = read_study(card, channels, name="100_1")
    boxes = np.array([[2.0, 5.0, 11.0, 4.9, 8.0, 15.5]])
    painted = paint(ScoredBoxes(boxes, np.array([0.5]), np.ones(1)), image.placement)
    expected = np.zeros(image.placement.native.shape_zyx, np.float32)
    expected[2:4, 5:8, 11:15] = 0.5
    np.testing.assert_array_equal(painted.array, expected)
    assert painted.grid == image.placement.native


def test_a_small_box_gives_the_likelihood_that_the_card_asks_for(command, finished, fake_nndet, outcome, tmp_path):
    card = load_card("cspca-picai")
    archive = command[1][4]
    channels = {name: archive / "100" / f"100_1_{name}.mha" for name in card.channel_names}
    image = read_study(card, channels, name="100_1")
    found = ScoredBoxes(np.array([[2.0, 5, 5, 4, 7, 7]]), np.array([0.75]), np.ones(1))  # 8 voxels
    for rule, likelihood in [("probability", 0.75), ("zero", 0.0)]:
        candidates = card.candidates.model_copy(update={"case_likelihood_without_candidate": rule})
        changed = card.model_copy(update={"candidates": candidates})
        write_study_outputs(tmp_path / rule / "100_1", changed, image.placement, found, case_id="100_1")
        detections, written = predicted(tmp_path / rule, "100_1")
        assert not detections.array.any()
        assert written == likelihood


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("stale", "100_1_boxes.pkl: boxes are older than this call of nndet_predict"),
        ("missing", "100_1_boxes.pkl: boxes of the study not found after nndet_predict"),
        ("foreign", "of_another_boxes.pkl: boxes of a study that is not predicted"),
        ("nothing:nndet_predict", "100_1_boxes.pkl: boxes of the study not found after nndet_predict"),
        (
            "fail:nndet_predict",
            "nndet_predict: expected nnDetection's program to succeed, found exit code 1: "
            "ValueError: nndet_predict found no GPU",
        ),
    ],
)
def test_a_failure_is_reported_and_leaves_no_prediction(command, fake_nndet, trouble, message, refusal):
    output, words = command
    fake_nndet(trouble)
    said = refusal(*words)
    assert message in said
    assert [path.name for path in output.iterdir() if not path.name.startswith(".")] == ["prediction.log"]


def test_a_call_in_a_boxes_file_is_refused_and_not_made(command, fake_nndet, tmp_path, refusal):
    _, words = command
    fake_nndet("evil")
    said = refusal(*words)
    assert "100_1_boxes.pkl: expected a pickle of arrays and numbers only, found a reference to posix.system" in said
    assert not (tmp_path / "victim").exists()


def test_a_missing_program_is_refused(command, monkeypatch, tmp_path, refusal):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(*command[1])
    assert "nndet_predict: program of nnDetection not found on PATH" in said
    assert not command[0].exists()


def test_a_run_of_another_engine_is_sent_to_bundle_and_batch(finished, command, refusal):
    record = read_json(finished / "run.json")
    record["key"]["configuration"] = "ce"
    del record["parents"]["nndetection"]
    write_json(finished / "run.json", record)
    assert "run.json: a run of ce predicts from a bundle; " in refusal(*command[1])


def test_an_unfinished_run_or_a_changed_model_is_refused(finished, command, fake_nndet, refusal):
    model = finished / "nndetection" / "plan_inference.pkl"
    model.write_bytes(b"another")
    said = refusal(*command[1])
    assert "plan_inference.pkl: does not match the hash in nndetection.json" in said
    record = read_record(finished / "run.json", RunRecord).model_copy(update={"state": "failed"})
    write_json(finished / "run.json", record.model_dump(mode="json"))
    said = refusal(*command[1])
    assert "run.json: expected a finished run, found state failed" in said


def test_an_output_that_is_something_else_is_refused(finished, command, fake_nndet, outcome, refusal):
    output, words = command
    archive = words[4]
    for other, what in [(archive, "archive"), (finished, "run")]:
        said = refusal(*words[:-1], other)
        assert f"{other}: expected an output folder of its own, found the {what}" in said
    assert outcome(*words) == (0, "")
    shutil.copytree(output / "100_1", output / "900_1")
    said = refusal(*words)
    assert f"expected only predictions of studies in {archive}, found 900_1, which is not there" in said
    shutil.rmtree(output / "900_1")
    batch = read_json(output / "batch.json")
    (output / "batch.json").write_text(json.dumps(batch | {"parents": {"run": "0"}}))
    said = refusal(*words)
    assert "batch.json: folder was begun with another run; give another output" in said


def test_two_predictions_do_not_fill_one_folder(command, fake_nndet, outcome):
    output, words = command
    output.mkdir()
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, said = outcome(*words)
    assert code == 3
    assert f"{output}: expected no other process at work in this folder, found one" in said


@pytest.mark.parametrize("trap", ["its names", "a link", "our log"])
def test_a_working_folder_of_the_users_is_refused(command, fake_nndet, tmp_path, trap, refusal):
    output, words = command
    work = (tmp_path / "elsewhere" if trap == "a link" else output / "nndetection") / "det_data"
    work.mkdir(parents=True)
    (work / "mine.txt").write_text("mine")
    output.mkdir(exist_ok=True)
    if trap == "a link":
        (output / "nndetection").symlink_to(work.parent)
    if trap == "our log":
        (output / "prediction.log").write_text("2026 nnDetection predicts for oncoduet\n")
    said = refusal(*words)
    assert f"{output / 'nndetection'}: {'is a link' if trap == 'a link' else 'expected n'}" in said
    assert (work / "mine.txt").read_text() == "mine"


def test_a_file_of_the_users_with_the_locks_name_is_refused(command, fake_nndet, refusal):
    output, words = command
    output.mkdir()
    (output / ".lock").write_text("mine")
    assert f"{output / '.lock'}: " in refusal(*words)
    assert (output / ".lock").read_text() == "mine"


def test_work_folder_of_a_killed_prediction_is_removed(command, fake_nndet, outcome, refusal):
    output, words = command
    output.mkdir()
    with scratch(output / "nndetection", COMMAND):
        shutil.copytree(output / "nndetection", output / "killed")
    (output / "killed" / "det_data").mkdir()
    with at_work(output / "killed"):
        (output / "killed" / "det_data" / "half.json").write_text("half")
    (output / "killed").rename(output / "nndetection")
    mine = output / "nndetection" / "mine.txt"
    mine.write_text("mine")
    os.utime(mine, (time.time() + 60,) * 2)
    assert f"{mine}: expected only files of the programs that work here" in refusal(*words)
    assert mine.read_text() == "mine"
    mine.unlink()
    assert outcome(*words) == (0, "")
    assert not (output / "nndetection").exists()


def test_a_log_that_is_a_link_is_refused(command, fake_nndet, tmp_path, refusal):
    output, words = command
    output.mkdir()
    theirs = tmp_path / "theirs.log"
    theirs.write_text("2026 nnDetection predicts for oncoduet\n")
    (output / "prediction.log").symlink_to(theirs)
    said = refusal(*words)
    assert f"{output / 'prediction.log'}: is a link" in said
    assert theirs.read_text().count("\n") == 1
