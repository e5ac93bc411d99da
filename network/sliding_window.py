"""Probability of a whole study from networks that see patches: nnU-Net's sliding window, for several members at once.

Windows overlap by half a patch; a window's logits count with a Gaussian weight around its centre, and are averaged over
mirrored copies. Each member's logits become probabilities by softmax, and members are averaged as probabilities
(nnU-Net averages logits over folds; the study averaged softmax). Accumulators are float32: nnU-Net's float16 changes
probabilities at the rim of the volume by up to 0.2.

Windows are the outer loop and members the inner one, so that every window is cut out once for all members.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from contract.volume import Float32Array


def predict_probability(
    networks: Sequence[torch.nn.Module],
    data: torch.Tensor,
    *,
    patch_size: tuple[int, int, int],
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    batch: int = 4,
) -> Float32Array:
    """Arithmetic mean of the members' softmax, shape (class, z, y, x). See :func:`member_probabilities`."""
    members = member_probabilities(
        networks, data, patch_size=patch_size, mirror_axes=mirror_axes, step=step, batch=batch
    )
    mean: Float32Array = members.mean(dim=0).cpu().numpy()
    return mean


@torch.inference_mode()
def member_probabilities(
    networks: Sequence[torch.nn.Module],
    data: torch.Tensor,
    *,
    patch_size: tuple[int, int, int],
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    batch: int = 4,
) -> torch.Tensor:
    """Softmax of every member over the whole study.

    Parameters
    ----------
    networks
        Members in evaluation mode, without deep supervision, on the device of ``data``.
    data
        Preprocessed study, shape (channel, z, y, x), float32.
    patch_size
        The networks' input (z, y, x); a smaller study is padded with zeros around.
    mirror_axes
        Axes of (z, y, x) to mirror along, in all combinations.
    step
        Distance of windows as a fraction of the patch, in (0, 1].
    batch
        Windows per forward pass.

    Returns
    -------
    Shape (member, class, z, y, x), float32, in the order of ``networks``, on the device of ``data``.
    """
    if not networks:
        raise ValueError("no networks to predict with")
    padded, inner = _pad(data, patch_size)
    weight = gaussian_weight(patch_size).to(padded.device)
    total_weight = torch.zeros(padded.shape[1:], device=padded.device)
    sums: list[torch.Tensor] = []
    windows = window_slices(tuple(padded.shape[1:]), patch_size, step)
    for first in range(0, len(windows), batch):
        some = windows[first : first + batch]
        patches = torch.stack([padded[(slice(None), *window)] for window in some])
        for member, network in enumerate(networks):
            logits = _mirrored_mean(network, patches, mirror_axes).float()
            if len(sums) <= member:
                sums.append(torch.zeros((logits.shape[1], *padded.shape[1:]), device=padded.device))
            for window, each in zip(some, logits, strict=True):
                sums[member][(slice(None), *window)] += each * weight
        for window in some:
            total_weight[window] += weight
    return torch.stack([torch.softmax((each / total_weight)[(slice(None), *inner)], dim=0) for each in sums])


def window_slices(
    size: Sequence[int], patch_size: Sequence[int], step: float = 0.5
) -> list[tuple[slice, slice, slice]]:
    """Windows that cover a volume at least as large as the patch: evenly spread, at most ``step`` patches apart."""
    if not 0 < step <= 1:
        raise ValueError(f"step {step} is not in (0, 1]")
    starts = []
    for length, patch in zip(size, patch_size, strict=True):
        room = length - patch
        count = int(np.ceil(room / (patch * step))) + 1
        distance = room / (count - 1) if count > 1 else 0.0
        starts.append([round(distance * index) for index in range(count)])
    depth, height, width = patch_size
    return [(slice(z, z + depth), slice(y, y + height), slice(x, x + width)) for z, y, x in itertools.product(*starts)]


def gaussian_weight(patch_size: Sequence[int]) -> torch.Tensor:
    """Weight of a window's voxels, shape of the patch: 1 in the centre, standard deviation an eighth of the patch."""
    profiles = [np.exp(-0.5 * ((np.arange(length) - length // 2) / (length / 8)) ** 2) for length in patch_size]
    weight = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    return torch.from_numpy(weight.astype(np.float32))


def _mirrored_mean(network: torch.nn.Module, patches: torch.Tensor, mirror_axes: Sequence[int]) -> torch.Tensor:
    """Mean of the logits over all mirrored copies, each mirrored back."""
    axes = [axis + 2 for axis in mirror_axes]
    combinations = [some for n in range(1, len(axes) + 1) for some in itertools.combinations(axes, n)]
    total: torch.Tensor = network(patches)
    for flipped in combinations:
        total = total + torch.flip(network(torch.flip(patches, flipped)), flipped)
    return total / (len(combinations) + 1)


def _pad(data: torch.Tensor, patch_size: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, slice, slice]]:
    """Pad with zeros around to at least the patch; also say where the study lies in the result."""
    missing = [max(0, patch - length) for patch, length in zip(patch_size, data.shape[1:], strict=True)]
    before = [each // 2 for each in missing]
    pads = [(first, each - first) for first, each in zip(before, missing, strict=True)]
    z, y, x = (slice(first, first + length) for first, length in zip(before, data.shape[1:], strict=True))
    padded = torch.nn.functional.pad(data, [side for pair in reversed(pads) for side in pair])
    return padded, (z, y, x)
