"""``prepare`` where a dataset lies already: one step for readers, and none goes unless its owner says so."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from programs import python
from refusals import refused_with

from contract.files.atomic import write_json
from contract.files.reading import read_json
from training.dataset.prepared import load_prepared


@pytest.fixture
def prepare(outcome, prepared_folder, own_prepared):
    def call(*more: object, archive: Path | None = None, folds: int = 3) -> tuple[int, str]:
        archive = archive or prepared_folder.parent / "archive"
        words = ("--card", "cspca-picai", "--archive", archive, "--output", own_prepared, "--folds", folds)
        return outcome("prepare", *words, *more)

    return call


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_same_again_changes_nothing(prepare, own_prepared):
    (own_prepared / "cases" / ".DS_Store").touch()
    before = state(own_prepared)
    assert prepare() == (0, "")
    assert state(own_prepared) == before


def test_what_makes_a_dataset_unreadable_is_refused_before_work(prepare, own_prepared):
    shutil.rmtree(own_prepared)
    (own_prepared / "cases").mkdir(parents=True)
    (own_prepared / "cases" / "notes.txt").write_text("mine")
    before = state(own_prepared)
    code, said = prepare()
    assert (code, said.count("\n")) == (3, 1)
    assert "cases: expected only preprocessed studies, found 'notes.txt'" in said
    assert state(own_prepared) == before


def test_a_copied_archive_is_the_same(prepare, own_prepared, prepared_folder, tmp_path):
    before = state(own_prepared)
    assert prepare(archive=shutil.copytree(prepared_folder.parent / "archive", tmp_path / "copy")) == (0, "")
    assert state(own_prepared) == before


@pytest.mark.parametrize("what", ["number of folds", "seed", "data licence", "studies"])
def test_another_dataset_is_refused_without_replace(prepare, own_prepared, prepared_folder, tmp_path, what):
    archive = Path(shutil.copytree(prepared_folder.parent / "archive", tmp_path / "copy"))
    if what == "data licence":
        (archive / "archive.json").write_text(json.dumps({"data_licence": "CC-BY-4.0"}))
    elif what == "studies":
        shutil.rmtree(archive / "105")
        (archive / "labels" / "105_1.nii.gz").unlink()
    options = {"archive": archive, "folds": 2 if what == "number of folds" else 3}
    more = ("--seed", 1) if what == "seed" else ()
    before = state(own_prepared)
    code, message = prepare(*more, **options)
    assert code == 3
    named = "patients" if what == "studies" else what  # of a study that is gone, the patient is missing first
    assert f"dataset with another {named}, by which runs may have been trained" in message
    assert state(own_prepared) == before
    assert prepare("--replace", *more, **options) == (0, "")
    load_prepared(own_prepared)
    changed = own_prepared / ("splits.json" if what in ("number of folds", "seed") else "prepared.json")
    assert changed.read_bytes() != before[str(changed)][0]
    left = {path.name.split("_")[0] for path in (own_prepared / "cases").iterdir()}
    assert ("105" in left) == (what != "studies")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_part_that_is_not_the_dataset_s_is_refused_at_load(own_prepared, name):
    write_json(own_prepared / name, read_json(own_prepared / name) | {"more": 1})
    with refused_with(name, "does not match the hash in prepared.json"):
        load_prepared(own_prepared)
    (own_prepared / name).unlink()
    with refused_with(name, "part of the dataset not found"):
        load_prepared(own_prepared)


def test_a_dataset_of_an_older_version_is_refused_with_what_to_do(own_prepared):
    write_json(own_prepared / "prepared.json", read_json(own_prepared / "prepared.json") | {"parts": {}})
    with refused_with(problem="written by an older version"):
        load_prepared(own_prepared)


KILLED = """
import os, signal, sys
from pathlib import Path
from training.__main__ import main
old = Path.replace
def replace(self, target):
    found = old(self, target)
    if target == Path(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Path.replace = replace
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("name", ["cases/100_1.b2nd", "splits.json"])
def test_a_killed_replacement_leaves_no_mixture(prepare, own_prepared, prepared_folder, name):
    archive = str(prepared_folder.parent / "archive")
    words = ["prepare", "--card", "cspca-picai", "--archive", archive, "--output", str(own_prepared), "--folds", "2"]
    assert python("-c", KILLED, own_prepared / name, *words, "--replace").returncode == -signal.SIGKILL
    assert len(list(own_prepared.glob(".partial-*"))) == 1
    with refused_with("prepared.json", "file not found"):
        load_prepared(own_prepared)
    assert prepare(folds=2) == (0, "")
    assert len(load_prepared(own_prepared).folds) == 2
    assert not list(own_prepared.glob(".partial-*"))
