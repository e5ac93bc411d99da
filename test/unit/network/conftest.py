"""Plans of a network small enough for tests, and images by formula on a tilted grid."""

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import TINY_PLANS

from contract.volume import Grid

Json = dict[str, Any]


@pytest.fixture
def tiny_plans() -> Json:
    return json.loads(TINY_PLANS.read_text())


@pytest.fixture
def tiny_dataset() -> Json:
    return {
        "channel_names": {"0": "t2w", "1": "adc", "2": "hbv"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 1,
        "file_ending": ".mha",
    }


@pytest.fixture
def single_channel(tiny_plans: Json, tiny_dataset: Json) -> tuple[Json, Json]:
    """Plans and dataset of a use case with one channel and three classes."""
    plans = copy.deepcopy(tiny_plans)
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
    plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [False]
    dataset = {
        **tiny_dataset,
        "channel_names": {"0": "ct"},
        "labels": {"background": 0, "tumour": 1, "veins": 2, "pancreas": 3},
    }
    return plans, dataset


@pytest.fixture
def make_grid() -> Callable[..., Grid]:
    """Grids around one point of the patient, tilted about two axes."""

    def make(
        size_xyz: tuple[int, int, int],
        spacing_mm_xyz: tuple[float, float, float],
        centre_mm: tuple[float, float, float] = (3.0, -20.0, 11.0),
    ) -> Grid:
        a, b = 0.3, 0.2
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        direction = about_x @ about_z
        x, y, z = (np.array(centre_mm) - direction @ ((np.array(size_xyz) - 1) / 2 * np.array(spacing_mm_xyz))).tolist()
        return Grid(size_xyz, spacing_mm_xyz, (x, y, z), tuple(direction.ravel().tolist()))

    return make
