"""A table of human readers' scores and marks of the test set's cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.archive.patients import alike
from contract.errors import OncoduetError
from contract.tables import Table, read_table
from contract.text import first_few
from evaluation.metrics.outcomes import BoolArray, FloatArray, Outcome, TestSet

READER_COLUMNS = ("reader", "case_id", "score")
HIT = "hit"
FEWEST_READERS = 2
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Reader:
    """One reader's reading."""

    name: str
    read: BoolArray
    """Whether each case was read, shape (cases,)."""
    outcome: Outcome
    """Outcome on the cases that were read, in their order: the highest score of a case is its likelihood. Marks are
    candidates where the table says which of them hit."""
    has_marks: bool


def read_readers_table(path: Path, truth: TestSet) -> list[Reader]:
    """Read a CSV file with the columns reader, case_id and score, and optionally hit.

    A row is a case, or with ``hit`` a mark in a case: 1 where it hits a lesion that no other mark of the reader hits,
    0 where it is a false positive (or ``1.0``, ``True`` and so on, as pandas writes them), empty where the case has no
    mark. An unknown hit (``NA``) is refused. Scores are in any unit, higher for suspicion; a case has the highest
    of its marks.

    Raises
    ------
    OncoduetError
        A column is missing; a score is not a number; a case is listed twice by a reader without marks, or does not
        belong to the test set; a mark hits where there is no lesion; a reader read no positive or no negative case;
        there are fewer than two readers, or two may be one. With ``hit``: a reader marked nothing, or left a case with
        a lesion without a mark and gave it a higher score than a mark.
    """
    table = read_table(path, READER_COLUMNS, verbatim=("reader", HIT))
    has_marks = HIT in table.rows[0]
    places = {case_id: number for number, case_id in enumerate(truth.case_ids)}
    foreign = sorted({row["case_id"] for row in table.rows} - set(places))
    if foreign:
        raise OncoduetError(
            path, expected=f"cases of the test set, such as {truth.case_ids[0]}", found=first_few(foreign)
        )
    by_reader: dict[str, list[int]] = {}
    for index, row in enumerate(table.rows):
        if not row["reader"]:
            raise _at(table, index, expected="the name of a reader", found="an empty cell")
        by_reader.setdefault(row["reader"], []).append(index)
    if len(by_reader) < FEWEST_READERS:
        raise OncoduetError(path, expected=f"at least {FEWEST_READERS} readers", found=len(by_reader))
    spelled: dict[str, str] = {}
    for name in by_reader:
        if (other := spelled.setdefault(alike(name), name)) != name:
            raise OncoduetError(path, expected="one spelling of each reader", found=f"{other} and {name}")
    return [_reader(table, name, indices, truth, places, has_marks=has_marks) for name, indices in by_reader.items()]


def _reader(
    table: Table, name: str, indices: Sequence[int], truth: TestSet, places: Mapping[str, int], *, has_marks: bool
) -> Reader:
    likelihood = np.full(len(truth.case_ids), -np.inf)
    marks: list[tuple[int, float, bool]] = []
    hits = np.zeros(len(truth.case_ids), dtype=np.int64)
    seen: dict[str, int] = {}
    for index in indices:
        row = table.rows[index]
        case = places[row["case_id"]]
        if not has_marks and row["case_id"] in seen:
            raise _at(
                table, index, expected=f"{row['case_id']} once by {name}", found=f"also line {seen[row['case_id']]}"
            )
        seen[row["case_id"]] = table.lines[index]
        score = table.number(row["score"])
        if score is None:
            raise _at(table, index, expected="a number as score", found=repr(row["score"]))
        likelihood[case] = max(likelihood[case], score)
        if text := row.get(HIT, ""):
            hit = _WORDS.get(text.lower(), table.number(text))
            if hit not in (0, 1):
                raise _at(table, index, expected="hit 0, 1 or empty", found=repr(text))
            marks.append((case, score, hit == 1))
            hits[case] += hit == 1
    if has_marks:
        _require_marks(table, name, truth, marks, likelihood)
    read = np.isfinite(likelihood)
    if (hits > truth.lesions).any():
        case_id = truth.case_ids[int(np.flatnonzero(hits > truth.lesions)[0])]
        raise OncoduetError(
            table.path,
            expected=f"at most {truth.lesions[places[case_id]]} hits of {name} in {case_id}",
            found=hits[places[case_id]],
        )
    if not (read & truth.positive).any() or not (read & ~truth.positive).any():
        kind = "positive" if not (read & truth.positive).any() else "negative"
        raise OncoduetError(table.path, expected=f"positive and negative cases read by {name}", found=f"no {kind} one")
    renumbered = np.cumsum(read) - 1
    return Reader(
        name=name,
        read=read,
        outcome=Outcome(
            likelihood=likelihood[read],
            candidate_case=np.array([renumbered[case] for case, _, _ in marks], dtype=np.int64),
            confidence=np.array([score for _, score, _ in marks], dtype=np.float64),
            hit=np.array([hit for _, _, hit in marks], dtype=np.bool_),
        ),
        has_marks=has_marks,
    )


def _require_marks(
    table: Table, name: str, truth: TestSet, marks: Sequence[tuple[int, float, bool]], likelihood: FloatArray
) -> None:
    """Raise ``OncoduetError`` where marks seem to be lost; an empty ``hit`` means that there is none."""
    if not marks:
        raise OncoduetError(table.path, expected=f"marks of {name} (hit 0 or 1), or no column {HIT}", found="none")
    unmarked = truth.positive & ~np.isin(np.arange(truth.positive.size), [case for case, _, _ in marks])
    lost = np.flatnonzero(unmarked & (likelihood > min(score for _, score, _ in marks)))
    if lost.size:
        case_id = truth.case_ids[int(lost[0])]
        raise OncoduetError(
            table.path,
            expected=f"hit 0 or 1 of {name} in {case_id}, with a lesion and a higher score than some mark",
            found=f"empty ({lost.size} such cases)",
        )


def _at(table: Table, index: int, *, expected: str, found: str) -> OncoduetError:
    return OncoduetError(f"{table.path}: line {table.lines[index]}", expected=expected, found=found)
