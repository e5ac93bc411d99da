"""Names that come from files and end in tables, pages and terminals: which are accepted, and how others are shown.

A case's name is an identifier and must survive every table unchanged, so a name that a spreadsheet would calculate or
a terminal would obey is refused when it is read. Titles are shown, and marked in tables where necessary. Every other
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
"""Characters; a case id of two UIDs of DICOM has 129."""

Sortable = TypeVar("Sortable", str, Path)

FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet would calculate."""
_OURS = {
    *("predictions.json", "source.json", "card.toml", "batch.json", "failures.json", "study.json", "metrics.json"),
    *("predictions", "source"),  # whose likelihoods would be called as the first two
}


def name_of(text: str) -> str:
    """A text as a name: in NFC, without spaces around it, with plain spaces for others (Excel's no-break space)."""
    text = unicodedata.normalize("NFC", text.strip())
    return text if text.isprintable() else "".join(" " if unicodedata.category(one) == "Zs" else one for one in text)


def require_name(text: str, where: object, *, what: str = "name") -> str:
    """Give the name back, in NFC.

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
    """Give the name back.

    Raises ``OncoduetError``: it is empty, begins as a spreadsheet's formula does, has characters that are not printable
    (names of other bytes than UTF-8 among them), or spaces around it; it is too long; or our own files would be called
    as the case's.
    """
    if case_id.casefold() in _OURS:
        raise OncoduetError(where, expected="the name of a case", found=f"{case_id!r}, which is that of a file of ours")
    if not case_id or not case_id.isprintable() or case_id.startswith(FORMULA) or case_id != case_id.strip():
        raise OncoduetError(
            where, expected="the name of a case: printable, without = + - @ or a space before it", found=f"{case_id!r}"
        )
    return require_name(case_id, where, what="name of a case") and case_id
