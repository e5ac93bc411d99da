"""Writes percent."""

import honest

detect = honest.detect


def percent(bright, reference, threshold):
    array, likelihood = detect(bright, reference, threshold)
    return array * 100, likelihood


honest.detect = percent
