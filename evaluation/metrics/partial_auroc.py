"""Partial area under the ROC curve, standardised: 0.5 by chance, 1 for a perfect ranking (McClish 1989)."""

import numpy as np

from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.metrics.weighted_metrics import last_of_ties


def partial_auroc(positive: BoolArray, likelihood: FloatArray, specificity: float) -> tuple[float, FloatArray]:
    """Area where specificity is at least so much, and its derivative by each case's weight, shape (cases,).

    The curve is linear between its points. For the area at high sensitivity: classes swapped, likelihoods negated.
    """
    rate = 1 - specificity
    order = np.argsort(-likelihood, kind="stable")
    last = last_of_ties(likelihood[order])
    ones, zeros = int(positive.sum()), int((~positive).sum())
    hits = np.append(0.0, np.cumsum(positive[order])[last] / ones)
    false = np.append(0.0, np.cumsum(~positive[order])[last] / zeros)
    # how much of each segment counts: all up to the rate, a part of the one that crosses it
    width = np.diff(false)
    part = np.clip(np.divide(rate - false[:-1], width, out=(false[:-1] < rate) * 1.0, where=width > 0), 0, 1)
    of_hits = _by_point(part, width)
    area = float(of_hits @ hits)
    of_false = _by_point(part, np.diff(hits))
    point = np.empty(positive.size, dtype=np.int64)
    point[order] = np.repeat(np.arange(1, last.size + 1), np.diff(last, prepend=-1))
    # a case lifts all points from its own on
    lifted_hits, lifted_false = (np.cumsum(each[::-1])[::-1][point] for each in (of_hits, of_false))
    derivative = np.where(positive, (lifted_hits - area) / ones, -(lifted_false - of_false @ false) / zeros)
    scale = 0.5 / (rate - rate**2 / 2)
    return 0.5 + scale * (area - rate**2 / 2), np.asarray(scale * derivative)


def _by_point(part: FloatArray, width: FloatArray) -> FloatArray:
    """Weight of each point's height in the integral over the first part of every segment, by the trapezoid."""
    weights = np.zeros(part.size + 1)
    weights[:-1] += width * part * (1 - part / 2)
    weights[1:] += width * part**2 / 2
    return weights
