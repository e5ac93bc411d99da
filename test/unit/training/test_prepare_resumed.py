"""``prepare`` in several processes, killed, continued and disturbed: the dataset is always the same, or there is none.

``--kills N`` says how often it is killed at a random moment.
"""

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from programs import fork, run_on_small_disk

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import below, read_json, sha256_file
from contract.images.volume import Volume, read_volume, write_volume
from contract.records import FailuresRecord, read_record
from training.__main__ import main
from training.dataset import study_steps
from training.dataset.prepared import load_prepared

FOLDS = ("--folds", "3")


def words(archive: Path, output: Path, *more: object, card: object = "cspca-picai") -> list[str]:
    return [str(each) for each in ("prepare", "--card", card, "--archive", archive, "--output", output, *FOLDS, *more)]


def content(folder: Path) -> dict[str, str]:
    """Hashes of a dataset's files, but for the log with its times, and the list of hashes with that."""
    files = {path.relative_to(folder).as_posix(): path for path in below(folder) if path.is_file()}
    return {name: sha256_file(path) for name, path in files.items() if name not in ("prepare.log", ".oncoduet")}


def done_of(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.glob(".work/studies/*/*.json")}


@pytest.fixture
def source(prepared_folder) -> Path:
    return prepared_folder.parent / "archive"


