"""What an archive must hold, and what is said where it does not."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from programs import python
from refusals import refused_with

from contract.archive.studies import (
    Study,
    archive_licence,
    archive_patients,
    check_geometry,
    find_studies,
    list_studies,
)
from contract.card import Card, Geometry
from contract.errors import OncoduetError
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume

WriteArchive = Callable[..., Path]


def an_image(path: Path, grid: Grid) -> Path:
    write_volume(path, Volume(np.ones(grid.shape_zyx, np.float32), grid))
    return path


def patients_of(archive: Path, card: Card, said: str | None = None) -> dict[str, str]:
    return archive_patients(archive, find_studies(archive, card, labels_required=True), said)


def test_studies_are_sorted_by_id_and_channels_as_in_the_card(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("20_2", "10_3", "10_1")
    studies = find_studies(archive, card, labels_required=True)
    assert [study.case_id for study in studies] == ["10_1", "10_3", "20_2"]
    assert [study.folder for study in studies] == ["10", "10", "20"]
    assert list(studies[0].channels) == ["t2w", "adc", "hbv"]
    assert studies[0].channels["adc"] == archive / "10" / "10_1_adc.mha"
    assert studies[0].label == archive / "labels" / "10_1.nii.gz"


def test_other_channels_and_files_are_ignored(write_archive: WriteArchive, card: Card, tilted_grid: Grid) -> None:
    archive = write_archive("10_1")
    an_image(archive / "10" / "10_1_sag.mha", tilted_grid)
    (archive / "10" / "notes.txt").write_text("no image")
    (archive / "10" / "._10_1_t2w.mha").write_bytes(b"what macOS leaves beside each file")
    (archive / "marksheet.csv").write_text("patient_id,study_id\n10,1\n")
    assert [study.case_id for study in find_studies(archive, card, labels_required=True)] == ["10_1"]


def test_a_patient_whose_id_holds_an_underscore_is_named_by_the_folder(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("site_7_2020", "site_7_2021", patient="site_7")
    assert set(patients_of(archive, card).values()) == {"site_7"}


def test_in_a_folder_per_study_the_patient_is_the_part_before_underscore(
    write_archive: WriteArchive, card: Card
) -> None:
    archive = write_archive("11373_1001396", patient="11373_1001396")
    assert patients_of(archive, card) == {"11373_1001396": "11373"}


def test_a_study_without_label_map_is_fine_where_none_is_required(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "labels" / "10_1.nii.gz").unlink()
    assert find_studies(archive, card, labels_required=False)[0].label is None


def no_channel(archive: Path, grid: Grid) -> None:
    (archive / "10" / "10_1_adc.mha").unlink()


def twice(archive: Path, grid: Grid) -> None:
    an_image(archive / "other" / "10_1_t2w.mha", grid)


def two_formats(archive: Path, grid: Grid) -> None:
    path = archive / "10" / "10_1_adc.mha"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix(".nii.gz")))


def far_away(archive: Path, grid: Grid) -> None:
    x, y, z = grid.origin_mm_xyz
    an_image(archive / "10" / "10_1_hbv.mha", replace(grid, origin_mm_xyz=(x, y, z + 500)))


def no_image(archive: Path, grid: Grid) -> None:
    (archive / "10" / "10_1_adc.mha").write_bytes(b"no image at all")


def other_label_grid(archive: Path, grid: Grid) -> None:
    x, y, z = grid.spacing_mm_xyz
    an_image(archive / "labels" / "10_1.nii.gz", replace(grid, spacing_mm_xyz=(x, y, z * 1.1)))


def no_label(archive: Path, grid: Grid) -> None:
    (archive / "labels" / "10_1.nii.gz").unlink()


def test_an_archive_without_any_label_map_is_refused(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    shutil.rmtree(archive / "labels")
    with refused_with(str(archive / "labels"), "folder not found"):
        find_studies(archive, card, labels_required=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_channel, r"^study 10_1 in .*: 10_1_adc.mha not found; the card has the channels t2w, adc, hbv$"),
        (twice, r"^study 10_1 .*: duplicate: .*/10, .*/other$"),
        (two_formats, r"^study 10_1 .*: duplicate: 10_1_adc.mha, 10_1_adc.nii.gz$"),
        (far_away, r"10_1_hbv.mha to share a field of view with 't2w' .*, found size .* 511\."),
        (no_image, r"10_1_adc.mha: MetaImage header has no ElementDataFile"),
        (other_label_grid, r"labels/10_1.nii.gz: expected the grid of 10_1_t2w.mha \(size .*, found size"),
        (no_label, r"^study 10_1: label map .*/labels/10_1.nii.gz not found$"),
    ],
)
def test_a_faulty_study_is_refused(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid, spoil: Callable[[Path, Grid], None], said: str
) -> None:
    archive = write_archive("10_1", "20_2")
    spoil(archive, tilted_grid)
    with pytest.raises(OncoduetError, match=said):
        find_studies(archive, card, labels_required=True)
    if spoil is not no_label:
        with pytest.raises(OncoduetError, match=said):
            find_studies(archive, card, labels_required=False)


@pytest.mark.parametrize("ending", ["_seg", "_label"])
def test_a_study_named_as_another_ones_file_is_refused(write_archive: WriteArchive, card: Card, ending: str) -> None:
    archive = write_archive("10_1", f"10_1{ending}")
    with pytest.raises(OncoduetError, match=f"study 10_1{ending} in .*: named as the file '{ending}' of study 10_1"):
        find_studies(archive, card, labels_required=False)


def test_faults_are_listed_study_by_study_with_the_sound_studies(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid
) -> None:
    archive = write_archive("10_1", "20_2", "30_3", "40_4", "50_5")
    (archive / "20" / "20_2_adc.mha").unlink()
    an_image(archive / "other" / "30_3_t2w.mha", tilted_grid)
    (archive / "40" / "40_4_hbv.mha").unlink()
    (archive / "40" / "40_4_hbv.mha").symlink_to("/proc/self/mem")  # a file that opens and cannot be read
    listing = list_studies(archive, card, labels_required=True)
    assert [study.case_id for study in listing.studies] == ["10_1", "50_5"]
    assert listing.studies[1].channels["adc"] == archive / "50" / "50_5_adc.mha"
    assert list(listing.faults) == ["20_2", "30_3", "40_4"]
    assert listing.faults["20_2"].endswith("20_2_adc.mha not found; the card has the channels t2w, adc, hbv")
    assert "duplicate:" in listing.faults["30_3"]
    assert listing.faults["40_4"].startswith(f"study 40_4 in {archive}: unreadable: ")


def renamed(folder: Path, change: Callable[[Path], Path]) -> None:
    for path in sorted(folder.iterdir()):
        target = change(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    if not any(folder.iterdir()):
        folder.rmdir()


MOVES: dict[str, Callable[[Path], Path]] = {
    "upper case ending": lambda path: path.with_suffix(".MHA"),
    "another format": lambda path: path.with_suffix(".nrrd"),
    "detached header": lambda path: path.with_suffix(".mhd"),
    "upper case channel": lambda path: path.with_name(path.name.replace("_t2w", "_T2W")),
    "a point before the channel": lambda path: path.with_name(path.name.replace("20_2_", "20_2.")),
    "one folder deeper": lambda path: path.parent.parent / "centre" / path.parent.name / path.name,
    "several folders deeper": lambda path: path.parent.parent / "a" / "b" / "c" / path.name,
    "below its own folder": lambda path: path.parent / "images" / path.name,
    "flat": lambda path: path.parent.parent / path.name,
    "nnU-Net's numbers": lambda path: path.with_name(
        "20_2_000" + {"t2w": "0", "adc": "1", "hbv": "2"}[path.stem.rpartition("_")[2]] + ".nii.gz"
    ),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("labels_required", [True, False])
def test_a_study_whose_files_are_called_or_placed_otherwise_is_named(
    write_archive: WriteArchive, card: Card, move: Callable[[Path], Path], labels_required: bool
) -> None:
    archive = write_archive("10_1", "20_2", "30_3")
    renamed(archive / "20", move)
    listing = list_studies(archive, card, labels_required=labels_required)
    assert [study.case_id for study in listing.studies] == ["10_1", "30_3"]
    assert list(listing.faults) == ["20_2"]
    assert listing.faults["20_2"].startswith(f"study 20_2 in {archive}: ")
    assert ", but " in listing.faults["20_2"]  # what is there instead
    with refused_with("study 20_2 in "):
        find_studies(archive, card, labels_required=labels_required)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_images_may_be_nifti(write_archive: WriteArchive, card: Card, ending: str) -> None:
    archive = write_archive("10_1", "20_2")
    for path in sorted((archive / "20").iterdir()):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix("")) + ending)
        path.unlink()
    studies = find_studies(archive, card, labels_required=False)
    assert [study.case_id for study in studies] == ["10_1", "20_2"]
    assert studies[1].channels["adc"] == archive / "20" / f"20_2_adc{ending}"


def test_copies_elsewhere_of_a_study_that_is_there_are_no_fault(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1", "20_2")
    shutil.copytree(archive / "20", archive / "20" / "original")
    (archive / "20" / "20_2_t2w.nrrd").write_bytes(b"")
    assert len(find_studies(archive, card, labels_required=True)) == 2


def test_a_label_map_without_study_is_a_fault_or_a_remark(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1", "20_2", "30_3")
    shutil.rmtree(archive / "20")
    shutil.rmtree(archive / "30")
    with refused_with(problem="2 faults in 3 studies: .*/20_2.nii.gz: no study .*; .*/30_3.nii.gz"):
        find_studies(archive, card, labels_required=True)
    listing = list_studies(archive, card, labels_required=False)
    assert not listing.faults
    assert listing.remarks == (f"{archive / 'labels'}: 2 label maps belong to no study here: 20_2, 30_3",)


def test_marksheet_rows_without_study_are_remarks(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    rows = "".join(f"{patient};{patient}\n" for patient in range(30, 45))
    (archive / "marksheet.csv").write_text(f"\ufeffpatient_id;study_id\n10;1\n{rows}", encoding="utf-8")
    (remark,) = list_studies(archive, card, labels_required=True).remarks
    assert "marksheet.csv: 15 rows belong to no study here: 30_30, " in remark
    assert remark.endswith("39_39 and 5 more")


def test_a_label_map_under_another_name_is_pointed_at(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    nested = archive / "labels" / "human_expert"
    nested.mkdir()
    (archive / "labels" / "10_1.nii.gz").rename(nested / "10_1.nii.gz")
    with refused_with("label map .*, found labels/human_expert/10_1.nii.gz"):
        find_studies(archive, card, labels_required=True)
    (remark,) = list_studies(archive, card, labels_required=False).remarks
    assert remark.endswith("and not read: labels/human_expert/10_1.nii.gz")


@pytest.mark.parametrize("twin", ["10_1.mha", "10_1.nii", "10_1.NII.GZ"])
def test_two_label_maps_of_a_study_are_a_duplicate(write_archive: WriteArchive, card: Card, twin: str) -> None:
    archive = write_archive("10_1", "20_2")
    (archive / "labels" / twin).write_bytes(b"")
    listing = list_studies(archive, card, labels_required=True)
    assert list(listing.faults) == ["10_1"]
    assert listing.faults["10_1"].endswith(f"duplicate: 10_1.nii.gz, {twin} in labels")
    assert not list_studies(archive, card, labels_required=False).faults


def test_folders_too_deep_to_be_scanned_are_remarks(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "a/b/c/d/e/f").mkdir(parents=True)
    (archive / "a/b/c/d/e/f" / "20_2_t2w.mha").write_bytes(b"")
    (remark,) = list_studies(archive, card, labels_required=True).remarks
    assert remark.endswith("1 folders are more than 5 deep, and not looked into: a/b/c/d/e/f")


@pytest.mark.parametrize(
    "table",
    [
        "patient_id,study_id\n10,1.0\n30,3.0\n",
        "patient_id,study_id\n10,10_1\n30,3\n",
        "PANORAMA_patient_id,PANORAMA_study_id\n10,10_1\n30,30_3\n",
    ],
)
def test_rows_of_any_marksheet_without_study_are_remarks(write_archive: WriteArchive, card: Card, table: str) -> None:
    archive = write_archive("10_1")
    (archive / "marksheet.csv").write_text(table)
    (remark,) = list_studies(archive, card, labels_required=True).remarks
    assert remark.endswith("marksheet.csv: 1 rows belong to no study here: 30_3")


def test_links_that_lead_nowhere_are_named(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1", "20_2")
    (archive / "20" / "20_2_adc.mha").unlink()
    (archive / "20" / "20_2_adc.mha").symlink_to("/nowhere/at.mha")
    (archive / "30").symlink_to("/nowhere/30")
    listing = list_studies(archive, card, labels_required=False)
    assert list(listing.faults) == ["20_2", "30"]
    assert listing.faults["20_2"].endswith("20_2_adc.mha")
    assert listing.faults["30"].endswith("cannot be read: dangling link")


def test_folders_that_are_links_are_read(write_archive: WriteArchive, card: Card, tmp_path: Path) -> None:
    archive = write_archive("10_1")
    (archive / "10").rename(tmp_path / "elsewhere")
    (archive / "10").symlink_to(tmp_path / "elsewhere")
    (archive / "loop").symlink_to(archive)
    assert len(find_studies(archive, card, labels_required=True)) == 1


def test_a_folder_that_may_not_be_listed_is_named(write_archive: WriteArchive) -> None:
    archive = write_archive("10_1", "20_2")
    (archive / "20").chmod(0)
    try:
        said = without_root(
            "from pathlib import Path\n"
            f"print(list_studies(Path({str(archive)!r}), load_card('cspca-picai'), labels_required=False).faults)",
            archive,
        )
    finally:
        (archive / "20").chmod(0o755)
    assert f"{{'20': '{archive / '20'}: cannot be read: permission den" in said


def without_root(program: str, readable: Path) -> str:
    """What a program prints that has no right to read everything, although the tests may run as root."""
    program = f"from contract.archive.studies import list_studies; from contract.card import load_card\n{program}"
    if os.getuid() == 0:
        for folder in (readable, *readable.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o055)
        program = program.replace("\n", "\nimport os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n", 1)
    return python("-c", program).stdout


def test_lost_and_found_is_ignored(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "lost+found").mkdir()
    (archive / "lost+found" / "20_2_t2w.nrrd").write_bytes(b"")
    assert len(find_studies(archive, card, labels_required=True)) == 1


def test_accents_may_be_written_in_two_ways(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("Jürg_1")
    label = archive / "labels" / "Jürg_1.nii.gz"
    label.rename(label.with_name(unicodedata.normalize("NFD", label.name)))
    assert find_studies(archive, card, labels_required=True)[0].label is not None


def test_a_patient_whose_accents_are_written_in_two_ways_is_one(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("Jürg_1", "Jürg_2")
    other = archive / unicodedata.normalize("NFD", "Jürg")
    other.mkdir()
    for image in (archive / "Jürg").glob("Jürg_2_*"):
        image.rename(other / unicodedata.normalize("NFD", image.name))
    (archive / "patients.csv").write_text(unicodedata.normalize("NFD", "case_id,patient_id\nJürg_2,Jürg\n"))

    assert patients_of(archive, card) == {"Jürg_1": "Jürg", "Jürg_2": "Jürg"}

    shutil.copy(label := archive / "labels" / "Jürg_1.nii.gz", other)
    (other / label.name).rename(label.with_name(unicodedata.normalize("NFD", label.name)))
    with refused_with("another label map has this name"):
        find_studies(archive, card, labels_required=True)


def test_all_faults_are_named_together_and_the_first_ten_in_full(write_archive: WriteArchive, card: Card) -> None:
    cases = [f"{number}_1" for number in range(10, 23)]
    archive = write_archive(*cases)
    for case_id in cases[1:]:
        (archive / case_id[:2] / f"{case_id}_adc.mha").unlink()
    with refused_with(str(archive), "^12 faults in 13 studies: study 11_1 in .*; and 2 more$") as raised:
        find_studies(archive, card, labels_required=True)
    assert raised.value.problem.count("_adc.mha not found") == 10


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["images/10/10_1_t2w.mha", "images/2/2_2_t2w.mha"], r"2 files end in .mha, .*: one folder too deep; .*images"),
        (["10_1_t2w.mha"], r"1 files end in .mha, such as 10_1_t2w.mha: each patient needs a folder"),
        (["imagesTr/10_1_0000.nii.gz"], r"1 files end in .nii.gz, .*: nnU-Net numbers channels, an archive names them"),
        (["10/scan.nrrd", "10/scan.dcm"], r"2 files end in .dcm, .nrrd, such as 10/scan.dcm$"),
    ],
)
def test_an_archive_without_studies_is_refused_with_what_it_holds(
    tmp_path: Path, card: Card, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with refused_with(problem=rf"\(or .nii.gz\); {said}"):
        list_studies(tmp_path, card, labels_required=False)


def studies_in(folders: dict[str, list[str]]) -> list[Study]:
    return [Study(case_id, folder, {}, None) for folder, cases in folders.items() for case_id in cases]


@pytest.mark.parametrize(
    ("folders", "patients"),
    [
        ({"10": ["10_1", "10_2"], "20": ["20_1"]}, {"10_1": "10", "10_2": "10", "20_1": "20"}),
        ({"site_7": ["site_7_a", "site_7_b"], "site_8": ["site_8_a"]}, {"site_7_a": "site_7", "site_8_a": "site_8"}),
        ({"10_1": ["10_1"], "10_2": ["10_2"]}, {"10_1": "10", "10_2": "10"}),
        ({"all": ["10_1", "10_2", "20_1"]}, {"10_1": "10", "10_2": "10", "20_1": "20"}),
        ({"all": ["anna", "berta"]}, {"anna": "anna", "berta": "berta"}),
        ({"fold0": ["10_1", "20_1"], "fold1": ["10_2"]}, {"10_1": "10", "10_2": "10", "20_1": "20"}),
        ({f"{n}": [f"{n}_{n + 990000}"] for n in (10000, 10001)}, {"10000_1000000": "10000", "10001_1000001": "10001"}),
        ({"TCGA-2A-A8VL": ["TCGA-2A-A8VL_1"], "TCGA-2A-A8VO": ["TCGA-2A-A8VO_1"]}, {"TCGA-2A-A8VL_1": "TCGA-2A-A8VL"}),
        (
            {f"{centre}_{n}": [f"{centre}_{n}_1"] for centre in "ab" for n in range(4)},
            {"a_0_1": "a_0", "a_1_1": "a_1", "b_0_1": "b_0"},
        ),
    ],
)
def test_who_the_patient_is_follows_from_folders_and_ids(
    tmp_path: Path, folders: dict[str, list[str]], patients: dict[str, str]
) -> None:
    found = archive_patients(tmp_path, studies_in(folders))
    assert {case_id: found[case_id] for case_id in patients} == patients


@pytest.mark.parametrize(
    "folders",
    [
        {"pancreas": [f"pancreas_{number:03d}" for number in range(20)]},
        {"2020": [f"2020_{number:04d}" for number in range(20)]},
        {centre: [f"{centre}_{number:04d}" for number in range(10)] for centre in ("1", "2", "3")},
        {"all": [f"2020_{number:04d}" for number in range(20)]},
        {"all": ["pancreas_001", "pancreas_002"]},
        {"P1": ["before", "after"], "P2": ["before2"]},
        {"P1_a": ["P1_a"], "P1_b": ["P1_b"]},
        {"10_2019": ["10_2019_1"], "10_2021": ["10_2021_1"], "11_2019": ["11_2019_1"]},
        {"P1-before": ["P1-before_1"], "P1-after": ["P1-after_1"]},
        {"P1": ["P1_1"], "p1": ["p1_2"], "P2": ["P2_1"]},
        {"001": ["001_1"], "1": ["1_2"]},
    ],
)
def test_ambiguous_patients_are_refused(tmp_path: Path, folders: dict[str, list[str]]) -> None:
    studies = studies_in(folders)
    with refused_with(found=r"name their patients in patients.csv .* or pass --patients by-case"):
        archive_patients(tmp_path, studies)
    assert len(set(archive_patients(tmp_path, studies, "by-case").values())) == len(studies)
    rows = "".join(f"{study.case_id},one\n" for study in studies)
    (tmp_path / "patients.csv").write_text(f"case_id,patient_id\n{rows}")
    assert set(archive_patients(tmp_path, studies).values()) == {"one"}


def test_table_precedes_folders_and_rule_precedes_folders(tmp_path: Path) -> None:
    studies = studies_in({"10": ["10_1", "10_2"], "20": ["20_1"]})
    table = tmp_path / "said.csv"
    table.write_text("case_id;patient_id\n20_1;10\n")
    assert set(archive_patients(tmp_path, studies, str(table)).values()) == {"10"}
    assert archive_patients(tmp_path, studies, "by-case")["10_2"] == "10_2"


@pytest.mark.parametrize(
    ("folders", "row"),
    [
        ({"10": ["10_1", "10_2"], "20": ["20_1"]}, "10_1,P7"),
        ({"s_1": ["s_1_a", "s_1_b"], "t_2": ["t_2_a"]}, "s_1_a,P7"),
        ({"P1": ["before", "after"], "P2": ["other"]}, "before,P7"),
    ],
)
def test_table_with_some_studies_of_a_folder_is_ambiguous(
    tmp_path: Path, folders: dict[str, list[str]], row: str
) -> None:
    studies = studies_in(folders)
    (tmp_path / "patients.csv").write_text(f"case_id,patient_id\n{row}\n")
    with refused_with(found=r"name their patients in patients.csv"):
        archive_patients(tmp_path, studies)


def test_patient_rows_without_study_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    studies = studies_in({"10": ["10_1", "10_2"], "20": ["20_1"]})
    (tmp_path / "patients.csv").write_text("case_id,patient_id\n10_1,10\n20_2,10\n30_1,30\n")
    archive_patients(tmp_path, studies)
    assert caplog.messages == [f"{tmp_path}: 2 cases whose patient is named are not here: 20_2, 30_1"]


@pytest.mark.parametrize("row", ["20-1", "20_01", "020_1"])
def test_a_row_of_patients_that_may_mean_a_study_without_one_is_refused(tmp_path: Path, row: str) -> None:
    studies = studies_in({"10": ["10_1", "10_2"], "20": ["20_1"]})
    (tmp_path / "patients.csv").write_text(f"case_id,patient_id\n10_1,10\n{row},10\n")
    with refused_with(problem=f"names case {row}, which does not exist; is '20_1' meant"):
        archive_patients(tmp_path, studies)


def test_a_listing_of_nothing_is_refused(tmp_path: Path, card: Card) -> None:
    with refused_with("nowhere", "archive not found"):
        list_studies(tmp_path / "nowhere", card, labels_required=False)
    with refused_with(problem="no studies named "):
        list_studies(tmp_path, card, labels_required=False)


def test_the_geometry_of_one_study_can_be_checked(tmp_path: Path, tilted_grid: Grid) -> None:
    tilted_grid = replace(tilted_grid, size_xyz=(11, 9, 5))
    t2w = an_image(tmp_path / "t2w.mha", tilted_grid)
    finer = replace(tilted_grid, spacing_mm_xyz=(0.11, 0.12, 1.3))
    geometry = Geometry(reference="t2w", covered_at_least=0.0)
    check_geometry("10_1", {"t2w": t2w, "adc": an_image(tmp_path / "adc.mha", finer)}, geometry)


@pytest.mark.parametrize(("moved_voxels", "covered"), [(2, None), (6, "41%"), (9, "0%")])
def test_a_channel_has_to_cover_the_middle_of_the_reference(tmp_path, tilted_grid, moved_voxels, covered) -> None:
    grid = replace(tilted_grid, size_xyz=(11, 9, 5))
    first, step = np.array(grid.origin_mm_xyz), np.array(grid.direction).reshape(3, 3)[:, 0] * grid.spacing_mm_xyz[0]
    moved = replace(grid, origin_mm_xyz=tuple((first + moved_voxels * step).tolist()))
    channels = {"t2w": an_image(tmp_path / "t2w.mha", grid), "adc": an_image(tmp_path / "adc.mha", moved)}
    check_geometry("10_1", channels, Geometry(reference="t2w", covered_at_least=0.0))
    if covered is None:
        check_geometry("10_1", channels, Geometry(reference="t2w"))
        return
    with pytest.raises(OncoduetError) as caught:
        check_geometry("10_1", channels, Geometry(reference="t2w"))
    assert caught.value.expected == f"{channels['adc']} to cover at least 50% of the middle of 't2w'"
    assert caught.value.found.startswith(f"{covered}: was it moved")


def test_the_licence_of_the_data_comes_from_archive_json(tmp_path: Path) -> None:
    assert archive_licence(tmp_path) == "unknown"
    (tmp_path / "archive.json").write_text('{"data_licence": "CC0-1.0"}')
    assert archive_licence(tmp_path) == "CC0-1.0"


@pytest.mark.parametrize("text", ['{"data_licence": 4}', "{}", "[]", '"CC0-1.0"'])
def test_an_archive_json_without_licence_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "archive.json").write_text(text)
    with refused_with("archive.json", expected="the text data_licence", found="(4|None)"):
        archive_licence(tmp_path)
