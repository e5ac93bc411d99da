"""Patches of random voxels and classes, -1 among them."""

import numpy as np
import pytest
import torch

from training.augmentation.patches import Patches


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def patches(random):
    """Three patches of two channels."""
    image = torch.from_numpy(random.normal(size=(3, 2, 7, 12, 11))).float()
    return Patches(image, torch.from_numpy(random.integers(-1, 3, (3, 7, 12, 11))).to(torch.int16))
