"""Read scored runs: folders with ``metrics.json``, ``cases.csv``, ``lesions.csv`` and ``source.json``.

``sizes.csv`` says how large each lesion is; scores of older versions lack it. ``hits.csv`` says what other hit criteria
would give, where these were asked for.

``patients.csv`` names the patients where the ids are ambiguous.

The strict answer is compared; the tables must reproduce it, so that figures, intervals and tests use the same numbers
as ``metrics.json``. The order of runs does not depend on where their folders are.
"""

import csv
import hashlib
import io
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.archive.patients import FILE as PATIENTS
from contract.archive.patients import patients_by_case, read_patients, said_patients
from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.files.reading import read_regular, sha256_file, sha256_json
from contract.names import require_case_id
from contract.outputs import require_unedited
from contract.records import Metrics, MetricsRecord, Record, Source, read_record
from contract.tables import LARGEST_NUMBER
from evaluation.matching.sweep import HIT_CRITERIA, HitCriterion
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, sensitivity_key
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet, weighted_ap, weighted_auroc

_CASE_COLUMNS = ["case_id", "label", "likelihood"]
_SIZES = "sizes.csv"
_SIZE_COLUMNS = ["case_id", "lesion", "confidence", "volume_ml", "diameter_mm"]
_HITS = "hits.csv"
_HIT_COLUMNS = ["criterion", "minimum", "ap", *map(sensitivity_key, FALSE_POSITIVES_PER_CASE)]
_LESION_COLUMNS = ["case_id", "kind", "confidence", "overlap"]
_log = logging.getLogger(__name__)

_KINDS = ("tp", "fp", "fn", "ignored")
_TOLERANCE = 1e-6
_PARENTS = {"truth": "truth", "scoring_card": "scoring card", "scoring_rule": "scoring rule"}
"""Parents of ``metrics.json`` that runs share which are compared."""


@dataclass(frozen=True)
class Lesion:
    """A lesion of the truth, and what a run made of it."""

    case_id: str
    number: int  # in its case, from 1
    confidence: float  # of the candidate that hit it; 0 where it was missed
    volume_ml: float
    diameter_mm: float  # largest, in 3-D


@dataclass(frozen=True)
class Swept:
    """What a run gives by one hit criterion; None: undefined."""

    ap: float | None
    lesion_sensitivity_at_fp: Mapping[str, float | None]  # keys as in metrics.json


@dataclass(frozen=True)
class ScoredRun:
    """One run, ensemble or baseline on the test set."""

    name: str  # <configuration>_fold<K>_restart<R>, as far as these are known
    source: Source
    strict: Metrics
    picai: Metrics
    metrics_sha256: str
    parents: Mapping[str, str]
    """Of ``metrics.json``: hashes of the predictions, the truth, and what scored them."""
    trained_on: int | None
    """How many of the cases a network of it was trained on; None: not known."""
    truth: TestSet
    outcome: Outcome
    candidate_free_cases: int
    lesions: tuple["Lesion", ...] | None = None
    """Every lesion of the truth, by case and number; None where their sizes are not recorded."""
    by_criterion: Mapping[HitCriterion, Swept] | None = None
    """What other hit criteria give; None where they were not asked for."""

    @property
    def has_maps(self) -> bool:
        """Whether it has detection maps, or only likelihoods."""
        return self.strict.ap is not None or bool(self.strict.lesion_sensitivity_at_fp)

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was trained: a fixed rule, with no spread over runs."""
        return self.source.configuration.startswith("baseline-")

    @property
    def is_ensemble(self) -> bool:
        """Whether several runs were averaged."""
        return self.source.configuration.startswith(("ensemble-", "control-"))

    @property
    def is_control(self) -> bool:
        """Whether runs of one configuration were averaged, as many as an ensemble has."""
        return self.source.configuration.startswith("control-")


def read_scored_runs(scores: Sequence[Path], *, patients: str | None = None) -> list[ScoredRun]:
    """Read every scored run in or below the given folders, ordered by configuration, fold and restart.

    Parameters
    ----------
    patients
        Value of ``--patients``; a table counts before what is recorded with the scores, a rule instead of it.

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
    read = [(folder, _read(folder)) for folder in folders]
    read.sort(key=lambda pair: _order(pair[1]))
    if patients is not None:
        given, rule = said_patients(patients)
        given = _in_nfc(given)
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
            (folder, replace(run, truth=_with_patients(run.truth, named[_recorded(run.truth)]))) for folder, run in read
        ]
    _require_one_test(read)
    _require_one_way(read)
    _require_distinct(read)
    _require_own_runs(read)
    read = _with_common_folds(read)
    names = Counter(run.name for _, run in read)
    return [run if names[run.name] == 1 else replace(run, name=_longer_name(run)) for _, run in read]


