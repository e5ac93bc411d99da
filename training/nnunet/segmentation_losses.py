"""The losses: cross entropy, focal loss, soft Dice, and weighted sums of them.

Each takes logits of shape (batch, classes, z, y, x) and labels of shape (batch, 1, z, y, x), and gives the mean over
all voxels. Deep supervision wraps the whole sum and calls it once per resolution.
"""

from collections.abc import Sequence

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from training.configuration import CrossEntropyTerm, FocalTerm, LossTerm


def build_loss(terms: Sequence[LossTerm], *, batch_dice: bool) -> nn.Module:
    """Build the loss that a configuration describes.

    Parameters
    ----------
    terms
        The configuration's terms.
    batch_dice
        Whether the plan wants the soft Dice over the batch rather than per patch.
    """
    return WeightedSum([(term.weight, _build_term(term, batch_dice=batch_dice)) for term in terms])


class CrossEntropyLoss(nn.Module):
    """Mean over voxels of -log p_t, p_t the softmax probability of the voxel's true class."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss of one resolution."""
        return nn.functional.cross_entropy(logits, label[:, 0].long())


class FocalLoss(nn.Module):
    """Mean over voxels of -alpha_t (1 - q)^gamma log q, q being a smoothed p_t.

    With C classes and smoothing s the reference clamps the one-hot label to [s/(C-1), 1-s] and adds s to the weighted
    sum, so q = (1 - s) p_t + s (1 - p_t)/(C - 1) + s: bounded below by 2s for two classes, where the logarithm and its
    gradient stay finite. The same is computed here from p_t alone, which a sum over the classes picks out: the bits are
    those of ``gather``, whose deterministic backward on a GPU sorts all voxels.

    alpha_t goes by the true class: ``background`` for class 0, ``foreground`` for each other class. The reference
    divides its list of alphas by the sum. For two classes that sum is 1; for more it would shrink the whole loss, and
    with it the effective step, with each further annotated structure. Here alpha is never divided, so that adding a
    class leaves the other voxels' loss as it was.

    Source: DIAGNijmegen/picai_baseline, nnUNetTrainerV2_focalLoss.py and nnUNetTrainerV2_Loss_FL_and_CE.py.
    """

    def __init__(self, *, gamma: float, alpha: tuple[float, float] | None, smoothing: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha  # (background, foreground); None: 1
        self.smoothing = smoothing

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss of one resolution."""
        index = label.long()
        classes = logits.shape[1]
        numbers = torch.arange(classes, device=logits.device).view(1, -1, 1, 1, 1)
        true_probability = torch.where(index == numbers, torch.softmax(logits, dim=1), 0.0).sum(1, keepdim=True)
        s = self.smoothing
        q = (1 - s) * true_probability + s * (1 - true_probability) / (classes - 1) + s
        loss = -((1 - q).clamp_min(0) ** self.gamma) * q.log()  # rounding may lift q above 1
        if self.alpha is not None:
            background, foreground = self.alpha
            loss = torch.where(index == 0, background * loss, foreground * loss)
        return loss.mean()


class WeightedSum(nn.Module):
    """Weighted sum of losses."""

    def __init__(self, terms: Sequence[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.losses = nn.ModuleList([loss for _, loss in terms])

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss of one resolution."""
        terms = [weight * loss(logits, label) for weight, loss in zip(self.weights, self.losses, strict=True)]
        return torch.stack(terms).sum()


def _build_term(term: LossTerm, *, batch_dice: bool) -> nn.Module:
    if isinstance(term, CrossEntropyTerm):
        return CrossEntropyLoss()
    if isinstance(term, FocalTerm):
        alpha = (term.alpha.background, term.alpha.foreground) if term.alpha else None
        return FocalLoss(gamma=term.gamma, alpha=alpha, smoothing=term.smoothing)
    loss: nn.Module = MemoryEfficientSoftDiceLoss(
        apply_nonlin=_softmax, batch_dice=batch_dice, do_bg=False, smooth=term.smoothing, ddp=False
    )
    return loss


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)
