import os
import resource
import subprocess
import sys
from pathlib import Path

import torch

from network.allocation import freed_memory_kept
from network.memory import held_bytes

PROJECT = Path(__file__).resolve().parents[3]

_FAULTS = """
import resource, torch
from network.allocation import freed_memory_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
with freed_memory_kept():
    faults()
    print(without, faults())
"""


def test_large_arrays_reuse_what_was_freed() -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    without, within = map(int, result.stdout.split())
    assert without > 1000
    assert within < without / 10


def test_what_is_kept_is_given_back_at_the_end() -> None:
    before = held_bytes()
    with freed_memory_kept():
        torch.ones(50_000_000)
        assert held_bytes() > before + 150_000_000
    assert held_bytes() < before + 50_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > before + 150_000_000