def identities(scores: Sequence[Path]) -> frozenset[str]:
    """A hash of what each scored run in or below some folders says, whichever version of this program wrote it."""
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
    """Folders of scored runs, whole or not, at or below a path. Raises ``OncoduetError`` where there are none."""
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


def _read(folder: Path) -> ScoredRun:
    if not (folder / "source.json").is_file():
        raise OncoduetError(folder, "source.json not found: it names the configuration, fold and runs that were scored")
    source = read_record(folder / "source.json", Source)
    record = read_record(folder / "metrics.json", MetricsRecord)
    require_unedited(folder, ("source.json", "metrics.json", "cases.csv", "lesions.csv", PATIENTS))
    has_sizes = (folder / _SIZES).is_file()
    has_hits = (folder / _HITS).is_file()
    require_unedited(folder, [name for name, there in ((_SIZES, has_sizes), (_HITS, has_hits)) if there])
    if record.strict is None:
        raise OncoduetError(folder / "metrics.json", f"no strict answer to compare ({record.strict_reason})")
    for name in ("predictions", *_PARENTS):
        if record.parents.get(name) != source.parents.get(name):
            raise OncoduetError(
                folder / "source.json",
                expected=f"the {name.replace('_', ' ')} of metrics.json ({_hash(record.parents.get(name))})",
                found=f"{_hash(source.parents.get(name))}: one is older",
            )
    truth, outcome, candidate_free_cases = _read_lesions(folder / "lesions.csv", *_read_cases(folder / "cases.csv"))
    _require_agreement(folder, record.strict, truth, outcome)
    if (folder / PATIENTS).is_file():
        given = _in_nfc(read_patients(folder / PATIENTS))
        truth = _with_patients(truth, patients_by_case(truth.case_ids, given=given, source=folder / PATIENTS))
    return ScoredRun(
        name=_name(source),
        source=source,
        strict=record.strict,
        picai=record.picai,
        metrics_sha256=sha256_file(folder / "metrics.json"),
        parents=record.parents,
        trained_on=record.trained_on,
        truth=truth,
        outcome=outcome,
        candidate_free_cases=candidate_free_cases,
        lesions=_read_sizes(folder / _SIZES, truth, outcome) if has_sizes else None,
        by_criterion=_read_hits(folder / _HITS) if has_hits else None,
    )


def _recorded(truth: TestSet) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    return truth.case_ids, truth.patient_names


def _with_patients(truth: TestSet, by_case: Mapping[str, str]) -> TestSet:
    return replace(truth, patient_names=tuple(by_case[case_id] for case_id in truth.case_ids))


def _in_nfc(patients: Mapping[str, str]) -> dict[str, str]:
    return {case_name(case_id): patient for case_id, patient in patients.items()}


def _hash(sha256: str | None) -> str:
    return "none" if sha256 is None else sha256[:12]


