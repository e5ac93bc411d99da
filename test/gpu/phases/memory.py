"""Whether a training that does not fit is refused in one line, and one that just fits makes its steps.

Something else holds most of the GPU meanwhile. On the CPU, as a toy, the studies are given no memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from workload import Workload

from contract.errors import OncoduetError
from network.machine.device import free_device_memory
from network.machine.memory import GB, Budget
from training.dataloading.resident_studies import ResidentStudies
from training.dataset.prepared import Prepared, load_prepared
from training.make_run import execute
from training.memory_bill import bills
from training.planned_run import Run, plan_run

SHARES = {"half of the need": 0.5, "a third more than the need": 1.33}


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per amount of free memory. Raises ``RuntimeError``: a run was refused that fits, or the reverse."""
    prepared = load_prepared(workload.prepared())
    if workload.toy:
        yield {"free": "none", "outcome": _refusal(prepared)}
        return
    profile = workload.edited_profile(
        workload.profile("cspca-rsna2022"), "short", epochs=1, iterations_per_epoch=2,
        validation_iterations_per_epoch=1, loader="device",
    )  # fmt: skip
    run = plan_run(prepared, configuration="ce-dice", fold=0, restart=1, profile=str(profile))
    (bill,) = bills([run], "cuda")
    need = bill.device
    outcomes = {}
    for number, (name, share) in enumerate(SHARES.items()):
        free = round(share * need)
        ballast = torch.empty(max(0, torch.cuda.mem_get_info()[0] - free), dtype=torch.uint8, device="cuda")
        outcomes[name] = _outcome(run, workload.scratch / str(number))
        yield {"free": name, "free_gb": round(free / GB, 2), "need_gb": round(need / GB, 2), "outcome": outcomes[name]}
        del ballast
        free_device_memory()
    refused, made = (outcomes[name] for name in SHARES)
    if refused == "made" or made != "made":
        raise RuntimeError(f"with less than it needs: {refused}; with more: {made}")


def _outcome(run: Run, output: Path) -> str:
    """``made``, or the line that refuses it."""
    try:
        execute(run, output, device="cuda")
    except OncoduetError as error:
        return str(error)
    return "made"


def _refusal(prepared: Prepared) -> str:
    """The line in which studies are refused for which there is no memory."""
    studies = ResidentStudies(prepared.folder, torch.device("cpu"), torch.float32)
    try:
        studies.load(prepared.fold(0).train, budget=Budget(1000, "toy"))
    except OncoduetError as error:
        return str(error)
    raise RuntimeError("studies were loaded into 1000 bytes")
