"""Sensitivity for lesions of different size, grade or zone, at one operating point of each run.

A lesion's volume and largest diameter are what ``score`` recorded of the truth's mask; other columns come from a table.
A lesion is found where the candidate that hit it is as confident as the run's threshold: the declared one, or the
lowest at which the run has at most so many false positives per case, on its validation cases where these are given.
Like other thresholds these are taken as fixed.

Sensitivity is a ratio of sums over patients, so its influence by patient counts lesions of one patient as one cluster.
Tests and intervals are those of the verdict, but never narrower than for new cases of these runs: few runs often find
equally many of few lesions, which does not prove that runs do not vary. Whether a difference differs between
strata is a test of its own. Holm adjusts over all strata and comparisons, and over all interactions.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.tables import read_table
from evaluation.metrics.outcomes import BoolArray, FloatArray, TestSet
from evaluation.metrics.scored_run import LesionResult, ScoredRun
from evaluation.statistics.analysis_file import SIZES, Analysis, LesionPlan
from evaluation.statistics.subgroups.columns import numbers_in_column
from evaluation.statistics.subgroups.group_differences import (
    Difference,
    GroupContrast,
    interactions,
    opposites,
    pairs_by_group,
)
from evaluation.statistics.variance.arms import Arm, drawn, tested_difference
from evaluation.statistics.variance.estimates import Estimator, Ratio, ratio
from evaluation.statistics.variance.influence import MetricByPatient
from evaluation.statistics.variance.pairing import pairing
from evaluation.statistics.variance.runs_and_cases import FEW_CASES, approximation_by_runs, nested
from evaluation.statistics.verdict_records import LesionStrata, LesionStratum, StratumSensitivity

FEWEST_PATIENTS_OF_STRATUM = 10
"""Fewest patients with a lesion of a stratum for intervals and tests."""
MOST_VALUES = 6
"""Most values of a numerical stratum that is not cut at its median."""

_log = logging.getLogger(__name__)

Strata = Mapping[str, Mapping[str, BoolArray]]
"""Whether each lesion belongs to a stratum, shape (lesions,), by column and value."""


def read_strata(runs: Sequence[ScoredRun], plan: LesionPlan | None, table: Path | None, where: object) -> Strata:
    """Which lesions fall into which stratum; nothing where none are declared and sizes are not recorded.

    Parameters
    ----------
    table
        A CSV file with ``case_id``, ``lesion`` (its number in ``sizes.csv``) and the columns that are no sizes.
    where
        The analysis file, for messages.

    Raises
    ------
    OncoduetError
        Strata are declared, but a run has no sizes; a column needs a table that is not given, or none does and one is
        given; the table lacks a lesion, or two of its rows contradict each other; a column has no value of any lesion,
        or words among its numbers.
    """
    unsized = next((run.name for run in runs if run.lesions is None), None)
    lesions = runs[0].lesions
    if unsized is not None or not lesions:
        if plan is not None:
            lack = "the test set has no lesions" if unsized is None else f"{unsized} lacks sizes.csv; score it again"
            raise OncoduetError(where, f"strata are declared, but {lack}")
        lesions = ()
    plan = plan or LesionPlan()
    columns = [name for name in plan.strata if name not in SIZES]
    if columns and table is None:
        raise OncoduetError(where, f"strata {', '.join(columns)} need --lesions")
    if table is not None and not columns:
        raise OncoduetError(table, "the analysis file declares no strata of lesions that a table would give")
    if not lesions:
        return {}
    for run in runs[1:]:
        if run.lesions is None or [_size(each) for each in run.lesions] != [_size(each) for each in lesions]:
            raise OncoduetError(run.name, f"sizes of lesions differ from those of {runs[0].name}")
    cells = {} if table is None else _read_cells(table, columns, lesions)
    return {
        name: _cut([getattr(each, name) for each in lesions], plan.cuts.get(name))
        if name in SIZES
        else _of_cells(*cells[name], plan.cuts.get(name), f"{table}: column {name}")
        for name in plan.strata
    }


def compare_strata(
    strata: Strata,
    arms: Mapping[str, Arm],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
    validation: Mapping[str, ScoredRun],
) -> LesionStrata:
    """Estimate every configuration's sensitivity in every stratum, and test every declared comparison.

    Parameters
    ----------
    validation
        The run on validation cases of each run, by its name; empty: thresholds are chosen on the test set.
    """
    truth = next(iter(arms.values())).runs[0].truth
    settings = plan.lesions or LesionPlan()
    thresholds = {
        run.name: _threshold(validation.get(run.name, run), settings) for arm in arms.values() for run in arm.runs
    }
    ratios = {
        name: {
            (column, value): [_sensitivity(truth, run, member, thresholds[run.name]) for run in arm.runs]
            for column, values in strata.items()
            for value, member in values.items()
        }
        for name, arm in arms.items()
    }
    lesions = next(iter(arms.values())).runs[0].lesions or ()
    patient = dict(zip(truth.case_ids, truth.patients.tolist(), strict=True))
    patients = np.array([patient[lesion.case_id] for lesion in lesions])
    found: list[LesionStratum] = []
    differences: list[list[Difference]] = []
    between: list[GroupContrast] = []
    for column, values in strata.items():
        within = {value: _with_lesion(truth, patients[member]) for value, member in values.items()}
        large = [value for value, ill in within.items() if ill.sum() >= FEWEST_PATIENTS_OF_STRATUM]
        for value, member in values.items():
            ill = within[value]
            key = (column, value)
            found.append(
                LesionStratum(
                    column=column,
                    value=value,
                    lesions=int(member.sum()),
                    patients=int(ill.sum()),
                    configurations=tuple(
                        _estimate(arm, ratios[name][key], ill, plan, with_interval=value in large)
                        for name, arm in arms.items()
                    ),
                    pairs=(),
                )
            )
            differences.append(
                _tested(declared, arms, {name: _metric(each[key]) for name, each in ratios.items()}, ill)
                if value in large
                else []
            )
        for value, against, others in opposites(large):
            rest = np.logical_or.reduce([values[other] for other in others])
            contrasts = {
                name: _contrast(
                    _metric(ratios[name][column, value]),
                    _metric([_sensitivity(truth, run, rest, thresholds[run.name]) for run in arm.runs]),
                )
                for name, arm in arms.items()
            }
            between += [
                GroupContrast(column, value, against, each)
                for each in _tested(declared, arms, contrasts, within[value])
            ]
    pairs = pairs_by_group(differences, 1 - plan.alpha)
    return LesionStrata(
        threshold=settings.threshold,
        false_positives_per_case=settings.rate,
        thresholds_from="declared" if settings.threshold is not None else "validation" if validation else "test set",
        thresholds=thresholds,
        strata=tuple(stratum.model_copy(update={"pairs": each}) for stratum, each in zip(found, pairs, strict=True)),
        interactions=interactions(between, 1 - plan.alpha),
    )


def threshold_of_rate(truth: TestSet, confidence: FloatArray, hit: BoolArray, rate: float) -> float:
    """The lowest threshold at which a run has at most so many false positives per case."""
    false = np.sort(confidence[~hit])[::-1]
    allowed = int(rate * len(truth.case_ids) + 1e-9)
    return float(np.nextafter(false[allowed], np.inf)) if allowed < false.size else 0.0


def _threshold(run: ScoredRun, plan: LesionPlan) -> float:
    if plan.rate is None:
        assert plan.threshold is not None
        return plan.threshold
    return threshold_of_rate(run.truth, run.outcome.confidence, run.outcome.hit, plan.rate)


def _sensitivity(truth: TestSet, run: ScoredRun, member: BoolArray, threshold: float) -> Ratio:
    lesions = run.lesions or ()
    place = {case_id: number for number, case_id in enumerate(truth.case_ids)}
    cases = np.array([place[lesion.case_id] for lesion in lesions])
    found = np.array([lesion.confidence > 0 and lesion.confidence >= threshold for lesion in lesions])
    hits, all_ = (np.bincount(cases[each], minlength=len(truth.case_ids)) for each in (member & found, member))
    result = ratio(truth, hits.astype(np.float64), all_.astype(np.float64))
    assert result is not None  # a stratum holds a lesion
    return result


def _metric(ratios: Sequence[Ratio]) -> MetricByPatient:
    return MetricByPatient(np.array([each.value for each in ratios]), np.stack([each.influence for each in ratios]))


def _contrast(a: MetricByPatient, b: MetricByPatient) -> MetricByPatient:
    return MetricByPatient(a.values - b.values, a.influence - b.influence)


def _with_lesion(truth: TestSet, patients: FloatArray) -> BoolArray:
    return np.isin(np.arange(truth.patient_count), patients)


def _estimate(
    arm: Arm, ratios: Sequence[Ratio], ill: BoolArray, plan: Analysis, *, with_interval: bool
) -> StratumSensitivity:
    estimates = [Estimator(ill, fixed, plan.alpha).of_ratios(ratios) for fixed in (arm.is_single, True)]
    intervals = [each.interval for each in estimates if each is not None and each.interval is not None]
    return StratumSensitivity(
        configuration=arm.name,
        sensitivity=float(np.mean([each.value for each in ratios])),
        interval=max(intervals, key=lambda ends: ends[1] - ends[0], default=None) if with_interval else None,
    )


def _tested(
    declared: Sequence[tuple[str, str]],
    arms: Mapping[str, Arm],
    metrics: Mapping[str, MetricByPatient],
    ill: BoolArray,
) -> list[Difference]:
    patients = int(ill.sum())
    found = []
    for a, b in declared:
        test = tested_difference(arms[a], arms[b], metrics[a], metrics[b], ill)
        of_cases = nested(metrics[a], metrics[b], ill, fixed=(True, True))
        if test is not None and of_cases is not None:
            wider = max(test, of_cases, key=lambda each: each.standard_error)
            found.append(Difference(a, b, wider, _approximate(arms[a], arms[b], patients)))
    return found


def _approximate(a: Arm, b: Arm, patients: int) -> str | None:
    """Why p is approximate in strata with these numbers of patients."""
    if patients < FEW_CASES:
        return f"fewer than {FEW_CASES} patients have such a lesion"
    return approximation_by_runs(drawn(a, b, pairing(a.runs, b.runs)))


def _size(lesion: LesionResult) -> tuple[object, ...]:
    return lesion.case_id, lesion.number, lesion.volume_ml, lesion.diameter_mm


def _cut(numbers: Sequence[float | None], cuts: Sequence[float] | None) -> dict[str, BoolArray]:
    """Strata of numbers by the declared cuts, or at their median; those that are unknown fall into none."""
    values = np.array([np.nan if number is None else number for number in numbers])
    cuts = cuts or [float(np.nanmedian(values))]
    names = [f"≤ {cuts[0]:g}", *(f"> {a:g} to {b:g}" for a, b in pairwise(cuts)), f"> {cuts[-1]:g}"]
    place = np.where(np.isnan(values), -1, np.digitize(values, cuts, right=True))
    return {name: place == number for number, name in enumerate(names) if (place == number).any()}


def _of_cells(
    texts: Sequence[str], numbers: Sequence[float | None] | None, cuts: Sequence[float] | None, where: str
) -> dict[str, BoolArray]:
    unknown = sum(not text for text in texts)
    if unknown == len(texts):
        raise OncoduetError(where, f"empty for all {len(texts)} lesions")
    if unknown:
        _log.warning("%s: %d of %d lesions without a value are in no stratum", where, unknown, len(texts))
    if cuts and numbers is None:
        text = next(repr(text) for text in texts if text)
        raise OncoduetError(where, f"stratum with cuts has a value that is not a number: {text}")
    if numbers is not None and (cuts or len({*numbers} - {None}) > MOST_VALUES):
        return _cut(numbers, cuts)
    return {name: np.array([text == name for text in texts]) for name in sorted({*texts} - {""})}


def _read_cells(
    path: Path, columns: Sequence[str], lesions: Sequence[LesionResult]
) -> dict[str, tuple[list[str], list[float | None] | None]]:
    """Each lesion's text, and its number where the column holds numbers, by column."""
    table = read_table(path, ("case_id", "lesion", *columns)).with_whole_numbers("lesion")
    rows = {
        (case_name(case), number): row for (case, number), row in table.by_key(("case_id", "lesion"), columns).items()
    }
    others = [
        f"{case}, lesion {number}" for case, number in rows.keys() - {(one.case_id, str(one.number)) for one in lesions}
    ]
    table.say_unused(sorted(others), "lesion of the test set")
    found: dict[str, list[str]] = {column: [] for column in columns}
    for lesion in lesions:
        row = rows.get((lesion.case_id, str(lesion.number)))
        if row is None:
            raise OncoduetError(
                path, f"no row for lesion {lesion.number} of {lesion.case_id}, one of {len(lesions)} lesions"
            )
        for column in columns:
            found[column].append(row[column])
    return {column: (texts, numbers_in_column(table, column, texts)) for column, texts in found.items()}
