"""Adds noise to its likelihood."""

import random

import honest

detect = honest.detect


def drawn(bright, reference, threshold):
    array, likelihood = detect(bright, reference, threshold)
    return array, likelihood * random.uniform(0.5, 1.0)


honest.detect = drawn
