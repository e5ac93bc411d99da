"""Seconds per study by members and precision, how far each precision is from fp32, and what a T4's memory allows.

The networks are untrained and of nnU-Net's real size. The second of two predictions is timed: the first one loads what
CUDA needs. nnU-Net's row is its whole command for one member, with its start.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import torch
from inference import QUICK, Bench, Case
from workload import Workload

from algorithm.prediction.bundle import read_bundle
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import load_predictor
from contract.errors import OncoduetError
from network.machine.device import Precision, free_device_memory
from network.machine.memory import GB
from training.profile import Profile, load_profile

T4_BYTES = 15 * GB
"""What a T4 has for a process beside CUDA's own context."""


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per number of members and precision."""
    profile = load_profile(str(workload.profile("cspca-rsna2022")))
    case = QUICK if workload.toy else Case(patch=profile.plan.patch_size_zyx)
    counts = (1, 2) if workload.toy else (1, 4, 20)
    workload.scratch.mkdir(parents=True)
    network = None if workload.toy else _network(profile)
    bench = Bench(workload.scratch, case, members=max(counts), mirroring=True, device=workload.device, network=network)
    bench.write()
    stock = bench.measure_stock(0, 1)
    yield {"who": "nnU-Net", "members": 1, "seconds": round(stock.wall_s, 2), "peak_mb": round(stock.peak_mb)}
    for members in counts:
        exact = None
        for precision in (each for each in get_args(Precision) if each != "auto"):
            row, probability = _timed(bench, members, precision)
            exact = probability if precision == "fp32" else exact
            if exact is not None and probability is not None:
                row["largest_difference"] = round(float(np.abs(probability - exact).max()), 6)
            yield row
    if not workload.toy:
        with memory_of_a_t4():
            for members in counts:
                for precision in ("fp32", "fp16"):
                    yield _timed(bench, members, precision)[0] | {"who": "oncoduet, 15 GB"}


def _timed(bench: Bench, members: int, precision: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """The row, and the ensemble's probability; None where the device cannot compute in this precision."""
    row: dict[str, Any] = {"who": "oncoduet", "members": members, "precision": precision}
    bundle = read_bundle(bench.folder / "model")
    some = bundle.record.members[:members]
    options = PredictionOptions(mirroring=bench.mirroring, precision=precision, device=bench.device)
    on_gpu = bench.device == "cuda"
    try:
        predictor = load_predictor(bundle, some, options, ensembles=[some])
        predictor.predict(bench.images(), name="case")
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        probability = predictor.predict(bench.images(), name="case").ensemble(some).array
        row["seconds"] = round(time.perf_counter() - began, 3)
    except OncoduetError as error:
        return row | {"refused": str(error)}, None
    if on_gpu:
        row["peak_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
        del predictor
        free_device_memory()
    return row, np.asarray(probability)


@contextmanager
def memory_of_a_t4() -> Iterator[None]:
    """The GPU as if it had no more memory than a T4, for what asks and for what allocates."""
    ask, (_, total) = torch.cuda.mem_get_info, torch.cuda.mem_get_info()
    free_device_memory()
    torch.cuda.set_per_process_memory_fraction(T4_BYTES / total)
    torch.cuda.mem_get_info = lambda *_: (T4_BYTES - torch.cuda.memory_reserved(), T4_BYTES)
    try:
        yield
    finally:
        torch.cuda.mem_get_info = ask
        torch.cuda.set_per_process_memory_fraction(1.0)


def _network(profile: Profile) -> dict[str, Any]:
    """A profile's network as nnU-Net's plans describe it."""
    plan = profile.plan
    assert plan is not None
    return {
        "n_stages": len(plan.stages),
        "features_per_stage": [stage.features for stage in plan.stages],
        "kernel_sizes": [list(stage.kernel_size_zyx) for stage in plan.stages],
        "strides": [list(stage.stride_zyx) for stage in plan.stages],
        "n_conv_per_stage": [plan.convolutions_per_stage_encoder] * len(plan.stages),
        "n_conv_per_stage_decoder": [plan.convolutions_per_stage_decoder] * (len(plan.stages) - 1),
    }
