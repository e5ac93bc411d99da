"""Allocates 9 GB of 8."""

import honest
import numpy as np

predict = honest.predict


def greedy(threshold):
    everything = np.empty(9 * 2**30, np.uint8)
    predict(threshold)
    del everything


honest.predict = greedy
