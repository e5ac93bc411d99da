"""Training steps: ``nnUNetv2_train`` against ``python -m training run`` and runs packed into one process.

All train on the same preprocessed studies, by the same plan, with CE + Dice, on the same device; nnU-Net with its own
loader and its worker processes. Each is run twice, for fewer and for more epochs: the difference is what steps cost
without start and end (``per iteration``; an epoch's share of validation steps and of its other work included); the
longer run as a whole stands beside it. nnU-Net starts by its command's entry point with a trainer that has another
number of epochs and no final validation, which ours does not make either.

    python test/benchmark/training.py
    python test/benchmark/training.py --prepared PREPARED --profile modern   # on a GPU, with a real data set

Without a GPU the network is the demo's and the studies are phantoms, and the figures say nothing about one.
``identical`` says whether each packed run gave the bits that it gave alone.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import measure

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json
from training.dataset.prepared import Prepared, load_prepared
from training.profile import PROFILES, edited_plans, load_profile

DATASET = "Dataset001_benchmark"
CONFIGURATION = "ce-dice"
FULL_EPOCHS, FULL_ITERATIONS = 1000, 250
"""Of a run as the study trained it."""
CAMPAIGN_RUNS = 4 * 15 * 2
"""The study's: losses × runs × use cases. It reports about 6,000 GPU hours."""
_STOCK = """
import sys
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

class BenchmarkTrainer(module.nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = EPOCHS

    def perform_actual_validation(self, save_probabilities=False):
        pass

module.BenchmarkTrainer = BenchmarkTrainer  # where nnU-Net looks first
from nnunetv2.run.run_training import run_training_entry
sys.argv = ["nnUNetv2_train", *sys.argv[1:], "-tr", "BenchmarkTrainer"]
run_training_entry()
"""


@dataclass(frozen=True)
class Length:
    """How long the compared trainings are."""

    short: int
    """Epochs."""
    long: int
    iterations: int
    """Per epoch."""
    validation: int

    @property
    def between(self) -> int:
        """Iterations that the longer has more."""
        return (self.long - self.short) * self.iterations


Train = Callable[[int, int], measure.Measured]
"""Trains for so many epochs, so many runs side by side."""

FULL, QUICK = Length(1, 3, 50, 10), Length(1, 2, 8, 2)


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
    """Trained side by side."""
    whole: measure.Measured
    """The longer training, with start and end."""
    steps: measure.Measured
    """What it took more than the shorter one."""
    length: Length
    device: str
    gpu: Sampled

    @property
    def seconds(self) -> float:
        """Wall seconds per iteration of one run on a GPU; on a CPU, which others may use, CPU seconds."""
        spent = self.steps.wall_s if self.device == "cuda" else self.steps.cpu_s
        return spent / (self.length.between * self.runs)

    @property
    def runs_per_day(self) -> float:
        """Full-length runs of this network on this device."""
        return 86400 / (self.seconds * FULL_EPOCHS * FULL_ITERATIONS)

    def row(self) -> str:
        """A row of the table."""
        if self.device == "cuda":
            busy, memory = _mean(self.gpu.utilisation) / 100, max(self.gpu.memory_mb, default=float("nan"))
        else:
            busy, memory = self.whole.cpu_s / self.whole.wall_s, self.whole.peak_mb
        return f"{self.name:14} {1 / self.seconds:12.2f} {self.runs_per_day:12.3f} {busy:6.2f} {memory:10.0f}"


def main(options: argparse.Namespace) -> None:
    """Measure and report."""
    import torch  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), length, device, options.profile)
        prepared = options.prepared or bench.prepare(cases=6 if options.quick else 20)
        bench.write(load_prepared(prepared))
        stock = bench.measured("nnU-Net", 1, bench.stock)
        ours = [bench.measured("resident", 1, bench.single)]
        if options.quick:
            bench.packed(length.long, 2)  # shows that it works
            packs = [2]
        else:
            packs = options.packed
            ours += [bench.measured(f"resident x {number}", number, bench.packed) for number in packs]
        identical = bench.identical(packs)
    unit = "s" if device == "cuda" else "CPU s"
    print(f"{'':14} {f'iterations/{unit}':>12} {'runs/day':>12} {'busy':>6} {'memory MB':>10}")
    for each in (stock, *ours):
        print(each.row())
    best = min(ours, key=lambda each: each.seconds)
    ratio = stock.seconds / ours[0].seconds
    print(f"one run: {ratio:.2f} times nnU-Net's pace; best, {best.name}: {stock.seconds / best.seconds:.2f} times")
    if device == "cuda":
        for each in (stock, ours[0], best):
            hours = CAMPAIGN_RUNS / each.runs_per_day * 24
            print(f"{each.name}: the study's {CAMPAIGN_RUNS} runs would take {hours:.0f} GPU hours with this network")
    else:
        print("no GPU: a tiny network on a CPU; nothing follows for GPU hours, utilisation or memory of a GPU")
    measure.report(
        "training",
        ours=ours[0].steps,
        peer=stock.steps,
        peer_name="nnU-Net",
        identical=identical,
        conditions={
            **measure.machine("torch", "nnunetv2"),
            "device": device,
            "profile": options.profile,
            "iterations_compared": length.between,
            "whole_command_ratio_cpu": round(stock.whole.cpu_s / ours[0].whole.cpu_s, 2),
            "packed_ratios": {each.name: round(stock.seconds / each.seconds, 2) for each in ours},
        },
        details=[("whole command", ours[0].whole, stock.whole)],
    )


