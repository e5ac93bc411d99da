"""Probability of a whole study from networks that see patches: nnU-Net's sliding window, for several members at once.

Windows overlap by half a patch; a window's logits count with a Gaussian weight around its centre, and are averaged over
mirrored copies. Each member's logits become probabilities by softmax, and members are averaged as probabilities
(nnU-Net averages logits over folds; the study averaged softmax). Accumulators are float32: nnU-Net's float16 changes
probabilities at the rim of the volume by up to 0.2.

Windows are visited by rising z, so what no later window reaches is final. The accumulators therefore hold a slab of
about one patch's depth for studies of any size. Of the classes, only the sums that were asked for are kept, and
of the members, only the ensembles.

Every pass has the same number of windows, the last one too (by repetition): convolutions of one window and of several
may take different routes and differ in the last bits, and a window's result must not depend on how many others there
are. On a GPU that number is one, so that nothing is repeated. On one thread of a CPU a single window is the dearest:
PyTorch then leaves oneDNN for a convolution that unfolds the whole patch. Networks that say ``each_window_alone``
(:mod:`network.model.channels_last_unet`) get no repetition.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from contract.images.grid import Box
from network.inference.passes import computed_in_order, one_thread_each
from network.machine.device import Precision
from network.machine.malloc import freed_memory_kept
from network.machine.precision import computing_in


@dataclass(frozen=True)
class Streamed:
    """Members that are loaded for their turn and dropped after it."""

    count: int
    load: Callable[[int], torch.nn.Module]
    """Gives a member's network, in evaluation mode on the device of the data."""

    def __len__(self) -> int:
        return self.count


Networks = Sequence[torch.nn.Module] | Streamed


class NotFiniteError(ValueError):
    """A member gave NaN or infinite logits."""

    def __init__(self, member: int) -> None:
        super().__init__(f"member {member} gives no finite probability")
        self.member = member


@torch.inference_mode()
@freed_memory_kept()
def ensemble_probabilities(
    networks: Networks,
    data: torch.Tensor,
    *,
    ensembles: Sequence[Sequence[int]],
    groups: Sequence[Sequence[int]],
    patch_size: tuple[int, int, int],
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    batch: int | None = None,
    region: Box | None = None,
    at_once: int | None = None,
    at_a_time: int | None = None,
    precision: Precision = "fp32",
) -> torch.Tensor:
    """Arithmetic mean of the members' softmax over the whole study, for several ensembles and sums of classes.

    Parameters
    ----------
    networks
        Members without deep supervision, in evaluation mode, on the device of ``data``.
    data
        Preprocessed study, shape (channel, z, y, x), float32.
    ensembles
        Indices of the members of each ensemble; members of none are not run.
    groups
        Class indices whose probabilities are summed, such as ``[(1,), (1, 4, 5)]``.
    patch_size
        The networks' input (z, y, x); a smaller study is padded with zeros around.
    mirror_axes
        Axes of (z, y, x) to mirror along, in all combinations.
    step
        Distance of windows as a fraction of the patch, in (0, 1].
    batch
        Windows per pass; None: as :func:`windows_per_pass` says.
    region
        Box of the study outside of which nothing is needed: windows that do not meet it are left out. Inside, not a
        bit changes; outside, what no window covers is 0.
    at_once
        How many members' accumulators (and, when streamed, weights) are held at a time; the members after them take
        another turn over the windows, and not a bit changes. None: all, or a single one when streamed.
    at_a_time
        How many passes are computed at a time on a CPU, each by one thread; None: as many as torch has threads. Not a
        bit changes.
    precision
        Of the networks' arithmetic; accumulators and probabilities are float32 always.

    Returns
    -------
    Shape (ensemble, group, z, y, x), float32, on the CPU.

    Raises
    ------
    NotFiniteError
        A member gives NaN or infinity.
    """
    if not ensembles or not all(ensembles):
        raise ValueError("no networks to predict with")
    batch = batch or windows_per_pass(data.device)
    padded, inner = _pad(data, patch_size)
    windows = _needed_windows(window_slices(padded.shape[1:], patch_size, step), inner, region)
    passes = [windows[first : first + batch] for first in range(0, len(windows), batch)]
    mean = torch.zeros((len(ensembles), len(groups), *data.shape[1:]))
    needed = sorted({member for ensemble in ensembles for member in ensemble})
    per_turn = at_once or (1 if isinstance(networks, Streamed) else len(needed))
    with one_thread_each(data.device) as threads:
        at_a_time = min(at_a_time or threads, threads)
        weight = gaussian_weight(patch_size)
        visit = _Visit(padded, inner, passes, batch, weight, tuple(mirror_axes), precision, at_a_time)
        for first in range(0, len(needed), per_turn):
            for member, z, probability in _final_slabs(networks, needed[first : first + per_turn], visit):
                if not torch.isfinite(probability.sum()):
                    raise NotFiniteError(member)
                for place, group in enumerate(groups):
                    part = functools.reduce(torch.add, [probability[index] for index in group]).cpu()
                    for total, ensemble in zip(mean, ensembles, strict=True):
                        if member in ensemble:
                            total[place, z] += part
    for total, ensemble in zip(mean, ensembles, strict=True):
        total.div_(len(ensemble))
    return mean


