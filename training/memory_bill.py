"""Memory of trainings, estimated before a voxel is read, and where each keeps its training set.

A run alone and the runs of a campaign are billed alike: the training set, and for network and step what the plan says.
The first place that holds both is taken (``training.dataloading.training_set``), unless the profile names one, or an
interrupted run was begun with other patches. What a process has loaded for another of its runs is there already.

Memory on the CPU was calibrated on the resident set of training processes (``test/benchmark/campaign_memory.py``):
seven plans of 4 to 32 features, patches of 8 × 16 × 16 to 24 × 128 × 128, batches of 1 to 4. None needed more than is
estimated here; where the estimate is above 500 MB it is at most 1.6 times what was needed.
The largest of them was measured with nnU-Net's loader only. For networks that find boxes the estimate was 0.98 to
1.43 times what four of these plans needed.
So a run on the CPU is refused only where that share of the estimate does not fit either, and warned of before.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contract.errors import OncoduetError
from contract.records import RunRecord
from network.machine.device import Kind
from network.model.plans import full_resolution
from training.dataloading.training_set import PLACES, Patches, Place, home, patches_of
from training.planned_run import Run

if TYPE_CHECKING:
    from training.dataloading.resident_studies import StudySizes

GB = 10**9

PROCESS = 75 * 10**6
"""Memory of a forked process with any plan: pages written to, and the libraries' own buffers."""

AUTO = 'loader = "auto" in the profile takes what fits'
SMALLER = "a smaller batch or patch in the profile's plan, or fewer parallel runs (resources.packed), need less"

_AT_MOST_TOO_HIGH = 1.6
"""How many times what is needed the estimate on the CPU may be."""
_FLOAT = 4
_BYTES_PER_EPOCH = 1000
"""Bytes of ``run.json`` and log per epoch."""
_CHECKPOINTS = 3
"""Checkpoints on disk at a time: the two that are kept and the one that is being written."""
_PARAMETER_COPIES = 4
"""Copies of the parameters: weights, gradients, momentum, and one for a checkpoint."""
_CPU_FEATURES = 4.5
"""Floats in memory per element of the convolutions' feature maps."""
_CUDA_BYTES = 8e9 / (2 * 560e6)
"""Bytes per element of the feature maps in half precision: nnU-Net's planner assumes 8 GB for 560 million elements in
each of two patches."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What one run takes, in bytes."""

    weights: int
    checkpoint: int
    kept: int
    """Weights on disk until detection has chosen among them."""
    log: int
    on_cpu: int
    """Memory of network, gradients and activations in training."""
    on_cuda: int

    @property
    def disk_when_finished(self) -> int:
        """What stays in its folder."""
        return self.weights + self.log

    @property
    def disk_at_work(self) -> int:
        """What its checkpoints take in addition."""
        return _CHECKPOINTS * self.checkpoint + self.kept


@dataclass(frozen=True)
class FreeMemory:
    """What there is for trainings, in bytes, and what sets the limit."""

    host: int
    host_source: str
    device: int = 0
    """Of a GPU; on the CPU, whose memory is the main memory, nothing."""
    device_source: str = ""


@dataclass(frozen=True)
class MemoryBill:
    """What runs that go at a time take, with their training set in one place; in bytes."""

    place: Place
    kind: Kind
    studies: int
    """How many."""
    images: int
    """The training set; 0 where it stays on the disk."""
    step_device: int
    """Networks and steps in a GPU's memory."""
    step_host: int
    """Processes in the main memory; on the CPU with networks and steps."""

    @property
    def is_on_gpu(self) -> bool:
        """Whether the training set is in a GPU's memory."""
        return (self.place, self.kind) == ("device", "cuda")

    @property
    def device(self) -> int:
        """All that a GPU has to hold; in addition to the training set at least a tenth, for any network."""
        return _together(self.images if self.is_on_gpu else 0, self.step_device)

    @property
    def host(self) -> int:
        """All that the main memory has to have."""
        return _together(0 if self.is_on_gpu else self.images, self.step_host)

    @property
    def least(self) -> int:
        """What the main memory has to have on the CPU, however high the estimate is."""
        return _together(self.images, math.ceil(self.step_host / _AT_MOST_TOO_HIGH))

    def fits(self, free: FreeMemory) -> bool:
        """Whether both memories hold it."""
        return self.device <= free.device and self.host <= free.host

    def __str__(self) -> str:
        if self.place == "nnunet":
            return f"training set: {self.studies} studies, read patch by patch by nnU-Net's loader"
        where = "the GPU's memory" if self.is_on_gpu else "the main memory"
        precision = "half" if patches_of(self.place, self.kind) == "float16" else "single"
        return f"training set: {self.studies} studies in {where} in {precision} precision, {self.images / GB:.3g} GB"


