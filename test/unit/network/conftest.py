"""Plans of a network small enough for tests."""

import copy
import json
from typing import Any

import pytest
from places import TINY_PLANS

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
