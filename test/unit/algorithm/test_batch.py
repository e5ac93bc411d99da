"""Batches that are killed, repeated, begun otherwise, or given bad studies."""

import gc
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PROJECT
from programs import python, run

from algorithm.__main__ import main
from algorithm.batch import predict_batch
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import Predictor, StudyPrediction, load_predictor
from contract.batch_layout import study_files
from contract.card import load_card
from contract.images.volume import Volume, read_grid, read_volume, write_volume
from contract.records import BatchRecord, FailuresRecord, Source, StudyRecord, read_record, write_record
from contract.sockets import read_jobs
from network.machine.memory import Budget

CARD = load_card("cspca-picai")
FOUR_OF_TWO = [(name, 0, restart) for restart in (1, 2, 3, 4) for name in ("ce", "focal")]


class Batch:
    """The command on one archive, bundle and output, in this process or in one of its own."""

    def __init__(self, archive, model, output, capfd):
        self.archive, self.model, self.output, self.capfd = archive, model, output, capfd
        self.mirroring: tuple[str, ...] = ("--no-mirroring",)  # for the tests' time
        self.stdout = ""

    def arguments(self, *more, output=None):
        paths = ["--archive", self.archive, "--model", self.model, "--output", output or self.output]
        return ["batch", *map(str, paths), "--threads", "1", *self.mirroring, *more]

    def __call__(self, *more, output=None, code=0):
        self.capfd.readouterr()
        found = main(self.arguments(*more, output=output))
        self.stdout, stderr = self.capfd.readouterr()
        assert found == code, stderr
        assert len(stderr.splitlines()) == (1 if code else 0), stderr
        return stderr

    def command(self, *more):
        return [sys.executable, "-B", "-m", "algorithm", *self.arguments(*more)]

    def track(self, track, members="all", output=None):
        """In this process, with a function through which the studies pass."""
        options, output = PredictionOptions(mirroring=False), output or self.output
        predict_batch(
            archive=self.archive, output=output, model=self.model, members=[members], options=options, track=track
        )

    @property
    def predicted(self):
        """The studies that the last call passed over, as the log says."""
        return re.findall(r"study (\S+): one pass", self.stdout)

    def image(self, patient, channel):
        return self.archive / f"p{patient}" / f"p{patient}_s0_{channel}.mha"

    def failures(self):
        record = read_record(self.output / "failures.json", FailuresRecord)
        return {failure.case_id: failure.reason for failure in record.failures}

    def listed(self, ensemble="."):
        return [job.pk for job in read_jobs(self.output / ensemble / "predictions.json")]


@pytest.fixture
def make_batch(make_archive, make_bundle, tmp_path, capfd):
    def make(patients=3, runs=(("ce", 0, 1), ("focal", 0, 1)), **more):
        return Batch(make_archive(patients), make_bundle(runs, **more), tmp_path / "predictions", capfd)

    return make


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


# Resuming


def test_a_killed_batch_resumes_and_ends_like_an_uninterrupted_one(make_batch, tmp_path):
    batch = make_batch(8)
    words = ("--members", "all", "each")
    process = subprocess.Popen(batch.command(*words), cwd=PROJECT, stdout=subprocess.DEVNULL)
    while not (batch.output / "focal_fold0_restart1" / "p1_s0").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (batch.output / "predictions.json").exists()
    before = times(batch.output)
    finished = sorted(path.name for path in (batch.output / "focal_fold0_restart1").glob("p*"))
    assert 2 <= len(finished) < 8
    # What a kill at another moment would have left.
    (batch.output / f".partial-{0:032x}").mkdir()
    (batch.output / f".partial-{0:032x}" / "half.mha").write_text("half")
    (batch.output / "ce_fold0_restart1" / f".partial-{1:032x}.json").write_text("{")
    mine = batch.output / ".partial-notes.txt"
    mine.write_text("the user's")

    batch(*words)
    assert sorted([*finished, *batch.predicted]) == [f"p{n}_s0" for n in range(8)]
    after = times(batch.output)
    for name, changed in before.items():
        if any(part in finished for part in Path(name).parts):
            assert after[name] == changed
    assert mine.read_text() == "the user's"
    mine.unlink()
    whole = tmp_path / "whole"
    batch(*words, output=whole)
    assert len(batch.predicted) == 8
    assert content(whole) == content(batch.output)


