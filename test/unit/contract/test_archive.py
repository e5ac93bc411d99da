"""What an archive must hold, and what is said where it does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.archive import archive_licence, archive_patients, check_geometry, find_studies, list_studies
from contract.cards import Card, Geometry
from contract.errors import OncoduetError
from contract.volume import Grid, Volume, write_volume

WriteArchive = Callable[..., Path]


def an_image(path: Path, grid: Grid) -> Path:
    write_volume(path, Volume(np.ones(grid.shape_zyx, np.float32), grid))
    return path


def patients_of(archive: Path, card: Card, said: str | None = None) -> dict[str, str]:
    return archive_patients(archive, find_studies(archive, card, labels_required=True), said)


def test_studies_come_in_the_order_of_their_ids_with_channels_in_the_card_s_order(
    write_archive: WriteArchive, card: Card
) -> None:
    archive = write_archive("20_2", "10_3", "10_1")
    studies = find_studies(archive, card, labels_required=True)
    assert [study.case_id for study in studies] == ["10_1", "10_3", "20_2"]
    assert [study.folder for study in studies] == ["10", "10", "20"]
    assert list(studies[0].channels) == ["t2w", "adc", "hbv"]
    assert studies[0].channels["adc"] == archive / "10" / "10_1_adc.mha"
    assert studies[0].label == archive / "labels" / "10_1.nii.gz"


def test_other_channels_and_files_beside_them_are_ignored(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid
) -> None:
    archive = write_archive("10_1")
    an_image(archive / "10" / "10_1_sag.mha", tilted_grid)
    (archive / "10" / "notes.txt").write_text("no image")
    (archive / "10" / "._10_1_t2w.mha").write_bytes(b"what macOS leaves beside each file")
    (archive / "marksheet.csv").write_text("patient_id,study_id\n10,1\n")
    assert [study.case_id for study in find_studies(archive, card, labels_required=True)] == ["10_1"]


def test_a_patient_whose_id_holds_an_underscore_is_named_by_the_folder(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("site_7_2020", "site_7_2021", patient="site_7")
    assert set(patients_of(archive, card).values()) == {"site_7"}


def test_in_a_folder_per_study_the_patient_is_what_is_before_the_first_underscore(
    write_archive: WriteArchive, card: Card
) -> None:
    archive = write_archive("11373_1001396", patient="11373_1001396")
    assert patients_of(archive, card) == {"11373_1001396": "11373"}


def test_a_study_without_label_map_is_fine_where_none_is_required(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "labels" / "10_1.nii.gz").unlink()
    assert find_studies(archive, card, labels_required=False)[0].label is None


def test_no_folder_is_refused(tmp_path: Path, card: Card) -> None:
    with pytest.raises(OncoduetError, match=r"nowhere: expected an archive, found no folder$"):
        find_studies(tmp_path / "nowhere", card, labels_required=False)


def test_an_empty_archive_is_refused(tmp_path: Path, card: Card) -> None:
    with pytest.raises(OncoduetError, match=r"expected studies named .*_t2w.mha \(or .nii.gz\), found none$"):
        find_studies(tmp_path, card, labels_required=False)


def test_a_missing_channel_is_refused(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1", "20_2")
    (archive / "20" / "20_2_adc.mha").unlink()
    with pytest.raises(OncoduetError, match=r"^study 20_2 in .*: expected .* t2w, adc, hbv, found no 20_2_adc.mha$"):
        find_studies(archive, card, labels_required=False)


def test_a_study_twice_is_refused_and_both_folders_are_named(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid
) -> None:
    archive = write_archive("10_1")
    an_image(archive / "other" / "10_1_t2w.mha", tilted_grid)
    with pytest.raises(OncoduetError, match=r"^study 10_1 .*: expected once, found in .*/10, .*/other$"):
        find_studies(archive, card, labels_required=False)


def test_channels_with_disjoint_fields_of_view_are_refused(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid
) -> None:
    archive = write_archive("10_1")
    x, y, z = tilted_grid.origin_mm_xyz
    far = replace(tilted_grid, origin_mm_xyz=(x, y, z + 500))
    an_image(archive / "10" / "10_1_hbv.mha", far)
    with pytest.raises(
        OncoduetError, match=r"10_1_hbv.mha to share a field of view with 't2w' .*, found size .* 511\."
    ):
        find_studies(archive, card, labels_required=False)


def test_a_missing_label_map_is_refused_where_one_is_required(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "labels" / "10_1.nii.gz").unlink()
    with pytest.raises(OncoduetError, match=r"^study 10_1: expected the label map .*/labels/10_1.nii.gz, found none$"):
        find_studies(archive, card, labels_required=True)


def test_a_label_map_on_another_grid_than_the_reference_is_refused(
    write_archive: WriteArchive, card: Card, tilted_grid: Grid
) -> None:
    archive = write_archive("10_1")
    x, y, z = tilted_grid.spacing_mm_xyz
    an_image(archive / "labels" / "10_1.nii.gz", replace(tilted_grid, spacing_mm_xyz=(x, y, z * 1.1)))
    with pytest.raises(
        OncoduetError, match=r"labels/10_1.nii.gz: expected the grid of 10_1_t2w.mha \(size .*, found size"
    ):
        find_studies(archive, card, labels_required=False)


def test_a_channel_that_is_no_image_is_refused(write_archive: WriteArchive, card: Card) -> None:
    archive = write_archive("10_1")
    (archive / "10" / "10_1_adc.mha").write_bytes(b"no image at all")
    with pytest.raises(OncoduetError, match=r"10_1_adc.mha: expected a MetaImage header"):
        find_studies(archive, card, labels_required=False)


def test_bad_studies_are_listed_one_by_one_beside_the_sound_ones(
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
    assert listing.faults["20_2"].endswith("found no 20_2_adc.mha")
    assert "expected once, found in" in listing.faults["30_3"]
    assert listing.faults["40_4"].startswith(f"study 40_4 in {archive}: expected readable images, found: [Errno 5]")


def test_a_listing_of_nothing_is_refused(tmp_path: Path, card: Card) -> None:
    with pytest.raises(OncoduetError, match=r"nowhere: expected an archive, found no folder$"):
        list_studies(tmp_path / "nowhere", card, labels_required=False)
    with pytest.raises(OncoduetError, match=r"expected studies named .*, found none$"):
        list_studies(tmp_path, card, labels_required=False)


def test_geometry_of_one_study_may_be_checked_alone(tmp_path: Path, tilted_grid: Grid) -> None:
    tilted_grid = replace(tilted_grid, size_xyz=(11, 9, 5))
    t2w = an_image(tmp_path / "t2w.mha", tilted_grid)
    finer = replace(tilted_grid, spacing_mm_xyz=(0.11, 0.12, 1.3))
    geometry = Geometry(reference="t2w")
    check_geometry("10_1", {"t2w": t2w, "adc": an_image(tmp_path / "adc.mha", finer)}, geometry)


def test_the_licence_of_the_data_stands_in_archive_json(tmp_path: Path) -> None:
    assert archive_licence(tmp_path) == "unknown"
    (tmp_path / "archive.json").write_text('{"data_licence": "CC0-1.0"}')
    assert archive_licence(tmp_path) == "CC0-1.0"


@pytest.mark.parametrize("text", ['{"data_licence": 4}', "{}", "[]", '"CC0-1.0"'])
def test_an_archive_json_without_licence_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "archive.json").write_text(text)
    with pytest.raises(OncoduetError, match=r"archive.json: expected the text data_licence, found (4|None)$"):
        archive_licence(tmp_path)