@pytest.fixture(scope="session")
def expected(prepared_folder) -> dict[str, str]:
    """What a call that nobody disturbs makes of the archive."""
    return content(prepared_folder)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Case ids of the studies that this process reads, in order."""
    names: list[str] = []
    read = study_steps.read_scan

    def noted(card, channels, *, name):
        names.append(name)
        return read(card, channels, name=name)

    monkeypatch.setattr(study_steps, "read_scan", noted)
    return names


@pytest.fixture
def stopped_after(monkeypatch):
    """Begin to prepare, and stop by an exception once so many studies have been preprocessed (or read)."""

    def stop(count: int, step: str, arguments: list[str], error: BaseException | None = None) -> int:
        seen, work = [], getattr(study_steps, step)

        def interrupted(*given, **more):
            if len(seen) == count:
                raise error or KeyboardInterrupt
            seen.append(None)
            return work(*given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(f"training.dataset.passes.{step}", interrupted)
            return main(arguments)

    return stop


def edit(path: Path, change) -> None:
    volume = read_volume(path)
    write_volume(path, Volume(change(volume.array).astype(volume.array.dtype), volume.grid))


def said_in(log: Path) -> list[str]:
    """What a log says, without times and the names of temporary folders."""
    lines = (re.sub(r"^\d{4}-\S+ \S+ ", "", line) for line in log.read_text().splitlines())
    return [line for line in lines if not line.startswith("Plans were saved to")]


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_and_say_the_same(archive, tmp_path, capsys):
    edit(archive / "102" / "102_1_adc.mha", lambda array: array * 2.2)  # unusual
    edit(archive / "104" / "104_1_t2w.mha", lambda array: np.where(array == array.max(), np.nan, array))
    shutil.rmtree(archive / "105")
    said = []
    for name, workers in (("one", 1), ("two", 2)):
        arguments = words(archive, tmp_path / name, "--on-bad-study", "skip", "--workers", workers)
        assert main(arguments) == 0
        printed = capsys.readouterr().out.replace(str(tmp_path / name), "")
        said.append([line for line in printed.splitlines() if " after 0:" not in line and "on the disk" not in line])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert said_in(tmp_path / "one" / "prepare.log") == said_in(tmp_path / "two" / "prepare.log")
    assert said[0] == said[1]
    assert sum("102_1_adc.mha: a median of " in line for line in said[0]) == 1
    record = read_record(tmp_path / "two" / "failures.json", FailuresRecord)
    assert [each.case_id for each in record.failures] == ["104_1", "105_1"]
    assert load_prepared(tmp_path / "two").record.left_out == ("104_1", "105_1")


@pytest.mark.parametrize("workers", [0, -2, 1025])
def test_a_number_of_processes_that_is_none_is_wrong_usage(archive, tmp_path, capsys, workers):
    with pytest.raises(SystemExit, match="2"):
        main(words(archive, tmp_path / "out", "--workers", workers))
    assert f"--workers: expected a whole number from 1 to 1024, found '{workers}'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_preparation_killed_at_random_moments_loses_nothing(source, expected, tmp_path, request):
    kills, output = request.config.getoption("--kills"), tmp_path / "killed"
    began = time.monotonic()
    whole = fork(lambda: main(words(source, tmp_path / "whole")))
    whole.join()
    life_s = time.monotonic() - began
    assert (whole.exitcode, content(tmp_path / "whole")) == (0, expected)
    chance = random.Random()
    killed, ended, report = 0, 0, []
    while killed < kills:
        before, moment_s = done_of(output), chance.uniform(0.02, 0.7) * life_s
        process = fork(lambda: main(words(source, output)))
        process.join(moment_s)
        process.kill()
        process.join()
        done = done_of(output)
        report.append(f"{moment_s:.2f} s: {len(done)} pieces of work done, exit code {process.exitcode}")
        if (output / "prepared.json").exists():  # finished: another life begins
            assert content(output).items() >= expected.items(), report
            ended += 1
            shutil.rmtree(output)
        else:
            assert done >= before, report  # no study is lost
        killed += process.exitcode == -signal.SIGKILL
    assert main(words(source, output)) == 0
    print(f"a life of {life_s:.2f} s, killed {killed} times, finished {ended} times:", *report, sep="\n  ")
    assert content(output) == expected, report


@pytest.mark.parametrize(
    ("step", "again", "error", "code"),
    [
        ("read_study", 4, KeyboardInterrupt(), 130),
        ("analyse", 0, OncoduetError("a pool", "a process was killed"), 3),
        ("preprocess_study", 0, OSError(errno.ENOSPC, "No space left on device"), 3),
    ],
)
def test_what_is_done_is_not_done_again(source, expected, tmp_path, reads, stopped_after, step, again, error, code):
    arguments = words(source, tmp_path / "out")
    assert stopped_after(3, step, arguments, error) == code
    assert not (tmp_path / "out" / "prepared.json").exists()
    reads.clear()
    assert main(arguments) == 0
    assert len(reads) == again
    assert content(tmp_path / "out") == expected


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change_a_voxel(path: Path) -> None:
    array = np.load(path)
    array[..., 3, 4, 5] += 1
    np.save(path, array)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def edited(path: Path) -> dict[str, Any]:
    """The record, with another number of lesions."""
    record = read_json(path)
    record["stages"]["detection"]["components"] += 1
    return record


SPOILT = {
    "100_1": lambda study: cut(study / "detection.npy"),
    "100_2": lambda study: change_a_voxel(study / "detection.npy"),
    "101_1": lambda study: change_a_voxel(study / "detection_label.npy"),
    "102_1": lambda study: (study / "detection.npy").unlink(),
    "103_1": lambda study: cut(study / "read.json"),
    "104_1": lambda study: write_json(
        study / "read.json", read_json(study / "read.json") | {"made_from": "0" * 64}
    ),
}  # fmt: skip
ODD = {
    "100_1": lambda study: (study / "detection.npy").write_bytes(b""),
    "100_2": lambda study: np.savez((study / "detection.npy").open("wb"), a=np.zeros(3)),
    "101_1": lambda study: replace(study / "detection.npy", os.mkfifo),
    "102_1": lambda study: replace(study / "read.json", os.mkdir),
    "103_1": lambda study: replace(study / "detection_label.npy", os.mkdir),
    "104_1": lambda study: write_json(study / "read.json", edited(study / "read.json")),
    "105_1": lambda study: (shutil.rmtree(study), study.touch()),
}
SPOILT_LATER = {
    "100_1": lambda study: cut(study / "detection_foreground.npy"),
    "100_2": lambda study: cut(study / "detection" / "cases" / f"{study.name}.b2nd"),
    "101_1": lambda study: (study / "detection" / "cases" / f"{study.name}_seg.b2nd").unlink(),
    "102_1": lambda study: cut(study / "detection_preprocessed.json"),
}


@pytest.mark.parametrize("spoilt", [SPOILT, ODD, SPOILT_LATER], ids=["read", "odd", "later"])
def test_what_is_half_written_or_changed_is_not_believed(source, expected, tmp_path, reads, stopped_after, spoilt):
    arguments = words(source, tmp_path / "out")
    assert stopped_after(6, "preprocess_study", arguments) == 130
    for case_id, spoil in spoilt.items():
        spoil(tmp_path / "out" / ".work" / "studies" / case_id)
    reads.clear()
    assert main(arguments) == 0
    assert sorted(reads) == ([] if spoilt is SPOILT_LATER else sorted(spoilt))
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("name", [".", "detection.npy"])
def test_a_link_in_the_workplace_is_refused_and_not_followed(source, tmp_path, refusal, stopped_after, name):
    arguments = words(source, tmp_path / "out")
    assert stopped_after(3, "preprocess_study", arguments) == 130
    place, mine = tmp_path / "out" / ".work" / "studies" / "100_1" / name, tmp_path / "mine"
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    mine.mkdir()
    (mine / "detection.npy").write_text("mine")
    place.symlink_to(mine if name == "." else mine / "detection.npy")
    assert refusal(*arguments).startswith(f"error: {place}: is a link")
    assert (mine / "detection.npy").read_text() == "mine"


def test_a_changed_image_is_read_again(archive, tmp_path, reads, stopped_after):
    arguments = words(archive, tmp_path / "out")
    assert stopped_after(3, "preprocess_study", arguments) == 130
    edit(archive / "103" / "103_1_hbv.mha", lambda array: array + 1)
    reads.clear()
    assert main(arguments) == 0
    assert reads == ["103_1"]
    assert main(words(archive, tmp_path / "anew")) == 0
    assert content(tmp_path / "out") == content(tmp_path / "anew")


def test_a_half_prepared_folder_of_another_card_is_refused_without_replace(
    source, expected, tmp_path, capsys, stopped_after
):
    output = tmp_path / "out"
    assert stopped_after(3, "read_study", words(source, output, card="cspca-rsna2022")) == 130
    before = content(output)
    capsys.readouterr()
    assert main(words(source, output)) == 3
    message = capsys.readouterr().err
    assert (
        "expected a preparation for the card cspca-picai to continue, or none, found an unfinished one for" in message
    )
    assert message.count("\n") == 1
    assert content(output) == before
    assert main(words(source, output, "--replace")) == 0
    assert content(output) == expected


def test_what_other_versions_of_the_programs_began_is_begun_anew(
    source, expected, tmp_path, capsys, reads, stopped_after
):
    output = tmp_path / "out"
    assert stopped_after(3, "preprocess_study", words(source, output)) == 130
    record = read_json(output / ".work" / "work.json")
    write_json(output / ".work" / "work.json", record | {"versions": record["versions"] | {"scipy": "0.1"}})
    reads.clear()
    assert main(words(source, output)) == 0
    assert len(reads) == 7
    assert "by other versions of the programs; starting over" in capsys.readouterr().out
    assert content(output) == expected


def test_two_calls_do_not_work_in_one_folder(source, tmp_path, capsys, monkeypatch):
    output, read, said = tmp_path / "out", study_steps.read_study, []

    def second(study, **more):
        if not said:
            capsys.readouterr()
            assert main(words(source, output)) == 3
            said.append(capsys.readouterr().err)
        return read(study, **more)

    monkeypatch.setattr("training.dataset.passes.read_study", second)
    assert main(words(source, output)) == 0
    assert said == [f"error: {output}: expected no other process at work here, found one that prepares a dataset\n"]


@pytest.mark.parametrize(
    ("name", "step"), [("out", "read_study"), ("out/.work", "analyse"), ("out/.work", "preprocess_study")]
)
def test_a_folder_that_is_removed_meanwhile_is_one_line(source, tmp_path, capsys, monkeypatch, name, step):
    work, calls = getattr(study_steps, step), []

    def removing(*given, **more):
        calls.append(None)
        if len(calls) == 3:
            shutil.rmtree(tmp_path / name)
        return work(*given, **more)

    monkeypatch.setattr(f"training.dataset.passes.{step}", removing)
    assert main(words(source, tmp_path / "out")) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert ".work: removed by another program during the work" in message
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.slow
def test_a_killed_process_is_one_line_and_the_same_command_continues(source, expected, tmp_path, capsys):
    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        children[0].kill()

    arguments = words(source, tmp_path / "out")
    killer = threading.Thread(target=kill)
    killer.start()
    assert main([*arguments, "--workers", "2"]) == 3
    killer.join()
    said = "error: --workers 2: a process was killed; fewer workers need less memory\n"
    assert capsys.readouterr().err == said
    assert main(arguments) == 0
    assert content(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_process_is_one_line(namespace, source, tmp_path):
    """Seven stacked studies take 0.9 MB, which the estimate lets pass; there is no room for preprocessed ones."""
    arguments = ("-m", "training", "prepare", "--card", "cspca-picai", "--archive", source, *FOLDS, "--workers", "2")
    ended, copy = run_on_small_disk(namespace, "1200k", tmp_path, *arguments)
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1), ended.stderr
    assert re.search(r"on the disk, found|o space left", ended.stderr)
    assert not list(copy.rglob("prepared.json"))
    assert len(list(copy.rglob("read.json"))) == 7


def test_a_disk_that_surely_does_not_suffice_is_refused_before_work(source, tmp_path, capsys, monkeypatch, reads):
    disk = SimpleNamespace(free=500_000)  # 57,744 voxels of all studies, by 3 channels and a label of 4 bytes each
    monkeypatch.setattr("training.dataset.preparation_needs.shutil.disk_usage", lambda _: disk)
    assert main(words(source, tmp_path / "out")) == 3
    message = capsys.readouterr().err
    assert "expected at least 0.00092 GB free on the disk for 7 stacked studies, found 0.0005 GB" in message
    assert (reads, (tmp_path / "out").exists()) == ([], False)


def test_bad_studies_are_listed_in_a_file_until_they_are_mended(archive, tmp_path, capsys, reads):
    path, output = archive / "104" / "104_1_t2w.mha", tmp_path / "out"
    sound = path.read_bytes()
    edit(path, lambda array: np.where(array == array.max(), np.nan, array))
    assert main(words(archive, output)) == 3
    record = read_record(output / "failures.json", FailuresRecord)
    assert (record.studies, [each.case_id for each in record.failures]) == (7, ["104_1"])
    assert "104_1_t2w.mha: expected finite voxels, found" in record.failures[0].reason
    assert f"study 104_1 failed: {record.failures[0].reason}" in capsys.readouterr().out
    path.write_bytes(sound)
    reads.clear()
    assert main(words(archive, output)) == 0
    assert reads == ["104_1"]
    assert not (output / "failures.json").exists()


def test_a_list_of_failures_of_the_user_s_is_left_alone(archive, tmp_path, capsys):
    (archive / "103" / "103_1_adc.mha").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failures.json").write_text(json.dumps("mine"))
    assert main(words(archive, tmp_path / "out")) == 3
    assert "failures.json: expected nothing or what training prepare wrote there" in capsys.readouterr().err
    assert (tmp_path / "out" / "failures.json").read_text() == json.dumps("mine")


def test_a_dataset_s_leftover_goes_with_the_next_call(source, prepared_folder, tmp_path, stopped_after):
    output = tmp_path / "out"
    assert stopped_after(2, "read_study", words(source, output)) == 130
    shutil.copytree(prepared_folder, output, dirs_exist_ok=True)  # as if killed once all was in place
    assert main(words(source, output)) == 0
    assert not (output / ".work").exists()
