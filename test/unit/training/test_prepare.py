import os
import shutil
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from programs import run

from contract.card import load_card
from contract.files.reading import read_json, sha256_file
from contract.images.grid import Grid
from contract.images.volume import Volume, read_label, read_volume, write_volume
from training.__main__ import main
from training.dataloading.resident_studies import read_preprocessed_label
from training.dataset.lesion_instances import number_lesions
from training.dataset.prepared import load_prepared


def run_prepare(archive, output, *more, card="cspca-picai", folds=3, seed=0) -> int:
    arguments = ["prepare", "--card", card, "--archive", archive, "--output", output, "--folds", folds, "--seed", seed]
    return main([str(argument) for argument in (*arguments, *more)])


def refused(archive: Path, output: Path, capsys: pytest.CaptureFixture, *, folds: int = 3, code: int = 3) -> str:
    """The one line on stderr with which an archive is refused; of a dataset nothing may have been written."""
    assert run_prepare(archive, output, folds=folds) == code
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    left = {path.name for path in output.iterdir()} if output.exists() else set()
    assert left <= {".oncoduet", "failures.json", ".work"}
    return message


def test_a_prepared_dataset_says_what_it_was_made_from(prepared_folder):
    prepared = load_prepared(prepared_folder)
    record = prepared.record
    assert (record.card, record.card_sha256) == ("cspca-picai", load_card("cspca-picai").sha256)
    assert record.data_licence == "CC0-1.0"
    assert [(study.case_id, study.patient_id, study.lesions) for study in record.studies] == [
        ("100_1", "100", 1), ("100_2", "100", 0), ("101_1", "101", 0), ("102_1", "102", 1), ("103_1", "103", 0),
        ("104_1", "104", 1), ("105_1", "105", 0),
    ]  # fmt: skip
    assert prepared.plans["experiment_planner_used"] == "ExperimentPlanner"
    assert list(prepared.plans["configurations"]) == ["3d_fullres"]
    assert sorted(path.name for path in prepared_folder.iterdir()) == [
        ".oncoduet", "card.toml", "cases", "dataset.json", "dataset_fingerprint.json", "plans.json", "prepare.log",
        "prepared.json", "sources.json", "splits.json",
    ]  # fmt: skip


