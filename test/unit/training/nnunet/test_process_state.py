"""Random numbers and threads of one of several trainings in a process."""

import random

import numpy as np
import torch

from training.nnunet.process_state import ProcessState


def test_random_numbers_of_training_and_process_are_independent():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    def seed(value):
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        torch.manual_seed(value)

    seed(1)
    undisturbed = [draw() for _ in range(4)]
    state = ProcessState(torch.device("cpu"), threads=1)
    seed(1)
    with state.context():
        seed(1)
        inside = [draw(), draw()]
    outside = [draw(), draw()]
    with state.context():
        inside += [draw(), draw()]
    assert inside == undisturbed
    assert outside == undisturbed[:2]


def test_threads_are_a_trainings_own():
    before = torch.get_num_threads()
    with ProcessState(torch.device("cpu"), threads=before + 1).context():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
