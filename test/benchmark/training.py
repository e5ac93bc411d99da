"""Training steps: ``nnUNetv2_train`` against ``python -m training run`` and runs packed into one process.

All train on the same preprocessed studies, by the same plan, with CE + Dice, on the same device; nnU-Net with its own
loader and its worker processes. Steps are timed inside each process, after warm-up (``step_clock``): starts, imports,
loading and compilation do not count. The JSON line also has the ratio of the whole commands. nnU-Net starts by its
command's entry point with a trainer that has another number of steps and no final validation, which ours does not make
either.

    python test/benchmark/training.py
    python test/benchmark/training.py --prepared PREPARED --profile modern   # on a GPU, with a real data set

Without a GPU the network is the demo's and the studies are phantoms, and the figures say nothing about one.
``identical`` says whether each packed run gave the bits that it gave alone.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure
from trainers import Bench, Length

from training.dataset.prepared import load_prepared

FULL, QUICK = Length(20, 100), Length(3, 8)
CAMPAIGN_RUNS = 4 * 15 * 2
"""The study's: losses × runs × use cases. It reports about 6,000 GPU hours."""


def main(options: argparse.Namespace) -> None:
    """Measure and report."""
    import torch  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), length, device, options.profile)
        prepared = options.prepared or bench.prepare(cases=6 if options.quick else 20)
        bench.write(load_prepared(prepared))
        stock = bench.stock()
        ours = [bench.single()]
        packs = [2] if options.quick else options.packed
        packed = [bench.packed(number) for number in packs]
        ours += [] if options.quick else packed  # a pack of few steps only shows that it works
        identical = len({bench.weights(0), *map(bench.weights, packs)}) == 1
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
            "iterations_compared": length.timed,
            "whole_command_ratio_cpu": round(stock.whole.cpu_s / ours[0].whole.cpu_s, 2),
            "packed_ratios": {each.name: round(stock.seconds / each.seconds, 2) for each in ours},
        },
        details=[("whole command", ours[0].whole, stock.whole)],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prepared", type=Path, help="a prepared dataset, in place of phantoms")
    parser.add_argument("--profile", default="demo", help="whose network and schedule; default: demo")
    parser.add_argument("--packed", type=int, nargs="+", default=[2, 4, 8], help="runs in parallel; default: 2 4 8")
    return parser


if __name__ == "__main__":
    sys.exit(measure.main(main, parser=_parser()))
