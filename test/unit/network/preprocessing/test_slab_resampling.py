import tracemalloc

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

from network.preprocessing.slab_resampling import resample_by_slabs


def noise(*shape):
    return np.random.default_rng(0).normal(scale=100, size=shape).astype(np.float32)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((30, 17, 21), (20, 25, 21)),
        ((200, 9, 12), (133, 12, 9)),  # more than one slab
        ((60, 9, 12), (170, 9, 12)),
        ((5, 40, 30), (7, 33, 41)),
        ((1, 20, 20), (1, 13, 29)),
    ],
)
def test_three_axes_together_are_resampled_as_nnunet_does(order, size, target):
    data = noise(2, *size)
    found = resample_by_slabs(data, target, order=order, thick_axis=None)
    assert found.dtype == np.float32
    expected = resample_data_or_seg(data, target, order=order)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # of noise of 100: the last digit of float32


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("thick", "target"), [(9, 14), (14, 9), (11, 11), (10, 20), (20, 10), (1, 3)])
def test_thick_slices_are_resampled_as_nnunet_does(order, axis, thick, target):
    size, new = [30, 24, 17], [21, 33, 20]
    size[axis], new[axis] = thick, target
    data = noise(2, *size)
    found = resample_by_slabs(data, new, order=order, thick_axis=axis)
    expected = resample_data_or_seg(data, new, axis=axis, order=order, do_separate_z=True, order_z=0)
    np.testing.assert_array_equal(found, expected)


def test_an_image_of_the_right_size_is_left_as_it_is():
    data = noise(1, 5, 6, 7)
    assert resample_by_slabs(data, (5, 6, 7), order=3, thick_axis=None) is data


@pytest.mark.parametrize("thick_axis", [None, 0])
def test_memory_does_not_grow_with_the_number_of_slices(thick_axis):
    def peak(slices):
        data = noise(1, slices, 30, 30)
        tracemalloc.start()
        result = resample_by_slabs(data, (slices * 2 // 3, 33, 33), order=3, thick_axis=thick_axis)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most - result.nbytes

    assert peak(1200) - peak(300) < 0.02 * 900 * 30 * 30 * 8  # of what the added slices take in float64
