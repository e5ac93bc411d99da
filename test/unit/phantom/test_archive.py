"""The archive on disk: readable by the contract, the same for the same seed, and a control with exchanged labels."""

import csv
import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from refusals import refused_with
from scipy import ndimage

from contract.archive.studies import archive_licence, find_studies
from contract.card import load_card
from contract.images.grid import same_grid
from contract.images.volume import read_grid, read_label, read_volume
from phantom.archive import derangement, with_lesions_elsewhere, write_archive

CHANNELS = ("t2w", "adc", "hbv")


def marksheet(archive: Path) -> list[dict[str, str]]:
    with (archive / "marksheet.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def case_id(row: dict[str, str]) -> str:
    return f"{row['patient_id']}_{row['study_id']}"


def voxels(archive: Path, case: str) -> list[np.ndarray]:
    images = [read_volume(archive / case.partition("_")[0] / f"{case}_{name}.mha").array for name in CHANNELS]
    return [*images, read_label(archive / "labels" / f"{case}.nii.gz").array]


def test_the_contract_finds_every_study_with_its_label_and_its_licence(archive, card):
    studies = find_studies(archive, card, labels_required=True)
    assert [study.case_id for study in studies] == [case_id(row) for row in marksheet(archive)]
    assert len(studies) == 20
    assert all(list(study.channels) == list(CHANNELS) for study in studies)
    assert archive_licence(archive) == "CC0-1.0"


def test_archive_json_describes_the_archive(archive, card, order):
    record = json.loads((archive / "archive.json").read_text())
    assert record.pop("written_by")["program"] == "oncoduet"
    assert record == {
        "schema_version": 1,
        "parents": {},
        "data_licence": "CC0-1.0",
        "card": "cspca-picai",
        "card_sha256": card.sha256,
        "cases": 20,
        "positive_cases": 10,
        "positive_fraction": 0.5,
        "seed": order.seed,
        "population": "training",
        "shuffled_labels": False,
    }


def test_the_same_seed_gives_the_same_voxels_and_grids(archive, write, card):
    again = write()
    for ours, theirs in zip(
        *(find_studies(each, card, labels_required=True) for each in (archive, again)), strict=True
    ):
        assert all(read_grid(ours.channels[name]) == read_grid(theirs.channels[name]) for name in CHANNELS)
        pairs = zip(voxels(archive, ours.case_id), voxels(again, theirs.case_id), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert (archive / "marksheet.csv").read_bytes() == (again / "marksheet.csv").read_bytes()


def test_a_case_is_the_same_in_an_archive_of_another_length(archive, write):
    shorter = write(cases=7)
    rows = marksheet(shorter)
    assert rows == marksheet(archive)[:7]
    for row in rows:
        pairs = zip(voxels(shorter, case_id(row)), voxels(archive, case_id(row)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("change", [{"seed": 4}, {"population": "external"}], ids=["seed", "population"])
def test_another_seed_or_population_gives_other_patients(archive, write, change):
    other = write(cases=6, **change)
    volumes = {row["prostate_volume"] for row in marksheet(other)}
    assert volumes.isdisjoint(row["prostate_volume"] for row in marksheet(archive)[:6])


def test_labels_are_on_the_reference_grid_with_only_the_lesion_value(archive, card):
    for study, row in zip(find_studies(archive, card, labels_required=True), marksheet(archive), strict=True):
        label = read_label(study.label, card.label_values)
        assert same_grid(label.grid, read_grid(study.channels["t2w"]))
        values = set(np.unique(label.array).tolist())
        assert values == ({0, card.lesion_values[0]} if row["case_csPCa"] == "YES" else {0})


def test_the_marksheet_counts_and_measures_the_lesions_of_the_label_map(archive, card):
    many = Counter()
    for study, row in zip(find_studies(archive, card, labels_required=True), marksheet(archive), strict=True):
        label = read_label(study.label)
        components, count = ndimage.label(label.array, np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())[1:] * label.grid.voxel_volume_ml
        written = [float(volume) for volume in row["lesion_volumes_ml"].split(";") if volume]
        assert int(row["lesions"]) == count == len(written) == len([z for z in row["lesion_zones"].split(";") if z])
        assert sorted(written) == pytest.approx(sorted(sizes), abs=0.006)  # written with two digits
        many[count] += 1
    assert many[0] == 10


@pytest.mark.parametrize(("fraction", "positives"), [("0", 0), ("0.4", 5), ("1/3", 4), ("0.5", 7), ("1", 13)])
def test_the_positive_fraction_is_exact_up_to_rounding(write, fraction, positives):
    # 13 cases: 0, 5.2, 4.33, 6.5 (rounded half up), 13
    rows = marksheet(write(cases=13, positive_fraction=Fraction(fraction)))
    assert sum(row["case_csPCa"] == "YES" for row in rows) == positives


def test_any_card_of_these_channels_gets_the_same_phantoms(archive, write):
    other = write(cases=2, card=load_card("cspca-rsna2022"))
    row = marksheet(other)[1]
    assert all(
        np.array_equal(a, b) for a, b in zip(voxels(other, case_id(row)), voxels(archive, case_id(row)), strict=True)
    )


def test_shuffled_labels_are_another_studys_and_never_ones_own(archive, shuffled_archive, card):
    rows, own = marksheet(shuffled_archive), {case_id(row): row for row in marksheet(archive)}
    sources = [row["label_from"] for row in rows]
    assert sorted(sources) == sorted(own)
    assert all(source != case_id(row) for source, row in zip(sources, rows, strict=True))
    for row in rows:
        ours, source = voxels(shuffled_archive, case_id(row)), row["label_from"]
        assert np.count_nonzero(ours[-1]) == np.count_nonzero(voxels(archive, source)[-1])  # but elsewhere
        assert all(np.array_equal(a, b) for a, b in zip(ours[:-1], voxels(archive, case_id(row))[:-1], strict=True))
        moved = ("case_csPCa", "lesions", "lesion_volumes_ml", "lesion_zones", "visibility", "conspicuity")
        assert all(row[column] == own[source][column] for column in moved)
        assert row["prostate_volume"] == own[case_id(row)]["prostate_volume"]
    assert len(find_studies(shuffled_archive, card, labels_required=True)) == 20
    assert json.loads((shuffled_archive / "archive.json").read_text())["shuffled_labels"] is True


def test_shuffled_ct_keeps_its_organs_and_gets_other_lesions(ct_archive, write, ct_order):
    shuffled = write(card=ct_order.card, shuffle_labels=True)
    rows, own = marksheet(shuffled), {case_id(row): row for row in marksheet(ct_archive)}
    kept = []
    for row in rows:
        case, source = case_id(row), row["label_from"]
        assert source != case
        image, original = (folder / row["patient_id"] / f"{case}_ct.mha" for folder in (shuffled, ct_archive))
        assert image.read_bytes() == original.read_bytes()
        ours, before, theirs = (
            read_label(folder / "labels" / f"{name}.nii.gz")
            for folder, name in ((shuffled, case), (ct_archive, case), (ct_archive, source))
        )
        assert np.count_nonzero(ours.array == 1) == np.count_nonzero(theirs.array == 1)
        elsewhere = (ours.array != 1) & (before.array != 1)
        assert np.array_equal(ours.array[elsewhere], before.array[elsewhere])
        if own[case]["case_PDAC"] == "YES":  # the own lesion is pancreas again, or what it bulged into
            kept.append(np.isin(ours.array[(before.array == 1) & (ours.array != 1)], (0, 4, 5)).all())
        assert row["case_PDAC"] == own[source]["case_PDAC"]
        assert row["pancreas_volume"] == own[case]["pancreas_volume"]
    assert len(kept) == 10
    assert all(kept)
    assert len(find_studies(shuffled, ct_order.card, labels_required=True)) == 20


def test_a_moved_lesion_is_anywhere_with_equal_probability():
    organs, lesions = np.zeros((3, 4, 5), dtype=np.uint8), np.zeros((3, 4, 5), dtype=np.uint8)
    lesions[1, 2, 3] = 1
    rng = np.random.default_rng(7)
    moved = np.stack([with_lesions_elsewhere(organs, lesions, rng) for _ in range(6000)])
    assert (moved.sum(axis=(1, 2, 3)) == 1).all()
    assert np.abs(moved.sum(axis=0) - 100.0).max() < 45  # 4.5 standard deviations of a binomial count


def test_moving_lesions_on_an_empty_map_is_rolling_it():
    lesions = np.zeros((3, 4, 5), dtype=np.uint8)
    lesions[0, 1:3, 4], lesions[2, 0, 0] = 1, 3
    moved = with_lesions_elsewhere(np.zeros_like(lesions), lesions, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    steps = [int(rng.integers(length)) for length in lesions.shape]
    assert np.array_equal(moved, np.roll(lesions, steps, axis=(0, 1, 2)))


def test_moved_lesions_cover_organs_and_may_come_from_another_shape():
    organs = np.full((2, 3, 4), 4, dtype=np.uint8)
    lesions = np.zeros((5, 7, 6), dtype=np.uint8)
    lesions[3:5, 5, 2:4] = 1
    moved = with_lesions_elsewhere(organs, lesions, np.random.default_rng(2))
    assert np.count_nonzero(moved == 1) == 4
    assert np.count_nonzero(moved == 4) == 20
    assert (organs == 4).all()


@pytest.mark.parametrize("count", [2, 3, 5, 60])
def test_a_derangement_moves_everybody_and_reaches_every_place(count):
    seen = [derangement(count, np.random.default_rng(seed)) for seed in range(200)]
    assert all(sorted(order) == list(range(count)) for order in seen)
    assert all(order[place] != place for order in seen for place in range(count))
    if count <= 5:
        assert {(place, order[place]) for order in seen for place in range(count)} == {
            (a, b) for a in range(count) for b in range(count) if a != b
        }


def test_a_card_without_generator_leaves_no_file(order, card_without_generator, tmp_path):
    output = tmp_path / "archive"
    with refused_with(expected="the channels adc, hbv, t2w or ct for phantoms", found="t1w, adc, hbv"):
        write_archive(replace(order, card=load_card(card_without_generator)), output)
    assert not output.exists()


def test_one_case_cannot_be_shuffled(order, tmp_path):
    output = tmp_path / "archive"
    with refused_with(expected="at least 2 cases to exchange", found="1"):
        write_archive(replace(order, cases=1, shuffle_labels=True), output)
    assert not output.exists()


def test_a_folder_with_other_patients_is_refused_unchanged(order, tmp_path):
    (tmp_path / "99999").mkdir()
    with refused_with(expected="no other patients in it", found=r"1 \(99999 …\)"):
        write_archive(replace(order, cases=2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["99999"]


def test_an_archive_is_written_again_over_itself(order, tmp_path):
    for _ in range(2):
        write_archive(replace(order, cases=2), tmp_path / "archive")
    names = sorted(path.name for path in (tmp_path / "archive").iterdir())
    assert names == [".oncoduet", "10000", "10001", "archive.json", "labels", "marksheet.csv"]
    with refused_with(expected="results of .*seed 7.* or none", found="some of .*; give another"):
        write_archive(replace(order, cases=2, seed=7), tmp_path / "archive")


def test_progress_is_reported_once_per_case(order, tmp_path):
    told = []
    write_archive(replace(order, cases=3), tmp_path / "archive", on_case=lambda: told.append(1))
    assert len(told) == 3