def test_preparing_twice_gives_the_same_dataset(archive, tmp_path):
    assert run_prepare(archive, tmp_path / "a") == 0
    assert run_prepare(archive, tmp_path / "b") == 0
    for name in ("prepared.json", "plans.json", "dataset.json", "splits.json", "dataset_fingerprint.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    arrays = list((tmp_path / "a" / "cases").glob("*.b2nd"))
    assert arrays
    for path in arrays:
        assert path.read_bytes() == (tmp_path / "b" / "cases" / path.name).read_bytes()
    assert load_prepared(tmp_path / "a").sha256 == load_prepared(tmp_path / "b").sha256


@pytest.mark.parametrize("what", ["voxel", "label"])
def test_the_datasets_fingerprint_notices_one_voxel(archive, tmp_path, what):
    assert run_prepare(archive, tmp_path / "a") == 0

    def one_more(array):
        array = array.copy()
        array[4, 7, 9] += 1
        return array if what == "voxel" else array.astype(np.uint8)

    edit_volume(archive / ("101/101_1_hbv.mha" if what == "voxel" else "labels/101_1.nii.gz"), one_more)
    assert run_prepare(archive, tmp_path / "b") == 0
    before, after = (load_prepared(tmp_path / name).record.dataset_fingerprint for name in "ab")
    assert before != after


def test_quantitative_channels_keep_their_scale_between_patients(tmp_path, write_study):
    """The normalisation trap: ADC is a measurement, so a factor between patients must survive; T2W has no unit."""
    for number in range(4):
        factor = (1.0, 1.05, 1.15, 1.1)[number]
        write_study(tmp_path / "archive", f"{number}_1", kind=0, lesion=True, adc_factor=factor, t2w_factor=factor)
        path = tmp_path / "archive" / "labels" / f"{number}_1.nii.gz"
        label = read_label(path, {0, 1})
        label.array[0, 0, number] = 1  # of several patients, and so no map is another's
        write_volume(path, label)
    assert run_prepare(tmp_path / "archive", tmp_path / "out", folds=2) == 0
    properties = load_prepared(tmp_path / "out").plans["foreground_intensity_properties_per_channel"]["1"]
    plain, scaled = (blosc2.open(str(tmp_path / "out" / "cases" / f"{n}_1.b2nd"))[:] for n in (0, 2))
    np.testing.assert_allclose(plain[0], scaled[0], atol=1e-4)  # T2W: z-score per image
    adc_plain, adc_scaled = (each[1] * properties["std"] + properties["mean"] for each in (plain, scaled))
    low, high = properties["percentile_00_5"], properties["percentile_99_5"]
    inside = (adc_plain > low + 1) & (adc_plain < high - 1) & (adc_scaled > low + 1) & (adc_scaled < high - 1)
    assert inside.sum() > 20
    np.testing.assert_allclose(adc_scaled[inside] / adc_plain[inside], 1.15, rtol=1e-4)


def edit_volume(path, change):
    volume = read_volume(path)
    write_volume(path, Volume(change(volume.array), volume.grid))


def with_voxel(value):
    def change(array):
        array = array.copy()
        array[3, 4, 5] = value
        return array

    return lambda archive: edit_volume(archive / "104" / "104_1_t2w.mha", change)


def moved_away(archive):
    path = archive / "104" / "104_1_adc.mha"
    image = sitk.ReadImage(str(path))
    image.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda archive: shutil.rmtree(archive) or archive.mkdir(), "no studies named"),
        (lambda archive: shutil.copytree(archive / "101", archive / "copy"), "study 101_1 in"),
        (lambda archive: (archive / "103" / "103_1_adc.mha").unlink(), "103_1_adc.mha"),
        (lambda archive: (archive / "labels" / "103_1.nii.gz").unlink(), "study 103_1: "),
        (
            lambda archive: shutil.copy(archive / "labels" / "101_1.nii.gz", archive / "labels" / "103_1.nii.gz"),
            "103_1.nii.gz: expected the grid of 103_1_t2w.mha",
        ),
        (
            lambda archive: edit_volume(archive / "labels" / "102_1.nii.gz", lambda array: array * np.uint8(9)),
            "102_1.nii.gz: expected label values [0, 1, 2, 3, 4, 5], found [9]",
        ),
        (with_voxel(np.nan), "104_1_t2w.mha: expected finite voxels, found 1"),
        (with_voxel(np.inf), "104_1_t2w.mha: expected finite voxels, found 1"),
        (moved_away, "to share a field of view"),
        (
            lambda archive: edit_volume(archive / "labels" / "102_1.nii.gz", lambda array: array * 0 + np.uint8(1)),
            "102_1.nii.gz: expected lesions in at most half of",
        ),
    ],
    ids=["empty", "study twice", "no channel", "no label", "grid", "values", "nan", "inf", "field of view", "full"],
)
def test_a_faulty_archive_is_refused(archive, tmp_path, capsys, spoil, said):
    spoil(archive)
    assert said in refused(archive, tmp_path / "out", capsys)


def test_all_bad_studies_are_named_in_one_call(archive, tmp_path, capsys):
    (archive / "103" / "103_1_adc.mha").unlink()
    (archive / "labels" / "104_1.nii.gz").unlink()
    shutil.rmtree(archive / "105")
    message = refused(archive, tmp_path / "out", capsys)
    assert "3 faults in 7 studies: study 103_1 in" in message
    assert "study 104_1: label map" in message
    assert "105_1.nii.gz: no study of this name (--on-bad-study skip leaves them out)" in message


def spoil_voxels(archive):
    """One study in which the voxels are wrong, one in which the label map is, and one whose ADC has another unit."""
    for case_id, channel, change in [
        ("103_1", "t2w", lambda array: np.where(array == array.max(), np.nan, array)),
        ("105_1", "adc", lambda array: array / 1000),
    ]:
        path = archive / case_id[:3] / f"{case_id}_{channel}.mha"
        edit_volume(path, lambda array, change=change: change(array).astype(np.float32))
    edit_volume(archive / "labels" / "104_1.nii.gz", lambda array: array * np.uint8(9))


