"""One training by nnU-Net's command and by ours, on the same studies and plan, timed by ``step_clock``.

nnU-Net starts by its command's entry point with a trainer that has another number of steps and no final validation.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import measure
from step_clock import StepClock, StepCost, read_cost

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json
from training.dataset.prepared import Prepared, load_prepared
from training.profile import PROFILES, edited_plans, load_profile

DATASET = "Dataset001_benchmark"
CONFIGURATION = "ce-dice"
FULL_EPOCHS, FULL_ITERATIONS = 1000, 250
"""Of a run as the study trained it."""
_STOCK = """
import itertools, os, sys
sys.path.insert(0, BENCHMARKS)
from pathlib import Path
from step_clock import StepClock
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

clock = StepClock(warm_up=WARM_UP, last=LAST, device=DEVICE)

class BenchmarkTrainer(module.nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, LAST, 1

    def on_train_start(self):
        super().on_train_start()
        if DUMMY:  # one batch again and again: what the GPU could do with any loader
            self.loader, self.dataloader_train = self.dataloader_train, itertools.repeat(next(self.dataloader_train))

    def on_train_end(self):
        if DUMMY:
            self.dataloader_train = self.loader
        super().on_train_end()

    def train_step(self, batch):
        result = super().train_step(batch)
        clock()
        return result

    def perform_actual_validation(self, save_probabilities=False):
        pass

module.BenchmarkTrainer = BenchmarkTrainer  # where nnU-Net looks first
from nnunetv2.run.run_training import run_training_entry
sys.argv = ["nnUNetv2_train", *sys.argv[1:], "-tr", "BenchmarkTrainer"]
run_training_entry()
clock.write(Path(COST))
"""


@dataclass(frozen=True)
class Length:
    """How many steps each training makes."""

    warm_up: int
    timed: int

    @property
    def steps(self) -> int:
        """All."""
        return self.warm_up + self.timed


@dataclass
class Sampled:
    """What the GPU was seen to do while a program ran."""

    utilisation: list[float] = field(default_factory=list)
    """Per cent."""
    memory_mb: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    """What one way of training cost."""

    name: str
    runs: int
    """Trained in parallel."""
    whole: measure.Measured
    """The program, with start and end."""
    cost: StepCost
    """The timed steps of all runs."""
    device: str
    gpu: Sampled

    @property
    def steps(self) -> measure.Measured:
        """The timed steps, as the report has it."""
        return measure.Measured(self.cost.cpu_s, self.cost.wall_s, self.whole.peak_mb)

    @property
    def seconds(self) -> float:
        """Wall seconds per step of one run on a GPU; on a CPU, which others may use, CPU seconds."""
        return (self.cost.wall_s if self.device == "cuda" else self.cost.cpu_s) / self.cost.steps

    @property
    def runs_per_day(self) -> float:
        """Full-length runs of this network on this device."""
        return 86400 / (self.seconds * FULL_EPOCHS * FULL_ITERATIONS)

    def row(self) -> str:
        """A row of the table."""
        if self.device == "cuda":
            used = self.gpu.utilisation
            busy, memory = sum(used) / max(len(used), 1) / 100, max(self.gpu.memory_mb, default=float("nan"))
        else:
            busy, memory = self.whole.cpu_s / self.whole.wall_s, self.whole.peak_mb
        return f"{self.name:14} {1 / self.seconds:12.2f} {self.runs_per_day:12.3f} {busy:6.2f} {memory:10.0f}"


@dataclass
class Bench:
    """Data and settings, as both programs want them."""

    folder: Path
    length: Length
    device: str
    profile: str
    """A name in ``training/profiles``, or the path of a TOML file."""

    def prepare(self, *, cases: int) -> Path:
        """Phantoms, preprocessed."""
        archive, prepared = self.folder / "archive", self.folder / "prepared"
        card = ["--card", "cspca-picai"]
        measure.run([sys.executable, "-m", "phantom", *card, "--cases", str(cases), "--positive-fraction", "0.5",
                     "--seed", "1", "--output", archive])  # fmt: skip
        measure.run([sys.executable, "-m", "training", "prepare", *card, "--archive", archive, "--output", prepared])
        return prepared

    def write(self, prepared: Prepared) -> None:
        """Our profile, and nnU-Net's folder of preprocessed studies."""
        self.prepared = prepared
        path = Path(self.profile) if self.profile.endswith(".toml") else PROFILES / f"{self.profile}.toml"
        write_profile(self.own_profile, path, steps=self.length.steps)
        plans = edited_plans(dict(prepared.plans), load_profile(self.own_profile))
        plans |= {"dataset_name": DATASET, "plans_name": "nnUNetPlans"}
        target = self.folder / "preprocessed" / DATASET
        target.mkdir(parents=True)
        write_json(target / "nnUNetPlans.json", plans)
        write_json(target / "dataset.json", dict(prepared.dataset))
        fold = prepared.fold(0)
        write_json(target / "splits_final.json", [{"train": list(fold.train), "val": list(fold.validation)}])
        write_json(target / "dataset_fingerprint.json", read_json(prepared.folder / "dataset_fingerprint.json"))
        cases = target / plans["configurations"]["3d_fullres"]["data_identifier"]
        cases.symlink_to((prepared.folder / "cases").resolve(), target_is_directory=True)

    def stock(self, *, workers: int | None = None, dummy: bool = False) -> Variant:
        """nnU-Net's command.

        Parameters
        ----------
        workers
            Processes of its loader; None: as nnU-Net chooses.
        dummy
            Train on one batch again and again, without a loader.
        """
        name = f"nnU-Net{'' if workers is None else f', {workers} workers'}{', one batch' if dummy else ''}"
        cost = self.folder / "stock.json"
        given = {
            "BENCHMARKS": str(Path(__file__).parent), "WARM_UP": self.length.warm_up, "LAST": self.length.steps,
            "DEVICE": self.device, "DUMMY": dummy, "COST": str(cost),
        }  # fmt: skip
        script = "".join(f"{word} = {value!r}\n" for word, value in given.items()) + _STOCK
        settings = {f"nnUNet_{each}": str(self.folder / each) for each in ("raw", "preprocessed")}
        settings["nnUNet_results"] = str(self.folder / f"results-{name.replace(' ', '-')}")
        if workers is not None:
            settings["nnUNet_n_proc_DA"] = str(workers)
        with _watched(self.device) as gpu:
            whole = measure.run(
                [sys.executable, "-c", script, DATASET, "3d_fullres", "0", "-device", self.device],
                environment=settings, folder=self.folder,
            )  # fmt: skip
        return Variant(name, 1, whole, read_cost(cost), self.device, gpu)

    def single(self) -> Variant:
        """One run by itself."""
        return self._ours("resident", 0)

    def packed(self, runs: int) -> Variant:
        """Several restarts in one process."""
        return self._ours(f"resident x {runs}", runs)

    def weights(self, runs: int) -> str:
        """Hash of the first restart's weights, trained alone (0) or in a pack of so many."""
        return str(read_json(self._output(runs) / "1" / "run.json")["weights_sha256"])

    @property
    def own_profile(self) -> Path:
        """Of as many steps as are compared."""
        return self.folder / "benchmark.toml"

    def _ours(self, name: str, runs: int) -> Variant:
        cost = self.folder / "ours.json"
        given = [self.prepared.folder, self.own_profile, self._output(runs), self.device, cost]
        lengths = [str(each) for each in (max(runs, 1), self.length.warm_up, self.length.steps)]
        with _watched(self.device) as gpu:
            whole = measure.run([sys.executable, __file__, *lengths, *given])
        return Variant(name, max(runs, 1), whole, read_cost(cost), self.device, gpu)

    def _output(self, runs: int) -> Path:
        return self.folder / "ours" / str(runs)


def write_profile(target: Path, source: Path, *, steps: int, validation: int = 1) -> None:
    """Write a profile that differs from another one in its length: one epoch of so many steps."""
    wanted = {
        "epochs": 1,
        "iterations_per_epoch": steps,
        "validation_iterations_per_epoch": validation,
        "checkpoint_every_epochs": 1000,
        "checkpoint": '"final"',
        "loader": '"device"',
    }
    begin, table, rest = source.read_text(encoding="utf-8").partition("\n[")
    kept = [line for line in begin.splitlines() if line.partition("=")[0].strip() not in wanted]
    lines = [*kept, *(f"{name} = {value}" for name, value in wanted.items())]
    target.write_text("\n".join(lines) + "\n" + table + rest, encoding="utf-8")


def train(
    *, runs: int, warm_up: int, last: int, prepared: Path, profile: Path, output: Path, device: str, cost: Path
) -> None:
    """The child that trains restarts in parallel; steps are counted per run."""
    from training.make_run import RunRequest, execute_together  # noqa: PLC0415
    from training.planned_run import plan_run  # noqa: PLC0415

    dataset, clock = load_prepared(prepared), StepClock(warm_up=warm_up * runs, last=last * runs, device=device)
    requests = [
        RunRequest(
            plan_run(dataset, configuration=CONFIGURATION, fold=0, restart=restart, profile=str(profile)),
            output / str(restart),
            on_iteration=clock,
        )
        for restart in range(1, runs + 1)
    ]
    for outcome in execute_together(requests, device="cuda" if device == "cuda" else "cpu"):
        if isinstance(outcome, Exception):
            raise outcome
    clock.write(cost)


@contextmanager
def _watched(device: str) -> Iterator[Sampled]:
    """Look at the GPU twice a second."""
    sampled, ended = Sampled(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            sampled.utilisation.append(_asked("utilization.gpu"))
            sampled.memory_mb.append(_asked("memory.used") * 2**20 / 1e6)

    watcher = threading.Thread(target=watch)
    if device == "cuda":
        watcher.start()
    try:
        yield sampled
    finally:
        ended.set()
        if device == "cuda":
            watcher.join()


def _asked(quantity: str) -> float:
    command = ["nvidia-smi", f"--query-gpu={quantity}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise OncoduetError("nvidia-smi", f"does not give the GPU's {quantity}: {error}") from error


if __name__ == "__main__":
    count, first, final = map(int, sys.argv[1:4])
    data, settings, place, where, result = sys.argv[4:]
    train(runs=count, warm_up=first, last=final, prepared=Path(data), profile=Path(settings), output=Path(place),
          device=where, cost=Path(result))  # fmt: skip
