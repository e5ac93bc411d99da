"""Net benefit of acting on a likelihood (Vickers and Elkin, Medical Decision Making 2006).

At the threshold probability t a false positive weighs t/(1 − t) true positives: ``NB(t) = (TP − FP · t/(1 − t)) / N``.
"""

import numpy as np

from evaluation.metrics.outcomes import BoolArray, FloatArray

THRESHOLDS = np.arange(1, 76) / 100
"""Threshold probabilities of the figure."""
THRESHOLDS_OF_TABLE = np.arange(1, 16) / 20


def benefit_of_cases(positive: BoolArray, likelihood: FloatArray, threshold: float) -> FloatArray:
    """What each case adds: 1 for a true positive, −t/(1 − t) for a false one, else 0; their mean is the net benefit."""
    gain = np.where(positive, 1.0, -threshold / (1 - threshold))
    return np.asarray(np.where(likelihood >= threshold, gain, 0.0))


def net_benefit(positive: BoolArray, likelihood: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Net benefit at each threshold."""
    return np.array([benefit_of_cases(positive, likelihood, float(each)).mean() for each in thresholds])


def net_benefit_of_all(prevalence: float, thresholds: FloatArray) -> FloatArray:
    """Where every case is called positive; where none is, it is 0."""
    return np.asarray(prevalence - (1 - prevalence) * thresholds / (1 - thresholds))
