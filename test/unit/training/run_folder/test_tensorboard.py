"""Event files for TensorBoard, read back."""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from training.make_run import RunOptions, RunRequest, execute, execute_together
from training.run_folder.folder import RunFolder

NAMES = ["learning_rate", "loss/training", "loss/validation", "pseudo_dice", "seconds"]


@pytest.fixture
def run(planned):
    return planned()


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Every scalar of the folder's event files, by name and step, as TensorBoard shows them; none may stand twice.

    The files are read in the order of their names; where a session starts, what there was from its step on is void. A
    file is a sequence of records: length (8 bytes), checksum (4), an event as a protocol buffer, checksum (4).
    """
    found: dict[tuple[str, int], float] = {}
    for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value.simple_value
    return found


def test_every_epoch_has_its_scalars_once(run, tmp_path):
    record = execute(run, tmp_path / "run", device="cpu", options=RunOptions(tensorboard=True))
    found = scalars(tmp_path / "run")
    assert sorted({name for name, _ in found}) == NAMES
    for epoch in record.epochs:
        step = epoch.epoch + 1
        assert found["loss/training", step] == pytest.approx(epoch.train_loss)
        assert found["loss/validation", step] == pytest.approx(epoch.validation_loss)
        assert found["learning_rate", step] == pytest.approx(epoch.learning_rate)
        assert found.get(("pseudo_dice", step)) == (
            None if epoch.pseudo_dice is None else pytest.approx(epoch.pseudo_dice)
        )
    assert {step for name, step in found if name == "seconds"} == {1, 2, 3}


def test_a_run_that_went_on_shows_no_epoch_twice(run, tmp_path, interrupt_after):
    options = RunOptions(tensorboard=True)
    interrupt_after(2, run, tmp_path / "run", options=options)
    assert {step for _, step in scalars(tmp_path / "run")} == {1, 2}
    newest, _ = run.checkpoints(RunFolder(tmp_path / "run")).files()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir()}
    newest.unlink()  # as if it had been killed before: the second epoch is trained and written again
    record = execute(run, tmp_path / "run", device="cpu", options=options)
    found = scalars(tmp_path / "run")
    assert [found["loss/training", step] for step in (1, 2, 3)] == pytest.approx(
        [epoch.train_loss for epoch in record.epochs]
    )
    after = {path.name: path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir()}
    assert before.items() < after.items()  # files are added, none is touched


def test_event_files_are_optional_and_do_not_change_the_weights(run, tmp_path):
    plain = execute(run, tmp_path / "plain", device="cpu")
    shown = execute(run, tmp_path / "shown", device="cpu", options=RunOptions(tensorboard=True))
    assert not (tmp_path / "plain" / "tensorboard").exists()
    assert plain.weights_sha256 == shown.weights_sha256


def test_packed_runs_have_a_file_each(run, tmp_path, planned):
    other = planned(restart=2)
    requests = [RunRequest(run, tmp_path / "first"), RunRequest(other, tmp_path / "second")]
    execute_together(requests, device="cpu", options=RunOptions(tensorboard=True))
    first, second = scalars(tmp_path / "first"), scalars(tmp_path / "second")
    assert first["loss/training", 1] != second["loss/training", 1]
