"""The plans of the network's tests."""

import pytest
from tiny import three_level_plans


@pytest.fixture
def three_levels():
    """Plans and dataset of a network with three levels whose coarsest stride is (2, 4, 4)."""
    dataset = {"channel_names": {"0": "a", "1": "b", "2": "c"}, "labels": {"background": 0, "lesion": 1}}
    return three_level_plans(), dataset
