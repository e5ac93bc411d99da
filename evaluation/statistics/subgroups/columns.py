"""Columns of tables that define groups of cases or of lesions: numbers or words."""

import re
from collections.abc import Sequence

from contract.errors import OncoduetError
from contract.tables import Table, known


def numbers_in_column(table: Table, column: str, texts: Sequence[str]) -> list[float | None] | None:
    """The largest number in each cell, None where it is empty; nothing at all where the column holds words.

    Commas part numbers where some cell of the column leaves no doubt: three parts, or decimal points between them.
    Otherwise they are decimal commas in a table whose columns are parted by something else, grades in a column of
    single digits up to 5, and refused elsewhere.
    """
    cells = [row[column] for row in table.rows]
    pieces = [piece for cell in cells for piece in re.split(r"[;|\s]+", cell)]
    with_comma = [piece for piece in pieces if re.fullmatch(r"[+-]?\d+,\d+", piece)]
    commas_part = any(piece.count(",") > 1 or {",", "."} <= {*piece} for piece in pieces)
    if not commas_part and with_comma and table.delimiter == ",":
        if not all(re.fullmatch(r"[0-5],[0-5]", piece) for piece in with_comma) or any(
            "." in piece for piece in pieces
        ):
            raise OncoduetError(
                f"{table.path}: column {column}",
                expected="a decimal point, and ; between several numbers",
                found=f"{with_comma[0]!r}, which may be one number or two",
            )
        commas_part = True
    separators = r"[;,|\s]+" if commas_part else r"[;|\s]+"
    parted = [[part for part in re.split(separators, text) if known(part)] for text in texts]
    values = [[table.number(part) for part in parts] for parts in parted]
    words = [text for text, found in zip(texts, values, strict=True) if None in found]
    largest = [max((each for each in found if each is not None), default=None) for found in values]
    if not words:
        return largest
    if len({number for number in largest if number is not None}) > 6 and 2 * len(words) < sum(map(bool, texts)):
        raise OncoduetError(
            f"{table.path}: column {column}", expected="numbers as in its other rows", found=f"{words[0]!r}"
        )
    return None
