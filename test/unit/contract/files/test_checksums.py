"""``SHA256SUMS``: as the program writes it, and nothing else."""

import subprocess

import pytest
from refusals import refused_with

from contract.files.checksums import differing, format_sums, parse_sums
from contract.files.reading import sha256_file


def test_the_text_is_that_of_sha256sum(tmp_path):
    for name in ("b", "a b", "ä"):
        (tmp_path / name).write_text(name)
    names = sorted(path.name for path in tmp_path.iterdir())
    theirs = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    sha256 = {name: sha256_file(tmp_path / name) for name in names}
    assert format_sums(sha256) == theirs
    assert parse_sums(theirs, "here") == sha256


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {"problem": "last line has no newline"}),
        (f"{'0' * 64}  a", {"problem": "last line has no newline"}),
        (f"{'0' * 64} *a\n", {"expected": "lines of a hash, two spaces and a name"}),
        (f"{'0' * 63}  a\n", {"expected": "lines of a hash, two spaces and a name"}),
        (f"{'0' * 64}  a\n{'1' * 64}  a\n", {"problem": "duplicate file 'a'"}),
    ],
)
def test_other_lines_are_refused(text, fields):
    with refused_with("^here$", **fields):
        parse_sums(text, "here")


def test_differing_files_are_those_with_another_hash_or_on_one_side_only():
    stated, found = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "c": "4", "d": "5"}
    assert list(differing(stated, found)) == [("b", "2", None), ("c", "3", "4"), ("d", None, "5")]
