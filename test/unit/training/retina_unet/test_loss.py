"""The detection loss against formulas in numpy, and the drawing of anchors."""

import numpy as np
import pytest
import torch
from clustered_boxes import encode

from network.detection.anchors import AnchorPlan, anchors_of_patch
from network.detection.retina_unet import DetectorOutput
from training.configuration import CrossEntropyTerm
from training.nnunet.segmentation_losses import build_loss
from training.retina_unet.atss import match_anchors
from training.retina_unet.loss import DetectionLoss, Sampling, sample

PATCH = (4, 8, 12)
ANCHORS = anchors_of_patch(
    AnchorPlan(levels=(0, 1), sizes_voxels_zyx=((2, 3, 3), (2, 4, 5))), ((1, 2, 2), (2, 4, 4)), PATCH
)
FLAT = torch.cat([level.flatten(0, 1) for level in ANCHORS])
LESIONS = [
    torch.tensor([[0.0, 1, 2, 2, 5, 6]]),
    torch.empty(0, 6),
    torch.tensor([[1.0, 0, 0, 4, 4, 5], [0.0, 4, 6, 2, 8, 11]]),
]
LABEL = torch.zeros(3, 1, *PATCH)
ALL = Sampling(per_patch=10_000, negatives_per_positive=2, pool=10_000)


def generator():
    return torch.Generator().manual_seed(0)


def output(seed=0):
    torch.manual_seed(seed)
    return DetectorOutput(
        torch.randn(3, len(FLAT), requires_grad=True),
        (0.3 * torch.randn(3, len(FLAT), 6)).requires_grad_(),
        torch.randn(3, 2, *PATCH, requires_grad=True),
    )


def giou(a, b):
    """Generalised IoU of two boxes, in plain numbers."""
    volume = [np.prod([box[i + 3] - box[i] for i in range(3)]) for box in (a, b)]
    shared = np.prod([max(0.0, min(a[i + 3], b[i + 3]) - max(a[i], b[i])) for i in range(3)])
    around = np.prod([max(a[i + 3], b[i + 3]) - min(a[i], b[i]) for i in range(3)])
    union = sum(volume) - shared
    return shared / union - (around - union) / around


def test_box_loss_is_the_mean_of_one_minus_giou():
    said = output()
    losses = DetectionLoss(sampling=ALL)(said, ANCHORS, LESIONS, LABEL, generator())
    terms = []
    for patch, boxes in enumerate(LESIONS):
        for anchor, lesion in enumerate(match_anchors(ANCHORS, boxes).tolist()):
            if lesion < 0:
                continue
            a, d = FLAT[anchor].double().numpy(), said.deltas[patch, anchor].detach().double().numpy()
            side = a[3:] - a[:3]
            middle, half = (a[3:] + a[:3]) / 2 + d[:3] * side, side * np.exp(d[3:]) / 2
            terms.append(1 - giou([*(middle - half), *(middle + half)], boxes[lesion].tolist()))
    assert len(terms) > 10
    assert losses.boxes.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_classification_is_the_mean_cross_entropy_of_the_drawn_anchors():
    said = output()
    sampling = Sampling()
    losses = DetectionLoss(sampling=sampling)(said, ANCHORS, LESIONS, LABEL, generator())
    matched = torch.stack([match_anchors(ANCHORS, boxes) for boxes in LESIONS])
    positive, negative = sample(matched, said.logits, sampling, generator())
    probability = 1 / (1 + np.exp(-said.logits.detach().double().numpy().ravel()))
    expected = -np.concatenate([np.log(probability[positive]), np.log(1 - probability[negative])]).mean()
    assert losses.classification.item() == pytest.approx(expected, rel=1e-5)


