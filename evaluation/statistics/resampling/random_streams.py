"""Random streams, and resampled patients."""

import hashlib

import numpy as np

from evaluation.metrics.outcomes import FloatArray, TestSet


def stream(seed: int, *names: str) -> np.random.Generator:
    """A separate random stream for each purpose, independent of what else is computed."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def case_weights(truth: TestSet, replicates: int, seed: int) -> FloatArray:
    """How often each replicate draws each case, shape (replicates, cases)."""
    patients = truth.patient_count
    drawn = stream(seed, "patients").multinomial(patients, np.full(patients, 1 / patients), size=replicates)
    return drawn[:, truth.patients].astype(np.float64)