def _read_cases(path: Path) -> tuple[TestSet, FloatArray]:
    rows = sorted(_table(path, _CASE_COLUMNS), key=lambda row: row["case_id"])
    if not rows:
        raise OncoduetError(path, "no cases")
    doubled = [case_id for case_id, count in Counter(row["case_id"] for row in rows).items() if count > 1]
    if doubled:
        raise OncoduetError(path, f"duplicate case {doubled[0]}")
    for row in rows:
        require_case_id(row["case_id"], path)
        if row["label"] not in ("0", "1"):
            raise OncoduetError(
                f"{path}: case {row['case_id']}", expected="the label 0 or 1", found=f"{row['label']!r}"
            )
    truth = TestSet(
        case_ids=tuple(row["case_id"] for row in rows),
        positive=np.array([row["label"] == "1" for row in rows]),
        lesions=np.zeros(len(rows), dtype=np.int64),
    )
    return truth, np.array([_number(path, row, "likelihood") for row in rows])


def _read_lesions(path: Path, truth: TestSet, likelihood: FloatArray) -> tuple[TestSet, Outcome, int]:
    index = {case_id: place for place, case_id in enumerate(truth.case_ids)}
    lesions = np.zeros(len(index), dtype=np.int64)
    with_candidate = set()
    candidates = []
    for row in _table(path, _LESION_COLUMNS):
        if row["case_id"] not in index:
            raise OncoduetError(path, f"{row['case_id']!r} is not in cases.csv")
        if row["kind"] not in _KINDS:
            raise OncoduetError(
                f"{path}: case {row['case_id']}", expected=f"the kind {', '.join(_KINDS)}", found=f"{row['kind']!r}"
            )
        case, kind, confidence = index[row["case_id"]], row["kind"], _number(path, row, "confidence")
        if kind in ("tp", "fn"):
            lesions[case] += 1
        if kind != "fn":
            with_candidate.add(case)
        if kind in ("tp", "fp"):
            candidates.append((confidence, case, kind == "tp"))
    return replace(truth, lesions=lesions), Outcome.of(likelihood, candidates), len(index) - len(with_candidate)


def _read_sizes(path: Path, truth: TestSet, outcome: Outcome) -> tuple[Lesion, ...]:
    """Every lesion; those of each case, and the confidences that hit them, must be those of ``lesions.csv``."""
    found: dict[str, list[Lesion]] = {}
    for row in _table(path, _SIZE_COLUMNS):
        number, *values = (_number(path, row, column) for column in _SIZE_COLUMNS[1:])
        found.setdefault(row["case_id"], []).append(Lesion(row["case_id"], int(number), *values))
    hits: dict[str, list[float]] = {}
    for case, confidence in zip(outcome.candidate_case[outcome.hit], outcome.confidence[outcome.hit], strict=True):
        hits.setdefault(truth.case_ids[case], []).append(float(confidence))
    counts = dict(zip(truth.case_ids, truth.lesions.tolist(), strict=True))
    for case_id in sorted(counts.keys() | found.keys()):
        here = sorted(found.get(case_id, []), key=lambda each: each.number)
        hit = sorted(each.confidence for each in here if each.confidence)
        numbers = list(range(1, counts.get(case_id, 0) + 1))
        if [each.number for each in here] != numbers or hit != sorted(hits.get(case_id, [])):
            raise OncoduetError(
                f"{path}: case {case_id}", expected=f"{len(numbers)} lesions, hit as in lesions.csv", found=len(here)
            )
    return tuple(lesion for case_id in sorted(found) for lesion in sorted(found[case_id], key=lambda each: each.number))


def _read_hits(path: Path) -> dict[HitCriterion, Swept]:
    known: dict[tuple[str, float | None], HitCriterion] = {(each.name, each.minimum): each for each in HIT_CRITERIA}
    found = {}
    for number, row in enumerate(_table(path, _HIT_COLUMNS), start=2):
        where = f"{path}: line {number}"
        try:
            minimum, ap, *sensitivities = (float(row[column]) if row[column] else None for column in _HIT_COLUMNS[1:])
        except ValueError:
            raise OncoduetError(where, expected="numbers", found=",".join(row.values())) from None
        if (row["criterion"], minimum) not in known:
            raise OncoduetError(
                where, expected="a hit criterion of score", found=f"{row['criterion']} {row['minimum']}"
            )
        for value in (ap, *sensitivities):
            if value is not None and not 0 <= value <= 1:
                raise OncoduetError(where, expected="AP and sensitivities from 0 to 1", found=f"{value:g}")
        by_rate = dict(zip(_HIT_COLUMNS[3:], sensitivities, strict=True))
        found[known[row["criterion"], minimum]] = Swept(ap, by_rate)
    return found


