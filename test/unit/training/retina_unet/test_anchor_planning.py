"""Anchor sizes against a search of all combinations, and what may not move them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from refusals import refused_with
from scipy.optimize import differential_evolution

from training.retina_unet.anchor_planning import plan_anchors

STRIDES = ((1, 1, 1), (1, 2, 2), (1, 4, 6))
GROWTH = (1, 2, 3)  # of level 2 against level 1
SOURCE = Path("prepared")


def some_lesions(count, *, seed=0):
    random = np.random.default_rng(seed)
    large = random.random(count) < 0.4
    sizes = random.lognormal(0, 0.25, (count, 3)) * np.where(large[:, None], (5, 12, 14), (2.5, 6, 5))
    return np.maximum(1, np.rint(sizes))


def mean_iou(lesions, anchors):
    """Of boxes about one centre, one pair after the other."""
    best = []
    for lesion in lesions:
        overlaps = []
        for anchor in anchors:
            shared = np.prod(np.minimum(lesion, anchor))
            overlaps.append(shared / (np.prod(lesion) + np.prod(anchor) - shared))
        best.append(max(overlaps))
    return np.mean(best)


def test_one_size_per_axis_is_the_best_of_all_combinations():
    lesions = some_lesions(25)
    planned = plan_anchors(lesions, STRIDES, source=SOURCE, levels=(1, 2), sizes_per_axis=1)
    largest = lesions.max(axis=0).astype(int)
    best = max(
        mean_iou(lesions, [np.array(size), np.array(size) * GROWTH])
        for size in itertools.product(*(range(1, longest + 1) for longest in largest))
    )
    assert planned.mean_iou == pytest.approx(best, rel=1e-12)
    assert len(planned.plan.sizes_voxels_zyx) == 1


def test_the_mean_iou_is_that_of_the_anchors_in_the_plan():
    lesions = some_lesions(40)
    planned = plan_anchors(lesions, STRIDES, source=SOURCE, sizes_per_axis=2)
    finest = np.array(planned.plan.sizes_voxels_zyx)
    assert planned.plan.levels == (1, 2)
    assert finest.shape == (8, 3)
    assert planned.mean_iou == pytest.approx(mean_iou(lesions, [*finest, *(finest * GROWTH)]), rel=1e-12)


def test_anchors_fit_no_worse_than_those_of_differential_evolution():
    """nnDetection's kind of search: three runs of about 5,000 trials, of which the best counts."""
    lesions = some_lesions(40, seed=5)

    def misfit(numbers):
        z, y, x = np.maximum(1, np.rint(numbers)).reshape(3, 3)
        finest = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)
        anchors = np.concatenate([finest, finest * GROWTH])
        shared = np.minimum(lesions[:, None], anchors[None]).prod(axis=2)
        union = lesions.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared
        return -(shared / union).max(axis=1).mean()

    bounds = [(1, longest) for longest in lesions.max(axis=0) for _ in range(3)]
    runs = [differential_evolution(misfit, bounds, rng=run, maxiter=36, polish=False) for run in range(3)]
    planned = plan_anchors(lesions, STRIDES, source=SOURCE)
    assert runs[0].nfev > 4900
    assert planned.mean_iou >= -min(run.fun for run in runs)


def test_lesions_of_two_kinds_get_anchors_of_both():
    # with 2 sizes per axis on one level, both kinds are covered exactly
    lesions = np.array([[2, 4, 6]] * 7 + [[5, 13, 17]] * 3, np.float64)
    planned = plan_anchors(lesions, STRIDES, source=SOURCE, levels=(0,), sizes_per_axis=2)
    assert planned.mean_iou == pytest.approx(1)
    assert {(2, 4, 6), (5, 13, 17)} <= set(planned.plan.sizes_voxels_zyx)


def test_more_sizes_never_fit_worse():
    lesions = some_lesions(60, seed=2)
    fits = [plan_anchors(lesions, STRIDES, source=SOURCE, sizes_per_axis=count).mean_iou for count in (1, 2, 3)]
    assert fits == sorted(fits)
    assert fits[-1] > 0.7


def test_the_order_of_the_lesions_does_not_matter():
    lesions = some_lesions(30, seed=3)
    one = plan_anchors(lesions, STRIDES, source=SOURCE, sizes_per_axis=2)
    other = plan_anchors(lesions[::-1], STRIDES, source=SOURCE, sizes_per_axis=2)
    assert one.plan == other.plan


def test_an_outlier_among_many_lesions_does_not_move_the_anchors():
    lesions = np.tile(np.array([[2.0, 5, 6], [3, 6, 5]]), (150, 1))
    usual = plan_anchors(lesions, STRIDES, source=SOURCE, sizes_per_axis=1)
    with_outlier = np.concatenate([lesions, [[9, 90, 90]]])
    assert plan_anchors(with_outlier, STRIDES, source=SOURCE, sizes_per_axis=1) == usual


def test_lesions_all_of_one_size_are_no_outliers():
    assert plan_anchors(np.full((300, 3), 4.0), STRIDES, source=SOURCE, sizes_per_axis=1).mean_iou == 1


def test_no_lesions_are_refused():
    with refused_with("prepared", "no training lesion to plan anchors from"):
        plan_anchors(np.empty((0, 3)), STRIDES, source=SOURCE)


def test_levels_that_the_network_does_not_have_are_refused():
    with refused_with("anchors: levels", expected="rising levels among 0 to 2", found=r"\[1, 4\]"):
        plan_anchors(some_lesions(3), STRIDES, source=SOURCE, levels=(1, 4))
