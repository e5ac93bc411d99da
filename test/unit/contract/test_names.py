"""Names from files: which are valid case ids, and how others are written into tables."""

from pathlib import Path

import pytest
from refusals import refused_with

from contract.names import require_case_id


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t1", "\r1", " 1", "1 ", "", "a\x1b", "a\nb", "a\udcff"])
def test_formulas_and_unprintable_names_are_invalid_case_ids(name) -> None:
    with refused_with("x", r"invalid case id .* unprintable, surrounded by spaces, or beginning with = \+ - @"):
        require_case_id(name, Path("x"))


@pytest.mark.parametrize("name", ["predictions.json", "Source.json", "batch.json", "card.toml", "source"])
def test_names_of_our_own_files_are_reserved(name) -> None:
    with refused_with("x", f"case id {name!r} is reserved"):
        require_case_id(name, Path("x"))


@pytest.mark.parametrize("name", ["10032_1000032", "Jürgen_1", "a=b", "a-b", "$x$", "[a]", "a b"])
def test_other_case_ids_are_valid(name) -> None:
    assert require_case_id(name, Path("x")) == name
