"""Tables that people keep in spreadsheets: marksheets, patient lists, indices of archives, as CSV.

A byte order mark, semicolons or tabs in place of commas, a decimal comma and spaces around names are what spreadsheets
write in half of Europe; they are read as intended. Ambiguous tables are refused, with the line. Cells are stripped
text in NFC; a cell that means unknown (``NA``, ``N/A``, ``nan``, ``null``, ``-``, ``?``) is empty, but where
empty means something else. Cells of columns that are asked for may become names anywhere, and are printable and short;
others, such as a report's text, may have several lines, which become escapes.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contract.errors import OncoduetError
from contract.names import name_of, require_name
from contract.text import first_few, printable

logger = logging.getLogger(__name__)

LARGEST_BYTES = 1 << 26
MOST_LINES = 500_000
LONGEST_HEADER = 1 << 18
LARGEST_NUMBER = 1e15
"""Limit of numbers in files that people write; a larger one is a mistake, and overflows somewhere."""
_DELIMITERS = ",;\t"
_UNKNOWN = {"na", "n/a", "nan", "null", "-", "?"}
_WHOLE = re.compile(r"^(\d+)\.0+$")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True)
class Table:
    """Rows of text by column, and where they came from."""

    path: Path
    rows: tuple[Mapping[str, str], ...]
    lines: tuple[int, ...]
    """Line of the file on which each row ends, counted from 1; for messages."""
    delimiter: str

    def by_key(self, key: Sequence[str], columns: Sequence[str]) -> dict[tuple[str, ...], Mapping[str, str]]:
        """The rows by the values of ``key``; duplicate rows count once.

        Raises ``OncoduetError``: two rows of one key say different things in ``columns``.
        """
        found: dict[tuple[str, ...], tuple[int, Mapping[str, str]]] = {}
        for line, row in zip(self.lines, self.rows, strict=True):
            name = tuple(row[column] for column in key)
            first_line, first = found.setdefault(name, (line, row))
            for column in columns:
                if first[column] != row[column]:
                    raise OncoduetError(
                        f"{self.path}: line {line}",
                        expected=f"the {column} of {'_'.join(name)} as on line {first_line} ({first[column]!r})",
                        found=f"{row[column]!r}",
                    )
        return {name: row for name, (_, row) in found.items()}

    def say_unused(self, names: Sequence[str], what: str) -> None:
        """Warn of rows that name no existing ``what`` and have no effect."""
        if names:
            logger.warning("%s: %d rows name no %s and are not used: %s", self.path, len(names), what, first_few(names))

    def with_whole_numbers(self, *columns: str) -> "Table":
        """The table with ``7`` for ``7.0`` in these columns, which pandas writes where a cell is empty."""
        rows = [
            {name: _WHOLE.sub(r"\1", cell) if name in columns else cell for name, cell in row.items()}
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows))

    def number(self, text: str) -> float | None:
        """The number in a cell; None where it holds anything else, NaN and more than ``LARGEST_NUMBER`` included.

        A decimal comma counts where commas do not part the columns, and in ``0,85``, which can be nothing else.
        """
        if _DECIMAL_COMMA.fullmatch(text) and (self.delimiter != "," or text.lstrip("+-").startswith("0,")):
            text = text.replace(",", ".")
        try:
            value = float(text)
        except ValueError:
            return None
        return value if abs(value) <= LARGEST_NUMBER and "_" not in text else None


def read_table(path: Path, columns: Sequence[str], *, verbatim: Collection[str] = ()) -> Table:
    """Read a table that has at least these columns.

    In ``verbatim`` columns an empty cell says something, or ``NA`` is a name: theirs are not emptied.

    Raises ``OncoduetError``: the file is missing, has more than ``LARGEST_BYTES`` or ``MOST_LINES``, is no UTF-8 or no
    CSV; a column is missing or duplicated; a line has another number of values than there are columns; there is no row;
    a cell of one of these columns is not printable, or longer than a name.
    """
    lines, delimiter = _lines(path, columns)
    (_, names), *others = lines
    names = [printable(name_of(name)) for name in names]
    for column, count in Counter(names).items():
        if column and count > 1:
            raise OncoduetError(path, f"duplicate column {column!r}")
    missing = [column for column in columns if column not in names]
    if missing:
        raise OncoduetError(path, expected=f"the column {missing[0]}", found=", ".join(names) or "an empty line")
    for number, line in others:
        if len(line) != len(names):
            raise OncoduetError(f"{path}: line {number}", expected=f"{len(names)} values", found=len(line))
        for name, cell in zip(names, line, strict=True):
            if name in columns and cell.strip():
                require_name(cell, f"{path}: line {number}", what=name)
    if not others:
        raise OncoduetError(path, "no rows below the header")
    return Table(
        path=path,
        rows=tuple(
            {
                name: cell if name in verbatim else known(cell)
                for name, text in zip(names, line, strict=True)
                for cell in [printable(name_of(text))]
            }
            for _, line in others
        ),
        lines=tuple(number for number, _ in others),
        delimiter=delimiter,
    )


def _lines(path: Path, columns: Sequence[str]) -> tuple[list[tuple[int, list[str]]], str]:
    """The header and every line that is not empty, with its number; and the delimiter, which gives most columns."""
    try:
        if not path.is_file():
            raise OncoduetError(path, f"table not found (columns {', '.join(columns)})")
        if path.stat().st_size > LARGEST_BYTES:
            raise OncoduetError(path, f"larger than {LARGEST_BYTES} bytes")
        lines: list[tuple[int, list[str]]] = []
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_HEADER + 1)
            if len(first) > LONGEST_HEADER:
                raise OncoduetError(path, f"first line of more than {LONGEST_HEADER} characters")
            delimiter = max(
                _DELIMITERS, key=lambda each: len(set(columns) & {name.strip(' "\r\n') for name in first.split(each)})
            )
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for line in reader:
                if not lines or any(cell.strip() for cell in line):
                    lines.append((reader.line_num, line))
                if reader.line_num > MOST_LINES:
                    raise OncoduetError(path, f"more than {MOST_LINES} lines")
    except (OSError, ValueError, csv.Error) as error:
        raise OncoduetError(path, f"not a CSV table in UTF-8: {error}") from None
    if not lines:
        raise OncoduetError(path, f"empty file instead of a table (columns {', '.join(columns)})")
    return lines, delimiter


def known(cell: str) -> str:
    """The text of a cell, or of a part of one; empty where it means unknown."""
    text = cell.strip()
    return "" if text.lower() in _UNKNOWN else text
