"""Names that come from files and end in tables, pages and terminals: which are accepted, and how others are shown.

A case's name is an identifier and must survive every table unchanged, so a name that a spreadsheet would calculate or
a terminal would obey is refused when it is read. Titles are shown, and marked in tables where necessary.
"""

from pathlib import Path

from contract.errors import OncoduetError
from contract.text import printable

_FORMULA = ("=", "+", "-", "@")


def require_case_id(case_id: str, where: Path) -> str:
    """Give the name back.

    Raises ``OncoduetError``: it is empty, begins as a spreadsheet's formula does, has characters that are not printable
    (names of other bytes than UTF-8 among them), or spaces around it.
    """
    if not case_id or not case_id.isprintable() or case_id.startswith(_FORMULA) or case_id != case_id.strip():
        raise OncoduetError(
            where, expected="the name of a case: printable, without = + - @ or a space before it", found=f"{case_id!r}"
        )
    return case_id


def cell(value: object) -> object:
    """A value for a CSV table: a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)
