"""Runs packed into one process: steps per second of all together, and memory against the campaign's estimate."""

from collections.abc import Iterator
from typing import Any

from trainers import Bench, Length
from workload import TOY, Workload

from training.dataset.prepared import load_prepared
from training.memory_bill import bills
from training.planned_run import plan_run

PACKS = (1, 2, 4, 8)


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per plan and number of runs."""
    prepared = load_prepared(workload.prepared())
    plans = {"demo": TOY} if workload.toy else {"demo": TOY, "cspca-rsna2022": workload.profile("cspca-rsna2022")}
    for name, profile in plans.items():
        length = Length(3, 8) if workload.toy else Length(15, 60 if name == "demo" else 20)
        folder = workload.scratch / name
        folder.mkdir(parents=True)
        bench = Bench(folder, length, workload.device, str(profile))
        bench.write(prepared)
        run = plan_run(prepared, configuration="ce-dice", fold=0, restart=1, profile=str(bench.own_profile))
        for runs in (1, 2) if workload.toy else PACKS:
            cost = bench.packed(runs).cost
            (bill,) = bills([run], workload.device, packed=runs)
            yield {
                "plan": name,
                "packed": runs,
                "steps_per_s": round(cost.steps / cost.wall_s, 3),
                "peak_gb": round(cost.peak_mb / 1000, 2),
                "estimated_gb": round((bill.device or bill.host) / 1e9, 2),
            }
