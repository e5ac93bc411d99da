"""The loss of a Retina U-Net: classification of sampled anchors, GIoU of decoded boxes, and segmentation.

Nearly all anchors are negative and soon easy, so few are drawn over the whole batch: up to a third positive, and twice
as many negative as positive ones (two where there is none), drawn from those with the highest scores. Sampled anchors
have a binary cross entropy each, averaged; sampled positives a loss of 1 - GIoU, summed and divided by their number.

Numbers as in nnDetection (V001), whose share of positives is 0.33.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from network.detection.boxes import decode, giou
from network.detection.retina_unet import DetectorOutput
from training.configuration import CrossEntropyTerm, SoftDiceTerm
from training.nnunet.segmentation_losses import build_loss
from training.retina_unet.atss import NOTHING, match_anchors

SEGMENTATION_TERMS = (
    CrossEntropyTerm(term="cross-entropy", weight=0.5),
    SoftDiceTerm(term="soft-dice", weight=0.5, smoothing=1e-5),
)
"""V001's segmentation loss, with the soft Dice over the batch."""


@dataclass(frozen=True)
class Sampling:
    """How many anchors of a batch are drawn."""

    per_patch: int = 32
    negatives_per_positive: int = 2
    pool: int = 20
    """Size of the pool of negatives with the highest scores, as a multiple of the number drawn from it."""


@dataclass(frozen=True)
class DetectionLosses:
    """The terms of the loss, each a scalar; those that have nothing to learn from are 0."""

    classification: Tensor
    boxes: Tensor
    segmentation: Tensor

    @property
    def total(self) -> Tensor:
        """The sum that is minimised."""
        return self.classification + self.boxes + self.segmentation


class DetectionLoss(nn.Module):
    """Loss of a batch of patches."""

    def __init__(self, *, segmentation: nn.Module | None = None, sampling: Sampling | None = None) -> None:
        super().__init__()
        self.segmentation = segmentation or build_loss(SEGMENTATION_TERMS, batch_dice=True)
        self.sampling = sampling or Sampling()

    def forward(
        self,
        output: DetectorOutput,
        anchors: Sequence[Tensor],
        lesions: Sequence[Tensor],
        label: Tensor,
        generator: torch.Generator,
    ) -> DetectionLosses:
        """Loss of what the network says of a batch.

        Parameters
        ----------
        anchors
            Of a patch; see :func:`network.detection.anchors.anchors_of_patch`.
        lesions
            For each patch the boxes of its lesions, shape (lesions, 6).
        label
            Classes, shape (batch, 1, z, y, x).
        generator
            Draws the anchors; always on the CPU, so that every device has the same ones.
        """
        matched = torch.stack([match_anchors(anchors, boxes) for boxes in lesions])
        positive, negative = sample(matched, output.logits.detach(), self.sampling, generator)
        logits = output.logits.flatten().float()
        drawn = torch.cat([logits[positive], logits[negative]])
        target = torch.zeros_like(drawn)
        target[: len(positive)] = 1
        return DetectionLosses(
            nn.functional.binary_cross_entropy_with_logits(drawn, target),
            _box_loss(output.deltas, anchors, lesions, matched, positive),
            self.segmentation(output.segmentation, label),
        )


def sample(matched: Tensor, logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw positive and negative anchors over a whole batch; the host waits for the device once.

    Parameters
    ----------
    matched
        Lesion of each anchor or -1, shape (batch, anchors).
    logits
        Shape (batch, anchors).

    Returns
    -------
    Indices into the flattened batch, int64: positive ones and negative ones.
    """
    found = matched.flatten() != NOTHING
    count = int(found.sum())
    positive = torch.nonzero_static(found, size=count)[:, 0]
    negative = torch.nonzero_static(~found, size=len(found) - count)[:, 0]
    most = sampling.per_patch * len(matched) // (1 + sampling.negatives_per_positive)
    positive = positive[_permutation(len(positive), generator, positive.device)[:most]]
    wanted = sampling.negatives_per_positive * max(1, len(positive))
    pool = min(len(negative), sampling.pool * wanted)
    negative = negative[logits.flatten()[negative].topk(pool).indices]
    return positive, negative[_permutation(pool, generator, negative.device)[:wanted]]


def _box_loss(
    deltas: Tensor, anchors: Sequence[Tensor], lesions: Sequence[Tensor], matched: Tensor, positive: Tensor
) -> Tensor:
    """Mean of 1 - GIoU over the positive anchors; without any 0, with a gradient of 0."""
    if not len(positive):
        return deltas.sum() * 0
    flat = torch.cat([level.flatten(0, 1) for level in anchors])
    patch, anchor = positive // len(flat), positive % len(flat)
    first = torch.tensor([0, *(len(boxes) for boxes in lesions)]).cumsum(0).to(matched.device, non_blocking=True)
    truth = torch.cat(list(lesions))[first[patch] + matched[patch, anchor]]
    boxes = decode(deltas[patch, anchor].float(), flat[anchor])
    return (1 - giou(boxes, truth)).mean()


def _permutation(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).to(device, non_blocking=True)
