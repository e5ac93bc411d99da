import logging

import numpy as np
import pytest
from refusals import refused_with
from scipy import ndimage

from contract.images.probability import UNDERSHOOT, as_probabilities

NEXT_ABOVE_1 = float(np.nextafter(np.float32(1), np.float32(2)))  # 1 + 2^-23 = 1.0000001


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.2, 0.7], [-0.0, 1e-45], []])
def test_probabilities_are_unchanged(values: list[float], caplog: pytest.LogCaptureFixture) -> None:
    array = np.array(values, np.float32)
    assert as_probabilities(array, source="a.mha") is array
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "kept", "said"),
    [
        (
            [0.5, NEXT_ABOVE_1],
            [0.5, 1.0],
            "a.mha: probabilities from 0.5 to 1.0000001 count as 0 or 1 where they are outside",
        ),
        ([-1e-7, 0.5], [0.0, 0.5], "a.mha: probabilities from -1e-07 to 0.5 count as 0 or 1 where they are outside"),
    ],
)
def test_rounding_errors_count_as_0_or_1_with_a_warning(
    values: list[float], kept: list[float], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "contract.images.probability"):
        found = as_probabilities(np.array(values, np.float32), source="a.mha")
    np.testing.assert_array_equal(found, np.array(kept, np.float32))
    assert [record.message for record in caplog.records] == [said]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0.0, 1.00001], "0 to 1.00001"),
        ([0.0, 255.0], "0 to 255"),
        ([-4.5, 3.25], "-4.5 to 3.25"),
        ([-7.0, -2.0], "-7 to -2"),
        ([-0.01, 0.9], "-0.01 to 0.9"),
        ([0.0, np.nan], "nan to nan"),
        ([0.0, np.inf], "0 to inf"),
    ],
)
def test_another_scale_is_refused_with_its_extremes_in_all_digits(values: list[float], found: str) -> None:
    with refused_with("^a.mha$", expected=r"^confidences in \[0, 1\]$", found=f"^{found}$"):
        as_probabilities(np.array(values, np.float32), source="a.mha", what="confidences")


def test_a_spline_swings_less_below_0_than_is_allowed_in_maps() -> None:
    """Cubic interpolation of a step, as resampling has it, stays within the bound; a logit does not."""
    step = np.zeros((20, 22, 24), np.float32)
    step[8:, 9:, 10:] = 1
    step = ndimage.zoom(step, 4, order=3)
    assert -UNDERSHOOT < step.min() < -UNDERSHOOT / 2
    np.testing.assert_array_equal(as_probabilities(np.minimum(step, 1), source="a", below=UNDERSHOOT).min(), 0)
    with refused_with(found=r"-0\.5 to 0\.5"):
        as_probabilities(np.array([-0.5, 0.5], np.float32), source="a", below=UNDERSHOOT)
