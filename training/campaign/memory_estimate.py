"""What a campaign takes in memory, and where each of its processes keeps the training set.

On the CPU the processes share one training set, which is read before they are forked. On GPUs each device is billed by
itself: a GPU on which the runs do not fit gets none, unless the campaign names it. What does not fit into a GPU's
memory is in the main memory, once for all processes. Jobs on other machines decide for themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from contract.records import Stage
from network.machine.device import Kind
from training.campaign.devices import CudaDevice
from training.dataloading.training_set import Place
from training.memory_bill import AUTO, GB, FreeMemory, MemoryBill, bills, free_memory
from training.planned_run import Run

_IMPORTS = 600 * 10**6
"""What a process that was not forked holds after its imports."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What the runs that go at a time need, in bytes, and what there is, where that is tightest."""

    needed: int
    free: int | None
    """None: not known."""
    source: str
    remedy: str
    places: Mapping[tuple[int | None, Stage], Place] = field(default_factory=dict)
    """Where the training set of a stage is kept, by the device's index; None: on the CPU."""
    devices: tuple[CudaDevice, ...] = ()
    """Those that get runs."""
    lines: tuple[str, ...] = ()
    """Where training sets are kept, and which devices get no run."""


def estimate_memory(
    runs: Sequence[Run],
    *,
    packed: int,
    processes: int,
    devices: Sequence[CudaDevice] = (),
    are_named: bool = False,
) -> MemoryEstimate:
    """What runs take on this machine.

    Parameters
    ----------
    runs
        One of each kind of network that is trained.
    packed
        Runs side by side in each process.
    processes
        How many go at a time.
    devices
        GPUs to choose from; none: the CPU.
    are_named
        Whether the campaign wants these devices and no others.
    """
    kind: Kind = "cuda" if devices else "cpu"
    free = free_memory("cpu")
    offered = {stage: bills(each, kind, packed=packed, processes=processes) for stage, each in _by_stage(runs).items()}
    if not devices:
        return _on(offered, free, None, runs)
    on = {
        device: _on(offered, replace(free, device=device.free_bytes, device_source=_named(device)), device, runs)
        for device in devices
    }
    fitting = [device for device, each in on.items() if each.free is not None and each.needed <= each.free]
    if not fitting or (are_named and len(fitting) < len(devices)):
        worst = max((device for device in devices if device not in fitting), key=lambda device: device.free_bytes)
        return on[worst]
    tightest = min((on[device] for device in fitting), key=lambda each: (each.free or 0) - each.needed)
    left_out = [
        f"{_named(device)} gets no run: {device.free_bytes / GB:.3g} GB of its memory are free, "
        f"{on[device].needed / GB:.3g} GB are needed"
        for device in devices
        if device not in fitting
    ]
    return replace(
        tightest,
        places={place: kept for device in fitting for place, kept in on[device].places.items()},
        devices=tuple(fitting),
        lines=(*dict.fromkeys(line for device in fitting for line in on[device].lines), *left_out),
    )


def estimate_memory_elsewhere(
    runs: Sequence[Run], *, packed: int, memory_gb: float | None, on_gpu: bool
) -> MemoryEstimate:
    """What one job takes of the main memory of its node, which has so much for it; on a GPU as little as it may."""
    free = None if memory_gb is None else round(memory_gb * GB)
    room = FreeMemory(2**63 if free is None else free - _IMPORTS, "slurm.memory_gb")
    needed = 0
    for each in _by_stage(runs).values():
        offered = bills(each, "cuda" if on_gpu else "cpu", packed=packed)
        least = min(bill.host for bill in offered)
        needed = max(needed, _IMPORTS + (least if on_gpu else _chosen(offered, room).host))
    line = "training set: each job decides where it is kept, by the memory of its node"
    return MemoryEstimate(needed, free, "slurm.memory_gb", _remedy(runs), lines=(line,))


def _on(
    offered: Mapping[Stage, Sequence[MemoryBill]], free: FreeMemory, device: CudaDevice | None, runs: Sequence[Run]
) -> MemoryEstimate:
    """One device and the main memory; the latter holds the training sets of several stages at once."""
    chosen: dict[Stage, MemoryBill] = {}
    held = 0
    for stage, each in offered.items():
        chosen[stage] = _chosen(each, replace(free, host=free.host - held))
        held += 0 if chosen[stage].is_on_gpu else chosen[stage].images
    every = chosen.values()
    host = max([held + max((bill.step_host for bill in every), default=0), *(bill.host for bill in every)])
    needed, there, source = host, free.host, free.host_source
    if device is not None and (host <= free.host or max(bill.device for bill in every) > free.device):
        needed, there, source = max(bill.device for bill in every), free.device, free.device_source
    index = None if device is None else device.index
    return MemoryEstimate(
        needed,
        there,
        source,
        _remedy(runs),
        places={(index, stage): bill.place for stage, bill in chosen.items()},
        lines=tuple(str(bill) for bill in every),
    )


def _chosen(offered: Sequence[MemoryBill], free: FreeMemory) -> MemoryBill:
    """The first that fits, else the leanest."""
    return next((bill for bill in offered if bill.fits(free)), offered[-1])


def _by_stage(runs: Sequence[Run]) -> dict[Stage, list[Run]]:
    stages: dict[Stage, list[Run]] = {}
    for run in runs:
        stages.setdefault(run.configuration.stage, []).append(run)
    return stages


def _named(device: CudaDevice) -> str:
    return f"GPU {device.index} ({device.name})"


def _remedy(runs: Sequence[Run]) -> str:
    forced = any(run.profile.loader not in ("auto", "nnunet") for run in runs)
    return "fewer resources.workers or resources.packed need less" + (f", and {AUTO}" if forced else "")
