"""Existing means finished: nothing half written is ever seen under its name."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import PROJECT
from programs import python
from refusals import refused_with

from contract.files.atomic import atomic_file, remove_partial_files, write_json, write_text
from contract.files.reading import read_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_file(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("name", ["a.mha", "a.b.mha", "a.nii.gz", "a.b.nii.gz", "MODEL.tar.gz", "plain"])
def test_the_temporary_name_has_the_ending_of_the_file(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as partial:
        ending = name.partition("a.b" if name.startswith("a.b") else name.partition(".")[0])[2]
        assert partial.name.endswith(ending)
        assert partial.name.startswith(".")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="midway"), atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("midway")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_process_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    code = (
        "import os, signal, sys; from pathlib import Path; from contract.files.atomic import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert python("-c", code, path).returncode == -signal.SIGKILL
    assert not path.exists()
    assert all(name.startswith(".partial-") for name in names(tmp_path))
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_files_get_the_permissions_that_the_umask_allows(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with refused_with("a", "cannot be written to: already exists"):
        write_text(tmp_path / "a" / "b.txt", "x")


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with refused_with("a.json", expected="a file or nothing", found="a folder"):
        write_text(tmp_path / "a.json", "x")


HOLD = """
import sys
from pathlib import Path
from contract.files.atomic import atomic_file, held_folder
with atomic_file(Path(sys.argv[1]) / "a.mha"), held_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_files_of_a_killed_process_are_swept_and_of_a_living_one_kept(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        remove_partial_files(tmp_path)
        assert len(names(tmp_path)) == 2
        process.kill()
    assert len(names(tmp_path)) == 2
    remove_partial_files(tmp_path)
    assert names(tmp_path) == []


def test_files_of_other_origin_are_never_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-mine").mkdir()
    (tmp_path / ".partial-notes.txt").write_text("mine")
    (tmp_path / f".partial-{0:032x}").symlink_to(tmp_path / ".partial-mine")
    remove_partial_files(tmp_path)
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize("value", [{"b": [1, 0.1, None, "é"], "a": {"x": True}}, [], 0.1, "text", None])
def test_json_comes_back_as_it_went(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auroc": value})
    assert names(tmp_path) == []


@pytest.mark.timeout(30)
def test_a_pipe_under_a_temporary_name_holds_up_no_sweep(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".partial-{'0' * 32}")
    remove_partial_files(tmp_path)


def test_the_first_file_written_into_a_folder_sweeps_it(tmp_path: Path) -> None:
    leftovers = [tmp_path / f".partial-{digit * 32}" for digit in "01"]
    leftovers[0].touch()
    write_text(tmp_path / "a.txt", "")
    leftovers[1].touch()
    write_text(tmp_path / "b.txt", "")
    assert [path.exists() for path in leftovers] == [False, True]
