"""How much memory a training takes on the CPU, compared with a campaign's estimate: ``campaign_memory.py PREPARED``.

With ``--configuration retina-unet`` for a network that finds boxes; ``--plans`` takes some of the plans below.

The numbers in ``training/memory_bill.py`` rest on this. Each plan trains a few steps in a forked process, as a
campaign's runs do; what counts is how far its resident set grows beyond what it was at the fork.
"""

import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import training.nnunet.trainer  # noqa: F401 - before the fork, as in a campaign
from network.machine.memory import held_bytes
from training.dataset.prepared import Prepared, load_prepared
from training.make_run import execute
from training.memory_bill import bills
from training.planned_run import Run, plan_run
from training.profile import PlanEdits

PLANS = {  # features of the first stage, stages, most features, patch (z, y, x), batch, convolutions (encoder, decoder)
    "tiny": (4, 3, 8, (8, 16, 16), 2, (1, 1)),
    "demo": (8, 4, 64, (12, 32, 32), 4, (2, 1)),
    "wide and flat": (8, 4, 64, (24, 128, 128), 2, (2, 2)),
    "medium": (16, 4, 128, (16, 64, 64), 2, (2, 2)),
    "deep": (32, 5, 320, (16, 48, 48), 2, (2, 2)),
    "one patch": (32, 4, 256, (16, 96, 96), 1, (2, 2)),
    "large": (32, 5, 320, (16, 96, 96), 2, (2, 2)),
}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path, help="prepared dataset, of bpMRI phantoms for example")
    parser.add_argument("--configuration", default="ce", help="default: ce")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS), metavar="PLAN")
    options = parser.parse_args()
    prepared = load_prepared(options.prepared)
    torch.set_num_threads(1)
    ratios = []
    for name in options.plans:
        run = planned(prepared, name, options.configuration)
        bill = bills([run], "cpu")[0]
        expected = bill.images + bill.step_host
        grown = growth(run)
        ratios.append(expected / grown)
        print(
            f"{name:15} grew by {grown / 1e6:6.0f} MB, expected {expected / 1e6:6.0f} MB, {ratios[-1]:.2f}", flush=True
        )
    print(json.dumps({"benchmark": "campaign_memory", "least": min(ratios), "most": max(ratios)}))


def planned(prepared: Prepared, name: str, configuration: str) -> Run:
    """A run with one of the plans above, for two epochs of two steps."""
    features, stages, most, patch, batch, (encoder, decoder) = PLANS[name]
    edits = PlanEdits.model_validate(
        {
            "batch_size": batch,
            "patch_size_zyx": patch,
            "convolutions_per_stage_encoder": encoder,
            "convolutions_per_stage_decoder": decoder,
            "stages": [
                {
                    "features": min(most, features * 2**stage),
                    "kernel_size_zyx": (3, 3, 3) if stage else (1, 3, 3),
                    "stride_zyx": ((1, 1, 1), (1, 2, 2), (2, 2, 2))[min(stage, 2)],
                }
                for stage in range(stages)
            ],
        }
    )
    run = plan_run(prepared, configuration=configuration, fold=0, restart=0, profile="demo")
    short = {"plan": edits, "epochs": 2, "iterations_per_epoch": 2, "checkpoint_every_epochs": 1}
    return dataclasses.replace(run, profile=run.profile.model_copy(update=short))


def growth(run: Run) -> int:
    """Bytes that a forked process grows by until the run is finished."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = held_bytes()
        with tempfile.TemporaryDirectory() as folder:
            execute(run, Path(folder) / "run", device="cpu")
        os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        grown = int(answer.read())
    os.waitpid(child, 0)
    return grown


if __name__ == "__main__":
    main()