def test_a_finished_batch_called_again_does_nothing(make_batch):
    batch = make_batch(2)
    batch("--members", "each", "all")
    before = times(batch.output)
    batch("--members", "all", "each")
    assert times(batch.output) == before
    assert "all 2 studies are finished already" in batch.stdout


def test_an_empty_output_of_another_owner_is_filled(make_batch):
    batch = make_batch(1)
    batch.output.mkdir()
    inode = batch.output.stat().st_ino
    if os.geteuid() == 0:
        os.chown(batch.output, 12345, 12345)
    batch.output.chmod(0o1777)  # all may write, none may rename or remove it
    batch()
    assert batch.output.stat().st_ino == inode
    assert batch.listed() == ["p0_s0"]


def test_studies_that_came_to_the_archive_are_added(make_batch, make_channels):
    batch = make_batch(2)
    batch()
    make_channels(batch.archive / "p2", "p2_s0", seed=2)
    batch()
    assert batch.predicted == ["p2_s0"]
    assert batch.listed() == ["p0_s0", "p1_s0", "p2_s0"]


def test_a_study_that_is_there_twice_is_named(make_batch, make_channels):
    batch = make_batch(2)
    make_channels(batch.archive / "p7", "p7_s0", seed=1)
    batch()
    assert "studies p1_s0 and p7_s0 are the same image" in " ".join(batch.stdout.split())


def test_a_resumed_batch_removes_its_old_listing(make_batch, make_channels):
    batch = make_batch(2)
    batch("--members", "each")
    make_channels(batch.archive / "p2", "p2_s0", seed=2)

    def stop(studies, /, *, done=0):
        assert (len(studies), done) == (1, 2)
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        batch.track(stop, "each")
    assert not list(batch.output.rglob("predictions.json"))
    batch("--members", "each")
    assert batch.predicted == ["p2_s0"]
    assert batch.listed("focal_fold0_restart1") == ["p0_s0", "p1_s0", "p2_s0"]


def test_a_study_whose_image_changed_is_predicted_again(make_batch):
    batch = make_batch(2)
    batch("--members", "each")
    old = content(batch.output / "ce_fold0_restart1" / "p1_s0")
    volume = read_volume(batch.image(1, "adc"))
    write_volume(batch.image(1, "adc"), Volume(volume.array[::-1].copy(), volume.grid))
    batch("--members", "each")
    assert batch.predicted == ["p1_s0"]
    assert "study p1_s0: its images have changed since it was predicted" in batch.stdout
    new = content(batch.output / "ce_fold0_restart1" / "p1_s0")
    assert old.keys() == new.keys()
    assert all(new[name] != old[name] for name in old)


MAP, LIKELIHOOD = (f"p0_s0/output/{name}" for name in study_files(CARD, "p0_s0"))


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (MAP, lambda path: b"mine"),
        (MAP, lambda path: path.read_bytes()[:-2]),
        (MAP, lambda path: Path(str(path).replace("p0_s0", "p1_s0")).read_bytes()),
        (LIKELIHOOD, lambda path: b"0.5"),
        ("source.json", lambda path: b"mine"),
        ("card.toml", lambda path: b"mine"),
    ],
    ids=["map", "truncated map", "another study's map", "likelihood", "listing", "card"],
)
def test_an_edited_file_is_neither_finished_nor_replaced(make_batch, name, edit):
    batch = make_batch(2)
    batch()
    path = batch.output / name
    path.write_bytes(edit(path))
    before = content(batch.output)
    assert f"{path}: " in batch(code=3)
    image = batch.image(0, "adc")
    image.write_bytes(image.read_bytes().replace(b"NDims", b"Comment = repaired\nNDims", 1))
    assert f"{path}: " in batch(code=3)
    assert content(batch.output) == before
    (path if path.parent == batch.output else batch.output / "p0_s0").rename(batch.output.parent / "moved away")
    batch()
    assert batch.predicted == ["p0_s0"]


