"""The clock of training steps, against work whose cost is known."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = "step_clock"
BURN = "import time\nwhile time.process_time() < {}: pass\n"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_steps_of_the_warm_up_do_not_count(benchmark: ModuleType, tmp_path: Path) -> None:
    clock = benchmark.StepClock(warm_up=2, last=4, device="cpu")
    for seconds in (0.4, 0.4, 0.1, 0.1):
        assert clock.cost is None
        burn(seconds)
        clock()
    clock.write(tmp_path / "cost.json")
    found = benchmark.read_cost(tmp_path / "cost.json")
    assert found.steps == 2
    assert found.cpu_s == pytest.approx(0.2, abs=0.1)


def test_a_training_that_ends_early_has_no_cost(benchmark: ModuleType, tmp_path: Path) -> None:
    clock = benchmark.StepClock(warm_up=1, last=4, device="cpu")
    clock()
    with pytest.raises(AssertionError, match="1 of 4 steps"):
        clock.write(tmp_path / "cost.json")


def test_cpu_seconds_of_children_count_while_they_work_and_after(benchmark: ModuleType) -> None:
    before = benchmark.tree_cpu_s()
    script = f"{BURN.format(0.5)}print(flush=True)\ninput()\n"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        assert benchmark.tree_cpu_s() - before > 0.4
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.wait()
        assert benchmark.tree_cpu_s() - before > 0.4
