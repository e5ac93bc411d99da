"""Memory for predicting a study: the need, the limit, and the fastest plan that fits.

A container that exceeds its memory is killed without a message. So before a study's voxels are read, its need is
estimated from the headers: the largest of reading, preprocessing, windows and resampling back. Where the quickest way
does not fit, fewer passes are computed at a time, fewer members hold accumulators, then weights are streamed; where
nothing fits, the study is refused with one line. All ways give the same bits. On a CPU a pass of a single window saves
nothing: on one thread PyTorch then unfolds the patch for a convolution, which takes more memory than two windows.

The factors were measured: resident set of networks of 8 to 64 features, patches of 16 × 64 × 64 to 48 × 96 × 96, two
and seven classes; CT of 512 × 512 × 600.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from contract.errors import OncoduetError
from network.inference.sliding_window import slab_depth, windows_per_pass
from network.machine.memory import GB, Budget, gpu_bytes_left

logger = logging.getLogger(__name__)

_FLOAT = 4
_ACTIVATIONS = 12
"""Feature maps of a patch in memory at a time, per window of a pass."""
_SLAB_BYTES = 3 * 8
"""Bytes per voxel of resampling: a slab as float64, padded, and filtered."""
_SLAB_SLICES = 32 + 2 * 20 + 2 * 12
_MARGIN = 1.1


@dataclass(frozen=True)
class StudySize:
    """What the memory of one study's prediction depends on; sizes are (z, y, x)."""

    channels: Sequence[tuple[int, int, int]]
    """Size of each channel's image."""
    reference: tuple[int, int, int]
    study: tuple[int, int, int]
    """Shape of the study grid."""
    network: tuple[int, int, int]
    """Shape of the network's grid, without any crop."""
    patch_size: tuple[int, int, int]
    classes: int
    features: int
    """Features per voxel of the patch, in the network's largest stage."""
    members: int
    member_bytes: int
    """Bytes of one member's weights."""
    outputs: int
    """Number of ensembles times groups of classes."""
    segmentations: int = 0
    """Number of members that find boxes whose segmentation of the whole study is kept too."""
    is_read: bool = False
    """Whether the images are in memory already, as part of what the process uses."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the members' windows are processed."""

    batch: int
    at_once: int
    """Members whose accumulators are in memory at a time."""
    streamed: bool
    """Whether weights are loaded when their member predicts, and dropped afterwards."""
    at_a_time: int = 1
    """Passes that are computed at a time, each by one thread of the CPU."""

    def __str__(self) -> str:
        weights = "weights streamed" if self.streamed else "weights resident"
        members = "1 member" if self.at_once == 1 else f"{self.at_once} members"
        windows = "1 window" if self.batch == 1 else f"{self.batch} windows"
        passes = f", {self.at_a_time} passes at a time" if self.at_a_time > 1 else ""
        return f"{windows} per pass, {members} at a time, {weights}{passes}"


def plan_memory(
    work: StudySize,
    budget: Budget,
    *,
    held: int,
    name: str,
    kept: int = 0,
    device: torch.device | None = None,
    threads: int = 1,
) -> MemoryPlan:
    """The quickest way that fits, and one line in the log that says so.

    Raises ``OncoduetError``: nothing fits.

    Parameters
    ----------
    held
        Bytes that the process holds already.
    kept
        Of the members' weights, what is loaded already: in the main memory a part of ``held``, or on the GPU.
    name
        The study's name, for messages.
    device
        Where the networks run; a GPU's free memory has to hold windows, weights and accumulators too.
    threads
        Of the CPU, for passes.
    """
    on_gpu = device is not None and device.type == "cuda"
    gpu_free = kept + gpu_bytes_left(device) if on_gpu else 0
    held -= 0 if on_gpu else kept
    ways = list(_ways(work.members, windows_per_pass(device or torch.device("cpu")), threads))
    for way in ways:
        need = held + host_bytes(work, way, on_gpu=on_gpu)
        if need <= budget.total and (not on_gpu or window_bytes(work, way) <= gpu_free):
            logger.info(
                "study %s: at most %.1f GB of %.1f GB (%s): %s", name, need / GB, budget.total / GB, budget.source, way
            )
            return way
    least = held + host_bytes(work, ways[-1], on_gpu=on_gpu)
    if least > budget.total:
        raise OncoduetError(
            f"study {name}",
            f"needs {least / GB:.1f} GB of memory ({_size(work.reference)} voxels, {len(work.channels)} channels); "
            f"{budget.total / GB:.1f} GB available ({budget.source})",
        )
    raise OncoduetError(
        f"study {name}",
        f"needs {window_bytes(work, ways[-1]) / GB:.1f} GB of the GPU's memory; {gpu_free / GB:.1f} GB available",
    )


