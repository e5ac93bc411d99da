"""The plans of the network's tests."""

import json
from typing import Any

import pytest
from places import TINY_PLANS

Json = dict[str, Any]


@pytest.fixture
def three_levels():
    """Plans and dataset of a network with three levels whose coarsest stride is (2, 4, 4)."""
    plans: Json = json.loads(TINY_PLANS.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    dataset = {"channel_names": {"0": "a", "1": "b", "2": "c"}, "labels": {"background": 0, "lesion": 1}}
    return plans, dataset
