"""The command line: exit codes, no file after wrong usage, and nothing on stderr after success."""

from pathlib import Path

import pytest
from programs import python

from phantom.__main__ import main


def words(output: Path, **changes: str) -> list[str]:
    values = {"card": "cspca-picai", "cases": "2", "positive-fraction": "0.5", "seed": "1", "output": str(output)}
    values |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def test_the_command_writes_an_archive_and_nothing_to_stderr(tmp_path):
    result = python("-m", "phantom", *words(tmp_path / "archive"))
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{tmp_path / 'archive'}: 2 studies" in result.stdout
    assert (tmp_path / "archive" / "10001" / "10001_1000001_t2w.mha").is_file()


def test_the_external_population_is_a_choice(tmp_path):
    assert main([*words(tmp_path / "archive"), "--population", "external"]) == 0
    assert (tmp_path / "archive" / "50001" / "50001_1000001_hbv.mha").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": "many"}, "invalid int value: 'many'"),
        ({"positive_fraction": "1.5"}, "expected a number from 0 to 1, found '1.5'"),
        ({"positive_fraction": "-0.1"}, "expected a number from 0 to 1, found '-0.1'"),
        ({"positive_fraction": "1/0"}, "expected a number from 0 to 1, found '1/0'"),
        ({"positive_fraction": "nan"}, "expected a number from 0 to 1, found 'nan'"),
        ({"seed": "-1"}, "expected a whole number from 0, found '-1'"),
        ({"population": "martian"}, "invalid choice: 'martian'"),
    ],
)
def test_bad_numbers_are_wrong_usage_and_leave_no_file(tmp_path, capsys, change, message):
    with pytest.raises(SystemExit) as stopped:
        main(words(tmp_path / "archive", **change))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("cases", ["0", "-3", "40001", "9" * 30])
def test_a_number_of_cases_out_of_bounds_is_refused_in_one_line(tmp_path, capsys, cases):
    assert main(words(tmp_path / "archive", cases=cases)) == 3
    assert capsys.readouterr().err == f"error: --cases: expected 1 to 40000, found {cases}\n"
    assert not (tmp_path / "archive").exists()


def test_an_unknown_card_is_wrong_input_and_leaves_no_file(tmp_path, capsys):
    assert main(words(tmp_path / "archive", card="no-such-card")) == 3
    assert "card 'no-such-card': expected one of" in capsys.readouterr().err
    assert not (tmp_path / "archive").exists()


def test_a_card_without_generator_is_wrong_input_and_leaves_no_file(tmp_path, capsys, card_without_generator):
    assert main(words(tmp_path / "archive", card=str(card_without_generator))) == 3
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "expected the channels adc, hbv, t2w or ct for phantoms" in captured.err
    assert not (tmp_path / "archive").exists()
