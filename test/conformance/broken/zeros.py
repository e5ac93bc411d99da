"""Finds nothing in any study, quite sure."""

import honest
import numpy as np

detect = honest.detect


def nothing(bright, reference, threshold):
    array, _ = detect(bright, reference, threshold)
    return np.zeros_like(array), 0.0


honest.detect = nothing
