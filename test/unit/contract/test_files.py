"""Existing means finished: nothing half written is ever seen under its name."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from places import PROJECT
from programs import python
from refusals import refused_with

from contract.files import (
    atomic_file,
    below,
    inside,
    read_json,
    sha256_file,
    sha256_json,
    sweep,
    write_json,
    write_text,
)


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
        "import os, signal, sys; from pathlib import Path; from contract.files import atomic_file\n"
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
from contract.files import atomic_file, held_folder
with atomic_file(Path(sys.argv[1]) / "a.mha"), held_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_files_of_a_killed_process_are_swept_and_of_a_living_one_kept(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        sweep(tmp_path)
        assert len(names(tmp_path)) == 2
        process.kill()
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_files_of_other_origin_are_never_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-mine").mkdir()
    (tmp_path / ".partial-notes.txt").write_text("mine")
    (tmp_path / f".partial-{0:032x}").symlink_to(tmp_path / ".partial-mine")
    sweep(tmp_path)
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode byte"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_json_that_is_not_strict_is_refused(tmp_path: Path, text: bytes, found: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with refused_with("a.json", f"not valid JSON: .*{found}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(("name", "problem"), [("a.json", "file not found"), ("", "is a directory")])
def test_what_is_no_json_file_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    with refused_with(name, problem):
        read_json(tmp_path / name)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("what", "kind"), [("pipe", "a pipe"), ("/dev/zero", "a device")])
def test_what_has_no_end_is_not_read(tmp_path: Path, what: str, kind: str) -> None:
    path = Path(what)
    if what == "pipe":
        path = tmp_path / "a.json"
        os.mkfifo(path)
    with refused_with(expected="a regular file", found=kind):
        read_json(path)


def test_a_file_larger_than_any_of_its_kind_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "a.json", most_bytes=9) == [1, 2, 3]
    with refused_with(problem="larger than 8 bytes"):
        read_json(tmp_path / "a.json", most_bytes=8)


def test_the_time_for_json_is_linear_in_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({f"key {number}": 0 for number in range(200_000)}))
    began = time.process_time()
    assert len(read_json(tmp_path / "a.json")) == 200_000
    assert time.process_time() - began < 10  # comparing each key with each takes minutes


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_a_json_value_ignores_the_order_of_its_keys() -> None:
    assert sha256_json({"b": 1, "a": [2.5, None]}) == sha256_json({"a": [2.5, None], "b": 1})
    assert sha256_json({"a": 1, "b": 2}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()
    assert sha256_json([1, 2]) != sha256_json([2, 1])


def test_below_lists_subfolders_but_follows_no_links(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for litter in (".DS_Store", "Thumbs.db", "._c.txt"):
        (tmp_path / "a" / litter).touch()
    assert inside(tmp_path, "a*") == [tmp_path / "a"]
    assert [path.relative_to(tmp_path).as_posix() for path in below(tmp_path)] == ["a", "link", "a/b", "a/b/c.txt"]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_one(tmp_path, unlistable):
    (tmp_path / "a").mkdir()
    unlistable(tmp_path / "a")
    for look in (inside, below):
        with pytest.raises(PermissionError, match="a"):
            list(look(tmp_path / "a"))
    with pytest.raises(PermissionError):
        list(below(tmp_path))


@pytest.mark.timeout(30)
def test_a_pipe_under_a_temporary_name_holds_up_no_sweep(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".partial-{'0' * 32}")
    sweep(tmp_path)