def test_what_the_user_edits_while_the_networks_are_loaded_stays(make_batch, monkeypatch):
    batch = make_batch(1)
    batch()
    image = batch.image(0, "adc")
    image.write_bytes(image.read_bytes().replace(b"NDims", b"Comment = repaired\nNDims", 1))
    path = batch.output / "p0_s0/output/images/cspca-detection-map/p0_s0.mha"

    def load(*words, **options):
        path.write_text("mine")
        return load_predictor(*words, **options)

    monkeypatch.setattr("algorithm.batch.load_predictor", load)
    assert "file was edited since algorithm batch wrote it" in batch(code=3)
    assert path.read_text() == "mine"
    assert batch.listed() == ["p0_s0"]


def test_a_study_s_folder_that_the_user_moved_behind_a_link_is_refused(make_batch, tmp_path):
    batch = make_batch(2)
    batch()
    (batch.output / "p0_s0").rename(tmp_path / "mine")
    (batch.output / "p0_s0").symlink_to(tmp_path / "mine")
    before = content(tmp_path / "mine")
    assert "p0_s0: is a link" in batch(code=3)
    assert content(tmp_path / "mine") == before


@pytest.mark.parametrize("name", ["predictions.json", "source.json", "card.toml", "failures.json"])
def test_a_copied_record_makes_no_file_a_batch_s(make_batch, tmp_path, name):
    batch = make_batch(1)
    batch()
    (tmp_path / "mine").mkdir()
    shutil.copy(batch.output / "batch.json", tmp_path / "mine")
    (tmp_path / "mine" / name).write_text("mine")
    assert f"{name}: expected nothing or what algorithm batch" in batch(output=tmp_path / "mine", code=3)
    assert (tmp_path / "mine" / name).read_text() == "mine"


@pytest.mark.parametrize("all_of", [True, False], ids=["all copied", "one copied"])
def test_predictions_of_another_batch_are_neither_taken_nor_replaced(make_batch, make_bundle, tmp_path, all_of):
    batch, other = make_batch(2), tmp_path / "other"
    batch()
    ours, theirs = batch.model, make_bundle([("ce", 0, 2)], folder=tmp_path / "model of others")
    batch.model = theirs
    batch(output=other)
    mixed = tmp_path / "mixed"
    if all_of:
        mixed.mkdir()
        shutil.copy(batch.output / "batch.json", mixed)
    else:
        shutil.copytree(batch.output, mixed)
        shutil.rmtree(mixed / "p1_s0")
    for study in ("p0_s0", "p1_s0"):
        if not (mixed / study).exists():
            shutil.copytree(other / study, mixed / study)
    before, batch.model = content(mixed), ours
    assert "study.json: predicted by another bundle, ensemble or settings" in batch(output=mixed, code=3)
    assert content(mixed) == before


def test_predictions_of_another_ensemble_are_neither_taken_nor_replaced(make_batch):
    batch = make_batch(1)
    batch("--members", "each")
    ce, focal = (batch.output / f"{name}_fold0_restart1" / "p0_s0" for name in ("ce", "focal"))
    shutil.rmtree(ce)
    shutil.copytree(focal, ce)
    assert f"{ce / 'study.json'}: predicted by another bundle, ensemble" in batch("--members", "each", code=3)


def test_a_study_of_an_older_program_is_predicted_again(make_batch):
    batch = make_batch(2)
    batch()
    path = batch.output / "p0_s0" / "study.json"
    record = read_record(path, StudyRecord)
    write_record(path, record.model_copy(update={"method_sha256": None}))
    batch()
    assert batch.predicted == ["p0_s0"]
    assert read_record(path, StudyRecord).method_sha256 == record.method_sha256


def test_a_finished_batch_copied_without_hidden_files_needs_nothing(make_batch, tmp_path):
    batch, copy = make_batch(2), tmp_path / "copy"
    batch()
    shutil.copytree(batch.output, copy, ignore=shutil.ignore_patterns(".*"))
    before = times(copy)
    batch(output=copy)
    assert times(copy) == before


def test_images_with_other_times_but_the_same_bytes_are_the_same(make_batch):
    batch = make_batch(2)
    batch()
    for path in batch.archive.rglob("*.mha"):
        os.utime(path, (1, 1))
    batch()
    assert batch.predicted == []


