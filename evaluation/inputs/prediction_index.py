"""The index of predictions: how cases were scored before, by the contents of their files.

It is an SQLite file of the user's choice (``--index``), never of the platform. An entry is named by the SHA-256 of
everything that its case's scores depend on: the bytes of prediction and label map, the rule, the options and the
program. It is therefore never out of date; an edited prediction has another name. An entry counts only while its own
SHA-256 is right, and those of a run only while one of them equals the same case, scored again; otherwise cases are
scored as without an index. Cases about which something was logged are not kept, so that it is said every time.

SQLite lets several processes use one file. What was added first goes first where entries become too many.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError
from contract.files.atomic import writable
from contract.outputs import require_folder
from evaluation.masks.sizes import Size
from evaluation.matching.cases import Finding, ScoredCase

FORMAT = "oncoduet predictions 1"
"""To be counted up when entries are written differently."""
MOST_ENTRIES = 200_000
"""Cases that are kept; 0.5 kB each, so 100 MB."""

_APPLICATION_ID = 0x6F6E6364  # by which SQLite's files are told apart
_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID_AT = 68
_KEYS_AT_ONCE = 500
_PATIENCE_S = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseScores:
    """One case, scored by every answer that was asked for."""

    strict: ScoredCase | None
    picai: ScoredCase
    by_criterion: tuple[ScoredCase, ...]
    """By each hit criterion that was asked for."""
    told: bool = False
    """Whether something was logged about it."""


class PredictionIndex:
    """Scores by their entries' names."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def read(self, names: Sequence[str]) -> dict[str, CaseScores]:
        """The scores of those names that have an undamaged entry."""
        rows: list[tuple[str, str, str]] = []
        for first in range(0, len(names), _KEYS_AT_ONCE):
            some = names[first : first + _KEYS_AT_ONCE]
            asked = f"SELECT name, entry, sha256 FROM cases WHERE name IN ({','.join('?' * len(some))})"
            rows += self._connection.execute(asked, some)
        found = {name: _decoded(entry) for name, entry, sha256 in rows if sha256 == _sha256(name, entry)}
        return {name: scores for name, scores in found.items() if scores is not None}

    def add(self, scores: Mapping[str, CaseScores]) -> None:
        """Keep scores under their names, in place of what was there; a full disk is only warned of."""
        rows = [(name, entry, _sha256(name, entry)) for name, entry in ((n, encoded(s)) for n, s in scores.items())]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO cases VALUES (?, ?, ?)", rows)
                self._connection.execute(
                    "DELETE FROM cases WHERE rowid IN (SELECT rowid FROM cases ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                    [MOST_ENTRIES],
                )
        except sqlite3.Error as error:
            _log.warning("%s: %d cases not added (%s)", self.path, len(rows), error)


@contextmanager
def open_prediction_index(path: Path) -> Iterator[PredictionIndex]:
    """Open an index, or make one.

    Raises ``OncoduetError``: another file bears the name, it is damaged, or it cannot be read or written to.
    """
    require_folder(path.parent)
    _require_index_or_nothing(path)
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path.absolute(), timeout=_PATIENCE_S)) as connection:
            with connection:
                if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute("CREATE TABLE IF NOT EXISTS cases (name TEXT UNIQUE, entry TEXT, sha256 TEXT)")
            yield PredictionIndex(path, connection)
    except sqlite3.Error as error:
        raise OncoduetError(path, f"cannot be used as an index ({error}); remove it or give another") from None


def encoded(scores: CaseScores) -> str:
    """An entry: the answers as rows."""
    cases = (scores.strict, scores.picai, *scores.by_criterion)
    return json.dumps([None if case is None else astuple(case) for case in cases], allow_nan=False)


def _decoded(entry: str) -> CaseScores | None:
    """The scores of an entry; None where it is none, though its hash is right."""
    try:
        strict, picai, *others = json.loads(entry)
        by_criterion = tuple(_case(*row) for row in others)
        return CaseScores(None if strict is None else _case(*strict), _case(*picai), by_criterion)
    except (ValueError, TypeError):
        return None


def _case(*row: Any) -> ScoredCase:
    case_id, positive, likelihood, findings, missing, sizes = row
    found = tuple(Finding(*finding) for finding in findings)
    return ScoredCase(case_id, positive, likelihood, found, missing, tuple(Size(*size) for size in sizes))


def _sha256(name: str, entry: str) -> str:
    return hashlib.sha256(f"{name} {entry}".encode()).hexdigest()


def _require_index_or_nothing(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    begin = b""
    if path.is_file():
        with path.open("rb") as stream:
            begin = stream.read(_APPLICATION_ID_AT + 4)
    ours = begin.startswith(_MAGIC) and begin[_APPLICATION_ID_AT:] == _APPLICATION_ID.to_bytes(4)
    if (begin and not ours) or not path.is_file():
        raise OncoduetError(path, expected="nothing or an index of predictions", found="something else")
