"""Only regular files of bounded size are read, and JSON is strict."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from refusals import refused_with

from contract.files.reading import below, inside, read_json, sha256_file, sha256_json


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode byte"),
        (b"[" * 9_000, "recursion"),
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


@pytest.mark.parametrize("filler", ["{}", "[]", '{"a":1}', "[[[]]]"])
def test_more_containers_than_a_file_of_that_size_has_are_refused(tmp_path: Path, filler: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{','.join([filler] * 2000)}]")
    assert len(read_json(path)) == 2000
    path.write_text(f"[{','.join([filler] * 20_000)}]")
    with refused_with("a.json", r"\d+ objects and lists in \d+ characters"):
        read_json(path)


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
