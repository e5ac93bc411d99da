"""Files as models: TOML, relative paths, and faults that are named in one line."""

from pathlib import Path

import pytest
from refusals import refused_with

from contract.card import Card, load_card
from contract.schema import MOST_TOML_BYTES, Frozen, is_relative, parse, parse_toml

NO_TOML = {
    "not there": (None, "file not found"),
    "half a line": (b"name = ", "not valid TOML: "),
    "not UTF-8": (b"\xff\xfe", "not valid TOML: "),
    "a key twice": (b"a = 1\na = 2\n", "not valid TOML: "),
    "a key of many parts": (b".".join([b"a"] * 17) + b" = 1\n", "a key of more than 16 parts"),
    "a table of many parts": (b"[" + b" . ".join([b'"a.b"'] * 40) + b"]\n", "a key of more than 16 parts"),
    "larger than any card": (b"#" * MOST_TOML_BYTES + b"\n", r"larger than \d+ bytes"),
}


@pytest.mark.parametrize(("content", "problem"), NO_TOML.values(), ids=NO_TOML)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)
    with refused_with("mine.toml", problem):
        load_card(tmp_path / "mine.toml")


def test_dates_of_toml_are_no_text_of_json_but_are_refused_readably(tmp_path: Path) -> None:
    class Dated(Frozen):
        day: int

    path = tmp_path / "dated.toml"
    path.write_text("day = 2024-01-02\n")
    with refused_with("dated.toml", "1 fault: day: Input should be a valid integer"):
        parse_toml(path, Dated)


@pytest.mark.parametrize("path", ["images/t2w", "a", "./a", "a..b/c"])
def test_paths_below_a_folder_are_relative(path: str) -> None:
    assert is_relative(path)


@pytest.mark.parametrize("path", ["", ".", "/etc", "..", "a/../../b", "a\0b"])
def test_paths_that_leave_their_folder_are_not(path: str) -> None:
    assert not is_relative(path)


def test_of_many_faults_some_are_named_and_all_are_counted() -> None:
    values = {"x" * 1000 + str(number): number for number in range(20_000)}
    with refused_with(r"card\.toml", r"200\d\d faults: .*; and \d+ more") as refused:
        parse(values, Card, "card.toml")
    assert len(refused.value.problem) < 20_000


def in_many_levels() -> list[object]:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1], r"1 fault: \(document\): Input should be an object"),
        ({"name": in_many_levels()}, "that JSON cannot hold: "),
    ],
    ids=["no table", "too many levels"],
)
def test_values_that_are_no_table_are_refused(values: object, problem: str) -> None:
    with refused_with("here", problem):
        parse(values, Card, "here")