def _table(path: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    try:
        lines = list(csv.reader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline=""), strict=True))
    except FileNotFoundError:
        raise OncoduetError(path, "table not found") from None
    except (OSError, ValueError, csv.Error) as error:
        raise OncoduetError(path, f"not a readable table: {error}") from None
    if not lines or lines[0] != list(columns):
        found = ",".join(lines[0]) if lines else "an empty file"
        raise OncoduetError(path, expected=f"the columns {','.join(columns)}", found=found)
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            raise OncoduetError(f"{path}: line {number}", expected=f"{len(columns)} values", found=len(line))
    return [dict(zip(columns, line, strict=True)) for line in lines[1:]]


def _number(path: Path, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST_NUMBER:
        raise OncoduetError(
            f"{path}: case {row['case_id']}",
            expected=f"a {column} that is a number and not negative",
            found=f"{row[column]!r}",
        )
    return value


def _require_agreement(folder: Path, strict: Metrics, truth: TestSet, outcome: Outcome) -> None:
    """The tables must reproduce the strict answer of ``metrics.json``."""
    unit = np.ones((1, len(truth.case_ids)))
    expected: dict[str, float | None] = {
        "cases": len(truth.case_ids),
        "positive_cases": truth.positive_count,
        "lesions": truth.lesion_count,
        "auroc": _defined(weighted_auroc(truth, outcome.likelihood, unit)[0]),
        "ap": _defined(weighted_ap(truth, outcome, unit)[0]),
    }
    if strict.ap is None and not outcome.confidence.size:  # a model without detection maps
        expected["ap"] = None
    for name, value in expected.items():
        stated = getattr(strict, name)
        if (value is None) != (stated is None) or (value is not None and abs(value - stated) > _TOLERANCE):
            raise OncoduetError(
                folder / "metrics.json",
                expected=f"strict {name} {_text(value)} as cases.csv and lesions.csv give it",
                found=_text(stated),
            )


def _require_one_test(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """All runs must answer the same question: one card, one rule, one case list, one truth, the same patients."""
    first_folder, first = read[0]
    for folder, run in read[1:]:
        if run.source.card_sha256 != first.source.card_sha256:
            raise OncoduetError(
                folder, expected=f"the card of {first_folder} ({_card(first)})", found=f"another ({_card(run)})"
            )
        if run.truth.case_ids != first.truth.case_ids:
            differing = sorted(set(run.truth.case_ids) ^ set(first.truth.case_ids))
            raise OncoduetError(
                folder,
                expected=f"the {len(first.truth.case_ids)} cases of {first_folder}",
                found=(
                    f"{len(run.truth.case_ids)}; {len(differing)} are in only one of the two, such as {differing[0]}"
                ),
            )
        for what, ours, theirs in [
            ("label", run.truth.positive, first.truth.positive),
            ("number of lesions", run.truth.lesions, first.truth.lesions),
        ]:
            differs = np.flatnonzero(ours != theirs)
            if differs.size:
                case = differs[0]
                raise OncoduetError(
                    f"{folder}: case {run.truth.case_ids[case]}",
                    expected=f"the {what} {int(theirs[case])} as in {first_folder}",
                    found=int(ours[case]),
                )
        for name, what in _PARENTS.items():
            found, expected = (each.parents.get(name) for each in (run, first))
            if found != expected:
                raise OncoduetError(
                    folder / "metrics.json",
                    expected=f"the {what} of {first_folder} ({_hash(expected)})",
                    found=f"another ({_hash(found)}); score both again, by one card and against one truth",
                )
        if run.truth.patient_names != first.truth.patient_names:
            raise OncoduetError(
                folder / PATIENTS, expected=f"the patients of {first_folder}", found="others; use --patients"
            )


def _require_one_way(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """All were predicted with the same settings, as far as these are recorded."""
    known: dict[str, tuple[Path, bool | str]] = {}
    for folder, run in read:
        for name, found in run.source.settings.items():
            first, expected = known.setdefault(name, (folder, found))
            if found != expected:
                raise OncoduetError(
                    folder / "source.json", expected=f"{name} {expected} as in {first}", found=f"{name} {found}"
                )


def _with_common_folds(read: Sequence[tuple[Path, ScoredRun]]) -> list[tuple[Path, ScoredRun]]:
    """Folds of the dataset that most runs were trained on; those of other datasets count as not known."""
    datasets = Counter(run.source.prepared_sha256 for _, run in read if run.source.prepared_sha256 is not None)
    if len(datasets) < 2:
        return list(read)
    named = ", ".join(f"{count} × {sha256[:12]}" for sha256, count in datasets.items())
    _log.warning("trained on different datasets or splits: %s; so a fold of one is none of the others", named)
    ((usual, _),) = datasets.most_common(1)
    return [
        (folder, run)
        if run.source.prepared_sha256 in (usual, None)
        else (folder, replace(run, source=run.source.model_copy(update={"fold": None})))
        for folder, run in read
    ]


def _require_distinct(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """Within a configuration each run occurs once, and all were trained alike."""
    by_configuration: dict[str, list[tuple[Path, ScoredRun]]] = {}
    for folder, run in read:
        by_configuration.setdefault(run.source.configuration, []).append((folder, run))
    for configuration, members in by_configuration.items():
        for what, found in [
            ("profile", {run.source.profile for _, run in members}),
            ("dataset", {run.source.prepared_sha256 or "" for _, run in members} - {""}),
        ]:
            if len(found) > 1:
                raise OncoduetError(
                    f"configuration {configuration}",
                    expected=f"one {what} for all its runs",
                    found=", ".join(sorted(found)),
                )
        seen: dict[object, Path] = {}
        for folder, run in members:
            source = run.source
            predictions = run.parents.get("predictions")
            marks: list[object] = [] if predictions is None else [predictions]
            if source.fold is not None and source.restart is not None:
                marks.append((source.fold, source.restart))
            if source.runs or source.fold is None or source.restart is None:
                marks.append(frozenset(source.runs))
            for mark in marks:
                if mark in seen:
                    raise OncoduetError(folder, f"duplicate run {run.name}, also in {seen[mark]}")
                seen[mark] = folder


def _require_own_runs(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """No trained run occurs again under another configuration's name; where it finds nothing, networks may agree."""
    seen: dict[str, Path] = {}
    for folder, run in read:
        predictions = run.parents.get("predictions")
        says_nothing = run.candidate_free_cases == len(run.truth.case_ids)
        if predictions is None or says_nothing or not run.source.runs or run.is_ensemble:
            continue
        other = seen.setdefault(predictions, folder)
        if other != folder:
            raise OncoduetError(folder, expected="a run of its own", found=f"the predictions of {other}")


def _order(run: ScoredRun) -> tuple[int | str, ...]:
    kind = 2 if run.is_baseline else 1 if run.is_ensemble else 0
    source = run.source
    fold = -1 if source.fold is None else source.fold
    restart = -1 if source.restart is None else source.restart
    return kind, source.configuration, fold, restart, *sorted(source.runs)


def _name(source: Source) -> str:
    name = source.configuration.replace(".", "-")
    if source.fold is not None:
        name += f"_fold{source.fold}"
    if source.restart is not None:
        name += f"_restart{source.restart}"
    return name


def _longer_name(run: ScoredRun) -> str:
    """For runs that share fold and restart: with a hash of their contents."""
    what = ",".join([run.source.configuration, *sorted(run.source.runs)])
    return f"{run.name}_{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def _card(run: ScoredRun) -> str:
    return f"{run.source.card}, {run.source.card_sha256[:12]}"


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"
