"""``python -m algorithm precision``: measured once per bundle, written next to it, logged by what predicts."""

import numpy as np
import pytest

from algorithm.__main__ import main
from algorithm.prediction.bundle import read_bundle
from algorithm.prediction.measured_precision import PrecisionRecord, default_record
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import load_predictor
from contract.archive.studies import find_studies
from contract.records import read_record

RUNS = [("ce", 0, 1), ("focal", 0, 1)]


@pytest.fixture
def model(make_bundle):
    return make_bundle(RUNS)


@pytest.fixture
def measured(model, make_archive, capfd):
    """The record of two studies out of three, and the archive."""
    archive = make_archive(3)
    words = ["precision", "--archive", archive, "--model", model, "--studies", 2, "--no-mirroring", "--threads", 1]
    assert main(list(map(str, words))) == 0
    return read_record(default_record(model), PrecisionRecord), archive


def test_the_error_is_that_of_whole_studies(measured, model):
    record, archive = measured
    bundle = read_bundle(model)
    members = bundle.record.members
    changes = []
    for study in find_studies(archive, bundle.card, labels_required=False)[:2]:
        fp32, bf16 = (
            load_predictor(bundle, members, PredictionOptions(mirroring=False, precision=precision))
            .predict(study.channels, name="s")
            .ensemble(members)
            .array
            for precision in ("fp32", "bf16")
        )
        changes.append(np.abs(np.asarray(fp32, np.float64) - bf16))
    found = record.errors["bf16"]
    assert found.largest == pytest.approx(max(each.max() for each in changes), rel=1e-5)
    assert found.mean == pytest.approx(np.mean([each.mean() for each in changes]), rel=1e-4)
    assert 0 < found.likelihood <= found.largest
    assert 0 < record.errors["fp16"].mean < found.mean  # three digits more
    assert set(record.errors) == {"fp16", "bf16"}
    assert (record.studies, record.mirroring, record.parents) == (2, False, {"bundle": bundle.sha256})


def test_what_predicts_logs_it_or_says_that_it_is_not_known(measured, model, make_input, tmp_path, capfd, seal):
    _, archive = measured
    study = make_input()

    def logged(*words):
        assert main([*map(str, words), "--model", str(model), "--threads", "1", "--no-mirroring"]) == 0
        return capfd.readouterr().out

    single = ("--input", study, "--output", tmp_path / "single")
    batch = ("batch", "--archive", archive, "--output", tmp_path / "batch")
    for words in (single, batch):
        assert "bf16 differs from fp32 by at most 0.0" in logged(*words, "--precision", "bf16")
    assert "differs" not in logged("--input", study, "--output", tmp_path / "fp32")
    default_record(model).write_text("{}")
    assert "bf16: its error against fp32 is not known for this bundle" in logged(*single, "--precision", "bf16")


def test_only_the_same_command_measures_again(measured, model, monkeypatch, capfd):
    _, archive = measured
    words = ["precision", "--archive", str(archive), "--no-mirroring", "--threads", "1"]
    before = default_record(model).read_bytes()
    assert main([*words, "--model", str(model), "--studies", "1"]) == 3
    assert default_record(model).read_bytes() == before
    default_record(model).unlink()
    monkeypatch.chdir(model)
    for _ in range(2):
        assert main([*words, "--model", ".", "--studies", "1"]) == 0
        assert read_record(default_record(model), PrecisionRecord).studies == 1
    default_record(model).write_text("mine")
    capfd.readouterr()
    assert main([*words, "--model", str(model), "--studies", "1"]) == 3
    assert default_record(model).read_text() == "mine"
    assert len(capfd.readouterr().err.splitlines()) == 1
