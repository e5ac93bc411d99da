"""The archive behind a prepared dataset: the same, changed since, moved, or out of reach."""

import os
import shutil

import pytest
from refusals import refused_with

from contract.records import read_record
from training.__main__ import main
from training.dataset.archive_stamps import SourcesRecord, read_sources, unchanged_archive
from training.dataset.prepared import load_prepared
from training.make_run import RunOptions, execute
from training.planned_run import plan_run


@pytest.fixture
def dataset(archive, tmp_path):
    arguments = ["prepare", "--card", "cspca-picai", "--archive", str(archive), "--output", str(tmp_path / "prepared")]
    assert main([*arguments, "--folds", "3"]) == 0
    return load_prepared(tmp_path / "prepared")


def flip(path):
    """Another last byte; size and time stay."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_image_and_label_map_has_a_stamp(dataset, archive):
    record = read_record(dataset.folder / "sources.json", SourcesRecord)
    assert record == read_sources(dataset)
    assert record.archive == str(archive)
    assert list(record.studies) == [study.case_id for study in dataset.record.studies]
    assert [stamp.path for stamp in record.studies["100_2"]] == [
        "100/100_2_t2w.mha",
        "100/100_2_adc.mha",
        "100/100_2_hbv.mha",
        "labels/100_2.nii.gz",
    ]
    assert all(stamp.size_bytes == (archive / stamp.path).stat().st_size for stamp in record.studies["100_2"])


def test_the_archives_place_and_times_are_no_part_of_the_dataset(dataset, archive, tmp_path):
    shutil.copytree(archive, tmp_path / "copy", copy_function=shutil.copy)  # with new times
    arguments = ["prepare", "--card", "cspca-picai", "--archive", str(tmp_path / "copy"), "--folds", "3"]
    assert main([*arguments, "--output", str(tmp_path / "again")]) == 0
    assert load_prepared(tmp_path / "again").sha256 == dataset.sha256
    assert read_sources(load_prepared(tmp_path / "again")) != read_sources(dataset)


def test_a_copy_with_other_times_counts_as_the_same_archive(dataset, archive, tmp_path):
    shutil.copytree(archive, tmp_path / "copy", copy_function=shutil.copy)
    assert unchanged_archive(dataset) == archive
    assert unchanged_archive(dataset, archive=tmp_path / "copy") == tmp_path / "copy"
    assert unchanged_archive(dataset, hash_all=True) == archive


@pytest.mark.parametrize("name", ["103/103_1_adc.mha", "labels/103_1.nii.gz"])
def test_a_run_notices_that_its_archive_changed(dataset, archive, profile, tmp_path, name):
    run = plan_run(dataset, configuration="ce", fold=0, restart=1, profile=str(profile))
    content = (archive / name).read_bytes()
    (archive / name).write_bytes(content + b"\0")
    with refused_with(f"{name}$", "changed since .*prepared was prepared from it; run `prepare` again"):
        execute(run, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "run.json").exists()
    (archive / name).unlink()
    with refused_with(name, "not found, although .* was prepared from it"):
        execute(run, tmp_path / "run", device="cpu")
    (archive / name).write_bytes(content)
    assert execute(run, tmp_path / "run", device="cpu").state == "finished"


def test_equal_size_and_time_are_believed_unless_every_hash_is_asked_for(dataset, archive):
    flip(archive / "103" / "103_1_adc.mha")
    assert unchanged_archive(dataset) == archive
    with refused_with(r"103_1_adc\.mha", "changed since .* was prepared from it"):
        unchanged_archive(dataset, hash_all=True)


def test_an_archive_out_of_reach_stops_no_run(dataset, archive, profile, tmp_path):
    archive.rename(tmp_path / "elsewhere")
    run = plan_run(dataset, configuration="ce", fold=0, restart=1, profile=str(profile))
    assert unchanged_archive(dataset) is None
    assert execute(run, tmp_path / "run", device="cpu").state == "finished"
    with refused_with("nowhere", "none of the files that .*prepared was prepared from"):
        execute(run, tmp_path / "other", device="cpu", options=RunOptions(archive=tmp_path / "nowhere"))


def test_the_dataset_does_not_depend_on_order_or_folders(dataset, archive, tmp_path):
    """Copied in the opposite order, into folders that sort otherwise."""
    other = tmp_path / "other"
    for path in sorted(archive.rglob("*"), reverse=True):
        if path.is_file():
            parts = list(path.relative_to(archive).parts)
            if parts[0].isdigit():
                parts[0] = f"{999 - int(parts[0])}-folder"
            target = other.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    arguments = ["prepare", "--card", "cspca-picai", "--archive", str(other), "--folds", "3"]
    assert main([*arguments, "--output", str(tmp_path / "again")]) == 0
    again = load_prepared(tmp_path / "again")
    assert again.record.dataset_fingerprint == dataset.record.dataset_fingerprint
    assert again.record.studies == dataset.record.studies
    assert again.sha256 == dataset.sha256
