"""The edge of every command line: what an option's value may be."""

from pathlib import Path

import pytest

from contract.process.command import Parser


def test_a_path_that_is_empty_is_no_path(capsys):
    parser = Parser(prog="command")
    parser.add_subparsers().add_parser("batch").add_argument("--output", type=Path)

    assert parser.parse_args(["batch", "--output", "here"]).output == Path("here")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["batch", "--output", ""])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("argument --output: expected a path, found an empty text\n")
