"""``SHA256SUMS``, as ``sha256sum`` writes it: one line per file, its hash, two spaces, its name."""

import re
from collections.abc import Iterator, Mapping

from contract.errors import OncoduetError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def format_sums(sha256: Mapping[str, str]) -> str:
    """The file's text for hashes by name, in the order of the names."""
    return "".join(f"{sha256[name]}  {name}\n" for name in sorted(sha256))


def parse_sums(text: str, where: object) -> dict[str, str]:
    """Hashes by name from the file's text.

    Raises ``OncoduetError``: a line is not a hash, two spaces and a name; the last one has no newline; a name is listed
    twice.
    """
    if not text.endswith("\n"):
        raise OncoduetError(where, "last line has no newline")
    sha256: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            raise OncoduetError(where, expected="lines of a hash, two spaces and a name", found=f"{line[:80]!r}")
        if match[2] in sha256:
            raise OncoduetError(where, f"duplicate file {match[2]!r}")
        sha256[match[2]] = match[1]
    return sha256


def differing(stated: Mapping[str, str], found: Mapping[str, str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Names whose stated and found hashes differ, with both; None: the name is not listed, or there is no such file."""
    for name in sorted(stated.keys() | found.keys()):
        if stated.get(name) != found.get(name):
            yield name, stated.get(name), found.get(name)
