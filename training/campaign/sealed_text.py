"""Text files that show whether they were edited: their last line is the hash of all above it."""

import hashlib
from pathlib import Path

from contract.files.reading import read_regular

_SEAL = "sha256 of all above: "
_HTML = ("<!-- ", " -->")


def sealed(text: str, *, comment: tuple[str, str] = _HTML) -> str:
    """A text with a last line by which :func:`is_sealed` knows it, unless it is edited.

    Parameters
    ----------
    comment
        How a comment begins and ends.
    """
    begin, end = comment
    return f"{text}{begin}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}{end}\n"


def is_sealed(path: Path, *, comment: tuple[str, str] = _HTML) -> bool:
    """Whether a file is a text as we wrote it."""
    text = read_regular(path).decode(errors="replace")
    return text == sealed(text.rpartition(comment[0] + _SEAL)[0], comment=comment)
