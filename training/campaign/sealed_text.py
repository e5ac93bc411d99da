"""Text files that show whether they were edited: their last line is the hash of all above it."""

import hashlib
from pathlib import Path

from contract.files.reading import read_regular

_SEAL = "<!-- sha256 of all above: "


def sealed(page: str) -> str:
    """An HTML page with a last line by which :func:`is_sealed` knows it, unless it is edited."""
    return f"{page}{_SEAL}{hashlib.sha256(page.encode()).hexdigest()} -->\n"


def is_sealed(path: Path) -> bool:
    """Whether a file is a page as we wrote it."""
    text = read_regular(path).decode(errors="replace")
    return text == sealed(text.rpartition(_SEAL)[0])
