"""Marksheets: a row per study with its patient, as PI-CAI (``patient_id, study_id``) and PANORAMA name the columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.errors import OncoduetError
from contract.files import MOST_TEXT_BYTES, open_regular
from contract.tables import Table, read_table
from evaluation.inputs.case_files import case_name

_PREFIX = "PANORAMA_"


def read_marksheet(path: Path, columns: Sequence[str]) -> tuple[Table, dict[str, Mapping[str, str]]]:
    """Read a marksheet: the table, and its rows by case id (``<patient>_<study>``), with the patient as ``patient_id``.

    Raises
    ------
    OncoduetError
        The table cannot be read or lacks a column; two rows of a study say different things in ``columns``.
    """
    prefix = _PREFIX if _begins_with_prefix(path) else ""
    key = (f"{prefix}patient_id", f"{prefix}study_id")
    table = read_table(path, (*key, *columns))
    return table, {
        _case_id(*values): {**row, "patient_id": values[0]} for values, row in table.by_key(key, columns).items()
    }


def _case_id(patient: str, study: str) -> str:
    """PANORAMA's studies have their patient in their name already."""
    return case_name(study if study.startswith(f"{patient}_") else f"{patient}_{study}")


def _begins_with_prefix(path: Path) -> bool:
    try:
        with open_regular(path) as stream:
            return f"{_PREFIX}patient_id".encode() in stream.readline(MOST_TEXT_BYTES)
    except (OSError, OncoduetError):
        return False  # read_table says so
