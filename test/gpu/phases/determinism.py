"""Whether a run gives the same weights again: repeated, resumed, packed; and how often the host waits for the GPU."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from workload import Workload

from contract.records import RunRecord, read_record
from training.dataset.prepared import Prepared, load_prepared
from training.make_run import RunRequest, execute, execute_together
from training.planned_run import Run, plan_run

CONFIGURATIONS = ("ce-dice", "focal", "ce", "ce-focal", "retina-unet")


class InterruptedTrainingError(Exception):
    """Raised within a training."""


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """A row per configuration. Raises ``RuntimeError``: weights differ."""
    prepared = load_prepared(workload.prepared())
    differ = []
    for configuration in CONFIGURATIONS[:1] + CONFIGURATIONS[-1:] if workload.toy else CONFIGURATIONS:
        row = _row(workload, prepared, configuration)
        yield row
        if not (row["repeated"] and row["resumed"] and row["packed"]):
            differ.append(configuration)
    if differ:
        raise RuntimeError(f"weights differ: {', '.join(differ)}")


def _row(workload: Workload, prepared: Prepared, configuration: str) -> dict[str, Any]:
    iterations = 4 if workload.toy else 10
    profile = workload.edited_profile(
        workload.profile("cspca-rsna2022"), configuration, epochs=2, iterations_per_epoch=iterations,
        validation_iterations_per_epoch=1, checkpoint_every_epochs=1, checkpoint="final",
    )  # fmt: skip

    def planned(restart: int = 1) -> Run:
        return plan_run(prepared, configuration=configuration, fold=0, restart=restart, profile=str(profile))

    def folder(name: str) -> Path:
        return workload.scratch / configuration / name

    def train(name: str, on_iteration: Callable[[int], None] = lambda _: None) -> str:
        execute(planned(), folder(name), device=_device(workload), on_iteration=on_iteration)
        return _weights(folder(name))

    def stop(done: int) -> None:
        if done == iterations + 1:  # the first epoch's checkpoint is there
            raise InterruptedTrainingError

    waits = Waits(workload.device)
    first = train("first", waits)
    repeated = train("again")
    try:
        train("resumed", stop)
    except InterruptedTrainingError:
        resumed = train("resumed")
    pack = [RunRequest(planned(restart), folder(f"pack-{restart}")) for restart in (1, 2)]
    for outcome in execute_together(pack, device=_device(workload)):
        if isinstance(outcome, Exception):
            raise outcome
    return {
        "configuration": configuration,
        "repeated": repeated == first,
        "resumed": resumed == first,
        "packed": _weights(folder("pack-1")) == first,
        "waits_per_step": waits.per_step(),
    }


class Waits:
    """Counts how often the host waits for the GPU in the second half of the first epoch, as torch warns of it."""

    FROM, TO = 5, 9

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"
        self._caught: list[warnings.WarningMessage] = []
        self._catching = warnings.catch_warnings(record=True)

    def __call__(self, done: int) -> None:
        """To be called after each step."""
        if not self.on_gpu:
            return
        if done == self.FROM:
            self._caught = self._catching.__enter__() or []
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif done == self.TO:
            torch.cuda.set_sync_debug_mode("default")
            self._catching.__exit__(None, None, None)

    def per_step(self) -> float | None:
        """Waits per step; None on the CPU, which has none."""
        if not self.on_gpu:
            return None
        waited = [each for each in self._caught if "synchroniz" in str(each.message)]
        return len(waited) / (self.TO - self.FROM)


def _device(workload: Workload) -> Any:
    return workload.device


def _weights(folder: Path) -> str:
    return str(read_record(folder / "run.json", RunRecord).weights_sha256)
