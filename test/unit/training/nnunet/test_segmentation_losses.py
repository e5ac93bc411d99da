"""Each loss and its gradient against formulas written here in numpy, in double precision."""

import itertools
import math

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from training.engine import load_configuration
from training.nnunet.segmentation_losses import FocalLoss, build_loss

SMOOTHING = 1e-5


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def one_hot(label, classes):
    return np.stack([label[:, 0] == c for c in range(classes)], axis=1).astype(np.float64)


def cross_entropy(logits, label):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(one_hot(label, logits.shape[1]) * log_probability).sum(axis=1).mean()


def focal(logits, label, alpha):
    """As the reference describes it: a clamped one-hot label, summed with the probabilities, plus the smoothing."""
    classes = logits.shape[1]
    target = np.clip(one_hot(label, classes), SMOOTHING / (classes - 1), 1 - SMOOTHING)
    q = (target * softmax(logits)).sum(axis=1) + SMOOTHING
    weight = np.where(label[:, 0] == 0, alpha[0], alpha[1])
    return (-weight * (1 - q) ** 2 * np.log(q)).mean()


def soft_dice(logits, label, batch_dice):
    probability, target = softmax(logits), one_hot(label, logits.shape[1])
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    overlap, sizes = (probability * target).sum(axis=axes), (probability + target).sum(axis=axes)
    dice = (2 * overlap + SMOOTHING) / (sizes + SMOOTHING)
    return -dice[..., 1:].mean()


FORMULAS = {
    "ce": lambda logits, label, _: cross_entropy(logits, label),
    "focal": lambda logits, label, _: focal(logits, label, (0.75, 0.25)),
    "ce-focal": lambda logits, label, _: 0.5 * cross_entropy(logits, label) + 0.5 * focal(logits, label, (1.0, 1.0)),
    "ce-dice": lambda logits, label, batch: cross_entropy(logits, label) + soft_dice(logits, label, batch),
}


def loss_of(name, *, batch_dice=False):
    return build_loss(load_configuration(name).loss, batch_dice=batch_dice)


def example(classes, *, scale):
    random = np.random.default_rng(7)
    logits = scale * random.normal(size=(2, classes, 2, 3, 2))
    label = random.integers(0, classes, size=(2, 1, 2, 3, 2))
    return logits, label


def gradient_by_differences(function, logits, *, step):
    gradient = np.zeros_like(logits)
    for place in itertools.product(*map(range, logits.shape)):
        above, below = logits.copy(), logits.copy()
        above[place] += step
        below[place] -= step
        gradient[place] = (function(above) - function(below)) / (2 * step)
    return gradient


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("scale", [1.0, 15.0])  # 15: many voxels with p_t near 0 or 1
def test_loss_and_gradient_agree_with_the_formula(name, classes, batch_dice, scale):
    logits, label = example(classes, scale=scale)

    def formula(values):
        return FORMULAS[name](values, label, batch_dice)

    tensor = torch.tensor(logits, requires_grad=True)
    loss = loss_of(name, batch_dice=batch_dice)(tensor, torch.tensor(label))
    loss.backward()
    single = name == "ce-dice"  # nnU-Net sums the Dice in single precision
    assert loss.item() == pytest.approx(formula(logits), rel=1e-6 if single else 1e-12)
    expected = gradient_by_differences(formula, logits, step=1e-5)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=1e-6 if single else 1e-9)


def test_focal_loss_weighs_background_three_times_the_lesion():
    # By hand: p_t = 1/2, q = 0.50001, (1 - q)^2 = 0.24999, -log q = 0.693127, product 0.173275; times 3/4 and 1/4.
    logits = torch.zeros(1, 2, 1, 1, 1, dtype=torch.float64)
    background, lesion = (torch.full((1, 1, 1, 1, 1), value) for value in (0, 1))
    loss = loss_of("focal")
    assert loss(logits, background).item() == pytest.approx(0.129956, abs=1e-6)
    assert loss(logits, lesion).item() == pytest.approx(0.043319, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_focal_loss_stays_bounded_where_the_true_class_has_no_probability(classes):
    # q = s/(C-1) + s, so the loss is -0.25 (1 - q)^2 log q: 2.705 for two classes
    logits = torch.full((1, classes, 1, 1, 1), -300.0)
    logits[:, 0] = 300.0
    logits.requires_grad_()
    loss = loss_of("focal")(logits, torch.ones(1, 1, 1, 1, 1))
    loss.backward()
    q = SMOOTHING / (classes - 1) + SMOOTHING
    assert loss.item() == pytest.approx(-0.25 * (1 - q) ** 2 * math.log(q), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_cross_entropy_keeps_its_gradient_at_probability_0():
    logits = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = loss_of("ce")(logits, torch.ones(1, 1, 1, 1, 1))
    loss.backward()
    assert loss.item() == 600.0
    assert logits.grad.flatten().tolist() == [1.0, -1.0]


def test_the_focal_term_of_ce_focal_differs_from_the_focal_loss():
    logits, label = (torch.tensor(each) for each in example(2, scale=1.0))
    term = 2 * loss_of("ce-focal")(logits, label) - loss_of("ce")(logits, label)
    alone = loss_of("focal")(logits, label)
    assert term.item() == pytest.approx(focal(logits.numpy(), label.numpy(), (1.0, 1.0)), rel=1e-12)
    assert abs(term.item() - alone.item()) > 0.3 * term.item()


@pytest.mark.parametrize("classes", [3, 6])
def test_a_further_class_does_not_change_other_voxels_focal_loss(classes):
    """Alpha is not divided by its sum; only the smoothing notices that there are more classes."""
    two = torch.tensor([0.3, -0.2], dtype=torch.float64).view(1, 2, 1, 1, 1)
    impossible = torch.full((1, classes - 2, 1, 1, 1), -1e3, dtype=torch.float64)
    label = torch.ones(1, 1, 1, 1, 1)
    loss = loss_of("focal")
    assert loss(torch.cat([two, impossible], dim=1), label).item() == pytest.approx(loss(two, label).item(), rel=1e-4)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_ce_dice_is_nnunets_own_loss(batch_dice):
    stock = DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    logits, label = example(3, scale=2.0)
    logits, label = torch.tensor(logits, dtype=torch.float32), torch.tensor(label, dtype=torch.int16)
    assert loss_of("ce-dice", batch_dice=batch_dice)(logits, label).item() == stock(logits, label).item()


@pytest.mark.parametrize("classes", [2, 5])
def test_the_focal_loss_has_the_bits_of_one_that_gathers(classes):
    logits, label = example(classes, scale=5.0)
    index, gamma, s = torch.tensor(label), 2.0, 1e-5
    ours, theirs = (torch.tensor(logits, dtype=torch.float32, requires_grad=True) for _ in range(2))
    true = torch.softmax(theirs, dim=1).gather(1, index)
    q = (1 - s) * true + s * (1 - true) / (classes - 1) + s
    expected = (-((1 - q).clamp_min(0) ** gamma) * q.log()).mean()
    found = FocalLoss(gamma=gamma, alpha=None, smoothing=s)(ours, index)
    found.backward()
    expected.backward()
    assert torch.equal(found, expected)
    assert torch.equal(ours.grad, theirs.grad)
