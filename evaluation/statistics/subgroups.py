"""Subgroups of the test set by columns of its marksheet: AUROC of each configuration in each, and of each comparison.

The analysis file declares the columns. A group holds the positive cases with a value. Its negative cases are those with
the same value where every value of the column has some (a centre, a scanner), otherwise all of them (a grade, a size or
a zone belongs to a lesion). Numbers with more than six values are cut at their median; of several the largest counts.
Of several words each counts once: two peripheral lesions are *peripheral*. A cell without a value, ``NA`` or ``nan`` is
unknown. Whether ``1,99`` is one number or two must be clear from the table, or it is refused.

p-values are the case level's, adjusted by Holm over all groups and comparisons: subgroups are declared, not searched
for.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from contract.marksheet import read_marksheet
from contract.patients import FEWEST_PATIENTS
from contract.tables import Table, known
from evaluation.metrics.outcomes import BoolArray, Outcome, TestSet
from evaluation.metrics.scored_runs import ScoredRun
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.bootstrap import percentile_interval, two_level_bootstrap
from evaluation.statistics.case_level import case_level_tests
from evaluation.statistics.run_level import holm, no_common_fold
from evaluation.statistics.verdict import Subgroup, SubgroupPair, SubgroupValue

FEWEST = 3
"""Positive, and negative, cases that a group needs to be shown."""


Groups = Mapping[str, Mapping[str, BoolArray]]
"""By column and value, which cases belong to the group, shape (cases,)."""


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
        raise OncoduetError(
            path, expected=f"a row for each of the {len(truth.case_ids)} cases", found=f"none for {unknown[0]}"
        )
    return {
        column: _groups(
            [by_case[case_id][column] for case_id in truth.case_ids],
            truth,
            numbers=_numbers(table, column, [by_case[case_id][column] for case_id in truth.case_ids]),
        )
        for column in columns
    }


def compare_subgroups(
    groups: Groups,
    configurations: Mapping[str, Sequence[ScoredRun]],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
    *,
    few_patients: bool = False,
) -> tuple[tuple[Subgroup, ...], tuple[str, ...]]:
    """Estimate every configuration and test every declared comparison in every group that is large enough.

    Configurations that share no fold are compared in no group. A group of few patients is shown, without interval and
    comparison, unless ``few_patients``.

    Returns
    -------
    The groups; and a note on each declared group that is too small to be shown or tested, and on cases without a value.
    """
    found = []
    left_out = []
    declared = [(a, b) for a, b in declared if no_common_fold(configurations[a], configurations[b]) is None]
    truth = next(iter(configurations.values()))[0].truth
    for column, values in groups.items():
        placed = np.logical_or.reduce([np.zeros_like(truth.positive), *values.values()])
        if not placed.all():
            left_out.append(f"{column}: {np.count_nonzero(~placed)} of {placed.size} cases without a value")
        for value, member in values.items():
            patients = np.unique(truth.patients[member]).size
            positive, negative = int((member & truth.positive).sum()), int((member & ~truth.positive).sum())
            resampled = few_patients or patients >= FEWEST_PATIENTS
            if not resampled or min(positive, negative) < FEWEST:
                left_out.append(
                    f"{column}: {value} ({positive} positive and {negative} negative cases of {patients} patients)"
                )
            if min(positive, negative) < FEWEST:
                continue
            names = truth.patient_names
            part = TestSet(
                tuple(np.array(truth.case_ids)[member].tolist()),
                truth.positive[member],
                0 * truth.lesions[member],
                None if names is None else tuple(np.array(names)[member].tolist()),
            )
            outcomes = {
                name: [_restricted(run.outcome, member) for run in runs] for name, runs in configurations.items()
            }
            draws = two_level_bootstrap(part, outcomes, replicates=plan.replicates, seed=plan.seed) if resampled else {}
            estimates = []
            for name, runs in outcomes.items():
                interval = percentile_interval(draws[name]["auroc"], level=0.95) if resampled else None
                area = float(np.mean([_auroc(part, each) for each in runs]))
                estimates.append(
                    SubgroupValue(
                        configuration=name,
                        auroc=area,
                        interval=None if interval is None else (interval.low, interval.high),
                    )
                )
            means = {each.configuration: each.auroc for each in estimates}
            pairs = declared if resampled else []
            tests = [
                case_level_tests(
                    part,
                    outcomes[a],
                    outcomes[b],
                    fixed=(configurations[a][0].is_baseline, configurations[b][0].is_baseline),
                    draws=plan.swaps,
                    seed=plan.seed,
                )["auroc"].p
                for a, b in pairs
            ]
            found.append((column, value, part, tuple(estimates), means, pairs, tests))
    adjusted = iter(holm([p for *_, tests in found for p in tests]))
    judged = tuple(
        Subgroup(
            column=column,
            value=value,
            positive_cases=part.positive_count,
            negative_cases=len(part.case_ids) - part.positive_count,
            configurations=estimates,
            pairs=tuple(
                SubgroupPair(a=a, b=b, difference=means[a] - means[b], p=p, p_holm=next(adjusted) or p)
                for (a, b), p in zip(pairs, tests, strict=True)
            ),
        )
        for column, value, part, estimates, means, pairs, tests in found
    )
    return judged, tuple(left_out)


def _groups(
    texts: Sequence[str], truth: TestSet, *, numbers: Sequence[float | None] | None = None
) -> dict[str, BoolArray]:
    """Which cases belong to which value; by ``numbers``, where they are such, None where unknown."""
    known = [number for number in numbers or () if number is not None]
    if numbers is not None and len(set(known)) > 6:
        middle = float(np.median(known))
        labels = ["" if number is None else f"{'≤' if number <= middle else '>'} {middle:g}" for number in numbers]
    else:
        labels = [_words(text) for text in texts]
    names = sorted(set(labels) - {""})
    masks = {name: np.array([label == name for label in labels]) for name in names}
    of_cases = all((mask & ~truth.positive).any() for mask in masks.values())
    return {name: mask if of_cases else (mask & truth.positive) | ~truth.positive for name, mask in masks.items()}


def _words(text: str) -> str:
    """Each of several words once, in order; they are separated by ``;`` or ``|``."""
    return " and ".join(sorted({part.strip() for part in re.split(r"[;|]", text)} - {""}))


def _numbers(table: Table, column: str, texts: Sequence[str]) -> list[float | None] | None:
    """The largest number in each cell, None where it is empty; nothing at all where the column holds words.

    Commas part numbers where some cell of the column leaves no doubt: three parts, or decimal points between them.
    Otherwise they are decimal commas in a table whose columns are parted by something else, grades in a column of
    single digits up to 5, and refused elsewhere.
    """
    cells = [row[column] for row in table.rows]
    pieces = [piece for cell in cells for piece in re.split(r"[;|\s]+", cell)]
    with_comma = [piece for piece in pieces if re.fullmatch(r"[+-]?\d+,\d+", piece)]
    commas_part = any(piece.count(",") > 1 or {",", "."} <= {*piece} for piece in pieces)
    if not commas_part and with_comma and table.delimiter == ",":
        if not all(re.fullmatch(r"[0-5],[0-5]", piece) for piece in with_comma) or any(
            "." in piece for piece in pieces
        ):
            raise OncoduetError(
                f"{table.path}: column {column}",
                expected="a decimal point, and ; between several numbers",
                found=f"{with_comma[0]!r}, which may be one number or two",
            )
        commas_part = True
    separators = r"[;,|\s]+" if commas_part else r"[;|\s]+"
    parted = [[part for part in re.split(separators, text) if known(part)] for text in texts]
    values = [[table.number(part) for part in parts] for parts in parted]
    words = [text for text, found in zip(texts, values, strict=True) if None in found]
    largest = [max((each for each in found if each is not None), default=None) for found in values]
    if not words:
        return largest
    if len({number for number in largest if number is not None}) > 6 and 2 * len(words) < sum(map(bool, texts)):
        raise OncoduetError(
            f"{table.path}: column {column}", expected="numbers as in its other rows", found=f"{words[0]!r}"
        )
    return None


def _restricted(outcome: Outcome, member: BoolArray) -> Outcome:
    nothing = np.zeros(0, dtype=np.int64)
    return Outcome(outcome.likelihood[member], nothing, np.zeros(0), np.zeros(0, dtype=np.bool_))


def _auroc(truth: TestSet, outcome: Outcome) -> float:
    above = outcome.likelihood[truth.positive][:, None] - outcome.likelihood[~truth.positive][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())
