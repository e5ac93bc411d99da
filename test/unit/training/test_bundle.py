import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from contract.card import load_card
from contract.files.reading import read_json, sha256_file
from contract.images.volume import read_volume
from contract.records import BundleRecord, TrainingStudiesRecord, read_record, write_record
from network.model.weights import load_weights, save_weights, tensors_sha256
from network.study.scan import content_sha256
from training.bundle import pack_tarball
from training.dataset.archive_stamps import read_sources
from training.dataset.prepared import load_prepared
from training.make_run import execute


@pytest.fixture(scope="session")
def finished_runs(make_runs) -> Path:
    """Two runs of different configurations and folds."""
    return make_runs(("ce", 0), ("focal", 1))


@pytest.fixture
def runs(finished_runs, tmp_path) -> Path:
    """A copy of the runs that a test may spoil."""
    return Path(shutil.copytree(finished_runs, tmp_path / "runs"))


@pytest.fixture
def refused(tmp_path, refusal):
    """The line with which runs are refused; nothing may have been written."""

    def refuse(*runs: Path) -> str:
        message = refusal("bundle", "--runs", *runs, "--output", tmp_path / "model.tar.gz")
        assert not (tmp_path / "model.tar.gz").exists()
        return message

    return refuse


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(read_json(path) | values))


def test_a_bundle_holds_its_members_and_what_they_need(runs, tmp_path, outcome):
    output = tmp_path / "model.tar.gz"
    assert outcome("bundle", "--runs", runs, "--output", output) == (0, "")
    with tarfile.open(output) as archive:
        assert all(entry.isfile() for entry in archive)
        archive.extractall(tmp_path / "model", filter="data")
    names = sorted(str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*.*"))
    assert names == [
        "bundle.json", "card.toml", "dataset.json", "members/000.safetensors", "members/001.safetensors",
        "plans.json", "training_studies/000.json", "training_studies/001.json",
    ]  # fmt: skip
    record = BundleRecord.model_validate(read_json(tmp_path / "model" / "bundle.json"))
    assert [member.name for member in record.members] == ["ce_fold0_restart1", "focal_fold1_restart1"]
    assert (record.card, record.data_licence) == ("cspca-picai", "CC0-1.0")
    assert load_card(tmp_path / "model" / "card.toml").sha256 == record.card_sha256
    for member in record.members:
        assert tensors_sha256(load_weights(tmp_path / "model" / member.file)) == member.weights_sha256
        assert member.run_sha256 == sha256_file(runs / member.name / "run.json")
        assert member.key.configuration == member.name.partition("_")[0]
    sums = (tmp_path / "model" / "SHA256SUMS").read_text()
    assert sums == "".join(f"{sha256_file(tmp_path / 'model' / name)}  {name}\n" for name in names)


def test_the_same_runs_give_the_same_bytes_without_time_or_owner(runs, tmp_path, outcome):
    for name, given in [("a", [runs]), ("b", [runs / "focal_fold1_restart1", runs / "ce_fold0_restart1", runs])]:
        assert outcome("bundle", "--runs", *given, "--output", tmp_path / f"{name}.tar.gz") == (0, "")
    first, second = ((tmp_path / f"{name}.tar.gz").read_bytes() for name in "ab")
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()
    assert first[3] == 0  # gzip's flags: no file name
    assert first[4:8] == bytes(4)  # gzip's time
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(first))) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}


def test_a_bundle_that_another_process_put_there_meanwhile_stays(runs, tmp_path, outcome, monkeypatch, refusal):
    output = tmp_path / "model.tar.gz"
    assert outcome("bundle", "--runs", runs / "focal_fold1_restart1", "--output", tmp_path / "other.tar.gz") == (0, "")

    def write(partial, files):
        pack_tarball(partial, files)
        (tmp_path / "other.tar.gz").rename(output)
        output.with_suffix(".sum").write_text(sha256_file(output))

    monkeypatch.setattr("training.bundle.pack_tarball", write)
    said = refusal("bundle", "--runs", runs / "ce_fold0_restart1", "--output", output)
    assert f"{output}: changed while the runs were packed" in said
    assert sha256_file(output) == output.with_suffix(".sum").read_text()


CE, FOCAL = "ce_fold0_restart1", "focal_fold1_restart1"


def test_runs_of_other_studies_or_folds_are_refused(runs, refused):
    record = read_json(runs / FOCAL / "run.json")
    edit(runs / FOCAL / "run.json", parents=record["parents"] | {"prepared": "0" * 64})
    assert f"{FOCAL}: differs from {runs / CE} in its studies and folds" in refused(runs)


def test_a_member_names_the_dataset_that_it_was_trained_on(runs, tmp_path, outcome):
    assert outcome("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz") == (0, "")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        record = BundleRecord.model_validate(json.load(archive.extractfile("bundle.json")))
    parents = read_json(runs / CE / "run.json")["parents"]
    assert {member.prepared_sha256 for member in record.members} == {parents["prepared"]}


def lacking(name):
    return lambda runs: (runs / CE / name).unlink()


def edited(run, name, **values):
    return lambda runs: edit(runs / run / name, **values)


def with_other_weights(runs):
    path = runs / CE / "weights.safetensors"
    changed = {name: tensor.clone() for name, tensor in load_weights(path).items()}
    next(iter(changed.values())).view(-1)[0] += 1e-3
    save_weights(path, changed)


