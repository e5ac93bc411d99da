"""nnU-Net's own trainer and ours on the same studies and plan, by the same clock.

With one batch again and again nnU-Net's trainer shows what the GPU could do with any loader; its own loader is tried
with the workers that twelve and four cores per GPU allow.
"""

import os
from collections.abc import Iterator
from typing import Any

from trainers import Bench, Length
from workload import Workload

from training.dataset.prepared import load_prepared

WORKERS = (12, 4)


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per way of training."""
    length = Length(3, 8) if workload.toy else Length(15, 40)
    workload.scratch.mkdir(parents=True)
    bench = Bench(workload.scratch, length, workload.device, str(workload.profile("cspca-rsna2022")))
    bench.write(load_prepared(workload.prepared()))
    variants = [bench.single, lambda: bench.stock(dummy=True)]
    for workers in (2,) if workload.toy else WORKERS:
        if workers <= 2 * (os.cpu_count() or 1):
            variants.append(lambda workers=workers: bench.stock(workers=workers))
    for variant in variants:
        found = variant()
        cost = found.cost
        yield {
            "trainer": found.name,
            "steps_per_s": round(cost.steps / cost.wall_s, 3),
            "cpu_s_per_step": round(cost.cpu_s / cost.steps, 4),
            "peak_gb": round(cost.peak_mb / 1000, 2),
        }
