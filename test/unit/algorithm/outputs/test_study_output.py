import numpy as np
import pytest

from algorithm.outputs.study_output import StudyOutput, detect
from contract.card import load_card
from contract.images.grid import Grid
from contract.images.volume import Volume

GRID = Grid((20, 22, 9), (0.9, 0.8, 3.1), (1.0, -2.5, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.1])
def test_a_map_that_no_evaluation_may_get_is_a_bug(value):
    array = np.zeros(GRID.shape_zyx, np.float32)
    array[4, 5, 6] = value
    with pytest.raises(ValueError, match="not a finite float32 map"):
        StudyOutput(Volume(array, GRID), 0.5, 1)


@pytest.mark.parametrize("likelihood", [float("nan"), -0.01, 1.01])
def test_a_likelihood_outside_of_0_to_1_is_a_bug(likelihood):
    with pytest.raises(ValueError, match="likelihood"):
        StudyOutput(Volume(np.zeros(GRID.shape_zyx, np.float32), GRID), likelihood, 0)


def test_a_study_without_findings_has_an_empty_map_and_a_likelihood():
    probability = Volume(np.full(GRID.shape_zyx, 0.004, np.float32), GRID)
    picai, rsna = (detect(load_card(name), probability) for name in ("cspca-picai", "cspca-rsna2022"))
    for output in (picai, rsna):
        assert output.candidates == 0
        assert not output.detections.array.any()
    assert picai.likelihood == pytest.approx(0.004)
    assert rsna.likelihood == 0
