"""Read the scored runs of a comparison; their order does not depend on where their folders are."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from contract.archive.patients import parse_patients_option, patients_by_case
from contract.errors import OncoduetError
from contract.files.reading import sha256_json
from contract.records import MetricsRecord, Record, Source, read_record
from evaluation.metrics.comparable_runs import require_agreement, with_common_folds
from evaluation.metrics.outcomes import TestSet
from evaluation.metrics.scored_run import ScoredRun, in_nfc, read_scored_run, with_patients


def read_scored_runs(scores: Sequence[Path], *, patients: str | None = None) -> list[ScoredRun]:
    """Read every scored run in or below the given folders, ordered by configuration, fold and restart.

    Parameters
    ----------
    patients
        Value of ``--patients``; a table overrides what is recorded with the scores case by case, a rule altogether.

    Raises
    ------
    OncoduetError
        A folder holds no scored run, or one without ``source.json``; a file breaks its schema or contradicts another;
        a run is listed twice, or a copy of another; cards, case lists, truth, patients, or what scored them differ.
    """
    folders = [folder for path in scores for folder in find_scored_runs(path)]
    if not folders:
        raise OncoduetError("--scores", "no scored runs given")
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise OncoduetError(folder, f"scored run given {count} times")
    read = [(folder, read_scored_run(folder)) for folder in folders]
    read.sort(key=lambda pair: _order(pair[1]))
    if patients is not None:
        given, rule = parse_patients_option(patients)
        given = in_nfc(given)
        recorded = {_recorded(run.truth): folder for folder, run in reversed(read)}
        named = {
            (cases, patients): patients_by_case(
                cases,
                given=given,
                folders=dict(zip(cases, patients, strict=True)) if patients and rule is None else {},
                rule=rule,
                source=folder,
            )
            for (cases, patients), folder in recorded.items()
        }
        read = [
            (folder, replace(run, truth=with_patients(run.truth, named[_recorded(run.truth)]))) for folder, run in read
        ]
    require_agreement(read)
    read = with_common_folds(read)
    names = Counter(run.name for _, run in read)
    return [run if names[run.name] == 1 else replace(run, name=_longer_name(run)) for _, run in read]


def identities(scores: Sequence[Path]) -> frozenset[str]:
    """A hash of each scored run in or below some folders, the same for all versions of this program."""
    folders = [folder for path in scores for folder in find_scored_runs(path)]
    said = [[_said(folder, "metrics.json", MetricsRecord), _said(folder, "source.json", Source)] for folder in folders]
    return frozenset(map(sha256_json, said))


def _said(folder: Path, name: str, kind: type[Record]) -> object:
    path = folder / name
    return read_record(path, kind).model_dump(mode="json", exclude={"written_by"}) if path.is_file() else None


def group_by_configuration(runs: Sequence[ScoredRun]) -> dict[str, list[ScoredRun]]:
    """The runs of each configuration; trained ones first, then ensembles, then baselines."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(run.source.configuration, []).append(run)
    return groups


def find_scored_runs(path: Path) -> list[Path]:
    """Folders of scored runs, complete or not, at or below a path. Raises ``OncoduetError`` where there are none."""
    if (path / "metrics.json").is_file() or (path / "source.json").is_file():
        return [path]

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for place, inner, names in os.walk(path, onerror=refuse, followlinks=True) if path.is_dir() else ():
        if (real := Path(place).resolve()) in seen:  # a link, perhaps a circular one
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += (
            [Path(place)] if {"metrics.json", "cases.csv", "lesions.csv"} & {*names} else []
        )  # half a run is refused, not left out
    if not found:
        raise OncoduetError(path, "no scored run (metrics.json) here or in a sub-folder")
    return found


def _recorded(truth: TestSet) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    return truth.case_ids, truth.patient_names


def _order(run: ScoredRun) -> tuple[int | str, ...]:
    kind = 2 if run.is_baseline else 1 if run.is_ensemble else 0
    source = run.source
    fold = -1 if source.fold is None else source.fold
    restart = -1 if source.restart is None else source.restart
    return kind, source.configuration, fold, restart, *sorted(source.runs)


def _longer_name(run: ScoredRun) -> str:
    """Name of a run that shares fold and restart with another: with a hash of its contents."""
    what = ",".join([run.source.configuration, *sorted(run.source.runs)])
    return f"{run.name}_{hashlib.sha256(what.encode()).hexdigest()[:8]}"