def test_a_study_that_lost_an_output_is_predicted_again(make_batch):
    batch = make_batch(2)
    batch()
    (batch.output / "p0_s0" / "output" / CARD.likelihood.relative_path).unlink()
    batch()
    assert batch.predicted == ["p0_s0"]


def test_a_prediction_records_the_images_it_was_made_from(make_batch):
    batch = make_batch(1)
    batch()
    record = read_record(batch.output / "p0_s0" / "study.json", StudyRecord)
    assert [image.channel for image in record.images] == ["t2w", "adc", "hbv"]
    assert record.images[1].size_bytes == batch.image(0, "adc").stat().st_size
    assert record.parents["adc"] == record.images[1].sha256


# Refused


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (["--members", "each"], ["--members", "all"], "--members (all), found each"),
        (["--members", "each"], ["--members", "each", "all"], "--members (all each), found each"),
        ([], ["--no-mirroring"], "mirroring (False), found True"),
    ],
)
def test_a_folder_begun_with_other_options_is_refused(make_batch, first, then, message):
    batch = make_batch(1)
    batch.mirroring = ()
    batch(*first)
    before = times(batch.output)
    error = batch(*then, code=3)
    expected = f"expected a folder that was begun with the same {message}; give another output"
    assert error == f"error: {batch.output}/batch.json: {expected}\n"
    assert times(batch.output) == before


def test_a_folder_that_was_begun_with_another_bundle_is_refused(make_batch, make_bundle, tmp_path):
    batch = make_batch(1)
    batch()
    batch.model = make_bundle([("ce", 0, 2)], folder=tmp_path / "other")
    assert "batch.json: expected a folder that was begun with the same bundle" in batch(code=3)


def test_a_folder_that_was_begun_with_another_archive_is_refused(make_batch, make_channels, tmp_path):
    batch = make_batch(1)
    batch()
    batch.archive = tmp_path / "other"
    make_channels(batch.archive / "q0", "q0_s0")
    message = batch(code=3)
    assert f"expected only predictions of studies in {batch.archive}, found p0_s0, which is not there" in message


def test_the_archive_and_the_bundle_are_no_output(make_batch):
    batch = make_batch(1)
    before = content(batch.archive), content(batch.model)
    for name, path in (("archive", batch.archive), ("model bundle", batch.model)):
        message = batch(output=path.parent / "." / path.name, code=3)
        assert f"expected an output folder of its own, found the {name}" in message
    assert (content(batch.archive), content(batch.model)) == before


def test_two_batches_do_not_fill_one_folder(make_batch):
    batch = make_batch(2)

    def second(studies, /, *, done=0):
        del done
        found = run(*batch.command())
        assert found.returncode == 3
        assert found.stderr == f"error: {batch.output}: expected no other process at work here, found one\n"
        yield from studies

    batch.track(second)
    assert batch.listed() == ["p0_s0", "p1_s0"]


def test_a_lock_that_cannot_be_taken_is_refused(make_batch):
    batch = make_batch(1)
    (batch.output / ".lock").mkdir(parents=True)
    assert ".lock: cannot be written to: is a directory" in batch(code=3)
    (batch.output / ".lock").rmdir()
    (batch.output / ".lock").symlink_to(batch.output.parent / "elsewhere")
    assert ".lock: is a link" in batch(code=3)
    assert not (batch.output.parent / "elsewhere").exists()


def test_resuming_with_another_revision_is_logged(make_batch):
    batch = make_batch(1)
    batch()
    path = batch.output / "batch.json"
    record = read_record(path, BatchRecord)
    older = record.written_by.model_copy(update={"git_revision": "0a1b2c"})
    write_record(path, record.model_copy(update={"written_by": older}))
    batch()
    assert f"{path} was begun by another revision of this program (0a1b2c)" in batch.stdout


# Bad studies


def truncate(batch):
    path = batch.image(1, "hbv")
    path.write_bytes(path.read_bytes()[:-50])


def remove(batch):
    batch.image(1, "adc").unlink()


def poison(batch):
    volume = read_volume(batch.image(1, "adc"))
    array = np.asarray(volume.array, np.float32).copy()
    array[2, 3, 4] = np.nan
    write_volume(batch.image(1, "adc"), Volume(array, volume.grid))