def test_segmentation_is_half_cross_entropy_half_soft_dice():
    said, label = output(), LABEL.clone()
    label[0, 0, 1:3, 2:5, 3:9] = 1
    losses = DetectionLoss()(said, ANCHORS, LESIONS, label, generator())
    logits = said.segmentation.detach().double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = label[:, 0].numpy()
    cross_entropy = -np.where(truth, np.log(probability[:, 1]), np.log(probability[:, 0])).mean()
    dice = (2 * (probability[:, 1] * truth).sum() + 1e-5) / (probability[:, 1].sum() + truth.sum() + 1e-5)
    assert losses.segmentation.item() == pytest.approx(0.5 * cross_entropy - 0.5 * dice, rel=1e-5)
    assert losses.total.item() == pytest.approx(
        (losses.classification + losses.boxes + losses.segmentation).item(), rel=1e-6
    )


def test_another_segmentation_loss_can_replace_it():
    said = output()
    own = build_loss([CrossEntropyTerm(term="cross-entropy")], batch_dice=False)
    losses = DetectionLoss(segmentation=own)(said, ANCHORS, LESIONS, LABEL, generator())
    assert losses.segmentation.item() == own(said.segmentation, LABEL).item()


def test_perfect_boxes_have_no_box_loss():
    said = output()
    with torch.no_grad():
        for patch, boxes in enumerate(LESIONS):
            matched = match_anchors(ANCHORS, boxes)
            own = matched >= 0
            said.deltas[patch, own] = encode(boxes[matched[own]], FLAT[own])
    losses = DetectionLoss(sampling=ALL)(said, ANCHORS, LESIONS, LABEL, generator())
    assert losses.boxes.item() == pytest.approx(0, abs=1e-5)


def test_a_batch_without_lesions_teaches_scores_but_no_boxes():
    said = output()
    losses = DetectionLoss()(said, ANCHORS, [torch.empty(0, 6)] * 3, LABEL, generator())
    losses.total.backward()
    assert losses.boxes.item() == 0
    assert not said.deltas.grad.any()
    assert (said.logits.grad != 0).sum() == 2  # two negatives for none positive


def test_a_third_of_the_sample_is_positive_and_negatives_are_hard():
    matched = torch.full((2, 5000), -1)
    matched[0, :300] = 0
    logits = torch.randn(2, 5000, generator=generator())
    positive, negative = sample(matched, logits, Sampling(), torch.Generator().manual_seed(1))
    assert (len(positive), len(negative)) == (21, 42)  # of 2 x 32: a third, and twice as many
    assert len(set(positive.tolist())) == 21 and len(set(negative.tolist())) == 42
    assert (positive < 300).all() and (negative >= 300).all()
    flat = logits.flatten()
    hardest = flat[300:].sort(descending=True).values
    assert (flat[negative] >= hardest[42 * 20 - 1]).all()
    assert (flat[negative] < hardest[42 * 10]).any()  # not the very hardest alone


def test_few_positives_bring_few_negatives():
    matched = torch.full((1, 500), -1)
    matched[0, [3, 8, 11]] = 0
    positive, negative = sample(matched, torch.randn(1, 500), Sampling(), generator())
    assert sorted(positive.tolist()) == [3, 8, 11]
    assert len(negative) == 6


def test_drawing_is_that_of_the_generator():
    matched = torch.full((1, 2000), -1)
    matched[0, :100] = 0
    logits = torch.randn(1, 2000, generator=generator())
    draws = [sample(matched, logits, Sampling(), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0][0], draws[2][0])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_loss_and_gradients_are_the_same_on_every_device_and_every_time(device):
    def learnt(place):
        said = output()
        moved = DetectorOutput(
            *(values.detach().to(place).requires_grad_() for values in (said.logits, said.deltas, said.segmentation))
        )
        losses = DetectionLoss()(
            moved,
            [level.to(place) for level in ANCHORS],
            [boxes.to(place) for boxes in LESIONS],
            LABEL.to(place),
            generator(),
        )
        losses.total.backward()
        return [losses.total.detach().cpu(), moved.logits.grad.cpu(), moved.deltas.grad.cpu()]

    for found, expected in zip(learnt(device), learnt("cpu"), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0 if device == "cpu" else 1e-5, atol=0 if device == "cpu" else 1e-6
        )
