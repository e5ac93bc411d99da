"""Marksheets: a row per study with its patient, as PI-CAI (``patient_id, study_id``) and PANORAMA name the columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.files.reading import MOST_TEXT_BYTES, open_regular
from contract.tables import Table, read_table
from contract.text import first_few

_PREFIX = "PANORAMA_"
_YES_OR_NO = {"yes": True, "no": False, "1": True, "0": False, "true": True, "false": False}
_STATED = {"case_csPCa": _YES_OR_NO, "case_PDAC": _YES_OR_NO, "label": {**_YES_OR_NO, "pdac": True, "non-pdac": False}}
"""Columns that say whether a case has a lesion, with the meaning of their lower-case values."""


def read_marksheet(path: Path, columns: Sequence[str]) -> tuple[Table, dict[str, Mapping[str, str]]]:
    """Read a marksheet: the table, and its rows by case id (``<patient>_<study>``), with the patient as ``patient_id``.

    Raises ``OncoduetError``: the table cannot be read or lacks a column; two rows of a study say different things in
    ``columns``.
    """
    prefix = _PREFIX if _begins_with_prefix(path) else ""
    key = (f"{prefix}patient_id", f"{prefix}study_id")
    table = read_table(path, (*key, *columns)).with_whole_numbers(*key)
    return table, {
        _case_id(*values): {**row, "patient_id": values[0]} for values, row in table.by_key(key, columns).items()
    }


def contradictions(path: Path, has_lesion: Mapping[str, bool]) -> list[str]:
    """Contradictions between a marksheet and label maps about which cases have a lesion, one line each.

    Raises ``OncoduetError`` as :func:`read_marksheet`; also where two rows of a study disagree about its
    lesion.

    Parameters
    ----------
    has_lesion
        Whether the label map has a lesion, by case id.
    """
    table, _ = read_marksheet(path, ())
    columns = [column for column in _STATED if column in table.rows[0]]
    _, rows = read_marksheet(path, columns)
    lines = []
    for column in columns:
        stated = {case_id: _STATED[column].get(row[column].lower()) for case_id, row in rows.items()}
        for says, what in ((False, "no lesion, and a label map with one"), (True, "a lesion, and a label map without")):
            cases = [each for each in has_lesion if stated.get(case_name(each)) is says and has_lesion[each] != says]
            if cases:
                lines.append(f"{path}: by {column} {len(cases)} cases have {what}: {first_few(cases)}")
    return lines


def _case_id(patient: str, study: str) -> str:
    """``<patient>_<study>``; PANORAMA's study ids already begin with the patient."""
    return case_name(study if study.startswith(f"{patient}_") else f"{patient}_{study}")


def _begins_with_prefix(path: Path) -> bool:
    try:
        with open_regular(path) as stream:
            return f"{_PREFIX}patient_id".encode() in stream.readline(MOST_TEXT_BYTES)
    except (OSError, OncoduetError):
        return False  # read_table says so
