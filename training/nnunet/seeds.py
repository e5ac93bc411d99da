"""Random numbers of a training: all follow from the run's seed and the moment."""

import random

import numpy as np
import torch


def entropy(seed: int, moment: str) -> list[int]:
    """What a generator is seeded with: the run's seed and what is about to happen."""
    return [seed, *moment.encode()]


def seed_generators(seed: int, moment: str) -> None:
    """Seed Python's, numpy's and torch's generators from the run's seed and what is about to happen."""
    python, numpy, torch_seed = (int(word) for word in np.random.SeedSequence(entropy(seed, moment)).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(torch_seed)
