"""Ranges and their distributions against nnU-Net's own."""

import numpy as np
import pytest
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from refusals import refused_with

from training.augmentation.random_parameters import Range, range_of


def test_values_about_one_are_half_below_and_half_above():
    random = np.random.default_rng(0)
    ours = Range(0.7, 1.5, about_one=True).of(random.random((20000, 2)))
    np.random.seed(0)  # noqa: NPY002 - BGContrast draws from the global generator
    stock = BGContrast((0.7, 1.5))
    theirs = np.array([stock() for _ in range(20000)])
    levels = np.linspace(0, 1, 11)
    assert np.quantile(ours, levels) == pytest.approx(np.quantile(theirs, levels), abs=0.02)
    assert np.mean(ours < 1) == pytest.approx(0.5, abs=0.02)


def test_a_random_scalar_is_a_number_a_pair_or_a_contrast():
    assert range_of(2, what="x") == Range(2, 2)
    assert range_of([1, 3], what="x") == Range(1, 3)
    assert range_of(BGContrast((0.7, 1.5)), what="x") == Range(0.7, 1.5, about_one=True)
    assert range_of(BGContrast((0.7, 1.5)).sample_contrast, what="x") == Range(0.7, 1.5, about_one=True)
    with refused_with(expected="x to be a number or a range"):
        range_of(lambda: 1, what="x")