def test_bad_voxels_are_named_in_one_call_too(archive, tmp_path, capsys):
    spoil_voxels(archive)
    message = refused(archive, tmp_path / "out", capsys)
    assert "3 faults in 7 studies: " in message
    assert "103_1_t2w.mha: expected finite voxels, found 1 NaN" in message
    assert "104_1.nii.gz: expected label values [0, 1, 2, 3, 4, 5], found [9]" in message
    assert "105_1_adc.mha: expected intensities of 'adc', with a median" in message


def test_unusual_images_are_named_on_the_terminal_too(archive, tmp_path, capsys):
    for path in archive.glob("*/*_adc.mha"):
        edit_volume(path, lambda array: (array * 2.2).astype(np.float32))
    assert run_prepare(archive, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    logged = (tmp_path / "out" / "prepare.log").read_text()
    for case_id in ("101_1", "103_1"):
        assert f"{case_id}_adc.mha: a median of " in printed
        assert f"{case_id}_adc.mha: a median of " in logged


def test_doubtful_label_maps_are_named_on_the_terminal_too(archive, tmp_path, capsys):
    def with_a_large_lesion(array):
        changed = array.copy()
        changed[: array.shape[0] // 3 + 1] = 1
        return changed

    edit_volume(archive / "labels" / "102_1.nii.gz", with_a_large_lesion)
    assert run_prepare(archive, tmp_path / "out") == 0
    said = "102_1.nii.gz: 38% of the image is lesion"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "out" / "prepare.log").read_text()


def test_bad_studies_are_left_out_on_request_and_named(archive, tmp_path, capsys):
    spoil_voxels(archive)
    (archive / "102" / "102_1_hbv.mha").rename(archive / "102" / "102_1_hbv.MHA")
    assert run_prepare(archive, tmp_path / "out", "--on-bad-study", "skip", folds=2) == 0
    printed = capsys.readouterr().out
    assert "4 of 7 studies are left out: 102_1, 103_1, 104_1, 105_1" in printed
    assert "left out: study 102_1 in" in printed
    record = load_prepared(tmp_path / "out").record
    assert record.left_out == ("102_1", "103_1", "104_1", "105_1")
    assert [study.case_id for study in record.studies] == ["100_1", "100_2", "101_1"]
    assert "4 of 7 studies are left out" in (tmp_path / "out" / "prepare.log").read_text()
    assert run_prepare(archive, tmp_path / "out", "--on-bad-study", "skip", folds=2) == 0
    assert "without 4 studies, as its prepare.log says: 102_1, 103_1, " in " ".join(capsys.readouterr().out.split())
    for case_id in record.left_out:
        shutil.rmtree(archive / case_id[:3])
        (archive / "labels" / f"{case_id}.nii.gz").unlink()
    assert run_prepare(archive, tmp_path / "without", folds=2) == 0
    assert load_prepared(tmp_path / "without").sha256 == load_prepared(tmp_path / "out").sha256


def test_too_few_patients_left_are_refused(archive, tmp_path, capsys):
    spoil_voxels(archive)
    assert run_prepare(archive, tmp_path / "out", "--on-bad-study", "skip", folds=5) == 3
    assert "expected at least 5 patients for 5 folds, found 3" in capsys.readouterr().err


def test_a_marksheet_that_denies_a_lesion_is_named(archive, tmp_path, capsys):
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (archive / "labels").glob("*.nii.gz"))
    rows = "".join(f"{case_id.replace('_', ',')},NO\n" for case_id in cases)
    (archive / "marksheet.csv").write_text(f"patient_id,study_id,case_csPCa\n{rows}")
    assert run_prepare(archive, tmp_path / "prepared") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "marksheet.csv: by case_csPCa " in said
    assert "cases have no lesion, and a label map with one: " in said
    assert "by case_csPCa" in (tmp_path / "prepared" / "prepare.log").read_text()


def test_rows_of_the_marksheet_without_study_are_reported(archive, tmp_path, capsys):
    (archive / "marksheet.csv").write_text("patient_id,study_id\n100,1\n777,1\n")
    assert run_prepare(archive, tmp_path / "out") == 0
    assert "marksheet.csv: 1 rows belong to no study here: 777_1" in capsys.readouterr().out


