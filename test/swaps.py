"""Differences of two networks after given swaps of their outputs, by the parts of the case-level test."""

import numpy as np

from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.statistics.resampling import case_permutation as parts


def swap_differences(truth: TestSet, a: Outcome, b: Outcome, swapped: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC and AP of ``a`` minus those of ``b``, both of ranks, by draw; ``swapped``: shape (draws, patients)."""
    block = np.packbits(swapped, axis=1, bitorder="little").T
    weights, unit = parts._whole_weights(truth, a, b)
    pooled = parts._PooledCandidates.of(truth, a, b)
    signs = parts._signs(block, truth.patient_count, pooled.candidates)
    return {"auroc": parts._signed_sums(block, parts._tables(weights)) * unit, "ap": pooled.ap_difference(signs)}
