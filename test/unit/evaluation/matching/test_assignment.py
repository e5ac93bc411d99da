"""Pairs by our shortcut beside SciPy's assignment, ties and disputes included; and scoring without SciPy."""

import numpy as np
import pytest
from programs import python
from scipy.optimize import linear_sum_assignment

from evaluation.matching.assignment import _undisputed, assign


def by_scipy(gain, allowed):
    return [
        (row, column)
        for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True)
        if allowed[row, column]
    ]


def overlaps(random, share):
    """Overlaps of up to seven lesions with as many candidates; a few values come twice."""
    shape = random.integers(0, 8, 2)
    overlap = np.where(random.random(shape) < 0.5, random.random(shape), random.integers(1, 6, shape) / 5)
    return np.where(random.random(shape) < share, overlap, 0.0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.4, 0.9])
def test_weights_of_picai_are_assigned_as_scipy_assigns_them(share):
    random = np.random.default_rng(int(share * 100))
    for _ in range(400):
        overlap = overlaps(random, share)
        gain = np.where(overlap >= 0.1, overlap + 1, 0.0)
        assert assign(gain, gain > 0) == by_scipy(gain, gain > 0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_overlaps_of_strict_are_assigned_as_scipy_assigns_them(share):
    random = np.random.default_rng(int(share * 100))
    for _ in range(400):
        overlap = overlaps(random, share)
        reachable = overlap >= 0.1
        overlap, reachable = overlap[:, reachable.any(axis=0)], reachable[:, reachable.any(axis=0)]
        if overlap.shape[1] == 0 or len(by_scipy(reachable.astype(float), reachable)) < overlap.shape[1]:
            continue  # strict accepts only candidates that can all have a lesion at once
        gain = np.where(reachable, overlap, -1.0 - overlap.shape[1])
        assert assign(gain, reachable) == by_scipy(gain, reachable)


@pytest.mark.parametrize(
    ("gain", "undisputed"),
    [
        ([[1.5, 0.0], [0.0, 1.2]], True),
        ([[1.5, 1.2], [0.0, 0.0]], False),  # two candidates want one lesion
        ([[1.5, 0.0], [1.5, 0.0]], False),  # a candidate with a tie
        ([[1.5, 0.0], [1.5 - 1e-12, 0.0]], False),  # as good as a tie
        ([[0.0, 0.0], [0.0, 0.0]], True),
    ],
)
def test_disputed_assignments_are_solved_by_scipy(gain, undisputed):
    gain = np.array(gain)
    assert (_undisputed(gain, gain > 0) is not None) == undisputed
    assert assign(gain, gain > 0) == by_scipy(gain, gain > 0)


def test_one_lesion_with_several_candidates_is_not_disputed():
    gain = np.array([[1.2, 1.5, 0.0, 1.1]])
    assert _undisputed(gain, gain > 0) is None
    assert _undisputed(gain.T, gain.T > 0) == [(1, 0)]
    assert assign(gain, gain > 0) == [(0, 1)]


def test_importing_the_command_brings_neither_scipy_nor_scikit_learn():
    script = "import sys, evaluation.__main__; print([n for n in ('scipy', 'sklearn', 'pandas') if n in sys.modules])"
    assert python("-c", script).stdout == "[]\n"