def test_a_seed_below_0_is_wrong_usage(archive, tmp_path, capsys):
    assert run_prepare(archive, tmp_path / "out", seed=-1) == 2
    assert "--seed: expected at least 0, found -1" in capsys.readouterr().err


def test_a_folder_of_many_patients_needs_the_option_patients(tmp_path, capsys, write_study):
    for number in range(14):
        write_study(tmp_path / "archive", f"pancreas_{number:03d}", kind=number, lesion=number % 2 == 0)
    message = refused(tmp_path / "archive", tmp_path / "out", capsys, folds=1 + 1)
    assert "expected a folder per patient, found pancreas_000, pancreas_001 (14 cases); name their patients" in message
    assert run_prepare(tmp_path / "archive", tmp_path / "out", "--patients", "by-case", folds=2) == 0
    assert len({study.patient_id for study in load_prepared(tmp_path / "out").record.studies}) == 14


@pytest.mark.parametrize(
    ("copied", "what"),
    [("102/102_1_t2w.mha", "t2w image"), ("102/102_1_adc.mha", "adc image"), ("labels/102_1.nii.gz", "label map")],
)
def test_an_image_or_label_map_of_one_patient_under_another_is_refused(
    archive, tmp_path, capsys, write_study, copied, what
):
    write_study(archive, "900_1", kind=8, lesion=True)  # on the grid of 102_1
    shutil.copyfile(archive / copied, archive / copied.replace("102", "900"))
    message = refused(archive, tmp_path / "out", capsys, folds=2)
    assert f"study 900_1: has the {what} of 102_1, which is of another patient" in message


LARGE = """
import sys
from pathlib import Path
import numpy as np
from training.dataset import nnunet_planning
z, y, x = np.indices((24, 320, 320), dtype=np.float32)
data = np.stack([np.sin(0.1 * x) + np.cos(0.07 * y), np.sin(x * y / 900), z + 0.01 * x]).astype(np.float32)
nnunet_planning.save(Path(sys.argv[1]), data, (data[:1] > 1.5).astype(np.int16), {}, patch=(16, 320, 320))
"""


def test_files_of_several_blocks_do_not_depend_on_the_threads(tmp_path):
    """Blosc writes blocks in the order in which threads end; studies of a few voxels have one block alone."""
    found = set()
    for number, threads in enumerate([{}, {"OMP_NUM_THREADS": "1"}, {"BLOSC_NTHREADS": "8"}, {}]):
        path = tmp_path / f"{number}" / "case"
        path.parent.mkdir()
        environment = {name: value for name, value in os.environ.items() if "THREADS" not in name} | threads
        assert run(sys.executable, "-c", LARGE, path, env=environment).returncode == 0
        files = [path.with_name("case.b2nd"), path.with_name("case_seg.b2nd")]
        found.add(tuple(sha256_file(file) for file in files))
    assert len(found) == 1
    array = blosc2.open(str(files[0]))
    assert np.prod(array.chunks) > 4 * np.prod(array.blocks)  # several blocks, or this shows nothing


def test_fewer_patients_than_folds_are_refused(archive, tmp_path, capsys):
    message = refused(archive, tmp_path / "out", capsys, folds=7)  # 7 studies, but 6 patients
    assert "expected at least 7 patients for 7 folds, found 6" in message


def test_an_archive_without_any_lesion_is_refused(tmp_path, capsys, write_study):
    for number in range(3):
        write_study(tmp_path / "archive", f"{number}_1", kind=number, lesion=False)
    assert "no study with a lesion" in refused(tmp_path / "archive", tmp_path / "out", capsys)


