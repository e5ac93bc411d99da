"""Levels at which a running campaign is tested at its looks (Lan and DeMets, Biometrika 1983).

By the share t of the planned runs at most ``α(t) = 4 − 4 Φ(z(α/4)/√t)`` of the type-I error may have been spent, after
O'Brien and Fleming's boundaries: for each direction α/2, by Lan and DeMets' one-sided function. The level of each look
is the one at which, with the looks before it, just that is spent: the looks' statistics are a Brownian motion at the
times t, whose density between the boundaries is carried from look to look by numerical integration (Armitage, McPherson
and Rowe, JRSS A 1969). A look with negligible alpha has the level 0 and leaves it to the next.
"""

import math
from functools import lru_cache, partial

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from evaluation.metrics.outcomes import FloatArray

_POINTS = 501
"""Points of the grid of Simpson's rule; odd."""
_FARTHEST = 8.0
"""Largest bound, in standard deviations: at most 1e-15 is beyond."""


def spent_by(share: float, alpha: float) -> float:
    """α(t), two-sided, by the share t of the planned runs."""
    return 4 * float(norm.sf(norm.isf(alpha / 4) / math.sqrt(share)))


@lru_cache
def nominal_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The two-sided level of each look, given as rising numbers of runs of which the last one is planned.

    0 for a look that cannot stop a campaign.
    """
    times = [look / looks[-1] for look in looks]
    levels: list[float] = []
    grid, weights, before, spent = np.zeros(1), np.ones(1), 0.0, 0.0
    for time in times:
        sd = math.sqrt(time - before)
        wanted = spent_by(time, alpha) - spent
        excess = partial(_excess, grid=grid, weights=weights, sd=sd, wanted=wanted)
        bound = _FARTHEST * math.sqrt(time)
        if excess(bound) < 0:
            bound = float(brentq(excess, 0, bound, xtol=1e-12))
            levels.append(2 * float(norm.sf(bound / math.sqrt(time))))
        else:
            levels.append(0.0)
            wanted = 0.0
        inside = np.linspace(-bound, bound, _POINTS)
        weights = _simpson(inside) * (norm.pdf(inside[:, None] - grid[None, :], scale=sd) @ weights)
        grid, before, spent = inside, time, spent + wanted
    return tuple(levels)


def _excess(bound: float, *, grid: FloatArray, weights: FloatArray, sd: float, wanted: float) -> float:
    """Probability of first crossing ± bound at a look, minus the wanted one."""
    return float(weights @ (norm.sf(bound - grid, scale=sd) + norm.cdf(-bound - grid, scale=sd))) - wanted


def _simpson(grid: FloatArray) -> FloatArray:
    weights = np.where(np.arange(grid.size) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    return np.asarray(weights * (grid[1] - grid[0]) / 3)