def move_away(batch):
    path = batch.image(1, "hbv")
    path.write_bytes(re.sub(rb"(Offset = )\S+", rb"\g<1>9000", path.read_bytes(), count=1))


def double(batch):
    (batch.archive / "copy").mkdir()
    (batch.archive / "copy" / batch.image(1, "t2w").name).write_bytes(batch.image(1, "t2w").read_bytes())


def unreadable(batch):
    batch.image(1, "adc").unlink()
    batch.image(1, "adc").symlink_to("/proc/self/mem")  # a file that opens, and whose first byte cannot be read


SPOILS = {
    truncate: "p1_s0_hbv.mha: expected",
    remove: "study p1_s0 in .*: p1_s0_adc.mha not found; the card has the channels t2w, adc, hbv",
    poison: "p1_s0_adc.mha: expected finite",
    move_away: "study p1_s0: expected .*p1_s0_hbv.mha to share a field of view with 't2w'",
    double: "study p1_s0 in .*: duplicate: .*/copy, .*/p1",
    unreadable: r"study p1_s0 in .*: unreadable: ",
}


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_one_bad_study_stops_no_other_and_is_listed_until_it_is_repaired(make_batch, make_channels, spoil):
    batch = make_batch(3)
    spoil(batch)
    message = batch(code=3)
    assert message.startswith(
        f"error: 1 of 3 studies failed, all listed in {batch.output}/failures.json; the first, p1_s0: "
    )
    assert re.search(SPOILS[spoil], message)
    reasons = batch.failures()
    assert list(reasons) == ["p1_s0"]
    assert reasons["p1_s0"] in message
    assert f"ERROR algorithm.batch: study p1_s0 failed: {reasons['p1_s0']}" in batch.stdout
    assert batch.predicted == batch.listed() == ["p0_s0", "p2_s0"]
    assert not (batch.output / "p1_s0").exists()

    batch(code=3)  # tried again, the others not
    assert batch.predicted == []
    assert batch.listed() == ["p0_s0", "p2_s0"]

    for path in [*batch.archive.glob("p1/*"), *batch.archive.glob("copy/*")]:
        path.unlink()
    make_channels(batch.archive / "p1", "p1_s0", seed=1)
    batch()
    assert batch.predicted == ["p1_s0"]
    assert batch.listed() == ["p0_s0", "p1_s0", "p2_s0"]
    assert not (batch.output / "failures.json").exists()


def test_a_finished_study_that_went_bad_is_no_longer_listed(make_batch):
    batch = make_batch(3)
    batch("--members", "each")
    truncate(batch)
    batch("--members", "each", code=3)
    for ensemble in ("ce_fold0_restart1", "focal_fold0_restart1"):
        assert batch.listed(ensemble) == ["p0_s0", "p2_s0"]
        assert not (batch.output / ensemble / "p1_s0").exists()


def test_an_image_that_cannot_be_read_any_more_is_listed(make_batch):
    batch = make_batch(2)
    batch()
    unreadable(batch)
    assert "1 of 2 studies failed" in batch(code=3)
    assert batch.listed() == ["p0_s0"]


def test_a_member_that_gives_nan_fails_every_study(make_batch):
    def spoil(network):
        for parameter in network.parameters():
            parameter.data.fill_(float("nan"))

    batch = make_batch(2, spoil=spoil)
    message = batch("--members", "each", code=3)
    assert "2 of 2 studies failed" in message
    assert "000.safetensors: expected finite probabilities for study p0_s0" in message
    assert sorted(path.name for path in batch.output.iterdir()) == [".lock", ".oncoduet", "batch.json", "failures.json"]


