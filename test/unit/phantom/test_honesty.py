"""The task is fair: an image's extreme voxel says little about the case, and only the lesion decides it."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import ndimage

from contract.images.grid import Grid
from contract.images.volume import Volume, resample
from phantom.archive import Order, case_rng, draw_studies
from phantom.cohort import CasePlan
from phantom.mri import draw_session
from phantom.prostate import draw_anatomy
from phantom.study import PhantomStudy

EXTERNAL_SEEDS = (2, 4, 6, 8, 10)
Aurocs = dict[str, list[float]]


def auroc(positive: list[bool], score: list[float]) -> float:
    """Share of pairs (positive, negative) in the right order; ties count half."""
    flags, values = np.array(positive), np.array(score, dtype=float)
    difference = values[flags][:, None] - values[~flags][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def external_aurocs(order: Order, scores_of: Callable[[Order, CasePlan, PhantomStudy], dict[str, float]]) -> Aurocs:
    """AUROC of each score in each external test set; printed, since docs/phantoms.md quotes it (pytest -s)."""
    found: Aurocs = {}
    for seed in EXTERNAL_SEEDS:
        external = replace(order, cases=60, positive_fraction=Fraction("0.4"), seed=seed, population="external")
        cases = [(plan.positive, scores_of(external, plan, drawn)) for plan, drawn in draw_studies(external)]
        positive = [each for each, _ in cases]
        assert sum(positive) == 24
        for name in cases[0][1]:
            found.setdefault(name, []).append(auroc(positive, [float(scores[name]) for _, scores in cases]))
    for name, values in found.items():
        print(f"{name:32}", *(f"{value:.3f}" for value in values), f"mean {np.mean(values):.3f}")
    return found


def require_no_ranking(values: list[float]) -> None:
    assert max(values) <= 0.70
    assert 0.35 < np.mean(values) < 0.65


@pytest.mark.slow
def test_no_voxel_baseline_ranks_external_cases_without_the_gland(order):
    def scores_of(external, plan, drawn):
        hbv, adc = drawn.channels["hbv"], drawn.channels["adc"]
        gland = on_reference(hbv, drawn.label)[true_gland(external, plan.index)]
        return {
            "maximum of HBV": float(hbv.array.max()),
            "minimum of ADC": -float(adc.array.min()),
            "HBV in the true gland": gland.max() / np.median(gland),
        }

    found = external_aurocs(order, scores_of)
    for name in ("maximum of HBV", "minimum of ADC"):
        require_no_ranking(found[name])
    assert min(found["HBV in the true gland"]) > 0.75  # the lesions are there to be found


@pytest.mark.slow
def test_no_ct_extreme_ranks_external_cases_without_the_pancreas(ct_order):
    def scores_of(_, plan, drawn):
        image, pancreas = drawn.channels["ct"].array.astype(float), np.isin(drawn.label.array, (1, 4, 5))
        return {
            "maximum of CT": image.max(),
            "minimum of CT": -image.min(),
            "mean in the true pancreas": -image[pancreas].mean(),
            "dark patch in the true pancreas": dark_patch(image, pancreas, drawn.label.grid),
        }

    found = external_aurocs(ct_order, scores_of)
    for name in ("maximum of CT", "minimum of CT"):
        require_no_ranking(found[name])
    assert 0.75 < np.mean(found["dark patch in the true pancreas"]) < 0.97  # to be found, but not all of them


def dark_patch(image: np.ndarray, pancreas: np.ndarray, grid: Grid) -> float:
    """The largest share of tumour-like voxels in a neighbourhood of 6 mm, in the pancreas without its outermost voxels.

    Tumour-like is what lies about 42 HU below the median of the pancreas: cysts and ducts are darker, noise is less so.
    """
    below = image - np.median(image[pancreas])
    alike = np.exp(-0.5 * ((np.clip(below, -200, 200) + 42) / 22) ** 2)
    core = ndimage.binary_erosion(pancreas, np.ones((1, 3, 3)))
    sigma = [6 / spacing for spacing in grid.spacing_mm_zyx]
    return float(ndimage.gaussian_filter(np.where(core, alike, 0), sigma)[core].max())


def on_reference(volume: Volume, reference: Volume) -> np.ndarray:
    return resample(volume, reference.grid, interpolation="b-spline", outside=0.0).array.astype(float)


def true_gland(order: Order, index: int) -> np.ndarray:
    """The gland, but for its outermost layer, on the T2W grid: nobody outside these tests is told."""
    anatomy_rng, session_rng, _, _ = case_rng(order, index).spawn(4)
    points_mm = draw_session(session_rng).t2w.centres_mm().astype(np.float32)
    return draw_anatomy(anatomy_rng).gland.scaled(0.95).fill(points_mm, edge_mm=1e-3) > 0.5


def test_anatomy_and_distractors_are_the_same_with_and_without_a_lesion(order):
    """The same patients, once all positive and once all negative, differ in their lesions alone."""
    with_lesion, without = (
        [drawn.facts for _, drawn in draw_studies(replace(order, cases=8, positive_fraction=Fraction(share)))]
        for share in (1, 0)
    )
    assert with_lesion == without
