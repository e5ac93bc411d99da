"""The Retina U-Net: nnU-Net's encoder and decoder, heads for boxes on several levels, and the U-Net's own segmentation.

The plan's U-Net comes from :mod:`network.model.architecture`; its weights keep their names. A projection of one voxel
brings each detection level's features to as many channels as the finest of these levels has (128 in nnU-Net's larger
plans, nnDetection's number); then come a classifier and a regressor that all levels share. Heads are nnDetection's
(V001): two convolutions of 3 x 3 x 3 with group norm, and one to the result; a regressor's result is multiplied by a
number that each level learns.

What is different there: the levels come from a feature pyramid instead of the U-Net's decoder, which has a further
convolution after the projection; the segmentation has two classes for every dataset; all convolutions of the heads
begin with a deviation of 0.01. Here only the last ones do: what comes before a norm has the same result at any scale,
but the smaller its weights, the further a step of the same length turns them, and thousands of warm-up steps pass
until they have grown.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from network.detection.anchors import AnchorPlan, level_strides, require_levels
from network.model.architecture import build_network

CHANNELS_PER_GROUP = 16
PRIOR = 0.01
"""Score of every anchor before any training, so that the many without a lesion do not drown the first steps."""
_INITIAL_DEVIATION = 0.01


@dataclass(frozen=True)
class DetectorOutput:
    """What a Retina U-Net says of a batch of patches.

    Anchors run as in :func:`network.detection.anchors.anchors_of_patch`, its levels one after the other.
    """

    logits: Tensor
    """Logits of a lesion in each anchor's box, shape (batch, anchors)."""
    deltas: Tensor
    """Shifts from the anchors to the boxes, shape (batch, anchors, 6); see :func:`network.detection.boxes.decode`."""
    segmentation: Tensor
    """Logits of the segmentation, shape (batch, classes, z, y, x)."""


def build_retina_unet(plans: Mapping[str, Any], dataset: Mapping[str, Any], anchors: AnchorPlan) -> "RetinaUNet":
    """Build the Retina U-Net of a plan, with freshly initialised weights, if it has memory (:func:`build_network`).

    Raises ``OncoduetError``: the plan is malformed, or its network lacks a level of the anchors.

    Parameters
    ----------
    plans, dataset
        ``plans.json`` and ``dataset.json``: the latter gives the number of channels and of classes to segment.
    """
    unet: Any = build_network(plans, dataset, deep_supervision=False)
    require_levels(anchors, level_strides(plans))
    return RetinaUNet(unet, anchors, int(unet.encoder.output_channels[anchors.levels[0]]))


class RetinaUNet(nn.Module):
    """A U-Net with heads for boxes."""

    def __init__(self, unet: Any, anchors: AnchorPlan, channels: int) -> None:
        super().__init__()
        self.unet = unet
        self.levels = anchors.levels
        features = unet.encoder.output_channels
        per_position = len(anchors.sizes_voxels_zyx)
        self.projections = nn.ModuleList([nn.Conv3d(int(features[level]), channels, 1) for level in self.levels])
        self.classifier = _head(channels, per_position)
        self.regressor = _head(channels, 6 * per_position)
        self.scales = nn.Parameter(torch.ones(len(self.levels)))
        nn.init.constant_(_last_bias(self.classifier), -math.log((1 - PRIOR) / PRIOR))

    def forward(self, patches: Tensor) -> DetectorOutput:
        """Detect in patches of shape (batch, channel, z, y, x)."""
        features, segmentation = self._decoded(patches)
        logits, deltas = [], []
        for level, projection, scale in zip(self.levels, self.projections, self.scales, strict=True):
            projected = projection(features[level])
            logits.append(_by_anchor(self.classifier(projected), 1)[..., 0])
            deltas.append(_by_anchor(self.regressor(projected), 6) * scale)
        return DetectorOutput(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), segmentation)

    @property
    def last_layers(self) -> nn.ModuleList:
        """The convolutions that give logits and deltas."""
        return nn.ModuleList([self.classifier[-1], self.regressor[-1]])

    def _decoded(self, patches: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of every level, finest first, and the segmentation.

        The decoder's own forward pass gives the segmentation alone, so its parts are called here.
        """
        encoder, decoder = self.unet.encoder, self.unet.decoder
        skips = encoder(patches)
        features = [skips[-1]]
        for upsample, stage, skip in zip(decoder.transpconvs, decoder.stages, reversed(skips[:-1]), strict=True):
            features.append(stage(torch.cat((upsample(features[-1]), skip), dim=1)))
        return features[::-1], decoder.seg_layers[-1](features[-1])


def _head(channels: int, results: int) -> nn.Sequential:
    """Two convolutions with group norm, and one to the results."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(_groups(channels), channels),
            nn.ReLU(inplace=True),
        ]
    head = nn.Sequential(*layers, nn.Conv3d(channels, results, 3, padding=1))
    *hidden, last = (layer for layer in head if isinstance(layer, nn.Conv3d))
    if last.weight.is_meta:
        return head
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.normal_(last.weight, std=_INITIAL_DEVIATION)
    nn.init.zeros_(_last_bias(head))
    return head


def _last_bias(head: nn.Sequential) -> Tensor:
    last = head[-1]
    assert isinstance(last, nn.Conv3d) and last.bias is not None
    return last.bias


def _groups(channels: int) -> int:
    """The largest number of equal groups with at least 16 channels each; one group for fewer channels."""
    return max(count for count in range(1, max(1, channels // CHANNELS_PER_GROUP) + 1) if channels % count == 0)


def _by_anchor(result: Tensor, values: int) -> Tensor:
    """From (batch, anchors per position x values, z, y, x) to (batch, anchors, values), position by position."""
    return result.movedim(1, -1).reshape(len(result), -1, values)
