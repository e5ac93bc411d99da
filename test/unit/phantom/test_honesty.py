"""The task is no gift: an image's extreme voxel says little about the case, and nothing but the lesion does."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from contract.volume import Volume, resample
from phantom.archive import _CASE, Order, _rng, draw_studies
from phantom.bpmri import draw_session
from phantom.prostate import draw_anatomy

EXTERNAL_SEEDS = (2, 4, 6, 8, 10)


def auroc(positive: list[bool], score: list[float]) -> float:
    """Share of pairs (positive, negative) in the right order; ties count half."""
    flags, values = np.array(positive), np.array(score, dtype=float)
    difference = values[flags][:, None] - values[~flags][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@pytest.mark.slow
def test_neither_voxel_baseline_ranks_the_external_cases_without_knowing_the_gland(order):
    """docs/phantoms.md quotes these figures (pytest -s shows them)."""
    found: dict[str, list[float]] = {"maximum of HBV": [], "minimum of ADC": [], "HBV in the true gland": []}
    for seed in EXTERNAL_SEEDS:
        external = replace(order, cases=60, positive_fraction=Fraction("0.4"), seed=seed, population="external")
        positive, scores = [], {name: [] for name in found}
        for plan, drawn in draw_studies(external):
            hbv, adc = drawn.channels["hbv"], drawn.channels["adc"]
            positive.append(plan.positive)
            scores["maximum of HBV"].append(float(hbv.array.max()))
            scores["minimum of ADC"].append(-float(adc.array.min()))
            gland = on_reference(hbv, drawn.label)[true_gland(external, plan.index)]
            scores["HBV in the true gland"].append(gland.max() / np.median(gland))
        assert sum(positive) == 24
        for name, values in scores.items():
            found[name].append(auroc(positive, values))
    for name, values in found.items():
        print(f"{name:22}", *(f"{value:.3f}" for value in values), f"mean {np.mean(values):.3f}")
    for name in ("maximum of HBV", "minimum of ADC"):
        assert max(found[name]) <= 0.70
        assert 0.35 < np.mean(found[name]) < 0.65
    assert min(found["HBV in the true gland"]) > 0.75  # the lesions are there to be found


def on_reference(volume: Volume, reference: Volume) -> np.ndarray:
    return resample(volume, reference.grid, interpolation="b-spline", outside=0.0).array.astype(float)


def true_gland(order: Order, index: int) -> np.ndarray:
    """The gland, but for its outermost layer, on the T2W grid: nobody outside these tests is told."""
    anatomy_rng, session_rng, _, _ = _rng(order, _CASE, index).spawn(4)
    points_mm = draw_session(session_rng).t2w.centres_mm().astype(np.float32)
    return draw_anatomy(anatomy_rng).gland.scaled(0.95).fill(points_mm, edge_mm=1e-3) > 0.5


def test_anatomy_and_distractors_are_the_same_with_and_without_a_lesion(order):
    """The same patients, once all positive and once all negative, differ in their lesions alone."""
    with_lesion, without = (
        [drawn.facts for _, drawn in draw_studies(replace(order, cases=8, positive_fraction=Fraction(share)))]
        for share in (1, 0)
    )
    assert with_lesion == without
