"""Subgroups of the test set by columns of its marksheet: AUROC of each configuration in each, and of each comparison.

The analysis file declares the columns. A group holds the positive cases with a value. Its negative cases are those with
the same value where every value of the column has some (a centre, a scanner), otherwise all of them (a grade, a size or
a zone belongs to a lesion). Numbers with more than six values are cut at their median; of several the largest counts.
Of several words each counts once: two peripheral lesions are *peripheral*.

p-values are the case level's, adjusted by Holm over all groups and comparisons: subgroups are looked at, not looked
for.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from evaluation.analysis import Analysis
from evaluation.case_level import case_level_tests
from evaluation.intervals import percentile_interval, two_level_bootstrap
from evaluation.outcomes import BoolArray, Outcome, Truth
from evaluation.run_level import holm
from evaluation.scored_runs import ScoredRun
from evaluation.verdict import Subgroup, SubgroupPair, SubgroupValue

FEWEST = 3
"""Positive, and negative, cases that a group needs to be shown."""


Groups = Mapping[str, Mapping[str, BoolArray]]
"""By column and value, which cases belong to the group, shape (cases,)."""


def read_groups(path: Path, columns: Sequence[str], truth: Truth) -> Groups:
    """Read which cases fall into which group.

    Parameters
    ----------
    path
        A CSV file with ``patient_id``, ``study_id`` and the columns; other rows and columns are ignored.

    Raises
    ------
    OncoduetError
        The file, a column, or a case of the test set is missing from it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise OncoduetError(f"{path}: expected a marksheet, found: {error}") from None
    present = list(rows[0]) if rows else []
    for column in ("patient_id", "study_id", *columns):
        if column not in present:
            raise OncoduetError(f"{path}: expected the column {column}, found {', '.join(present) or 'no rows'}")
    by_case = {f"{row['patient_id']}_{row['study_id']}": row for row in rows}
    unknown = [case_id for case_id in truth.case_ids if case_id not in by_case]
    if unknown:
        raise OncoduetError(
            f"{path}: expected a row for each of the {len(truth.case_ids)} cases, found none for {unknown[0]}"
        )
    return {
        column: _groups([(by_case[case_id][column] or "").strip() for case_id in truth.case_ids], truth)
        for column in columns
    }


def judge_subgroups(
    groups: Groups,
    configurations: Mapping[str, Sequence[ScoredRun]],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
) -> tuple[Subgroup, ...]:
    """Estimate every configuration and test every declared comparison in every group that is large enough."""
    found = []
    for column, values in groups.items():
        for value, member in values.items():
            truth = next(iter(configurations.values()))[0].truth
            if min(int((member & truth.positive).sum()), int((member & ~truth.positive).sum())) < FEWEST:
                continue
            part = Truth(
                tuple(np.array(truth.case_ids)[member].tolist()), truth.positive[member], 0 * truth.lesions[member]
            )
            outcomes = {
                name: [_restricted(run.outcome, member) for run in runs] for name, runs in configurations.items()
            }
            draws = two_level_bootstrap(part, outcomes, replicates=plan.replicates, seed=plan.seed)
            estimates = []
            for name, runs in outcomes.items():
                interval = percentile_interval(draws[name]["auroc"], level=0.95)
                area = float(np.mean([_auroc(part, each) for each in runs]))
                estimates.append(
                    SubgroupValue(
                        configuration=name,
                        auroc=area,
                        interval=None if interval is None else (interval.low, interval.high),
                    )
                )
            means = {each.configuration: each.auroc for each in estimates}
            tests = [
                case_level_tests(
                    part,
                    outcomes[a],
                    outcomes[b],
                    fixed=(configurations[a][0].is_baseline, configurations[b][0].is_baseline),
                    draws=plan.swaps,
                    seed=plan.seed,
                )["auroc"].p
                for a, b in declared
            ]
            found.append((column, value, part, tuple(estimates), means, tests))
    adjusted = iter(holm([p for *_, tests in found for p in tests]))
    return tuple(
        Subgroup(
            column=column,
            value=value,
            positive_cases=part.positive_count,
            negative_cases=len(part.case_ids) - part.positive_count,
            configurations=estimates,
            pairs=tuple(
                SubgroupPair(a=a, b=b, difference=means[a] - means[b], p=p, p_holm=next(adjusted) or p)
                for (a, b), p in zip(declared, tests, strict=True)
            ),
        )
        for column, value, part, estimates, means, tests in found
    )


def _groups(texts: Sequence[str], truth: Truth) -> dict[str, BoolArray]:
    numbers = [_largest(text) for text in texts]
    known = [number for number, text in zip(numbers, texts, strict=True) if text]
    if all(number is not None for number in known) and len(set(known)) > 6:
        middle = float(np.median([number for number in known if number is not None]))
        labels = ["" if number is None else f"{'≤' if number <= middle else '>'} {middle:g}" for number in numbers]
    else:
        labels = [_words(text) for text in texts]
    names = sorted(set(labels) - {""})
    masks = {name: np.array([label == name for label in labels]) for name in names}
    of_cases = all((mask & ~truth.positive).any() for mask in masks.values())
    return {name: mask if of_cases else (mask & truth.positive) | ~truth.positive for name, mask in masks.items()}


def _words(text: str) -> str:
    """Each of several words once, in order: what stands between ``;`` or ``|``."""
    return " and ".join(sorted({part.strip() for part in re.split(r"[;|]", text)} - {""}))


def _largest(text: str) -> float | None:
    """Largest of one or several numbers; None where the text holds anything else."""
    parts = [part for part in re.split(r"[;,|\s]+", text) if part]
    try:
        return max((float(part) for part in parts), default=None)
    except ValueError:
        return None


def _restricted(outcome: Outcome, member: BoolArray) -> Outcome:
    nothing = np.zeros(0, dtype=np.int64)
    return Outcome(outcome.likelihood[member], nothing, np.zeros(0), np.zeros(0, dtype=np.bool_))


def _auroc(truth: Truth, outcome: Outcome) -> float:
    above = outcome.likelihood[truth.positive][:, None] - outcome.likelihood[~truth.positive][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())
