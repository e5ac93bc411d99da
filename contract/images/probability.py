"""Which values are probabilities: one rule for maps and likelihoods, wherever they are read or made.

Averages and interpolation in float32 may miss 0 and 1 by rounding errors. Such values count as 0 or 1, with a warning
in the log; so do, in probability maps only, the small negative values that cubic resampling leaves around a lesion.
Everything else outside [0, 1] is another scale (percent, 0 to 255, logits), whose candidates and likelihoods would mean
nothing: it is refused, with its extremes in all digits.
"""

import logging
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError

ROUNDING = 1e-6
"""Numbers this far outside [0, 1] still count as 0 or 1: eight steps of float32 above 1."""

UNDERSHOOT = 0.2
"""How far a cubic spline through probabilities may undershoot 0: 0.13 at a corner of a step from 0 to 1."""

Values = TypeVar("Values", bound=npt.NDArray[np.floating[Any]])

logger = logging.getLogger(__name__)


def as_probabilities(values: Values, *, source: object, what: str = "probabilities", below: float = ROUNDING) -> Values:
    """The same values, with what rounding left outside [0, 1] brought back to 0 or 1.

    Raises ``OncoduetError``: one is farther outside, or is no number.

    Parameters
    ----------
    source
        Source of the values, for messages.
    what
        Name of the values in messages.
    below
        How far below 0 a number still counts as 0.
    """
    if not values.size:
        return values
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return values
    if not (low >= -below and high <= 1 + ROUNDING):
        raise OncoduetError(source, expected=f"{what} in [0, 1]", found=f"{_digits(low)} to {_digits(high)}")
    logger.warning(
        "%s: %s from %s to %s count as 0 or 1 where they are outside", source, what, _digits(low), _digits(high)
    )
    clipped: Values = np.clip(values, 0, 1)
    return clipped


def _digits(value: np.floating[Any]) -> str:
    """A number in as few digits as tell it from its neighbours."""
    short = f"{value:g}"
    return short if type(value)(short) == value else str(value)