def bills(runs: Sequence[Run], kind: Kind, *, packed: int = 1, processes: int = 1) -> list[MemoryBill]:
    """What runs of one dataset and profile would take with their training set in each place that they allow.

    Raises ``OncoduetError``: a study's file is missing or damaged, or a patch does not suit its network.

    Parameters
    ----------
    runs
        One of each kind of network that may be trained.
    packed
        Runs side by side in each process.
    processes
        Processes that share the main memory. Each has its own numbered lesions, and all have one training set there.
    """
    from training.dataloading.resident_studies import study_sizes  # noqa: PLC0415 - takes seconds to import

    first, need = runs[0], [needs(run) for run in runs]
    sizes = study_sizes(first.prepared.folder, [*first.fold.train, *first.fold.validation])
    numbers = max(numbers_bytes(run, sizes) for run in runs)
    on_cuda = packed * max(each.on_cuda for each in need)
    on_cpu = packed * max(each.on_cpu for each in need)
    found = []
    for place in PLACES:
        if not all(place in run.engine.places and run.profile.loader in ("auto", place) for run in runs):
            continue
        images = 0 if place == "nnunet" else sizes.on(*home(place, kind))
        is_on_gpu = (place, kind) == ("device", "cuda")
        each_host = PROCESS + (on_cpu if kind == "cpu" else 0) + (sizes.places if is_on_gpu else numbers)
        step_device = on_cuda + (numbers if is_on_gpu else 0) if kind == "cuda" else 0
        found.append(MemoryBill(place, kind, sizes.studies, images, step_device, processes * each_host))
    if not found:
        raise OncoduetError(
            f"profile {first.profile.name}",
            expected=f"a training set in memory for {' and '.join(run.configuration.name for run in runs)}",
            found=f'loader = "{first.profile.loader}"',
        )
    return found


def choose_training_set(
    run: Run, what: str, kind: Kind, *, packed: int = 1, begun: Patches | None = None, given: Place | None = None
) -> MemoryBill:
    """Decide where a run's training set is kept in this process.

    Raises ``OncoduetError``: what the profile names, or the interrupted run was begun with, does not fit; or nothing
    fits; or the profile no longer allows what the run was begun with. On the CPU, what may fit is only warned of.

    Parameters
    ----------
    what
        The run's folder, for messages.
    packed
        Runs side by side in this process.
    begun
        What an interrupted run was begun with: it continues with the same patches.
    given
        What a campaign has decided for all of its processes.
    """
    offered = bills([run], kind, packed=packed)
    if begun is not None:
        allowed = [bill for bill in offered if patches_of(bill.place, kind) == begun]
        if not allowed:
            words = "nnU-Net's loader" if begun == "nnunet" else f"studies in {begun}"
            raise OncoduetError(what, f"the training was begun with {words}", found=f'loader = "{run.profile.loader}"')
        offered = allowed
    offered = [bill for bill in offered if bill.place == given] or offered
    if loaded := next((bill for bill in offered if _is_loaded(run, bill)), None):
        return loaded
    free = free_memory(kind)
    fitting = next((bill for bill in offered if bill.fits(free)), None)
    if fitting is not None:
        return fitting
    leanest = offered[-1]
    if kind == "cuda" or leanest.least > free.host:
        raise too_little(str(run.prepared.folder), leanest, free, loader=run.profile.loader)
    logger.warning(
        "%s: the training takes %.3g to %.3g GB of memory, and there are %.3g GB (%s): it may not fit; %s",
        *(what, leanest.least / GB, leanest.host / GB, free.host / GB, free.host_source, SMALLER),
    )
    return leanest