def test_an_archive_without_a_sound_study_has_only_failures(make_batch):
    batch = make_batch(1)
    batch.image(0, "adc").unlink()
    assert "1 of 1 studies failed" in batch(code=3)
    assert sorted(path.name for path in batch.output.iterdir()) == [".lock", ".oncoduet", "batch.json", "failures.json"]
    assert list(batch.failures()) == ["p0_s0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [([], "study p1_s0: needs "), (["--memory-gb", "50"], "study p1_s0: not enough memory: ")],
    ids=["estimated", "hit"],
)
def test_a_study_too_large_for_the_memory_stops_no_other(make_batch, options, reason):
    batch = make_batch(3)
    grid = replace(read_grid(batch.image(1, "t2w")), size_xyz=(700, 700, 200), spacing_mm_xyz=(0.5, 0.5, 3.0))
    z, y, x = np.indices(grid.shape_zyx, np.float32, sparse=True)
    write_volume(batch.image(1, "t2w"), Volume(x + 3 * z + 0 * y, grid))
    coarse = replace(grid, size_xyz=(70, 70, 70), spacing_mm_xyz=(5.0, 5.0, 8.5))
    for channel in ("adc", "hbv"):
        array = np.resize(read_volume(batch.image(1, channel)).array, coarse.shape_zyx)
        write_volume(batch.image(1, channel), Volume(array, coarse))
    # This study takes about 3 GB (measured by raising the limit until it was predicted), the others less than 0.5 GB.
    limited = """
import resource, sys, torch, algorithm.batch
from pathlib import Path
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 900 * 2**20,) * 2)
from algorithm.__main__ import main
sys.exit(main())
"""
    found = python("-B", "-c", limited, *batch.arguments(), *options)
    assert found.returncode == 3, found.stderr
    assert "1 of 3 studies failed" in found.stderr
    assert batch.failures()["p1_s0"].startswith(reason)
    assert batch.listed() == ["p0_s0", "p2_s0"]


@pytest.mark.parametrize("allocate", [lambda: np.zeros(1 << 50), lambda: torch.zeros(1 << 50)], ids=["numpy", "torch"])
def test_a_study_fails_for_which_memory_runs_out(make_batch, monkeypatch, allocate):
    batch = make_batch(1)
    monkeypatch.setattr(Predictor, "predict_read", lambda *_, **__: allocate())
    batch(code=3)
    assert re.match("study p0_s0: not enough memory: .*llocat", batch.failures()["p0_s0"])


def test_a_bug_ends_its_study_and_shows_once_the_others_are_predicted(make_batch, monkeypatch):
    batch = make_batch(2)
    predict = Predictor.predict_read

    def spoilt(self, study):
        if study.headers.name == "p0_s0":
            torch.zeros(3).reshape(2)
        return predict(self, study)

    monkeypatch.setattr(Predictor, "predict_read", spoilt)
    assert main(batch.arguments()) == 1
    assert "Traceback" in batch.capfd.readouterr().err
    assert batch.listed() == ["p1_s0"]
    assert batch.failures()["p0_s0"].startswith("study p0_s0: RuntimeError: shape")


def test_the_list_of_failures_is_a_record(make_batch):
    batch = make_batch(2)
    remove(batch)
    batch(code=3)
    values = json.loads((batch.output / "failures.json").read_text())
    source = read_record(batch.output / "source.json", Source)
    assert values["schema_version"] == 1
    assert values["parents"] == {"bundle": source.bundle_sha256}
    assert values["studies"] == 2


@pytest.mark.slow
def test_the_evaluation_says_in_one_line_which_predictions_are_missing(make_batch, tmp_path):
    batch = make_batch(2)
    for patient in (0, 1):
        volume = read_volume(batch.image(patient, "t2w"))
        label = Volume((np.asarray(volume.array) < 200).astype(np.int32) * patient, volume.grid)
        write_volume(batch.archive / "labels" / f"p{patient}_s0.nii.gz", label)
    poison(batch)
    batch(code=3)
    score = ["-B", "-m", "evaluation", "score", "--predictions", batch.output, "--truth", batch.archive / "labels"]
    score += ["--output", tmp_path / "scores"]
    strict = python(*score)
    assert strict.returncode == 3
    assert strict.stderr == (
        f"error: {batch.output}: no prediction for p1_s0 of 2 cases in {batch.archive / 'labels'}\n"
    )
    worst = python(*score, "--on-missing", "worst")
    assert (worst.returncode, worst.stderr) == (0, "")
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["strict"]["missing"] == 1


# One pass, one study at a time


