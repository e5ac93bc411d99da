"""Plans of a network small enough for tests."""

import copy
import json

import pytest
from paths import TINY_PLANS


@pytest.fixture
def tiny_plans():
    return json.loads(TINY_PLANS.read_text())


@pytest.fixture
def tiny_dataset():
    return {
        "channel_names": {"0": "t2w", "1": "adc", "2": "hbv"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 1,
        "file_ending": ".mha",
    }


@pytest.fixture
def single_channel(tiny_plans, tiny_dataset):
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