def too_little(where: str, bill: MemoryBill, free: FreeMemory, *, loader: str) -> OncoduetError:
    """The error of a training that does not fit."""
    on_gpu = bill.device > free.device
    there, source = (free.device, free.device_source) if on_gpu else (free.host, free.host_source)
    needed, step = (bill.device, bill.step_device) if on_gpu else (bill.host, bill.step_host)
    images = bill.images if on_gpu == bill.is_on_gpu else 0
    forced = images > 0 and loader != "auto"
    return OncoduetError(
        where,
        expected=f"a training that takes at most {there / GB:.3g} GB ({source})",
        found=(
            f"{needed / GB:.3g} GB: {images / GB:.3g} GB for the training set and {step / GB:.3g} GB for network and "
            f"step; {AUTO if forced else SMALLER}"
        ),
    )


def free_memory(kind: Kind) -> FreeMemory:
    """What this process has left; on a GPU with what torch keeps of its memory for later."""
    from network.machine.memory import gpu_bytes_left, held_bytes, memory_budget  # noqa: PLC0415 - import torch

    budget = memory_budget()
    host = max(0, budget.total - held_bytes())
    if kind == "cpu":
        return FreeMemory(host, budget.source)
    import torch  # noqa: PLC0415

    device = torch.device("cuda")
    return FreeMemory(host, budget.source, gpu_bytes_left(device), f"the GPU {torch.cuda.get_device_name(device)}")


def needs(run: Run) -> Needs:
    """What a run of this plan takes. The network is built without memory for its weights.

    Raises ``OncoduetError``: a network that finds boxes has a patch that is no multiple of its strides.
    """
    import torch  # noqa: PLC0415

    with torch.device("meta"):
        network, per_patch = run.engine.network(run)
    elements = per_patch * full_resolution(run.plans).batch_size
    unique = {id(parameter): parameter.numel() for parameter in network.parameters()}
    parameters = sum(unique.values())
    halves = 1 if run.profile.compute.amp in ("fp16", "bf16") else 2
    copies = 3 if run.keep == "best" else 2  # weights, momentum, and the best weights so far
    kept = run.profile.epochs // run.profile.keep_every_epochs + 1 if run.keep == "detection" else 0
    return Needs(
        weights=_FLOAT * parameters,
        checkpoint=copies * _FLOAT * parameters,
        kept=kept * _FLOAT * parameters,
        log=_BYTES_PER_EPOCH * run.profile.epochs,
        on_cpu=round(_FLOAT * (_PARAMETER_COPIES * parameters + _CPU_FEATURES * elements)),
        on_cuda=round(_PARAMETER_COPIES * _FLOAT * parameters + halves * _CUDA_BYTES * elements),
    )


def numbers_bytes(run: Run, sizes: "StudySizes") -> int:
    """The numbered lesions of the studies, which each process keeps for itself where a network finds boxes."""
    return run.engine.own_bytes_per_voxel * sizes.voxels


def begun_with(existing: RunRecord, run: Run, kind: Kind) -> Patches:
    """The patches of an interrupted run, by its record; older ones say nothing: then studies were on the device."""
    older = "nnunet" if run.profile.loader == "nnunet" else "device"
    said = existing.hardware.get("training_set", older)
    return patches_of(next((place for place in PLACES if place == said), "device"), kind)


def _is_loaded(run: Run, bill: MemoryBill) -> bool:
    from training.dataloading.resident_studies import missing_studies  # noqa: PLC0415 - takes seconds to import

    if bill.place == "nnunet":
        return False
    device, dtype = home(bill.place, bill.kind)
    wanted = [*run.fold.train, *run.fold.validation]
    return not missing_studies(run.prepared.folder, wanted, device=device, dtype=dtype)


def _together(images: int, step: int) -> int:
    from training.dataloading.resident_studies import SHARE  # noqa: PLC0415 - takes seconds to import

    return max(images + step, math.ceil(images / SHARE))
