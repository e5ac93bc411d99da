"""The studies that the suite plants lesions in: as the platform lays them out, and no axis like another."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from refusals import refused_with

from conformance.studies.submissions import (
    made_truth,
    read_truth_folder,
    submission,
    synthetic_predictions,
    truth_files,
)
from conformance.studies.synthetic_studies import (
    FIRST,
    SECOND,
    corrupted,
    make_study,
    own_studies,
    require_cases,
    with_unknown_sockets,
)
from contract.card import load_card
from contract.errors import OncoduetError
from contract.images.grid import same_grid
from contract.images.volume import read_grid, read_label, read_volume
from contract.sockets import find_channels, read_jobs

CARDS = ["cspca-picai", "cspca-rsna2022", "pdac-panorama", "pdac-rsna2022"]
CARD = load_card("cspca-picai")


def write(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("keys", [("socket",), ("interface",), ("socket", "interface")])
def test_our_own_reader_finds_every_channel_of_every_card(tmp_path, name, keys):
    card = load_card(name)
    study = make_study(card, keys=keys, optional=True)
    channels = find_channels(write(study.files, tmp_path), card)
    assert same_grid(read_grid(channels[card.geometry.reference]), study.reference)
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.mha"
    assert all(re.fullmatch(uuid, path.name) for path in channels.values())


@pytest.mark.parametrize("shape", [FIRST, SECOND])
def test_no_two_axes_are_alike_and_the_lesion_is_off_the_middle(shape):
    grid = shape.grid()
    assert len(set(grid.size_xyz)) == len(set(grid.spacing_mm_xyz)) == 3
    matrix = np.abs(np.array(grid.direction).reshape(3, 3))
    assert (matrix[~np.eye(3, dtype=bool)] > 1e-3).sum() >= 4
    assert min(np.abs(shape.lesion_mm_xyz)) > 6.0  # a flip moves it by more than its own diameter


def test_the_lesion_is_where_the_study_says_in_every_channel(tmp_path):
    study = make_study(CARD)
    for channel, path in find_channels(write(study.files, tmp_path), CARD).items():
        volume = read_volume(path)
        unlike = np.abs(volume.array - np.median(volume.array))
        far = np.linalg.norm(volume.grid.centres_mm() - np.array(study.lesion_mm_xyz)[:, None, None, None], axis=0)
        assert far.ravel()[np.argmax(unlike)] < 6.0, channel


def test_voxels_are_floats_or_compressed_whole_numbers(tmp_path):
    for name, whole in (("a", False), ("b", True)):
        channels = find_channels(write(make_study(CARD, whole_numbers=whole).files, tmp_path / name), CARD)
        for path in channels.values():
            assert sitk.ReadImage(str(path)).GetPixelID() == (sitk.sitkInt16 if whole else sitk.sitkFloat32)
            assert (b"CompressedData = True" in path.read_bytes()[:1000]) == whole


def test_optional_values_are_null_and_order_can_be_turned():
    plain, turned = make_study(CARD, optional=True), make_study(CARD, optional=True, turned=True)
    clinical = json.loads(plain.files["clinical-information-prostate-mri.json"])
    assert set(clinical.values()) == {None}
    assert json.loads(plain.files["inputs.json"]) == json.loads(turned.files["inputs.json"])[::-1]


def test_without_a_listing_the_sockets_own_paths_count(tmp_path):
    files = {path: content for path, content in make_study(CARD).files.items() if path != "inputs.json"}
    assert set(find_channels(write(files, tmp_path), CARD)) == {"t2w", "adc", "hbv"}


def test_unknown_sockets_have_no_slug_of_the_card(tmp_path):
    with refused_with(found="unknown-socket-0"):
        find_channels(write(with_unknown_sockets(make_study(CARD)).files, tmp_path), CARD)


def test_a_corrupt_study_has_a_truncated_reference(tmp_path):
    channels = find_channels(write(corrupted(make_study(CARD), CARD).files, tmp_path), CARD)
    read_volume(channels["adc"])
    with refused_with(found="truncated"):
        read_volume(channels["t2w"])


def test_own_studies_come_from_an_archive(tmp_path):
    study = make_study(CARD)
    folder = tmp_path / "archive" / "7"
    folder.mkdir(parents=True)
    for channel in CARD.channels:
        (content,) = [each for path, each in study.files.items() if path.startswith(channel.socket.relative_path)]
        (folder / f"7_8_{channel.name}.mha").write_bytes(content)
    (own,) = own_studies(tmp_path / "archive", CARD).values()
    assert set(find_channels(write(own.files, tmp_path / "input"), CARD)) == {"t2w", "adc", "hbv"}
    (folder / "7_8_hbv.mha").unlink()
    with refused_with("hbv"):
        own_studies(tmp_path / "archive", CARD)


def test_a_truth_that_misses_cases_is_named(tmp_path):
    require_cases({"a": 1, "b": 1}, ["a"], tmp_path)
    with pytest.raises(OncoduetError) as caught:
        require_cases({"a": 1}, ["a", "b", "c"], tmp_path)
    assert str(caught.value) == f"{tmp_path}: no label map for b, c"


def test_a_truth_by_formula_can_be_read_back_and_predicted(tmp_path):
    truth = made_truth(CARD)
    folder = write(truth_files(CARD, truth), tmp_path / "truth")
    read = read_truth_folder(folder)
    assert read.keys() == truth.keys()
    for case_id, label in truth.items():
        assert np.array_equal(read[case_id].array, label.array)
        read_label(folder / f"{case_id}.mha", [0, 1])
    predictions = synthetic_predictions(CARD, truth)
    assert sorted(prediction.likelihood for prediction in predictions.values()) == pytest.approx([0, 0.2, 0.3, 0.9])


def test_a_submission_has_its_jobs_in_no_order_and_durations(tmp_path):
    truth = made_truth(CARD)
    first, second = (submission(CARD, synthetic_predictions(CARD, truth), seed=seed) for seed in (0, 1))
    names = [
        [job["inputs"][0]["image"]["name"] for job in json.loads(each["predictions.json"])] for each in (first, second)
    ]
    assert sorted(names[0]) == sorted(names[1]) and names[0] != names[1]
    assert {job["exec_duration"] for job in json.loads(first["predictions.json"])} == {"P0DT00H00M37.500000S"}
    assert len(read_jobs(write(first, tmp_path) / "predictions.json")) == 4
