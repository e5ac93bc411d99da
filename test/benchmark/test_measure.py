"""The harness of the benchmarks, against programs whose cost is known."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refused_with

SPECIFICATION = importlib.util.spec_from_file_location("measure", Path(__file__).with_name("measure.py"))
assert SPECIFICATION is not None and SPECIFICATION.loader is not None
measure = importlib.util.module_from_spec(SPECIFICATION)
sys.modules["measure"] = measure
SPECIFICATION.loader.exec_module(measure)

BURN = "import time\nwhile time.process_time() < {}: pass\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_cpu_seconds_of_a_child_and_of_its_children_count() -> None:
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {BURN.format(0.4)!r}], check=True)\n"
    found = measure.run(python(BURN.format(0.3) + child))
    assert 0.65 < found.cpu_s < 1.2
    assert found.wall_s >= found.cpu_s * 0.9


def test_sleep_costs_wall_seconds_and_no_cpu_seconds() -> None:
    found = measure.run(python("import time; time.sleep(0.5)"))
    assert found.wall_s >= 0.5
    assert found.cpu_s < 0.3


def test_peak_memory_is_that_of_the_child_process() -> None:
    ballast = np.ones(40_000_000)  # 320 MB in this process
    small = measure.run(python("pass"))
    large = measure.run(python("held = b'x' * 200_000_000"))
    assert small.peak_mb < 60
    assert 195 < large.peak_mb < 260
    assert ballast[-1] == 1


def test_a_child_sees_the_threads_it_may_use_and_the_projects_root() -> None:
    code = "import os; assert os.environ['OMP_NUM_THREADS'] == '2' and os.path.isfile('pyproject.toml')"
    measure.run(python(code), threads=2)


def test_a_program_that_takes_too_long_is_killed_and_named(tmp_path: Path) -> None:
    late = tmp_path / "late"
    code = f"import time; time.sleep(3); open({str(late)!r}, 'w')"
    with refused_with(r"sleep\(3\)", "not ended after 0.5 s"):
        measure.run(python(code), limit_s=0.5)
    measure.run(python("import time; time.sleep(3)"))
    assert not late.exists()


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (python("import sys; print('out of luck', flush=True); sys.exit(5)"), "5: out of luck"),
        (python("import os; os.kill(os.getpid(), 9)"), "-9"),
        (["no-such-program"], "127: no-such-program: No such file"),
    ],
    ids=["exit status", "signal", "no such program"],
)
def test_failing_program_is_named_with_its_message(command: list[str], found: str) -> None:
    with refused_with(expected="exit status 0", found=found):
        measure.run(command)


def test_a_part_of_this_process_is_measured_without_what_comes_before() -> None:
    sum(number for number in range(3_000_000))
    with measure.clocked() as clock:
        pass
    assert 0 <= clock.cpu_s < 0.05
    with measure.clocked() as clock:
        measure.run(python(BURN.format(0.2)))
    assert clock.cpu_s > 0.2


def test_parts_add_up_in_time_and_not_in_memory() -> None:
    parts = [measure.Measured(1.0, 2.0, 30.0), measure.Measured(0.5, 0.25, 20.0)]
    assert measure.total(parts) == measure.Measured(1.5, 2.25, 30.0)


def test_report_ends_with_a_json_line_of_ratios_above_one_if_cheaper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, peer = measure.Measured(0.5, 1.0, 100.0), measure.Measured(5.0, 4.0, 900.0)
    conditions = {"maps": 6, **measure.machine("numpy")}
    details = [("static", measure.Measured(0.1, 0.1, 90.0), measure.Measured(0.3, 0.3, 95.0))]
    measure.report(
        "example", ours=ours, peer=peer, peer_name="peer", identical=True, conditions=conditions, details=details
    )
    table = capsys.readouterr().out.splitlines()
    line = json.loads(table[-1])
    assert list(line) == ["benchmark", "ratio_cpu", "ratio_wall", "identical", "peak_mb", "conditions"]
    assert (line["ratio_cpu"], line["ratio_wall"], line["peak_mb"], line["identical"]) == (10.0, 4.0, 100.0, True)
    assert line["conditions"]["numpy"] == np.__version__
    assert {"cpu", "cores", "threads", "python", "maps"} <= set(line["conditions"])
    assert [row.split()[-1] for row in table if "peer" in row and "{" not in row] == ["3.0x", "10.0x"]


def test_results_that_differ_are_reported_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    one = measure.Measured(1.0, 1.0, 1.0)
    with refused_with("benchmark example", "oncoduet and peer give different results"):
        measure.report("example", ours=one, peer=one, peer_name="peer", identical=False, conditions={})
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["identical"] is False


def test_a_peer_that_is_not_installed_is_named() -> None:
    with refused_with("no-such-peer", "not installed"):
        measure.machine("no-such-peer")
