"""A fourth engine is a module and a line of the table: this one is trained, verified, bundled and predicted with."""

import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from programs import python
from pydantic import PositiveFloat
from refusals import refused_with

from algorithm.__main__ import main as algorithm
from contract.files.reading import read_json, sha256_file
from contract.images.volume import read_grid, read_volume
from contract.records import BundleRecord, Epoch, RunRecord, read_record
from network.model.architecture import build_network
from network.model.weights import load_weights
from network.preprocessing.nnunet_preprocessing import patch_size_zyx
from phantom.__main__ import main as phantom
from training import engine
from training.campaign.estimate import needs
from training.configuration import Configuration
from training.dataset.prepared import case_files
from training.dataset.preprocessed import IMAGE, LABEL, read_preprocessed
from training.engine import ENGINES, Engine, Trained, load_configuration
from training.make_run import execute

PROJECT = Path(__file__).parents[3]
CONFIGURATION = """
schema_version = 1
name = "by-hand"
title = "Plain gradient descent on the middle of each study"
engine = "toy"
learning_rate = 0.05
"""


class ToyConfiguration(Configuration):
    """What a configuration of the toy says."""

    engine: Literal["toy"]
    learning_rate: PositiveFloat


class Toy(Engine):
    """Trains the plan's network on one patch of each study; no momentum, no augmentation, no checkpoint."""

    title = "toy"
    configuration = ToyConfiguration

    def steps(self, run, place):
        """One step per study and epoch."""
        torch.manual_seed(run.key.seed)
        network = build_network(run.plans, run.prepared.dataset)
        descent = torch.optim.SGD(network.parameters(), lr=run.configuration.learning_rate)
        epochs = []
        for number in range(run.profile.epochs):
            losses = []
            for case_id in run.fold.train:
                image, label = middle_of(run.prepared.folder, case_id, patch_size_zyx(run.plans))
                loss = torch.nn.functional.cross_entropy(network(image), label)
                descent.zero_grad()
                loss.backward()
                descent.step()
                losses.append(float(loss.detach()))
                place.on_iteration(number * len(run.fold.train) + len(losses))
                yield
            mean = float(np.mean(losses))
            epochs.append(Epoch(epoch=number, train_loss=mean, validation_loss=mean, learning_rate=0.05, wall_s=1.0))
            place.on_progress(epochs, number + 1.0, number + 1.0)
        return Trained(network.state_dict(), tuple(epochs), len(epochs), len(epochs), {"toy": "1"})


ENGINE = Toy()