def with_truncated_weights(runs):
    path = runs / CE / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_other_card(runs):
    card = runs / FOCAL / "card.toml"
    card.write_text(card.read_text().replace("minimum_overlap = 0.1", "minimum_overlap = 0.2"))


def trained_with_other_card(runs):
    with_other_card(runs)
    key = read_json(runs / FOCAL / "run.json")["key"] | {"card_sha256": load_card(runs / FOCAL / "card.toml").sha256}
    edit(runs / FOCAL / "run.json", key=key)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lacking("run.json"), f"{CE}/run.json: file not found next to weights.safetensors"),
        (lacking("weights.safetensors"), f"{CE}/weights.safetensors: "),
        *((lacking(name), f"{CE}/{name}: file not found") for name in ("card.toml", "plans.json", "dataset.json")),
        (with_other_weights, "weights.safetensors: does not match the hash in run.json"),
        (with_truncated_weights, "weights.safetensors: "),
        *(
            (edited(CE, "run.json", state=state), f"{CE}/run.json: expected a finished run, found state {state}")
            for state in ("planned", "running", "failed")
        ),
        (edited(FOCAL, "plans.json", dataset_name="Dataset002_other"), "in its plans.json"),
        (edited(FOCAL, "dataset.json", numTraining=8), "in its dataset.json"),
        (edited(FOCAL, "run.json", data_licence="CC-BY-NC-4.0"), "in its data licence"),
        (with_other_card, "card.toml: does not match the hash in run.json"),
        (trained_with_other_card, "in its card"),
        (lambda runs: shutil.copytree(runs / CE, runs / "copy"), f": duplicate run {CE}, also in"),
    ],
)
def test_runs_that_do_not_make_a_bundle_are_refused(runs, refused, spoil, said):
    spoil(runs)
    assert said in refused(runs)


def test_a_run_that_was_copied_under_another_name_is_refused(runs, refused):
    copy = Path(shutil.copytree(runs / CE, runs / "ce_fold0_restart2"))
    edit(copy / "run.json", key=read_json(copy / "run.json")["key"] | {"restart": 2})
    said = f"{copy}: has the weights of {runs / CE}: one is a copy of the other"
    assert said in refused(runs)


def test_a_folder_without_runs_is_refused(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "empty: neither a run folder nor a folder of run folders: run.json not found" in refused(tmp_path / "empty")


def test_a_folder_of_runs_that_cannot_be_listed_is_refused(runs, refused, unlistable):
    unlistable(runs)
    assert f"{runs}: permission denied" in refused(runs)


def test_an_output_that_is_no_tar_gz_is_refused(runs, tmp_path, refusal):
    message = refusal("bundle", "--runs", runs, "--output", tmp_path / "model.zip")
    assert "model.zip: name does not end in .tar.gz" in message
    assert not (tmp_path / "model.zip").exists()


def test_bundled_weights_hold_no_pickle(runs):
    data = (runs / "ce_fold0_restart1" / "weights.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}
    assert not torch.serialization._is_zipfile(io.BytesIO(data))


def unpacked(model: Path, folder: Path) -> BundleRecord:
    with tarfile.open(model) as archive:
        archive.extractall(folder, filter="data")
    return BundleRecord.model_validate(read_json(folder / "bundle.json"))


def test_a_bundle_holds_hashes_of_the_training_studies(runs, tmp_path, outcome, prepared_folder):
    assert outcome("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz") == (0, "")
    record = unpacked(tmp_path / "model.tar.gz", tmp_path / "model")
    prepared = load_prepared(prepared_folder)
    card = load_card(prepared_folder / "card.toml")
    sources = read_sources(prepared)
    for member in record.members:
        known = read_record(tmp_path / "model" / str(member.training_studies_file), TrainingStudiesRecord)
        images = [
            next(stamp.path for stamp in sources.studies[case_id] if card.geometry.reference in stamp.path)
            for case_id in prepared.folds[member.key.fold].train
        ]
        expected = {content_sha256(read_volume(Path(sources.archive) / image)) for image in images}
        assert list(known.trained_on) == sorted(expected)
        assert known.chosen_by == ()  # the last weights were kept


def test_runs_of_one_fold_share_their_list(runs, tmp_path, outcome, planned):
    run = planned(restart=2)
    execute(run, runs / run.name, device="cpu")
    assert outcome("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz") == (0, "")
    members = unpacked(tmp_path / "model.tar.gz", tmp_path / "model").members
    assert [member.training_studies_file for member in members] == [
        f"training_studies/{number:03d}.json" for number in (0, 0, 1)
    ]


def test_another_list_than_the_runs_is_refused(runs, refused):
    write_record(runs / "ce_fold0_restart1" / "training_studies.json", TrainingStudiesRecord(trained_on=()))
    assert "training_studies.json: does not match the hash in run.json" in refused(runs)


def test_of_a_run_by_an_older_program_it_is_not_known(runs, tmp_path, outcome):
    record = runs / "ce_fold0_restart1" / "run.json"
    parents = {name: each for name, each in read_json(record)["parents"].items() if name != "training_studies"}
    edit(record, parents=parents)
    assert outcome("bundle", "--runs", runs, "--output", tmp_path / "model.tar.gz") == (0, "")
    first, second = unpacked(tmp_path / "model.tar.gz", tmp_path / "model").members
    assert first.training_studies_file is None
    assert second.training_studies_file == "training_studies/000.json"
