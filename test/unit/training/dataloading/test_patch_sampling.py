"""Where patches are cut, against nnU-Net's own rule."""

import numpy as np
import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from training.dataloading.patch_sampling import PatchSampler


class Stock(nnUNetDataLoader):
    """nnU-Net's rule for boxes, without data."""

    def __init__(self, box, patch):
        self.patch_size, self.has_ignore, self.annotated_classes_key = box, False, (-1, 1)
        self.need_to_pad = np.array(box) - np.array(patch)


@pytest.mark.parametrize(
    ("box", "patch", "shape"),
    [
        ((12, 20, 25), (8, 15, 16), (30, 32, 34)),
        ((12, 20, 25), (8, 15, 16), (9, 20, 17)),
        ((8, 15, 16), (8, 15, 16), (30, 15, 16)),
        ((13, 40, 41), (12, 30, 30), (9, 11, 40)),  # larger than the study
    ],
)
def test_patches_are_cut_where_nnunet_cuts_them(box, patch, shape):
    random = np.random.default_rng(5)
    rule, stock = PatchSampler(box, patch), Stock(box, patch)
    np.random.seed(3)  # noqa: NPY002 - nnU-Net draws from the global generator
    theirs = np.array([stock.get_bbox(np.array(shape), False, None)[0] for _ in range(2000)])
    ours = np.array([
        rule.lower_corner(shape, {}, forced=False, uniform=random.random(5)) for _ in range(2000)
    ])  # fmt: skip
    lowest, highest = rule.limits(shape)
    for corners in (theirs, ours):  # a value of at most 27 is missed with probability (26/27)^2000 < 1e-32
        assert corners.min(axis=0).tolist() == lowest
        assert corners.max(axis=0).tolist() == highest
    spread = np.maximum(np.subtract(highest, lowest), 1) / np.sqrt(12 * 2000)
    assert np.all(np.abs(ours.mean(axis=0) - np.add(lowest, highest) / 2) < 5 * spread)
    for voxel in random.integers(0, shape, (50, 3)):
        expected, _ = stock.get_bbox(np.array(shape), True, {1: np.array([[0, *voxel]])})
        found = rule.lower_corner(shape, {1: voxel[None]}, forced=True, uniform=random.random(5))
        assert list(found) == expected


def test_classes_and_their_voxels_are_drawn_uniformly():
    voxels = {1: np.array([[20, 20, 20]] * 1), 3: np.array([[30, 30, 30], [40, 40, 40]])}
    rule = PatchSampler((4, 4, 4), (4, 4, 4))
    random = np.random.default_rng(0)
    corners = [rule.lower_corner((60, 60, 60), voxels, forced=True, uniform=random.random(5))[0] for _ in range(4000)]
    values, counts = np.unique(corners, return_counts=True)
    assert values.tolist() == [18, 28, 38]
    assert counts / 4000 == pytest.approx([0.5, 0.25, 0.25], abs=0.04)  # 5 standard errors


def test_the_focus_is_the_only_class_where_the_study_has_it():
    voxels = {1: np.array([[20, 20, 20]]), 3: np.array([[30, 30, 30]])}
    random = np.random.default_rng(0)

    def corners(focus):
        rule = PatchSampler((4, 4, 4), (4, 4, 4), focus=focus)
        return {rule.lower_corner((60, 60, 60), voxels, forced=True, uniform=random.random(5))[0] for _ in range(50)}

    assert (corners(3), corners(2)) == ({28}, {18, 28})
