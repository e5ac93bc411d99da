"""A table of runs as in a paper: one or two metrics of each run, without cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.errors import OncoduetError
from contract.tables import Table, read_table
from evaluation.statistics.analysis_file import METRICS, Metric
from evaluation.statistics.configurations.run_level import RunValues

RUN_COLUMNS = ("configuration", "fold", "restart", "auroc", "ap")
FEWEST_RUNS = 2
_DIGITS = 6


def read_runs_table(path: Path) -> dict[Metric, dict[str, RunValues]]:
    """Read AUROC, AP and their mean, the score, of each run, by metric and configuration.

    Parameters
    ----------
    path
        A CSV file with the columns configuration, fold, restart, auroc and ap; folds, and either metric, may be empty
        throughout a configuration or the table.

    Raises
    ------
    OncoduetError
        A column is missing; a run is listed twice; a value is not a number from 0 to 1, or is missing in some rows; a
        configuration has fewer than two runs.
    """
    table = read_table(path, RUN_COLUMNS)
    rows: dict[tuple[str, str, str], int] = {}
    by_configuration: dict[str, list[int]] = {}
    for index, row in enumerate(table.rows):
        key = (row["configuration"], _plain(row["fold"]), _plain(row["restart"]))
        if not key[0]:
            raise _at(table, index, expected="the name of a configuration", found="an empty cell")
        if key in rows and not key[2]:
            other = f"line {table.lines[rows[key]]}"
            raise _at(
                table, index, expected=f"a restart that tells this run from that of {other}", found="an empty cell"
            )
        if key in rows:
            raise OncoduetError(f"{path}: line {table.lines[index]}", f"duplicate run of line {table.lines[rows[key]]}")
        rows[key] = index
        by_configuration.setdefault(key[0], []).append(index)
    for name, indices in by_configuration.items():
        if len(indices) < FEWEST_RUNS:
            raise OncoduetError(path, expected=f"at least {FEWEST_RUNS} runs of {name}", found=len(indices))
    values = {metric: [_value(table, index, metric) for index in range(len(table.rows))] for metric in ("auroc", "ap")}
    for metric, column in values.items():
        if None in column and any(value is not None for value in column):
            raise _at(
                table, column.index(None), expected=f"a value of {metric}, as in other rows", found="a missing value"
            )
    values["score"] = [
        None if auroc is None or ap is None else (auroc + ap) / 2
        for auroc, ap in zip(values["auroc"], values["ap"], strict=True)
    ]
    return {metric: _by_configuration(table, by_configuration, values[metric]) for metric in METRICS}


def _by_configuration(
    table: Table, by_configuration: Mapping[str, Sequence[int]], values: Sequence[float | None]
) -> dict[str, RunValues]:
    return {
        name: RunValues(
            configuration=name,
            runs=tuple(_name(table.rows[index]) for index in indices),
            values=tuple(values[index] for index in indices),
            folds=_folds(table, indices),
        )
        for name, indices in by_configuration.items()
    }


def _name(row: Mapping[str, str]) -> str:
    """Name of a run, as of scored runs."""
    fold = f"_fold{_plain(row['fold'])}" if row["fold"] else ""
    return f"{row['configuration']}{fold}" + (f"_restart{_plain(row['restart'])}" if row["restart"] else "")


def _plain(text: str) -> str:
    """A number without leading zeros: 0 and 00 are one fold."""
    return str(int(text)) if _is_count(text) else text


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS


def _folds(table: Table, indices: Sequence[int]) -> tuple[int, ...]:
    """Folds of a configuration's runs; none where they are not given."""
    texts = [table.rows[index]["fold"] for index in indices]
    if not any(texts):
        return ()
    for index, text in zip(indices, texts, strict=True):
        if not _is_count(text):
            raise _at(table, index, expected=f"the number of a fold, of at most {_DIGITS} digits", found=repr(text))
    return tuple(map(int, texts))


def _value(table: Table, index: int, metric: str) -> float | None:
    text = table.rows[index][metric]
    value = table.number(text) if text else None
    if text and (value is None or not 0 <= value <= 1):
        raise _at(table, index, expected=f"{metric} from 0 to 1", found=repr(text))
    return value


def _at(table: Table, index: int, *, expected: str, found: str) -> OncoduetError:
    return OncoduetError(f"{table.path}: line {table.lines[index]}", expected=expected, found=found)
