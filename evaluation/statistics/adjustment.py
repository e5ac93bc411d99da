"""Holm's adjustment of a family of p-values (Scandinavian Journal of Statistics 1979)."""

from collections.abc import Sequence
from typing import overload

import numpy as np


@overload
def holm(p_values: Sequence[float], *, most_true: int | None = None) -> list[float]: ...


@overload
def holm(p_values: Sequence[float | None], *, most_true: int | None = None) -> list[float | None]: ...


def holm(p_values: Sequence[float | None], *, most_true: int | None = None) -> Sequence[float | None]:
    """Adjust p-values; None stays None and does not count.

    Parameters
    ----------
    most_true
        How many of the hypotheses can be true at once, if not all of them (Shaffer, JASA 1986): of "a is worse by the
        margin" and "b is worse by the margin" at most one is.
    """
    present = np.array([p for p in p_values if p is not None])
    order = np.argsort(present, kind="stable")
    steps = np.arange(present.size, 0, -1)
    if most_true is not None:
        steps = np.minimum(steps, most_true)
    stepped_down = np.maximum.accumulate(present[order] * steps)
    adjusted = np.empty_like(present)
    adjusted[order] = np.minimum(stepped_down, 1.0)
    remaining = iter(adjusted.tolist())
    return [None if p is None else next(remaining) for p in p_values]
