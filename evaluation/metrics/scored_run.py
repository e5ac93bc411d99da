"""Read a scored run: a folder with ``metrics.json``, ``cases.csv``, ``lesions.csv`` and ``source.json``.

``sizes.csv`` holds the size of each lesion; scores of older versions lack it. ``hits.csv`` holds the metrics by other
hit criteria, where these were asked for. ``patients.csv`` names the patients where the ids are ambiguous.

The strict answer is compared; the tables must reproduce it, so that figures, intervals and tests use the same numbers
as ``metrics.json``.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.archive.patients import FILE as PATIENTS
from contract.archive.patients import patients_by_case, read_patients
from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.files.reading import read_regular, sha256_file
from contract.names import require_case_id
from contract.outputs import require_unedited
from contract.records import Metrics, MetricsRecord, Source, read_record
from contract.tables import LARGEST_NUMBER
from contract.text import short_hash
from evaluation.matching.hit_criteria import HIT_CRITERIA, HitCriterion
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, sensitivity_key
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet
from evaluation.metrics.weighted_metrics import weighted_ap, weighted_auroc

_CASE_COLUMNS = ["case_id", "label", "likelihood"]


_SIZES = "sizes.csv"


_SIZE_COLUMNS = ["case_id", "lesion", "confidence", "volume_ml", "diameter_mm"]


_HITS = "hits.csv"


_HIT_COLUMNS = ["criterion", "minimum", "ap", *map(sensitivity_key, FALSE_POSITIVES_PER_CASE)]


_LESION_COLUMNS = ["case_id", "kind", "confidence", "overlap"]


_KINDS = ("tp", "fp", "fn", "ignored")


_TOLERANCE = 1e-6


SCORED_WITH = {"truth": "truth", "scoring_card": "scoring card", "scoring_rule": "scoring rule"}
"""Parents of ``metrics.json`` that all compared runs share, and their names in messages."""


@dataclass(frozen=True)
class LesionResult:
    """A lesion of the truth, and the confidence with which a run found it."""

    case_id: str
    number: int  # in its case, from 1
    confidence: float  # of the candidate that hit it; 0 where it was missed
    volume_ml: float
    diameter_mm: float  # largest, in 3-D


@dataclass(frozen=True)
class Swept:
    """Metrics of a run by one hit criterion; None: undefined."""

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
    """Parents of ``metrics.json``: hashes of the predictions, the truth, and the card and rule that scored them."""
    trained_on: int | None
    """Number of cases that a network of the run was trained on; None: not known."""
    truth: TestSet
    outcome: Outcome
    candidate_free_cases: int
    lesions: tuple[LesionResult, ...] | None = None
    """Every lesion of the truth, by case and number; None where their sizes are not recorded."""
    by_criterion: Mapping[HitCriterion, Swept] | None = None
    """Metrics by other hit criteria; None where they were not asked for."""

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


def read_scored_run(folder: Path) -> ScoredRun:
    """Read one run. Raises ``OncoduetError``: a file is missing, breaks its schema, or contradicts another."""
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
    for name in ("predictions", *SCORED_WITH):
        if record.parents.get(name) != source.parents.get(name):
            raise OncoduetError(
                folder / "source.json",
                expected=f"the {name.replace('_', ' ')} of metrics.json ({short_hash(record.parents.get(name))})",
                found=f"{short_hash(source.parents.get(name))}: one of the two files is older",
            )
    truth, outcome, candidate_free_cases = _read_lesions(folder / "lesions.csv", *_read_cases(folder / "cases.csv"))
    _require_reproduced(folder, record.strict, truth, outcome)
    if (folder / PATIENTS).is_file():
        given = in_nfc(read_patients(folder / PATIENTS))
        truth = with_patients(truth, patients_by_case(truth.case_ids, given=given, source=folder / PATIENTS))
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


def with_patients(truth: TestSet, by_case: Mapping[str, str]) -> TestSet:
    """The test set with the patients of its cases."""
    return replace(truth, patient_names=tuple(by_case[case_id] for case_id in truth.case_ids))


def in_nfc(patients: Mapping[str, str]) -> dict[str, str]:
    """Patients by case, with the cases' names in Unicode's form NFC."""
    return {case_name(case_id): patient for case_id, patient in patients.items()}


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


def _read_sizes(path: Path, truth: TestSet, outcome: Outcome) -> tuple[LesionResult, ...]:
    """Every lesion; those of each case, and the confidences that hit them, must be those of ``lesions.csv``."""
    found: dict[str, list[LesionResult]] = {}
    for row in _table(path, _SIZE_COLUMNS):
        number, *values = (_number(path, row, column) for column in _SIZE_COLUMNS[1:])
        found.setdefault(row["case_id"], []).append(LesionResult(row["case_id"], int(number), *values))
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
            expected=f"a {column} of at least 0",
            found=f"{row[column]!r}",
        )
    return value


def _require_reproduced(folder: Path, strict: Metrics, truth: TestSet, outcome: Outcome) -> None:
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


def _name(source: Source) -> str:
    name = source.configuration.replace(".", "-")
    if source.fold is not None:
        name += f"_fold{source.fold}"
    if source.restart is not None:
        name += f"_restart{source.restart}"
    return name


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.10g}"