def test_each_four_and_control_come_from_one_pass_over_the_images(make_batch):
    batch = make_batch(2, FOUR_OF_TWO)
    batch("--members", "each", "four", "control")
    assert re.findall(r"study (\S+): one pass of (\d+) members", batch.stdout) == [("p0_s0", "8"), ("p1_s0", "8")]
    assert "8 members, 14 predictions of each study" in batch.stdout
    folders = sorted(path.parent.name for path in batch.output.glob("*/predictions.json"))
    assert folders == sorted(
        [
            *(f"{name}_fold{fold}_restart{restart}" for name, fold, restart in FOUR_OF_TWO),
            *(f"ensemble-four_fold0_restart{restart}" for restart in (1, 2, 3, 4)),
            *(f"control-{name}_fold0" for name in ("ce", "focal")),
        ]
    )


def test_a_control_is_the_mean_of_its_four_members(make_batch, make_bundle, tmp_path):
    batch = make_batch(1, FOUR_OF_TWO)
    batch("--members", "control")
    alone = tmp_path / "alone"
    batch.model = make_bundle(FOUR_OF_TWO, folder=tmp_path / "again")
    batch("--members", "ce", output=alone)  # the configuration has just these four
    for relative in (f"{CARD.detection_map.relative_path}/p0_s0.mha", CARD.likelihood.relative_path):
        control = batch.output / "control-ce_fold0" / "p0_s0" / "output" / relative
        assert control.read_bytes() == (alone / "p0_s0" / "output" / relative).read_bytes()


def test_studies_in_turn_give_the_same_bytes(make_batch, monkeypatch, tmp_path):
    batch = make_batch(3)
    batch("--members", "each")
    assert "studies are read in turn" not in batch.stdout
    monkeypatch.setattr("algorithm.batch.memory_budget", lambda _: Budget(0, "a test"))
    batch("--members", "each", output=tmp_path / "in turn")
    assert batch.stdout.count("studies are read in turn: two at a time need 0.") == 1
    assert content(tmp_path / "in turn") == content(batch.output)


def test_the_probabilities_of_one_study_are_gone_when_it_is_written(make_batch, tmp_path, monkeypatch):
    batch = make_batch(3)
    predictions, alive = [], []
    make = StudyPrediction.__init__

    def noted(prediction, *arguments, **more):
        make(prediction, *arguments, **more)
        predictions.append(weakref.ref(prediction))

    def watch(studies, /, *, done=0):
        del done
        for study in studies:
            yield study
            alive.append(sum(each() is not None for each in predictions))

    batch.track(
        watch, "each", tmp_path / "warm_up"
    )  # the first prediction of a process imports, and an import leaves cycles of frames
    alive.clear()
    gc.collect()
    monkeypatch.setattr(StudyPrediction, "__init__", noted)
    gc.disable()
    try:
        batch.track(watch, "each")
    finally:
        gc.enable()
    assert alive == [1, 1, 0]  # the next one's, which the networks have made by then


# Progress


def test_the_log_counts_studies_with_the_time_left(make_batch):
    batch = make_batch(3)
    remove(batch)
    batch(code=3)
    found = re.findall(r"predicting: (\d+ of \d+) after \d:\d\d:\d\d, (.*)", batch.stdout)
    assert [each for each, _ in found] == ["1 of 2", "2 of 2"]
    assert re.fullmatch(r"about \d:\d\d:\d\d left", found[0][1])
    assert found[1][1] == "done"
    batch.image(0, "adc").touch()
    volume = read_volume(batch.image(0, "adc"))
    write_volume(batch.image(0, "adc"), Volume(volume.array[::-1].copy(), volume.grid))
    batch(code=3)
    assert re.findall(r"predicting: (\d+ of \d+) after", batch.stdout) == ["2 of 2"]


@pytest.mark.slow
def test_a_terminal_gets_a_bar_with_the_log_above_it(make_batch):
    batch = make_batch(2)
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(batch.command(), cwd=PROJECT, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # how a terminal says that the other side has gone
                break
            shown += some
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    assert any(re.fullmatch(r"predicting \S+ 2/2 \d:\d\d:\d\d done", line) for line in lines), lines
    assert any(re.search(r"1/2 \d:\d\d:\d\d about \d:\d\d:\d\d left", line) for line in lines), lines
    logged = [line for line in lines if re.fullmatch(r"INFO algorithm.batch: study p\d_s0: one pass .* s", line)]
    assert len(logged) == 2
