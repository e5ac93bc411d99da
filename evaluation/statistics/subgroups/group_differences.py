"""Differences within groups and between them, for subgroups of cases and strata of lesions alike."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from evaluation.statistics.adjustment import holm
from evaluation.statistics.variance.arms import interval_of
from evaluation.statistics.variance.runs_and_cases import DifferenceTest
from evaluation.statistics.verdict_records import Interaction, SubgroupPair


class Difference(NamedTuple):
    """Configuration ``a`` minus ``b``, tested but not adjusted yet."""

    a: str
    b: str
    test: DifferenceTest
    approximate: str | None
    """Reason why p is approximate."""


class GroupContrast(NamedTuple):
    """A difference in one group minus that in the others of its column."""

    column: str
    value: str
    against: str
    """The other value, or ``others`` for all others together."""
    difference: Difference


def opposites(values: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Each value, the name of its opposite and the opposite's values: of two the other one, of more all others."""
    for number, value in enumerate(values[: 1 if len(values) == 2 else None]):
        others = [*values[:number], *values[number + 1 :]]
        if others:
            yield value, others[0] if len(others) == 1 else "others", others


def pairs_by_group(groups: Sequence[Sequence[Difference]], level: float) -> list[tuple[SubgroupPair, ...]]:
    """The differences of each group, adjusted over all groups; intervals of ``level``, such as 0.95."""
    adjusted = iter(holm([each.test.p for group in groups for each in group]))
    return [
        tuple(
            SubgroupPair(
                a=each.a,
                b=each.b,
                difference=each.test.estimate,
                interval=interval_of(each.test, level),
                p=each.test.p,
                p_holm=next(adjusted),
                approximate=each.approximate,
            )
            for each in group
        )
        for group in groups
    ]


def interactions(contrasts: Sequence[GroupContrast], level: float) -> tuple[Interaction, ...]:
    """Differences of differences, between −2 and 2, adjusted over all of them; intervals of ``level``."""
    return tuple(
        Interaction(
            column=column,
            value=value,
            against=against,
            a=each.a,
            b=each.b,
            difference=each.test.estimate,
            interval=interval_of(each.test, level, farthest=2.0),
            p=each.test.p,
            p_holm=p_holm,
            approximate=each.approximate,
        )
        for (column, value, against, each), p_holm in zip(
            contrasts, holm([contrast.difference.test.p for contrast in contrasts]), strict=True
        )
    )
