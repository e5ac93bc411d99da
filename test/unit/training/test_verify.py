"""``verify`` takes every hash again: each thing that was changed is found, and what is out of reach is said to be."""

import re
import shutil
from pathlib import Path

import pytest

from contract.files.atomic import write_json
from contract.files.reading import read_json
from network.model.weights import load_weights, save_weights
from training.__main__ import main
from training.make_run import execute


@pytest.fixture(scope="module")
def original(planned, prepared_folder, tmp_path_factory):
    """Archive, dataset and two runs, in one folder."""
    folder = tmp_path_factory.mktemp("verify")
    shutil.copytree(prepared_folder, folder / "prepared")
    for restart in (1, 2):
        run = planned(restart=restart, prepared=folder / "prepared")
        execute(run, folder / "runs" / run.name, device="cpu")
    return folder


@pytest.fixture
def folder(original, prepared_folder, tmp_path):
    """A copy, to be tampered with."""
    shutil.copytree(original, tmp_path / "copy")
    shutil.copytree(prepared_folder.parent / "archive", tmp_path / "copy" / "archive")
    return tmp_path / "copy"


@pytest.fixture
def verify(folder, outcome):
    def run(*more) -> tuple[int, str]:
        options = ("--prepared", folder / "prepared", "--archive", folder / "archive")
        return outcome("verify", folder / "runs", *(more or options))

    return run


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def other_weights(folder):
    path = folder / "runs" / "ce_fold0_restart1" / "weights.safetensors"
    weights = load_weights(path)
    save_weights(path, {name: tensor + 1e-6 for name, tensor in weights.items()})


def other_card(folder):
    replace(folder / "runs" / "ce_fold0_restart1" / "card.toml", "minimum_overlap = 0.1", "minimum_overlap = 0.2")


def other_plans(folder):
    path = folder / "runs" / "ce_fold0_restart1" / "plans.json"
    write_json(path, read_json(path) | {"plans_name": "other"})


def other_dataset(folder):
    path = folder / "runs" / "ce_fold0_restart1" / "dataset.json"
    write_json(path, read_json(path) | {"numTraining": 8})


def other_splits(folder):
    path = folder / "prepared" / "splits.json"
    splits = read_json(path)
    write_json(path, splits | {"folds": splits["folds"][::-1]})


def other_case(folder):
    path = folder / "prepared" / "cases" / "102_1.b2nd"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def other_image(folder):
    path = folder / "archive" / "102" / "102_1_t2w.mha"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def other_licence_of_a_run(folder):
    path = folder / "runs" / "ce_fold0_restart1" / "run.json"
    write_json(path, read_json(path) | {"data_licence": "MIT"})


def other_licence_of_the_dataset(folder):
    path = folder / "prepared" / "prepared.json"
    write_json(path, read_json(path) | {"data_licence": "MIT"})


def other_licence_of_the_archive(folder):
    path = folder / "archive" / "archive.json"
    write_json(path, read_json(path) | {"data_licence": "CC-BY-NC-4.0"})


def without_weights(folder):
    (folder / "runs" / "ce_fold0_restart1" / "weights.safetensors").unlink()


def test_unchanged_files_pass_and_are_listed(verify, folder, capsys):
    options = ["--prepared", str(folder / "prepared"), "--archive", str(folder / "archive")]
    assert main(["verify", str(folder / "runs"), *options]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    rows = [line.split(maxsplit=1) for line in said.out.splitlines()]
    looked = ["weights", "card", "plans", "dataset", "training_studies", "prepared"]
    looked += ["data licence", "preprocessed files", "archive"]
    expected = [(f"ce_fold0_restart{restart}", what) for restart in (1, 2) for what in looked]
    assert [(name, rest.removesuffix("as recorded").strip()) for name, rest in rows[1:]] == expected


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_weights, r"ce_fold0_restart1/weights\.safetensors: expected the hash \w{12}…, found \w{12}…"),
        (without_weights, r"ce_fold0_restart1/weights\.safetensors: file with the hash \w{12}… not found"),
        (other_card, r"ce_fold0_restart1/card\.toml: expected the hash"),
        (other_plans, r"ce_fold0_restart1/plans\.json: expected the hash"),
        (other_dataset, r"ce_fold0_restart1/dataset\.json: expected the hash"),
        (other_licence_of_a_run, r"restart1/run\.json: expected the data licence CC0-1\.0, found MIT$"),
        (
            other_licence_of_the_dataset,
            r"prepared\.json: expected the data licence CC0-1\.0, found MIT \(and 1 more\)$",
        ),
        (other_licence_of_the_archive, r"run\.json: expected the data licence CC-BY-NC-4\.0, found CC0-1\.0 \(and"),
        (other_splits, r"prepared: expected the hash .* \(and 1 more\)$"),
        (other_case, r"cases/102_1\.b2nd: expected the hash .* \(and 1 more\)$"),
        (other_image, r"102_1_t2w\.mha: changed since .* was prepared from it; .* \(and 1 more\)$"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_change_is_found(verify, folder, tamper, message):
    tamper(folder)
    code, found = verify()
    assert code == 3
    assert re.search(message, found)


def test_what_cannot_be_reached_is_reported_as_unchecked(folder, capsys):
    for name in ("prepared", "archive"):
        (folder / name).rename(folder / f"{name}-moved")
    assert main(["verify", str(folder / "runs" / "ce_fold0_restart1"), "--prepared", str(folder / "prepared")]) == 0
    table = capsys.readouterr().out
    assert table.count("unchecked:") == 4
    assert "the prepared dataset cannot be reached; --prepared names its current folder" in " ".join(table.split())


def test_the_dataset_is_found_where_it_lay(original, capsys):
    assert main(["verify", str(original / "runs" / "ce_fold0_restart1")]) == 0
    assert "unchecked" not in capsys.readouterr().out


def test_an_unfinished_run_has_no_weights_to_check(folder, capsys):
    path = folder / "runs" / "ce_fold0_restart1" / "run.json"
    write_json(path, read_json(path) | {"state": "running", "weights_sha256": None})
    assert main(["verify", str(path.parent)]) == 0
    assert "unchecked: the run is running" in capsys.readouterr().out


def test_a_folder_without_runs_is_refused(tmp_path, refusal):
    message = refusal("verify", tmp_path)
    assert "neither a run folder nor a folder of run folders: run.json not found" in message