@dataclass
class Bench:
    """Data and settings, as both programs want them."""

    folder: Path
    length: Length
    device: str
    profile: str

    def prepare(self, *, cases: int) -> Path:
        """Phantoms, preprocessed."""
        archive, prepared = self.folder / "archive", self.folder / "prepared"
        card = ["--card", "cspca-picai"]
        measure.run([sys.executable, "-m", "phantom", *card, "--cases", str(cases), "--positive-fraction", "0.5",
                     "--seed", "1", "--output", archive])  # fmt: skip
        measure.run([sys.executable, "-m", "training", "prepare", *card, "--archive", archive, "--output", prepared])
        return prepared

    def write(self, prepared: Prepared) -> None:
        """Our profiles, and nnU-Net's folder of preprocessed studies."""
        self.prepared = prepared
        path = Path(self.profile) if self.profile.endswith(".toml") else PROFILES / f"{self.profile}.toml"
        for epochs in (self.length.short, self.length.long):
            wanted = {
                "epochs": epochs,
                "iterations_per_epoch": self.length.iterations,
                "validation_iterations_per_epoch": self.length.validation,
                "checkpoint_every_epochs": 1000,
                "checkpoint": '"final"',
                "loader": '"device"',
            }
            begin, plan, rest = path.read_text(encoding="utf-8").partition("\n[plan]")
            kept = [line for line in begin.splitlines() if line.partition("=")[0].strip() not in wanted]
            lines = [*kept, *(f"{name} = {value}" for name, value in wanted.items())]
            self._profile(epochs).write_text("\n".join(lines) + plan + rest, encoding="utf-8")
        plans = edited_plans(dict(prepared.plans), load_profile(self._profile(self.length.short)))
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

    def measured(self, name: str, runs: int, train: Train) -> Variant:
        """Train for fewer and for more epochs."""
        short = train(self.length.short, runs)
        with _watched(self.device) as gpu:
            whole = train(self.length.long, runs)
        steps = measure.Measured(
            max(whole.cpu_s - short.cpu_s, 1e-3), max(whole.wall_s - short.wall_s, 1e-3), whole.peak_mb
        )
        return Variant(name, runs, whole, steps, self.length, self.device, gpu)

    def stock(self, epochs: int, runs: int) -> measure.Measured:
        """nnU-Net's command."""
        assert runs == 1
        lengths = (epochs, self.length.iterations, self.length.validation)
        folders = {f"nnUNet_{each}": str(self.folder / each) for each in ("raw", "preprocessed")}
        folders["nnUNet_results"] = str(self.folder / f"results{epochs}")
        return measure.run(
            [sys.executable, "-c", _STOCK.replace("EPOCHS", repr(lengths)), DATASET, "3d_fullres", "0",
             "-device", self.device],
            environment=folders,
            folder=self.folder,
        )  # fmt: skip

    def single(self, epochs: int, runs: int) -> measure.Measured:
        """Our command."""
        assert runs == 1
        output = self.folder / "ours" / f"{epochs}-1"
        return measure.run(
            [sys.executable, "-m", "training", "run", "--prepared", self.prepared.folder, "--configuration",
             CONFIGURATION, "--fold", "0", "--restart", "1", "--profile", self._profile(epochs), "--output", output,
             "--device", self.device],
        )  # fmt: skip

    def packed(self, epochs: int, runs: int) -> measure.Measured:
        """Several restarts in one process."""
        given = [self.prepared.folder, self._profile(epochs), self.folder / "ours" / f"{epochs}-{runs}", self.device]
        return measure.run([sys.executable, __file__, "--pack", str(runs), *given])

    def identical(self, packs: list[int]) -> bool:
        """Whether the first restart's weights are the same from everywhere."""
        runs = self.folder / "ours"
        records = [runs / f"{self.length.long}-1"]
        records += [runs / f"{self.length.long}-{number}" / "1" for number in packs]
        return len({read_json(each / "run.json")["weights_sha256"] for each in records}) == 1

    def _profile(self, epochs: int) -> Path:
        return self.folder / f"benchmark{epochs}.toml"


def pack(number: int, prepared: Path, profile: Path, output: Path, device: str) -> None:
    """The child that trains several restarts side by side."""
    from training.execution import RunRequest, execute_together  # noqa: PLC0415
    from training.run import plan_run  # noqa: PLC0415

    dataset = load_prepared(prepared)
    items = [
        RunRequest(
            plan_run(dataset, configuration=CONFIGURATION, fold=0, restart=restart, profile=str(profile)),
            output / str(restart),
        )
        for restart in range(1, number + 1)
    ]
    for outcome in execute_together(items, device="cuda" if device == "cuda" else "cpu"):
        if isinstance(outcome, Exception):
            raise outcome


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


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prepared", type=Path, help="a prepared dataset, in place of phantoms")
    parser.add_argument("--profile", default="demo", help="whose network and schedule; default: demo")
    parser.add_argument("--packed", type=int, nargs="+", default=[2, 4, 8], help="runs side by side; default: 2 4 8")
    return parser


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pack"]:
        pack(int(sys.argv[2]), *map(Path, sys.argv[3:6]), sys.argv[6])
    else:
        sys.exit(measure.main(main, parser=_parser()))