def middle_of(prepared, case_id, size_zyx):
    """A patch in the middle of a study, padded where the study is smaller."""
    files = case_files(prepared, case_id)
    middle = []
    for path, kinds in zip(files[:2], (IMAGE, LABEL), strict=True):
        voxels = read_preprocessed(path, kinds)
        starts = [max(0, (length - size) // 2) for length, size in zip(voxels.shape[1:], size_zyx, strict=True)]
        cut = voxels[(slice(None), *(slice(start, start + size) for start, size in zip(starts, size_zyx, strict=True)))]
        lacking = [(0, size - length) for size, length in zip(size_zyx, cut.shape[1:], strict=True)]
        middle.append(torch.from_numpy(np.pad(cut, [(0, 0), *lacking])))
    image, label = middle
    return image[None], label.clamp_min(0).long()


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy's line in the table, and a configuration of it."""
    monkeypatch.setattr(engine, "ENGINES", {**ENGINES, "toy": __name__})
    path = tmp_path / "by-hand.toml"
    path.write_text(CONFIGURATION)
    return path


@pytest.fixture
def finished(toy, prepared_folder, profile, outcome, tmp_path):
    """The folder of a finished run."""
    folder = tmp_path / "runs" / "by-hand_fold1_restart1"
    words = ["run", "--prepared", prepared_folder, "--configuration", toy, "--fold", 1, "--restart", 1]
    assert outcome(*words, "--profile", profile, "--output", folder, "--device", "cpu") == (0, "")
    return folder


def test_a_run_of_another_engine_is_recorded_and_verified_like_any_other(finished, outcome, refusal):
    record = read_record(finished / "run.json", RunRecord)
    assert (record.state, record.key.configuration, record.versions["toy"]) == ("finished", "by-hand", "1")
    first, _, last = [epoch.train_loss for epoch in record.epochs]
    assert last < first  # it has learned
    assert outcome("verify", finished) == (0, "")
    (finished / "weights.safetensors").unlink()
    said = refusal("verify", finished)
    assert "weights.safetensors: file with the hash " in said


def test_its_network_is_bundled_and_predicts_a_phantom(finished, outcome, tmp_path):
    assert outcome("bundle", "--runs", finished, "--output", tmp_path / "model.tar.gz") == (0, "")
    with tarfile.open(tmp_path / "model.tar.gz") as packed:
        packed.extractall(tmp_path / "model", filter="data")
    (member,) = read_record(tmp_path / "model" / "bundle.json", BundleRecord).members
    assert member.name == "by-hand_fold1_restart1"
    packed, own = (load_weights(path) for path in (tmp_path / "model" / member.file, finished / "weights.safetensors"))
    assert all(torch.equal(packed[name], tensor) for name, tensor in own.items())
    archive, output = tmp_path / "archive", tmp_path / "predictions"
    words = ["--card", "cspca-picai", "--cases", 1, "--positive-fraction", 1, "--seed", 1, "--output", archive]
    assert phantom([str(word) for word in words]) == 0
    words = ["batch", "--archive", archive, "--model", tmp_path / "model", "--output", output]
    assert algorithm([str(word) for word in [*words, "--no-mirroring", "--threads", 1, "--device", "cpu"]]) == 0
    (map_file,) = output.rglob("images/cspca-detection-map/*.mha")
    (t2w,) = archive.rglob("*_t2w.mha")
    assert read_volume(map_file).grid == read_grid(t2w)
    assert 0 <= read_json(next(output.rglob("cspca-case-level-likelihood.json"))) <= 1


def test_what_it_does_not_override_is_what_the_commands_answer(finished, toy, prepared_folder, profile, refusal):
    words = ["run", "--prepared", prepared_folder, "--configuration", toy, "--fold", 2, "--restart", 1]
    words += ["--profile", profile, "--output", finished.parent / "another", "--device", "cpu"]
    said = refusal(*words, "--resume")
    assert "expected a checkpoint to resume from, found none" in said
    words = ["predict", "--run", finished, "--archive", prepared_folder.parent / "archive", "--output", finished / "no"]
    said = refusal(*words)
    assert "run.json: a run of by-hand predicts from a bundle; " in said


class Noting(Toy):
    """A toy whose runs have a file of its own."""

    def files(self, folder):
        """The note."""
        return {"note": folder.path / "note.json"}

    def steps(self, run, place):
        """Train, and write the note before the weights."""
        trained = yield from super().steps(run, place)
        self.files(place.folder)["note"].write_text("learned")
        return trained


def test_a_file_of_an_engine_is_recorded_and_replaces_none(toy, planned, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ENGINE", Noting())
    run, note = planned(str(toy), fold=1), tmp_path / "run" / "note.json"
    note.parent.mkdir()
    note.write_text("mine")
    with refused_with("note.json", expected="nothing"):
        execute(run, note.parent, device="cpu")
    note.unlink()
    assert execute(run, note.parent, device="cpu").parents["note"] == sha256_file(note)


def test_campaign_estimates_its_network(toy, planned):
    run = planned(str(toy), fold=1)
    parameters = sum(each.numel() for each in build_network(run.plans, run.prepared.dataset).parameters())
    assert needs(run).weights == 4 * parameters


def test_it_brings_the_schema_of_its_configurations(toy):
    assert load_configuration(toy).learning_rate == 0.05
    toy.write_text(CONFIGURATION + "averaged = 0.1\n")
    with refused_with(problem=r"toy\.averaged: Extra inputs are not permitted"):
        load_configuration(toy)


def test_without_its_line_in_the_table_its_configurations_are_refused(tmp_path):
    path = tmp_path / "by-hand.toml"
    path.write_text(CONFIGURATION)
    with refused_with(problem="'toy' found using 'engine' does not match any of the expected tags"):
        load_configuration(path)


def test_planning_and_status_ask_every_engine_without_importing_torch():
    code = (
        "import sys, training.campaign.status_page, training.campaign.planned_runs\n"
        "from training.configuration import CONFIGURATIONS\n"
        "from training.engine import ENGINES, load_configuration\n"
        "assert {load_configuration(path).engine for path in CONFIGURATIONS.glob('*.toml')} == set(ENGINES)\n"
        "print(sorted({'torch', 'nnunetv2', 'scipy'} & set(sys.modules)))\n"
    )
    ended = python("-c", code)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_an_engine_that_cannot_train_is_not_made():
    class Idle(Engine):
        title = "idle"

    with pytest.raises(TypeError, match=r"abstract method '?steps"):
        Idle()
