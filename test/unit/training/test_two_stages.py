"""A card that first locates an organ: two datasets from one archive, runs of both stages, one bundle."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from programs import python
from refusals import refused_with

from contract.card import load_card
from contract.files.reading import read_json
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume
from contract.records import BundleRecord, read_record
from network.detection.anchors import AnchorPlan
from training.campaign import load_campaign
from training.dataset.prepared import load_prepared
from training.make_run import RunOptions, execute
from training.profile import PROFILES

ORIENTATIONS = [(1, 1), (-1, -1), (1, -1)]  # of x and y, as the PANORAMA collection mixes them (z follows)
SPACING_MM_XYZ = (4.0, 4.5, 6.0)
SIZE_XYZ = (60, 44, 18)


def write_ct(archive: Path, case_id: str, *, orientation: tuple[int, int], lesion: bool, organ: bool = True) -> None:
    """A body in air with a pancreas to the right of the middle, and a hypodense lesion in it."""
    x_sign, y_sign = orientation
    direction = np.diag([x_sign, y_sign, x_sign * y_sign]).astype(float)
    corner = -direction @ ((np.array(SIZE_XYZ) - 1) / 2 * np.array(SPACING_MM_XYZ))
    grid = Grid(SIZE_XYZ, SPACING_MM_XYZ, tuple(corner.tolist()), tuple(direction.ravel().tolist()))
    x, y, z = grid.centres_mm()
    ct = np.where((x / 110) ** 2 + (y / 85) ** 2 <= 1, 40.0, -1000.0)
    number = int(case_id.partition("_")[0])
    ct += 5 * np.sin(x / 9 + number) + 5 * np.cos(y / 7 + z / 11)  # no two patients alike
    label = np.zeros(grid.shape_zyx, np.uint8)
    if organ:
        label[((x + 20) / 34) ** 2 + (y / 14) ** 2 + (z / 20) ** 2 <= 1] = 4
    label[(abs(x + 16 - 4 * (number % 6)) < 3) & (abs(y) < 3) & (abs(z) < 4)] = 0  # a cyst, elsewhere in each patient
    if lesion:
        label[((x + 30) / 10) ** 2 + (y / 9) ** 2 + (z / 12) ** 2 <= 1] = 1
    ct += 60.0 * (label == 4) + 20.0 * (label == 1) + 260 * (((x - 60) / 13) ** 2 + (y / 13) ** 2 <= 1)
    patient = case_id.partition("_")[0]
    write_volume(archive / patient / f"{case_id}_ct.mha", Volume(ct.astype(np.int16), grid))
    write_volume(archive / "labels" / f"{case_id}.nii.gz", Volume(label, grid))


@pytest.fixture(scope="module")
def ct_archive(tmp_path_factory) -> Path:
    archive = tmp_path_factory.mktemp("ct") / "archive"
    for number in range(6):
        write_ct(archive, f"{200 + number}_1", orientation=ORIENTATIONS[number % 3], lesion=number % 2 == 0)
    (archive / "archive.json").write_text(json.dumps({"data_licence": "CC0-1.0"}))
    return archive


@pytest.fixture(scope="module")
def prepared_ct(ct_archive, tmp_path_factory) -> Path:
    from training.__main__ import main  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("prepared-ct") / "prepared"
    arguments = ["prepare", "--card", "pdac-panorama", "--archive", str(ct_archive), "--output", str(folder)]
    assert main([*arguments, "--folds", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def ct_runs(prepared_ct, make_runs) -> Path:
    return make_runs(("localisation", 0), ("ce", 0), prepared=prepared_ct)


def test_one_archive_gives_a_dataset_for_each_stage_with_the_same_folds(prepared_ct):
    detection = load_prepared(prepared_ct)
    localisation = detection.for_stage("localisation")
    assert list(detection.dataset["labels"]) == ["background", *(each.name for each in detection.card.classes)]
    assert list(localisation.dataset["labels"]) == ["background", "pancreas"]
    assert localisation.folds == detection.folds
    assert [study.lesions for study in detection.record.studies] == [1, 0, 1, 0, 1, 0]
    assert [study.lesions for study in localisation.record.studies] == [1] * 6
    assert detection.record.dataset_fingerprint != localisation.record.dataset_fingerprint
    assert localisation.record.card_sha256 == load_card("pdac-panorama").sha256


def test_stage_1_is_coarse_and_stage_2_at_full_resolution(prepared_ct):
    fingerprint = read_json(prepared_ct / "dataset_fingerprint.json")
    coarse = read_json(prepared_ct / "localisation" / "dataset_fingerprint.json")
    assert fingerprint["spacings"] == [[6.0, 4.5, 4.0]] * 6
    assert coarse["spacings"] == [[9.0, 4.5, 4.5]] * 6
    # Outer edges of the pancreas, mm: z ±18, y ±13.5, x −52…12; margins 15, 50, 100 and two coarse voxels, 18, 9, 9. In
    # voxels from the image's edge (z −54, y −99, x −120): 0.5…17.5, 5.9…38.1, below 0…60.25 of 60.
    assert fingerprint["shapes_after_crop"] == [[18 - 0, 39 - 5, 60]] * 6
    assert coarse["shapes_after_crop"] == [[12, 44, 53]] * 6


def test_the_three_orientations_give_one_and_the_same_dataset(ct_archive, tmp_path, outcome):
    archive = tmp_path / "archive"
    for number, orientation in enumerate(ORIENTATIONS):
        write_ct(archive, f"300_{number}", orientation=orientation, lesion=True)
    for patient in (301, 302):
        write_ct(archive, f"{patient}_0", orientation=ORIENTATIONS[0], lesion=True)
    words = ["--card", "pdac-panorama", "--archive", archive, "--output", tmp_path / "prepared", "--folds", "3"]
    assert outcome("prepare", *words) == (0, "")
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2  # noqa: PLC0415

    for folder in (tmp_path / "prepared" / "cases", tmp_path / "prepared" / "localisation" / "cases"):
        cases = nnUNetDatasetBlosc2(str(folder))
        first, second, third = (cases.load_case(f"300_{number}") for number in range(3))
        for other in (second, third):
            assert np.allclose(first[0][:], other[0][:], atol=1e-5)
            assert np.array_equal(first[1][:], other[1][:])


def test_a_bundle_holds_the_networks_of_both_stages(ct_runs, tmp_path, outcome):
    output = tmp_path / "model.tar.gz"
    assert outcome("bundle", "--runs", ct_runs, "--output", output) == (0, "")
    with tarfile.open(output) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    record = read_record(tmp_path / "model" / "bundle.json", BundleRecord)
    assert [member.name for member in record.members] == ["ce_fold0_restart1"]
    assert record.localisation is not None
    assert [member.name for member in record.localisation.members] == ["localisation_fold0_restart1"]
    assert record.localisation.members[0].key.stage == "localisation"
    assert (tmp_path / "model" / record.localisation.members[0].file).is_file()
    labels = read_json(tmp_path / "model" / record.localisation.dataset_file)["labels"]
    assert labels == {"background": 0, "pancreas": 1}
    assert set(record.parents) == {"ce_fold0_restart1", "localisation_fold0_restart1"}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("ce_fold0_restart1", "no run of the stage localisation, which the card"),
        (
            "localisation_fold0_restart1",
            "no run that detects lesions, only localisation_fold0",
        ),
    ],
)
def test_a_bundle_of_one_of_two_stages_is_refused(ct_runs, tmp_path, run, message, refusal):
    found = refusal("bundle", "--runs", ct_runs / run, "--output", tmp_path / "model.tar.gz")
    assert message in found
    assert list(tmp_path.iterdir()) == []


def test_a_campaign_adds_one_run_of_stage_1_per_fold(prepared_ct, tmp_path):
    campaign = tmp_path / "campaign.toml"
    text = 'schema_version = 1\nprofile = "demo"\nconfigurations = {}\nfolds = [0, 2]\nrestarts = [1, 2]\n'
    campaign.write_text(text.format('["ce"]'))
    names = [planned.name for planned in load_campaign(campaign, prepared=prepared_ct, output=tmp_path).planned]
    assert names[:2] == ["localisation_fold0_restart1", "localisation_fold2_restart1"]
    assert len(names) == 6
    campaign.write_text(text.format('["localisation", "ce"]'))
    names = [planned.name for planned in load_campaign(campaign, prepared=prepared_ct, output=tmp_path).planned]
    assert len(names) == len(set(names)) == 8


def test_a_card_without_localisation_has_no_stage_1(planned):
    with refused_with("card cspca-picai", "no localisation to train for"):
        planned("localisation")


def test_the_dataset_of_stage_1_trains_no_lesions(planned, prepared_ct):
    with refused_with(expected="a dataset of lesions", found="one for localisation"):
        planned(prepared=prepared_ct / "localisation")


def test_a_study_without_the_organ_is_refused(ct_archive, tmp_path, refusal):
    archive = tmp_path / "archive"
    for number in range(3):
        write_ct(archive, f"{400 + number}_1", orientation=(1, 1), lesion=False, organ=number != 1)
    words = ["--card", "pdac-panorama", "--archive", archive, "--output", tmp_path / "prepared", "--folds", "3"]
    message = refusal("prepare", *words)
    assert "401_1.nii.gz: no pancreas (label values 1, 4, 5)" in message
    assert not (tmp_path / "prepared" / "prepared.json").exists()


def test_detection_chooses_with_a_localisation_of_the_same_fold(
    planned, prepared_ct, ct_runs, tmp_path, edited_profile
):
    path = edited_profile(('checkpoint = "final"', 'checkpoint = "detection"'), name="detection.toml")
    options = {"prepared": prepared_ct, "profile": path}
    run = planned(**options)
    alone = tmp_path / "alone" / run.name
    with refused_with("alone", "no finished localisation run of fold 0 and the same card"):
        execute(run, alone, device="cpu")
    localisation = ct_runs / "localisation_fold0_restart1"
    other = planned(fold=1, **options)
    with refused_with("localisation_fold0_restart1", "no finished localisation run of fold 1"):
        execute(other, tmp_path / "other", device="cpu", options=RunOptions(localisation=localisation))
    record = execute(run, alone, device="cpu", options=RunOptions(localisation=localisation))
    shutil.copytree(localisation, tmp_path / "beside" / localisation.name)
    beside = execute(run, tmp_path / "beside" / run.name, device="cpu")  # found without being named
    assert record.weights_sha256 == beside.weights_sha256
    locating = planned("localisation", **options)
    assert (run.keep, locating.keep) == ("detection", "final")


@pytest.fixture
def short_demo_ct(tmp_path):
    """The demo's profile for CT, its network and patches, for one epoch of two steps."""
    head, plan, rest = (PROFILES / "demo-ct.toml").read_text().partition("\n[plan]")
    short = {"epochs": 1, "iterations_per_epoch": 2, "validation_iterations_per_epoch": 1, "keep_every_epochs": 1}
    kept = [line for line in head.splitlines() if line.partition(" =")[0] not in short]
    path = tmp_path / "short-demo-ct.toml"
    path.write_text("\n".join([*kept, *(f"{name} = {value}" for name, value in short.items())]) + plan + rest)
    return path


@pytest.mark.slow
def test_a_detector_of_stage_2_is_trained_bundled_and_used(
    planned, prepared_ct, ct_runs, ct_archive, short_demo_ct, tmp_path, outcome
):
    runs = tmp_path / "runs"
    run = planned("retina-unet", prepared=prepared_ct, profile=short_demo_ct)
    record = execute(run, runs / run.name, device="cpu")
    assert record.state == "finished"
    anchors = read_record(runs / run.name / "anchors.json", AnchorPlan)
    # The lesion is an ellipsoid of 24 x 18 x 20 mm on voxels of 6 x 4.5 x 4 mm; a mean over lesions that are all alike.
    assert (4, 4, 5) in anchors.sizes_voxels_zyx
    assert anchors.levels == (1, 2, 3)
    localisation = "localisation_fold0_restart1"
    shutil.copytree(ct_runs / localisation, runs / localisation)
    assert outcome("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz") == (0, "")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    words = ("--archive", ct_archive, "--model", tmp_path / "model", "--output", tmp_path / "predictions")
    used = python("-m", "algorithm", "batch", *words, "--no-mirroring", "--threads", "1")
    assert used.returncode == 0, used.stderr
    assert len(list((tmp_path / "predictions").rglob("*.mha"))) == 6