def write_fine_study(archive, case_id):
    """Voxels of 3 x 0.4 x 0.4 mm: a lesion of 6 x 10 x 10 of them, and one of a single voxel at index (7, 20, 63)."""
    grid = Grid((100, 90, 10), (0.4, 0.4, 3.0), (-20.0, 7.5, 3.25), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    z, y, x = np.indices(grid.shape_zyx, dtype=np.float64)
    label = np.zeros(grid.shape_zyx, np.uint8)
    label[2:8, 50:60, 20:30] = label[7, 20, 63] = 1
    patient = case_id.partition("_")[0]
    for name in ("t2w", "adc", "hbv"):
        array = (300 + 40 * np.sin(0.1 * x) + 30 * np.cos(0.1 * y) + z).astype(np.float32)
        write_volume(archive / patient / f"{case_id}_{name}.mha", Volume(array, grid))
    write_volume(archive / "labels" / f"{case_id}.nii.gz", Volume(label, grid))


def test_a_lesion_smaller_than_a_voxel_of_the_plan_is_reported(archive, tmp_path, capsys):
    write_fine_study(archive, "200_1")
    assert run_prepare(archive, tmp_path / "out") == 0
    printed = capsys.readouterr()
    # No point at which nnU-Net samples the label lies within half a voxel of this one (one voxel in 14 has one).
    # x = -20 + 63 x 0.4, y = 7.5 + 20 x 0.4, z = 3.25 + 7 x 3; 0.4 x 0.4 x 3 mm3
    expected = "study 200_1: a lesion of 0.00048 mL at (5.2, 15.5, 24.2) mm has no voxel left at the plan's spacing of"
    assert printed.out.count(expected) == 1
    assert printed.out.count("has no voxel") == 1  # neither of the larger one nor of those of the other studies
    assert printed.err == ""
    assert expected in (tmp_path / "out" / "prepare.log").read_text()
    prepared = load_prepared(tmp_path / "out")
    assert {study.case_id: study.lesions for study in prepared.record.studies}["200_1"] == 2
    label = read_preprocessed_label(tmp_path / "out", "200_1").astype(np.int32)
    assert number_lesions(label, 1).lesions == 1


def test_a_lesion_between_the_voxels_of_the_study_grid_is_reported(archive, tmp_path, capsys):
    card = tmp_path / "coarse.toml"
    text = (Path(load_card.__globals__["CARDS"]) / "cspca-rsna2022.toml").read_text()
    text = text.replace("values = [1, 2, 3, 4, 5]", "values = [1]")
    card.write_text(text.replace("[20, 160, 160]", "[8, 12, 12]").replace("[3.6, 0.5, 0.5]", "[3.0, 3.0, 3.0]"))
    write_fine_study(archive, "200_1")
    assert run_prepare(archive, tmp_path / "out", card=card) == 0
    expected = (
        "study 200_1: a lesion of 0.00048 mL at (5.2, 15.5, 24.2) mm has no voxel on the study grid: networks are"
    )
    assert capsys.readouterr().out.count(expected) == 1


def test_one_fold_is_wrong_usage(archive, tmp_path, capsys):
    assert "--folds: expected at least 2, found 1" in refused(archive, tmp_path / "out", capsys, folds=1, code=2)


def test_a_failed_preparation_keeps_an_earlier_one(archive, tmp_path):
    assert run_prepare(archive, tmp_path / "out") == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    (archive / "103" / "103_1_adc.mha").unlink()
    assert run_prepare(archive, tmp_path / "out") == 3
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before


def test_a_card_with_its_own_geometry_and_classes_is_prepared(archive, tmp_path, write_study):
    """Nothing here knows three channels, one class or the prostate."""
    card = tmp_path / "other.toml"
    text = (Path(load_card.__globals__["CARDS"]) / "cspca-rsna2022.toml").read_text()
    text = text.replace("values = [1, 2, 3, 4, 5]", "values = [1]").replace(
        "[detection_map]", '[[classes]]\nname = "vessel"\nvalues = [2]\n\n[detection_map]'
    )
    card.write_text(text.replace("[20, 160, 160]", "[8, 40, 40]").replace("[3.6, 0.5, 0.5]", "[3.0, 1.2, 1.2]"))
    write_study(archive, "101_1", kind=1, lesion=True, label_value=2)
    assert run_prepare(archive, tmp_path / "out", card=card) == 0
    prepared = load_prepared(tmp_path / "out")
    assert prepared.dataset["labels"] == {"background": 0, "lesion": 1, "vessel": 2}
    assert prepared.plans["configurations"]["3d_fullres"]["spacing"] == [3.0, 1.2, 1.2]
    lesions = {study.case_id: study.lesions for study in prepared.record.studies}
    assert (lesions["100_1"], lesions["101_1"]) == (1, 0)
    shapes = read_json(tmp_path / "out" / "dataset_fingerprint.json")["shapes_after_crop"]
    assert max(shape[0] for shape in shapes) <= 8
