"""Two checkpoints, each of which notices what happened to it."""

import hashlib
import json
import math
import re
import shutil

import pytest
import torch
from refusals import refused_with

from contract.records import RunRecord, read_record, write_record
from training.make_run import execute
from training.run_folder.checkpoints import Checkpoint, Checkpoints
from training.run_folder.folder import RunFolder


@pytest.fixture
def three(tmp_path):
    """Checkpoints after three times writing one: those of epochs 4 and 6 are left."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", "a" * 64)
    for epoch in (2, 4, 6):
        state = {"network": {"weight": torch.arange(epoch, dtype=torch.float32)}, "log": [0.5, None]}
        checkpoints.write(Checkpoint(epoch=epoch, seed=7, state=state))
    return checkpoints


@pytest.fixture
def interrupted(tmp_path, planned):
    """A run that ended in its third epoch, with checkpoints of the first two; and its whole twin's hash."""
    run = planned()
    whole = execute(run, tmp_path / "whole", device="cpu").weights_sha256

    def fail(done) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "run", device="cpu", on_iteration=fail)
    return run, RunFolder(tmp_path / "run"), whole


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path, place=-100):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def change_epoch(path):
    content = path.read_bytes()
    assert content.count(b'"epoch": 6') == 1
    path.write_bytes(content.replace(b'"epoch": 6', b'"epoch": 7'))


def test_the_newest_two_are_kept_and_the_newest_counts(three):
    assert [path.name for path in three.files()] == ["epoch_000006.pt", "epoch_000004.pt"]
    newest = three.newest()
    assert (newest.epoch, newest.seed) == (6, 7)
    assert torch.equal(newest.state["network"]["weight"], torch.arange(6, dtype=torch.float32))
    assert newest.state["log"] == [0.5, None]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, r"found \d+ bytes in place of \d+"),
        (flip, "found another hash than that of its content"),
        (lambda path: flip(path, 40), "found a first line that cannot be read"),
        (change_epoch, "found another hash than that of its content"),
        (empty, "found a first line that cannot be read"),
    ],
    ids=["cut", "flipped bit", "flipped bit in the first line", "another number", "empty"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(three, caplog, damage, found):
    damage(three.files()[0])
    with caplog.at_level("WARNING"):
        assert three.newest().epoch == 4
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{three.folder / 'epoch_000006.pt'}: expected a whole checkpoint, found")
    assert re.search(found, message)
    assert [path.name for path in three.files()] == ["epoch_000004.pt"]


def test_a_checkpoint_of_another_run_is_refused(three, tmp_path):
    other = Checkpoints(tmp_path / "other", "b" * 64)
    other.folder.mkdir()
    shutil.copy(three.files()[0], other.folder)
    expected, found = r"a checkpoint of this run \(b{12}…\)", r"one of another \(aaaa"
    for read in (other.newest, other.require):
        with refused_with(r"epoch_000006\.pt$", expected=expected, found=found):
            read()


def test_a_checkpoint_can_hold_no_object_that_runs_code(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a" * 64)
    with pytest.raises(TypeError, match="containers, tensors, numbers and text holds a PosixPath"):
        checkpoints.write(Checkpoint(epoch=1, seed=1, state={"path": tmp_path}))


def test_a_state_is_restored_with_its_types_and_shared_tensors(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a" * 64)
    twice = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    state = {"network": {"a": twice, "b": twice}, "optimizer": {0: (0.1, [math.nan, None]), "t": twice.T, "empty": {}}}
    checkpoints.write(Checkpoint(epoch=1, seed=1, state=state))
    found = checkpoints.newest().state
    assert found["network"]["a"] is found["network"]["b"]
    assert torch.equal(found["network"]["a"], twice)
    assert torch.equal(found["optimizer"]["t"], twice.T)
    (rate, (undefined, none)) = found["optimizer"][0]
    assert (rate, math.isnan(undefined), none, found["optimizer"]["empty"]) == (0.1, True, None, {})
    assert isinstance(found["optimizer"][0], tuple)


def test_a_checkpoint_of_an_older_version_is_refused_and_stays(three):
    path = three.files()[0]
    claims, content = path.read_bytes().split(b"\n", 1)
    claims = {**json.loads(claims), "format": "oncoduet-checkpoint-1"}
    del claims["sha256"]
    claims["sha256"] = hashlib.sha256(json.dumps(claims, sort_keys=True).encode() + content).hexdigest()
    path.write_bytes(json.dumps(claims).encode() + b"\n" + content)
    with refused_with(r"epoch_000006\.pt", expected="the format oncoduet-checkpoint-2", found="onco"):
        three.newest()
    assert path.is_file()


def test_a_damaged_newest_checkpoint_resumes_from_the_one_before(interrupted):
    run, folder, whole = interrupted
    flip(run.checkpoints(folder).files()[0])
    steps = []
    resumed = execute(run, folder.path, device="cpu", resume=True, on_iteration=steps.append)
    assert steps == [3, 4, 5, 6]  # the first epoch, of two steps, was not trained again
    assert resumed.weights_sha256 == whole
    assert "epoch_000002.pt: expected a whole checkpoint, found another hash" in folder.log.read_text()


def test_two_damaged_checkpoints_restart_the_run(interrupted):
    run, folder, whole = interrupted
    for path in run.checkpoints(folder).files():
        cut(path)
    with refused_with(expected="checkpoint to resume from", found=r"epoch_000001\.pt with \d+ bytes in"):
        execute(run, folder.path, device="cpu", resume=True)
    steps = []
    resumed = execute(run, folder.path, device="cpu", on_iteration=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert resumed.weights_sha256 == whole
    assert "no checkpoint is whole; the training restarts at epoch 0" in folder.log.read_text()


def test_a_checkpoint_that_was_copied_from_another_run_is_refused(interrupted, tmp_path, planned):
    _, folder, _ = interrupted
    other = planned(restart=2)
    place = RunFolder(tmp_path / "other")
    shutil.copytree(folder.checkpoints, place.checkpoints)
    write_record(place.record, other.record(state="running", device="cpu"))
    with refused_with(expected="a checkpoint of this run"):
        execute(other, place.path, device="cpu")
    assert read_record(place.record, RunRecord).state == "failed"


def test_what_a_killed_process_left_half_written_is_swept_away(interrupted):
    run, folder, whole = interrupted
    for place in (folder.path, folder.checkpoints):
        (place / f".partial-{0:032x}.pt").write_bytes(b"half")
    (folder.path / ".partial-notes.pt").write_bytes(b"mine")
    assert execute(run, folder.path, device="cpu").weights_sha256 == whole
    assert list(folder.path.rglob(".partial-*")) == [folder.path / ".partial-notes.pt"]
