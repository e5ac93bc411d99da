"""Which runs of two configurations are compared with which, for the difference on new runs and cases.

*Paired by network*: an ensemble and its members, or two ensembles of the same networks, share what was trained. *Paired
by fold*: runs of the same fold share their training cases; within a fold they are paired in the order of their
restarts. *Nested*: everything else. Runs without a partner are left out, which is noted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evaluation.metrics.scored_run import ScoredRun
from evaluation.statistics.variance.runs_and_cases import Pairs
from evaluation.statistics.verdict_records import Design

NO_COMMON_FOLD = "they share no fold, so that fold and configuration are confounded"
NOTHING_DRAWN_TWICE = "all their runs hang together by common networks, so that none was drawn independently"


@dataclass(frozen=True)
class Pairing:
    """The runs that are compared, by index."""

    design: Design
    a: Sequence[int] = ()
    b: Sequence[int] = ()
    pairs: Pairs = ()
    """Pairs of runs; empty where nested."""
    note: str | None = None
    """Limitation of the comparison, for the reader."""
    reason: str | None = None
    """Reason why there is no comparison."""


class _Group(NamedTuple):
    """Runs that are connected by common networks."""

    networks: set[str]
    a: list[int]
    b: list[int]


def pairing(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> Pairing:
    """Choose the design of a comparison of two configurations by what their runs share."""
    shared = {run for each in a for run in each.source.runs} & {run for each in b for run in each.source.runs}
    if shared:
        return _by_network(a, b)
    if any(run.is_baseline for run in (*a, *b)):
        return Pairing("nested", range(len(a)), range(len(b)))
    folds = [known_folds(arm) for arm in (a, b)]
    if trained_on_others(a, b) or not folds[0] or not folds[1]:
        return Pairing("nested", range(len(a)), range(len(b)), note=_why_without_folds(a, b))
    common = sorted(set(folds[0]) & set(folds[1]))
    if not common:
        return Pairing("nested", reason=NO_COMMON_FOLD)
    if len(common) == 1:
        of_a, of_b = ([index for index, fold in enumerate(arm) if fold == common[0]] for arm in folds)
        return Pairing("nested", of_a, of_b, note=_left_out(a, b, of_a, of_b))
    pairs = [
        ([of_a], [of_b]) for fold in common for of_a, of_b in zip(_in_fold(a, fold), _in_fold(b, fold), strict=False)
    ]
    return _of_pairs("paired by fold", a, b, pairs)


def _why_without_folds(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str | None:
    if trained_on_others(a, b):
        names = f"{a[0].source.configuration} and {b[0].source.configuration}"
        return f"{names} were trained on different datasets or splits: a difference may be one of these"
    unknown = {run.source.configuration: None for run in (*a, *b) if run.source.fold is None and not run.is_ensemble}
    if not unknown:
        return None
    return f"the folds of {' and '.join(unknown)} are not all known: a difference may be one of folds"


def known_folds(runs: Sequence[ScoredRun]) -> list[int]:
    """Each run's fold, or nothing where one is not known."""
    folds = [run.source.fold for run in runs if run.source.fold is not None]
    return folds if len(folds) == len(runs) else []


def trained_on_others(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> bool:
    """Whether the two arms are known to have been trained on different datasets, so that they share no fold."""
    return len({run.source.prepared_sha256 for run in (*a, *b)} - {None}) > 1


def _in_fold(runs: Sequence[ScoredRun], fold: int) -> list[int]:
    found = [index for index, run in enumerate(runs) if run.source.fold == fold]
    return sorted(found, key=lambda index: (runs[index].source.restart is None, runs[index].source.restart or 0))


def _by_network(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> Pairing:
    """Pair the runs that are connected by common networks."""
    groups: list[_Group] = []
    for side, runs in enumerate((a, b)):
        for index, run in enumerate(runs):
            joined = _Group(set(run.source.runs), [index] if side == 0 else [], [index] if side == 1 else [])
            apart = []
            for group in groups:
                if group.networks & joined.networks:
                    joined = _Group(joined.networks | group.networks, joined.a + group.a, joined.b + group.b)
                else:
                    apart.append(group)
            groups = [*apart, joined]
    pairs = sorted((sorted(group.a), sorted(group.b)) for group in groups if group.a and group.b)
    for arm, other in ((a, b), (b, a)):
        if len(arm) == 1 < len(other):
            name = arm[0].source.configuration
            return Pairing(
                "paired by network", reason=f"of {name} a single run was scored: how much runs vary is not known"
            )
    if len(pairs) < 2 <= max(len(a), len(b)):
        return Pairing("paired by network", reason=NOTHING_DRAWN_TWICE)
    return _of_pairs("paired by network", a, b, pairs)


def _of_pairs(design: Design, a: Sequence[ScoredRun], b: Sequence[ScoredRun], pairs: Pairs) -> Pairing:
    of_a, of_b = (sorted(index for pair in pairs for index in pair[side]) for side in (0, 1))
    return Pairing(design, of_a, of_b, pairs, note=_left_out(a, b, of_a, of_b))


def _left_out(a: Sequence[ScoredRun], b: Sequence[ScoredRun], of_a: Sequence[int], of_b: Sequence[int]) -> str | None:
    parts = [
        f"{len(runs) - len(kept)} of {len(runs)} runs of {runs[0].source.configuration}"
        for runs, kept in ((a, of_a), (b, of_b))
        if len(kept) < len(runs)
    ]
    return f"{' and '.join(parts)} have no partner in the other arm and are left out" if parts else None
