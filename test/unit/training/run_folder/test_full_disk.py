"""A real file system without room: one line, and the last whole checkpoint is where a run goes on.

Each test mounts a small memory file system in a mount namespace of its own, which needs root or the right to make user
namespaces.
"""

import re
from pathlib import Path

import pytest
from programs import run_on_small_disk

from contract.records import RunRecord, read_record
from training.dataset.prepared import load_prepared
from training.make_run import execute
from training.planned_run import plan_run
from training.run_folder.folder import RunFolder


@pytest.fixture
def on_small_disk(namespace, prepared_folder, tmp_path):
    """Run a command as a user does on a file system of this size: exit code and stderr; what it holds is copied out."""

    def run(command: str, size_bytes: int, **options: object) -> tuple[int, str]:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        ended, _ = run_on_small_disk(namespace, str(size_bytes), tmp_path, "-m", "training", command, *words)
        return ended.returncode, ended.stderr

    return run


@pytest.fixture
def train_on_small_disk(on_small_disk, prepared_folder):
    def train(profile: Path, size_bytes: int) -> tuple[int, str]:
        options = {"prepared": prepared_folder, "configuration": "ce", "fold": 0, "restart": 1, "profile": profile}
        return on_small_disk("run", size_bytes, device="cpu", **options)

    return train


@pytest.fixture
def plan(prepared_folder, profile, tmp_path):
    def planned(**changes: str):
        text = profile.read_text().replace("features = 8", "features = 64")  # or else small files would matter
        for name, value in changes.items():
            (line,) = [each for each in text.splitlines() if each.startswith(f"{name} =")]
            text = text.replace(line, f"{name} = {value}")
        path = tmp_path / "changed.toml"
        path.write_text(text)
        return path, plan_run(load_prepared(prepared_folder), configuration="ce", fold=0, restart=1, profile=str(path))

    return planned


def test_a_disk_full_of_checkpoints_keeps_the_earlier_ones(train_on_small_disk, plan, tmp_path):
    path, run = plan(epochs="5")
    whole = execute(run, tmp_path / "whole", device="cpu").weights_sha256
    checkpoint_bytes = _checkpoint_bytes(run, tmp_path / "sized")
    code, message = train_on_small_disk(path, int(2.6 * checkpoint_bytes) + 100_000)  # two fit, and some small files
    assert code == 3, message
    assert message.count("\n") == 1
    expected = re.search(r"epoch_000003\.pt: expected (\d+) bytes for it on the disk, found", message)
    assert expected and abs(int(expected[1]) - checkpoint_bytes) < 1000  # times have more or fewer digits
    folder = RunFolder(tmp_path / "copy" / "output")
    assert [each.name for each in run.checkpoints(folder).files()] == ["epoch_000002.pt", "epoch_000001.pt"]
    run.checkpoints(folder).require()
    assert list(folder.path.rglob(".partial-*")) == []
    assert read_record(folder.record, RunRecord).state in ("running", "failed")
    assert "expected" in folder.log.read_text()
    steps = []
    assert execute(run, folder.path, device="cpu", on_iteration=steps.append).weights_sha256 == whole
    assert steps == list(range(5, 11))  # two epochs of two steps were not lost


def test_a_disk_without_room_for_the_weights_costs_no_checkpoint(train_on_small_disk, plan, tmp_path):
    path, run = plan(epochs="3", checkpoint_every_epochs="9")
    whole = execute(run, tmp_path / "whole", device="cpu")
    weights_bytes = (tmp_path / "whole" / "weights.safetensors").stat().st_size
    code, message = train_on_small_disk(path, weights_bytes + 10_000)
    assert code == 3, message
    assert message.count("\n") == 1
    assert f"weights.safetensors: expected {weights_bytes} bytes for it on the disk, found" in message
    folder = RunFolder(tmp_path / "copy" / "output")
    assert not folder.weights.exists()
    assert list(folder.path.rglob(".partial-*")) == []
    assert len(read_record(folder.record, RunRecord).epochs) == 3
    assert execute(run, folder.path, device="cpu").weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize(
    ("size_bytes", "said", "left"),
    [
        (400_000, r"output: expected at least [\d.]+ GB free on the disk for 7 stacked studies, found", []),
        (1_000_000, r"output/\.work/.*: expected enough space for it on the disk, found \d+ bytes free", [".work"]),
    ],
    ids=["before work", "on the way, where the work done stays"],
)
def test_a_disk_without_room_for_a_dataset_is_refused(on_small_disk, archive, tmp_path, size_bytes, said, left):
    code, message = on_small_disk("prepare", size_bytes, card="cspca-picai", archive=archive, folds=3)
    assert code == 3, message
    assert message.count("\n") == 1
    assert re.search(said, message)
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.parent.name == "output"] == left


def _checkpoint_bytes(run, folder: Path) -> int:
    """Size of the third checkpoint of a run that is ended after it was written."""

    def end(epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, folder, device="cpu", on_epoch=end)
    return run.checkpoints(RunFolder(folder)).files()[0].stat().st_size
