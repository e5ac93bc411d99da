"""Finished runs of ``retina-unet`` in bundles: with them, the algorithm needs nothing of the run's folder."""

import shutil
import tarfile
from pathlib import Path

import pytest

from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file
from contract.records import BundleRecord, RunRecord, SelectionRecord, read_record
from training.run_folder.folder import RunFolder
from training.verify import verify

NAME = "retina-unet_fold0_restart1"


@pytest.fixture(scope="module")
def finished(make_runs, profile, tmp_path_factory):
    """A detector whose checkpoint was chosen by detection, and a segmentation."""
    path = tmp_path_factory.mktemp("profile") / "detection.toml"
    path.write_text(profile.read_text().replace('checkpoint = "final"', 'checkpoint = "detection"'))
    return make_runs(("retina-unet", 0), ("ce", 0), profile=path)


@pytest.fixture
def runs(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def unpacked(output: Path, model: Path) -> BundleRecord:
    with tarfile.open(output) as archive:
        archive.extractall(model, filter="data")
    return read_record(model / "bundle.json", BundleRecord)


def test_detection_chooses_among_a_detectors_checkpoints(finished):
    folder = RunFolder(finished / NAME)
    selection = read_record(folder.selection, SelectionRecord)
    assert [each.epoch for each in selection.checkpoints] == [3]  # of three epochs, one in fifty is kept, and the last
    assert read_record(folder.record, RunRecord).parents["selection"] == sha256_file(folder.selection)


def test_a_bundle_holds_both_kinds_and_a_detectors_anchors_and_rule(runs, tmp_path, outcome):
    output = tmp_path / "model.tar.gz"
    assert outcome("bundle", "--runs", runs, "--output", output) == (0, "")
    segmenting, detecting = unpacked(output, tmp_path / "model").members
    assert (segmenting.name, segmenting.anchors_file) == ("ce_fold0_restart1", None)
    assert detecting.name == NAME
    for packed, file in [(detecting.anchors_file, "anchors.json"), (detecting.box_rule_file, "box_rule.json")]:
        assert (tmp_path / "model" / str(packed)).read_bytes() == (runs / NAME / file).read_bytes()


def test_a_detector_without_its_anchors_or_with_others_is_refused(runs, tmp_path, refusal):
    anchors = runs / NAME / "anchors.json"
    values = read_json(anchors)
    write_json(anchors, {**values, "sizes_voxels_zyx": values["sizes_voxels_zyx"][::-1]})
    message = refusal("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz")
    assert "anchors.json: does not match the hash in run.json" in message
    anchors.unlink()
    message = refusal("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz")
    assert "anchors.json: file not found in a run folder" in message


@pytest.mark.parametrize("what", ["anchors", "box_rule"])
def test_verify_looks_at_anchors_and_rule(runs, what):
    def found():
        return {check.what: check.found for check in verify([runs / NAME])}[what]

    assert found() == "as recorded"
    path = runs / NAME / f"{what}.json"
    path.write_text(path.read_text() + "\n")
    assert found() == "NOT as recorded"
