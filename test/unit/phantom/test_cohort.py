"""Which cases are positive, and how large and visible their lesions are, follows from the index."""

from fractions import Fraction

import numpy as np
import pytest

from phantom.cohort import CONSPICUITY_RANGE, LesionVolumes, draw_phases, plan_case, positives_before, van_der_corput

PHASES = (0.3, 0.8)
VOLUMES = LesionVolumes(median_ml=1.1, log_sd=0.75, range_ml=(0.25, 6.0))


@pytest.mark.parametrize("fraction", ["0", "0.1", "0.4", "0.5", "2/3", "1"])
def test_the_positives_of_every_length_are_the_fractions_share(fraction):
    share = Fraction(fraction)
    flags = [plan_case(index, positive_fraction=share, phases=PHASES, volumes=VOLUMES).positive for index in range(97)]
    for length in range(98):
        assert sum(flags[:length]) == positives_before(length, share)
        assert abs(sum(flags[:length]) - length * share) <= Fraction(1, 2)


def test_ten_positives_are_7_obvious_2_of_low_contrast_and_1_invisible():
    plans = [plan_case(index, positive_fraction=Fraction(1), phases=PHASES, volumes=VOLUMES) for index in range(30)]
    for start in (0, 10, 20):
        kinds = [plan.visibility for plan in plans[start : start + 10]]
        assert (kinds.count("obvious"), kinds.count("low-contrast"), kinds.count("invisible")) == (7, 2, 1)
        assert kinds[9] == "invisible"
    for plan in plans:
        low, high = CONSPICUITY_RANGE[plan.visibility]
        assert low <= plan.conspicuity <= high


def test_a_negative_case_has_no_lesion():
    plan = plan_case(0, positive_fraction=Fraction(0), phases=PHASES, volumes=VOLUMES)
    assert (plan.positive, plan.visibility, plan.conspicuity, plan.volume_ml) == (False, "none", 0.0, 0.0)


def test_lesion_volumes_have_the_median_and_the_limits_of_the_distribution():
    volumes = [VOLUMES.at((rank + 0.5) / 1000) for rank in range(1000)]
    assert np.median(volumes) == pytest.approx(1.1, rel=0.01)
    assert volumes == sorted(volumes)
    assert (VOLUMES.at(0.0), VOLUMES.at(1 - 1e-12)) == (0.25, 6.0)


def test_van_der_corput_mirrors_the_digits():
    assert [van_der_corput(number, base=2) for number in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]
    assert van_der_corput(5, base=3) == pytest.approx(2 / 3 + 1 / 9)  # 12 in base 3: 0.21


def test_phases_differ_between_seeds():
    first, second = (draw_phases(np.random.default_rng(seed)) for seed in (1, 2))
    assert first != second
    assert all(0 <= phase < 1 for phase in (*first, *second))
