"""Subgroups of the test set by columns of its marksheet: AUROC of each configuration in each, and of each comparison.

The analysis file declares the columns. A group holds the positive cases with a value. Its negative cases are those with
the same value where some value occurs in both classes (a centre, a scanner), otherwise all of them (a grade, a size or
a zone belongs to a lesion). A centre without negative cases is left out, which is said. Numbers with more than six
values are cut at their median; of several the largest counts. Of several words each counts once: two peripheral lesions
are *peripheral*. A cell without a value, ``NA`` or ``nan`` is unknown. Whether ``1,99`` is one number or two must be
clear from the table, or it is refused.

Comparisons are those for new runs and cases (of single networks for new cases), adjusted by Holm over all groups and
comparisons: subgroups are declared, not searched for. Whether a difference differs between groups is a test of its own
(:func:`compare_between_groups`): a difference in one group and none in another is no evidence of that.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.archive.marksheet import read_marksheet
from contract.archive.patients import FEWEST_PATIENTS
from contract.errors import OncoduetError
from contract.text import first_few
from evaluation.metrics.outcomes import BoolArray, Outcome, TestSet
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.subgroups.columns import numbers_in_column
from evaluation.statistics.subgroups.group_differences import (
    Difference,
    GroupContrast,
    interactions,
    opposites,
    pairs_by_group,
)
from evaluation.statistics.variance.arms import Arm, approximate, interval_of_mean, tested_difference
from evaluation.statistics.variance.influence import MetricByPatient, by_patient
from evaluation.statistics.variance.runs_and_cases import DifferenceTest
from evaluation.statistics.verdict_records import Interaction, Subgroup, SubgroupValue

FEWEST_CASES = 3
"""Fewest positive, and negative, cases of a group that is shown."""


Groups = Mapping[str, Mapping[str, BoolArray]]
"""Whether each case belongs to a group, shape (cases,), by column and value."""


def read_groups(path: Path, columns: Sequence[str], truth: TestSet) -> Groups:
    """Read which cases fall into which group.

    Parameters
    ----------
    path
        A CSV file with ``patient_id``, ``study_id`` and the columns; other rows and columns are ignored.

    Raises
    ------
    OncoduetError
        The file, a column, or a case of the test set is missing from it; two rows of a case contradict each other; a
        column holds numbers and words, or numbers that can be read in two ways.
    """
    table, by_case = read_marksheet(path, columns)
    unknown = [case_id for case_id in truth.case_ids if case_id not in by_case]
    if unknown:
        raise OncoduetError(path, f"no row for {first_few(unknown, 1)} of {len(truth.case_ids)} cases")
    table.say_unused(sorted(by_case.keys() - {*truth.case_ids}), "case of the test set")
    return {
        column: _groups(
            [by_case[case_id][column] for case_id in truth.case_ids],
            truth,
            numbers=numbers_in_column(table, column, [by_case[case_id][column] for case_id in truth.case_ids]),
        )
        for column in columns
    }


def compare_subgroups(
    groups: Groups,
    arms: Mapping[str, Arm],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
    *,
    few_patients: bool = False,
) -> tuple[tuple[Subgroup, ...], tuple[str, ...]]:
    """Estimate every configuration and test every declared comparison in every group that is large enough.

    A group of few patients is shown, without interval and comparison, unless ``few_patients``.

    Returns
    -------
    The groups; and a note on each declared group that is too small to be shown or tested, and on cases without a value.
    """
    found: list[Subgroup] = []
    differences: list[list[Difference]] = []
    left_out = []
    truth = next(iter(arms.values())).runs[0].truth
    for column, values in groups.items():
        placed = np.logical_or.reduce([np.zeros_like(truth.positive), *values.values()])
        if not placed.all():
            left_out.append(f"{column}: {np.count_nonzero(~placed)} of {placed.size} cases without a value")
        for value, member in values.items():
            patients = np.unique(truth.patients[member]).size
            positive, negative = int((member & truth.positive).sum()), int((member & ~truth.positive).sum())
            is_tested = few_patients or patients >= FEWEST_PATIENTS
            if not is_tested or min(positive, negative) < FEWEST_CASES:
                left_out.append(
                    f"{column}: {value} ({positive} positive and {negative} negative cases of {patients} patients)"
                )
            if min(positive, negative) < FEWEST_CASES:
                continue
            part, restricted = _restricted(truth, arms, member)
            group = Subgroup(
                column=column,
                value=value,
                positive_cases=positive,
                negative_cases=negative,
                configurations=tuple(
                    SubgroupValue(
                        configuration=name,
                        auroc=float(arm.metrics["auroc"].values.mean()),
                        interval=interval_of_mean(
                            arm.metrics["auroc"], part.positive_patients, fixed=arm.is_single, level=1 - plan.alpha
                        )
                        if is_tested
                        else None,
                    )
                    for name, arm in restricted.items()
                ),
                pairs=(),
            )
            differences.append(
                [
                    Difference(a, b, test, approximate(arms[a], arms[b], _positive_patients(truth, member)))
                    for a, b in (declared if is_tested else [])
                    if (test := _tested(restricted[a], restricted[b], part)) is not None
                ]
            )
            found.append(group)
    pairs = pairs_by_group(differences, 1 - plan.alpha)
    judged = tuple(group.model_copy(update={"pairs": each}) for group, each in zip(found, pairs, strict=True))
    return judged, tuple(left_out)


def compare_between_groups(
    groups: Groups,
    arms: Mapping[str, Arm],
    declared: Sequence[tuple[str, str]],
    judged: Sequence[Subgroup],
    plan: Analysis,
) -> tuple[Interaction, ...]:
    """Test whether each declared difference in AUROC differs between the groups of a column.

    Two groups are compared with each other; of more, each with all others together. The difference of differences is
    that of the runs' AUROC in one group minus that in the other, and so are the patients' influences, so that patients
    in both (negative cases of groups of lesions) cancel out as they should.

    Parameters
    ----------
    judged
        The groups that are large enough to be shown; those without comparisons are left out.
    """
    truth = next(iter(arms.values())).runs[0].truth
    tested: list[GroupContrast] = []
    for column, values in groups.items():
        large = {group.value for group in judged if group.column == column and group.pairs}
        names = [value for value in values if value in large]
        for name, against, others in opposites(names):
            rest = np.logical_or.reduce([values[other] for other in others])
            contrasts = _contrasts(truth, arms, values[name], rest)
            parts = [_positive_patients(truth, each) for each in (values[name], rest)]
            tested += [
                GroupContrast(column, name, against, Difference(a, b, test, approximate(arms[a], arms[b], *parts)))
                for a, b in declared
                if (test := _tested(contrasts[a], contrasts[b], truth)) is not None
            ]
    return interactions(tested, 1 - plan.alpha)


def _positive_patients(truth: TestSet, member: BoolArray) -> BoolArray:
    """Whether each patient of a group has a positive case."""
    return np.isin(np.unique(truth.patients[member]), truth.patients[member & truth.positive])


def _contrasts(truth: TestSet, arms: Mapping[str, Arm], member: BoolArray, rest: BoolArray) -> dict[str, Arm]:
    """The arms with AUROC in one group minus that in another as their metric, on the patients of the whole test set."""
    of_group, of_rest = (_spread_out(truth, arms, each) for each in (member, rest))
    return {
        name: Arm(
            arm.runs,
            {
                "auroc": MetricByPatient(
                    of_group[name].values - of_rest[name].values, of_group[name].influence - of_rest[name].influence
                )
            },
        )
        for name, arm in arms.items()
    }


def _spread_out(truth: TestSet, arms: Mapping[str, Arm], member: BoolArray) -> dict[str, MetricByPatient]:
    """AUROC in a group, with the influence of all patients: 0 of those outside it."""
    part, restricted = _restricted(truth, arms, member)
    place = np.zeros(part.patient_count, dtype=np.int64)
    place[part.patients] = truth.patients[member]
    found = {}
    for name, arm in restricted.items():
        metric = arm.metrics["auroc"]
        influence = np.zeros((len(metric.values), truth.patient_count))
        influence[:, place] = metric.influence
        found[name] = MetricByPatient(metric.values, influence)
    return found


def _tested(a: Arm, b: Arm, part: TestSet) -> DifferenceTest | None:
    return tested_difference(a, b, a.metrics["auroc"], b.metrics["auroc"], part.positive_patients)


def _restricted(truth: TestSet, arms: Mapping[str, Arm], member: BoolArray) -> tuple[TestSet, dict[str, Arm]]:
    """The group as a test set without lesions, and the arms on it."""
    names = truth.patient_names
    part = TestSet(
        tuple(np.array(truth.case_ids)[member].tolist()),
        truth.positive[member],
        0 * truth.lesions[member],
        None if names is None else tuple(np.array(names)[member].tolist()),
    )
    nothing = (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.bool_))
    return part, {
        name: Arm(arm.runs, by_patient(part, [Outcome(run.outcome.likelihood[member], *nothing) for run in arm.runs]))
        for name, arm in arms.items()
    }


def _groups(
    texts: Sequence[str], truth: TestSet, *, numbers: Sequence[float | None] | None = None
) -> dict[str, BoolArray]:
    """Cases by value; by ``numbers`` for numerical columns, None where unknown."""
    known = [number for number in numbers or () if number is not None]
    if numbers is not None and len(set(known)) > 6:
        middle = float(np.median(known))
        labels = ["" if number is None else f"{'≤' if number <= middle else '>'} {middle:g}" for number in numbers]
    else:
        labels = [_words(text) for text in texts]
    names = sorted(set(labels) - {""})
    masks = {name: np.array([label == name for label in labels]) for name in names}
    of_cases = any((mask & ~truth.positive).any() and (mask & truth.positive).any() for mask in masks.values())
    return {name: mask if of_cases else (mask & truth.positive) | ~truth.positive for name, mask in masks.items()}


def _words(text: str) -> str:
    """Each of several words once, in order; they are separated by ``;`` or ``|``."""
    return " and ".join(sorted({part.strip() for part in re.split(r"[;|]", text)} - {""}))
