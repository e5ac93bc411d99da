"""Names that come from files and are shown in tables, pages and terminals: which are accepted, how others are shown.

A case's name is an identifier and must survive every table unchanged, so a name that a spreadsheet would take for a
formula, or a terminal for an escape sequence, is refused when it is read. Every other
name (configurations, readers, columns and their values) is printable, of bounded length and in Unicode's form NFC, so
that ``é`` is one letter however it was typed; a cell without an effect is shown with escapes.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from contract.errors import OncoduetError

LONGEST_NAME = 200
"""Limit in characters; a case id made of two DICOM UIDs has 129."""

Sortable = TypeVar("Sortable", str, Path)

FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet would calculate."""
_OURS = {
    *("predictions.json", "source.json", "card.toml", "batch.json", "failures.json", "study.json", "metrics.json"),
    *("predictions", "source"),  # whose likelihood files would have the first two names
}


def name_of(text: str) -> str:
    """A text as a name: in NFC, without spaces around it, with plain spaces for others (Excel's no-break space)."""
    text = unicodedata.normalize("NFC", text.strip())
    return text if text.isprintable() else "".join(" " if unicodedata.category(one) == "Zs" else one for one in text)


def require_name(text: str, where: object, *, what: str = "name") -> str:
    """Return the name in NFC.

    Raises ``OncoduetError``: it is empty, not printable, or longer than ``LONGEST_NAME``.
    """
    name = name_of(text)
    if not name or not name.isprintable() or len(name) > LONGEST_NAME:
        shown = repr(name) if len(name) <= LONGEST_NAME else f"{name[:40]!r}… of {len(name)}"
        raise OncoduetError(where, expected=f"a printable {what} of 1 to {LONGEST_NAME} characters", found=shown)
    return name


def duplicates(values: Iterable[Sortable]) -> list[Sortable]:
    """Those that occur more than once, sorted; in a time that grows with their number."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def require_case_id(case_id: str, where: Path) -> str:
    """Return the id.

    Raises ``OncoduetError``: it is empty or too long, begins like a spreadsheet formula, is surrounded by spaces, has
    unprintable characters (bytes that are not UTF-8 included), or is the name of one of our own files.
    """
    if case_id.casefold() in _OURS:
        raise OncoduetError(where, f"case id {case_id!r} is reserved")
    if not case_id or not case_id.isprintable() or case_id.startswith(FORMULA) or case_id != case_id.strip():
        problem = f"invalid case id {case_id!r}: unprintable, surrounded by spaces, or beginning with = + - @"
        raise OncoduetError(where, problem)
    return require_name(case_id, where, what="case id") and case_id
