import threading
from functools import partial

import numpy as np
import pytest
import torch

from network.inference.passes import computed_in_order, one_thread_each
from network.inference.sliding_window import NotFiniteError, ensemble_probabilities


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_results_come_in_order_and_no_more_passes_run_than_allowed(at_a_time):
    running, most, lock = [], [], threading.Lock()

    def one(number):
        with lock:
            running.append(number)
            most.append(len(running))
        assert torch.is_inference_mode_enabled() or at_a_time == 1
        found = torch.randn(100, 100).mm(torch.ones(100, 100)) * 0 + number
        with lock:
            running.remove(number)
        return found[0, 0].item()

    assert list(computed_in_order((partial(one, n) for n in range(20)), at_a_time=at_a_time)) == list(range(20))
    assert max(most) <= at_a_time


def test_an_error_of_a_pass_arrives_and_the_later_ones_are_abandoned():
    begun = []

    def one(number):
        begun.append(number)
        if number == 3:
            raise MemoryError("enough")
        return number

    with pytest.raises(MemoryError, match="enough"):
        list(computed_in_order((partial(one, number) for number in range(100)), at_a_time=2))
    assert len(begun) < 10


def test_a_pass_has_one_thread_and_afterwards_all_are_back(two_threads):
    with one_thread_each(torch.device("cpu")) as threads:
        assert threads == 2
        assert list(computed_in_order([torch.get_num_threads] * 4, at_a_time=2)) == [1] * 4
    assert torch.get_num_threads() == 2
    with one_thread_each(torch.device("cuda")) as threads:
        assert (threads, torch.get_num_threads()) == (1, 2)


class _Squares(torch.nn.Module):
    """Logits in which the order of a sum shows."""

    def forward(self, patches):
        sums = (patches * 1.1).cumsum(-1).square()
        return torch.cat([sums, -patches], dim=1)


def test_probabilities_have_the_bits_of_one_thread(two_threads):
    data, networks = torch.randn(1, 9, 20, 31), [_Squares(), _Squares(), _Squares()]
    several = partial(
        ensemble_probabilities, networks, data, ensembles=[(0, 1), (2,)], groups=[(1,)], patch_size=(8, 16, 16)
    )
    found = [several(), several(at_a_time=1), several(mirror_axes=(0, 2)), several(mirror_axes=(0, 2), at_a_time=1)]
    torch.set_num_threads(1)
    expected = [several(), several(mirror_axes=(0, 2))]
    for each, same in zip(found, [expected[0], expected[0], expected[1], expected[1]], strict=True):
        np.testing.assert_array_equal(each, same)


def test_a_member_without_finite_logits_is_named_from_any_thread(two_threads):
    networks = [_Squares(), lambda patches: torch.cat([patches, patches], dim=1) * float("nan")]
    with pytest.raises(NotFiniteError) as caught:
        ensemble_probabilities(
            networks, torch.randn(1, 9, 20, 31), ensembles=[(0, 1)], groups=[(1,)], patch_size=(8, 16, 16)
        )
    assert caught.value.member == 1
    assert torch.get_num_threads() == 2