def quickest_way(members: int, device: torch.device, threads: int = 1) -> MemoryPlan:
    """The way that takes most memory."""
    return next(_ways(members, windows_per_pass(device), threads))


def leaner_way(way: MemoryPlan, *, members: int) -> MemoryPlan | None:
    """The next way that takes less memory; None after the leanest."""
    ways = list(_ways(members, way.batch, way.at_a_time))
    return next(iter(ways[ways.index(way) + 1 :]), None) if way in ways else None


def host_bytes(work: StudySize, way: MemoryPlan, *, on_gpu: bool = False) -> int:
    """Peak of the prediction in the main memory, beyond what the process holds before it; weights included."""
    study, reference, network = (math.prod(size) for size in (work.study, work.reference, work.network))
    stack = len(work.channels) * study * _FLOAT
    data = len(work.channels) * network * _FLOAT
    outputs = (work.outputs + work.segmentations) * network * _FLOAT
    # An image as SimpleITK read it, as an array, as float32, its finite voxels; one at a time with the stack. Splines
    # on another grid take float64 coefficients.
    reading = 2 * stack
    if not work.is_read:
        reading += max(
            math.prod(size) * (3 * _FLOAT + 1) + (0 if size == work.study else 2 * 8 * math.prod(size) + study * _FLOAT)
            for size in work.channels
        )
    preprocessing = 2 * stack + 3 * study + data + _resampling(work.study, work.network)
    windows = data + outputs + (0 if on_gpu else window_bytes(work, way) - data - _weights(work, way))
    back = outputs + 3 * study * _FLOAT + _resampling(work.network, work.study)
    # Candidates are searched on the reference grid: the map, its copies and components.
    candidates = outputs + 6 * reference * _FLOAT
    weights = 0 if on_gpu else _weights(work, way)
    return round(_MARGIN * (max(reading, preprocessing, windows, back, candidates) + weights))


def window_bytes(work: StudySize, way: MemoryPlan) -> int:
    """Memory on the networks' device: data, weights, accumulators and a pass of windows."""
    padded = [max(length, patch) for length, patch in zip(work.network, work.patch_size, strict=True)]
    slab = slab_depth(work.network, work.patch_size, batch=way.batch) * padded[1] * padded[2] * _FLOAT
    accumulators = way.at_once * work.classes * slab + slab
    final = 4 * work.classes * slab  # quotient, softmax by slices and together, without uncovered voxels
    features = 16 * math.ceil(work.features / 16)  # oneDNN rounds up
    activations = _ACTIVATIONS * features * math.prod(work.patch_size) * _FLOAT * way.batch * way.at_a_time
    data = len(work.channels) * math.prod(padded) * _FLOAT
    if work.segmentations:  # sums as large as the study, their weights, and one member's quotient and softmax
        accumulators += ((work.segmentations + 2) * work.classes + 1) * math.prod(padded) * _FLOAT
    return data + _weights(work, way) + accumulators + max(final, activations)


def _ways(members: int, batch: int, threads: int) -> Iterator[MemoryPlan]:
    """Plans from the quickest to the leanest."""
    while threads > 1:
        yield MemoryPlan(batch, members, streamed=False, at_a_time=threads)
        threads //= 2
    at_once = members
    while True:
        yield MemoryPlan(batch, at_once, streamed=False)
        if at_once == 1:
            break
        at_once = math.ceil(at_once / 2)
    yield MemoryPlan(batch, 1, streamed=True)


def _weights(work: StudySize, way: MemoryPlan) -> int:
    return work.member_bytes * (way.at_once if way.streamed else work.members)


def _resampling(source: Sequence[int], target: Sequence[int]) -> int:
    """What resampling needs besides its input and output."""
    if tuple(source) == tuple(target):
        return 0
    slices = min(source[0], math.ceil(_SLAB_SLICES * max(1.0, source[0] / target[0])))
    rows, columns = (max(pair) + 24 for pair in zip(source[1:], target[1:], strict=True))
    return slices * rows * columns * _SLAB_BYTES


def _size(size: Sequence[int]) -> str:
    return " × ".join(str(each) for each in reversed(size))