def windows_per_pass(device: torch.device) -> int:
    """How many windows a pass has: more take more memory and no less time, on a CPU from two on."""
    return 1 if device.type == "cuda" else 2


def window_slices(
    size: Sequence[int], patch_size: Sequence[int], step: float = 0.5
) -> list[tuple[slice, slice, slice]]:
    """Windows that cover a volume at least as large as the patch: evenly spread, at most ``step`` patches apart.

    They are sorted by z, then y, then x.
    """
    starts = [_starts(length, patch, step) for length, patch in zip(size, patch_size, strict=True)]
    depth, height, width = patch_size
    return [(slice(z, z + depth), slice(y, y + height), slice(x, x + width)) for z, y, x in itertools.product(*starts)]


def gaussian_weight(patch_size: Sequence[int]) -> torch.Tensor:
    """Weight of a window's voxels, shape of the patch: 1 in the centre, standard deviation an eighth of the patch."""
    profiles = [np.exp(-0.5 * ((np.arange(length) - length // 2) / (length / 8)) ** 2) for length in patch_size]
    weight = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    return torch.from_numpy(weight.astype(np.float32))


def slab_depth(size: Sequence[int], patch_size: Sequence[int], *, step: float = 0.5, batch: int = 2) -> int:
    """Slices that the accumulators of a study of this size hold at a time, without a region."""
    padded = [max(length, patch) for length, patch in zip(size, patch_size, strict=True)]
    layers = _starts(padded[0], patch_size[0], step)
    in_layer = math.prod(_count(length, patch, step) for length, patch in zip(padded[1:], patch_size[1:], strict=True))
    deepest = 0
    for layer, start in enumerate(layers):
        first = (-(-(layer + 1) * in_layer // batch) - 1) * batch  # of the last pass that may begin in this layer
        if first >= layer * in_layer:
            last = min(first + batch, len(layers) * in_layer) - 1
            deepest = max(deepest, layers[last // in_layer] + patch_size[0] - start)
    return deepest


def _starts(length: int, patch: int, step: float) -> list[int]:
    """Where windows begin along one axis."""
    count = _count(length, patch, step)
    distance = (length - patch) / (count - 1) if count > 1 else 0.0
    return [round(distance * index) for index in range(count)]


def _count(length: int, patch: int, step: float) -> int:
    """Number of windows along one axis."""
    if not 0 < step <= 1:
        raise ValueError(f"step {step} is not in (0, 1]")
    return math.ceil((length - patch) / (patch * step)) + 1


@dataclass(frozen=True)
class _Visit:
    """Which windows of a study are visited in which order, and what is done with each."""

    padded: torch.Tensor
    """Shape (channel, z, y, x), at least as large as the patch."""
    inner: Box
    """Region of the study in the padded array."""
    passes: Sequence[Sequence[Box]]
    """Windows of each forward pass, by rising z."""
    batch: int
    weight: torch.Tensor
    """Weight of a window's voxels, of the patch's shape."""
    mirror_axes: tuple[int, ...]
    precision: Precision
    at_a_time: int
    """Passes that are computed at a time."""


def _final_slabs(
    networks: Networks, members: Sequence[int], visit: _Visit
) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """Softmax of some members, as slabs that are final: the member, the study's slices, and their values.

    Values have shape (class, z, y, x), without padding. Slabs come by rising z; of one slab, members in order.
    """
    loaded = [_network(networks, member) for member in members]
    padded, passes, weight = visit.padded, visit.passes, visit.weight.to(visit.padded.device)
    inner_z, inner_y, inner_x = visit.inner
    depth, plane = _depth(passes), padded.shape[2:]
    sums: list[torch.Tensor] = []
    weights = padded.new_zeros((1, depth, *plane))
    bottom = passes[0][0][0].start if passes else 0
    computed = computed_in_order(_passes(loaded, visit), at_a_time=visit.at_a_time)
    for number, some in enumerate(passes):
        places = [(slice(None), slice(z.start - bottom, z.stop - bottom), y, x) for z, y, x in some]
        for position in range(len(loaded)):
            logits = next(computed)
            if len(sums) <= position:
                sums.append(padded.new_zeros((logits.shape[1], depth, *plane)))
            for place, each in zip(places, logits[: len(some)], strict=True):
                sums[position][place] += each * weight
        for place in places:
            weights[place] += weight
        last = number + 1 == len(passes)
        top = some[-1][0].stop if last else passes[number + 1][0][0].start
        low, high = max(bottom, inner_z.start), min(top, inner_z.stop)
        if low < high:
            final = (slice(None), slice(low - bottom, high - bottom), inner_y, inner_x)
            divisor = weights[final]
            for member, each in zip(members, sums, strict=True):
                probability = _softmax(each[final] / divisor)
                z = slice(low - inner_z.start, high - inner_z.start)
                yield member, z, torch.where(divisor > 0, probability, 0.0)
        if not last and top > bottom:
            for each in (*sums, weights):
                _move_down(each, top - bottom)
            bottom = top


def _passes(networks: Sequence[torch.nn.Module], visit: _Visit) -> Iterator[Callable[[], torch.Tensor]]:
    """Every pass of every network, of which each gives the mirrored mean of some windows' logits."""
    for some in visit.passes:
        patches = _cut(visit.padded, some, visit.batch)
        for network in networks:
            given = patches[: len(some)] if getattr(network, "each_window_alone", False) else patches
            yield functools.partial(_mirrored_mean, network, given, visit.mirror_axes, visit.precision)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the first axis of (class, z, y, x), slice by slice.

    PyTorch takes another exponential for the few voxels that do not fill a vector at the end; by slices those are the
    same voxels however many slices are final at a time.
    """
    return torch.stack([torch.softmax(each, dim=0) for each in logits.unbind(1)], dim=1)


def _move_down(slab: torch.Tensor, count: int) -> None:
    """Drop the first slices of (class, z, y, x), move the others to their place and zero the last."""
    kept = max(0, slab.shape[1] - count)
    if kept:
        slab[:, :kept] = slab[:, count:].clone()
    slab[:, kept:] = 0


def _depth(passes: Sequence[Sequence[Box]]) -> int:
    """Slices from the lowest window of a pass to the end of its highest one, at most."""
    return max((some[-1][0].stop - some[0][0].start for some in passes), default=0)


def _needed_windows(windows: Sequence[Box], inner: Box, region: Box | None) -> list[Box]:
    """Windows of the padded study that meet a region of the study itself."""
    if region is None:
        return list(windows)
    wanted = [
        (part.start + own.start, min(part.stop + own.start, own.stop)) for part, own in zip(region, inner, strict=True)
    ]
    return [
        window
        for window in windows
        if all(
            each.start < stop and each.stop > start and start < stop
            for each, (start, stop) in zip(window, wanted, strict=True)
        )
    ]


def _network(networks: Networks, member: int) -> torch.nn.Module:
    return networks.load(member) if isinstance(networks, Streamed) else networks[member]


def _cut(padded: torch.Tensor, windows: Sequence[Box], batch: int) -> torch.Tensor:
    """Cut windows out, shape (batch, channel, z, y, x); the last one is repeated until there are enough."""
    filled = [*windows, *[windows[-1]] * (batch - len(windows))]
    return torch.stack([padded[(slice(None), *window)] for window in filled])


def _mirrored_mean(
    network: torch.nn.Module, patches: torch.Tensor, mirror_axes: Sequence[int], precision: Precision
) -> torch.Tensor:
    """Mean of the logits over all mirrored copies, each mirrored back; float32."""
    axes = [axis + 2 for axis in mirror_axes]
    combinations = [some for n in range(1, len(axes) + 1) for some in itertools.combinations(axes, n)]
    with computing_in(precision, patches.device.type):
        total: torch.Tensor = network(patches).float()
        for flipped in combinations:
            total += torch.flip(network(torch.flip(patches, flipped)), flipped)
    total /= len(combinations) + 1
    return total


def _pad(data: torch.Tensor, patch_size: Sequence[int]) -> tuple[torch.Tensor, Box]:
    """Pad with zeros around to at least the patch; also return where the study is in the result."""
    missing = [max(0, patch - length) for patch, length in zip(patch_size, data.shape[1:], strict=True)]
    before = [each // 2 for each in missing]
    z, y, x = (slice(first, first + length) for first, length in zip(before, data.shape[1:], strict=True))
    if not any(missing):
        return data, (z, y, x)
    pads = [(first, each - first) for first, each in zip(before, missing, strict=True)]
    return torch.nn.functional.pad(data, [side for pair in reversed(pads) for side in pair]), (z, y, x)
