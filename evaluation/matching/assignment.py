"""Assignment of candidates to lesions with the largest total gain.

Nearly always each column's best row is free, and the assignment follows. Only the other cases need SciPy, which takes
half a second to import.
"""

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_CLEARLY_MORE = 1e-9  # far above what rounding does to sums of gains, so that SciPy chooses the same


def assign(gain: Float64Array, allowed: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The allowed pairs of the assignment with the largest total gain, (row, column) by row.

    Parameters
    ----------
    gain
        Of each pair, shape (rows, columns). Any allowed pair gains more than any other, and either all others gain 0,
        or there are at most as many columns as rows and all columns can have an allowed partner at once.
    allowed
        The pairs that count; the same shape.
    """
    pairs = _undisputed(gain, allowed)
    if pairs is None and not gain[~allowed].any():  # then rows and columns are equals
        pairs = _undisputed(gain.T, allowed.T)
        pairs = None if pairs is None else [(row, column) for column, row in pairs]
    if pairs is not None:
        return sorted(pairs)
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def _undisputed(gain: Float64Array, allowed: npt.NDArray[np.bool_]) -> list[tuple[int, int]] | None:
    """Each column's allowed pair of clearly the largest gain, or None where there is none or two want the same row.

    Their total is the sum of the columns' largest gains, which no assignment exceeds.
    """
    columns = np.flatnonzero(allowed.any(axis=0))
    if not columns.size:
        return []
    gains = np.where(allowed, gain, -np.inf)[:, columns]
    rows = gains.argmax(axis=0)
    rivals = np.count_nonzero(gains > gains.max(axis=0) - _CLEARLY_MORE)
    if rivals > columns.size or np.unique(rows).size < columns.size:
        return None
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
