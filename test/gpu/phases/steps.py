"""Training steps per second of a real plan, with each setting of ``[compute]`` that costs no accuracy.

The peer's pace is the phase ``stock``. ``host_ms`` is how long the host takes to hand a step to the GPU: where it
equals ``step_ms``, the GPU waits for the host.
"""

from collections.abc import Iterator
from typing import Any

import torch
from step_clock import StepClock
from torch.utils.flop_counter import FlopCounterMode
from workload import Workload

from network.model.plans import full_resolution
from training.dataset.prepared import load_prepared
from training.make_run import execute
from training.planned_run import Run, plan_run

VARIANTS: dict[str, str] = {
    "as the profile says": "",
    "benchmark": "cudnn_benchmark = true\ndeterministic = false\n",
    "compile": "cudnn_benchmark = true\ndeterministic = false\ncompile = true\n",
    "compile, channels last": "cudnn_benchmark = true\ndeterministic = false\ncompile = true\nchannels_last = true\n",
}
"""By name: lines of the profile's table ``[compute]``."""


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per plan, configuration and variant."""
    prepared = load_prepared(workload.prepared())
    warm_up, timed = (3, 8) if workload.toy else (10, 30)
    plans = ["cspca-rsna2022"] if workload.toy else ["cspca-rsna2022", "cspca-picai", "pdac"]
    for number, (plan, configuration, variant) in enumerate(_matrix(plans, toy=workload.toy)):
        lines = VARIANTS[variant]
        profile = workload.edited_profile(
            workload.profile(plan), f"{number}", f"\n[compute]\n{lines}" if lines else "",
            epochs=1, iterations_per_epoch=warm_up + timed, validation_iterations_per_epoch=1, checkpoint="final",
        )  # fmt: skip
        run = plan_run(prepared, configuration=configuration, fold=0, restart=1, profile=str(profile))
        clock = StepClock(warm_up=warm_up, last=warm_up + timed, device=workload.device)
        execute(run, workload.scratch / str(number), device=workload.device, on_iteration=clock)
        cost = clock.cost
        assert cost is not None
        tflop = step_flop(run) / 1e12
        yield {
            "plan": plan,
            "configuration": configuration,
            "compute": variant,
            "steps_per_s": round(cost.steps / cost.wall_s, 3),
            "step_ms": round(1000 * cost.wall_s / cost.steps, 2),
            "host_ms": round(1000 * cost.host_s / cost.steps, 2),
            "tflop_per_step": round(tflop, 3),
            "tflop_per_s": round(tflop * cost.steps / cost.wall_s, 3),
            "peak_gb": round(cost.peak_mb / 1000, 2),
        }


def step_flop(run: Run) -> int:
    """Floating point operations of forward and backward pass of one batch; counted without computing them."""
    plan = full_resolution(run.plans)
    with torch.device("meta"):
        network, _ = run.engine.network(run)
        batch = torch.zeros(plan.batch_size, len(run.prepared.card.channels), *plan.patch_size)
        with FlopCounterMode(display=False) as counter:
            torch.stack([each.sum() for each in network(batch)]).sum().backward()
    return int(counter.get_total_flops())


def _matrix(plans: list[str], *, toy: bool) -> Iterator[tuple[str, str, str]]:
    """The most decisive first: all variants of one plan, then the focal loss, then the other plans."""
    variants = list(VARIANTS)[:2] if toy else list(VARIANTS)
    yield from ((plans[0], "ce-dice", variant) for variant in variants)
    yield from ((plans[0], "focal", variant) for variant in (variants[0], variants[-1]))
    yield from ((plan, "ce-dice", variant) for plan in plans[1:] for variant in (variants[0], variants[-1]))
