import resource

import pytest
from programs import python

from network.machine.memory import Budget, held_bytes, memory_budget


def test_without_any_limit_the_machines_free_memory_counts():
    found = memory_budget()
    assert held_bytes() < found.total < 10**15


def test_a_given_limit_replaces_all_others():
    assert memory_budget(2.5) == Budget(2_500_000_000, "--memory-gb")


def test_the_limit_of_a_nested_control_group_is_known(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/slurm/job_7/step_0\n")
    job = tmp_path / "sys/fs/cgroup/slurm/job_7"
    (job / "step_0").mkdir(parents=True)
    (job / "memory.max").write_text(f"{50 * 10**6}\n")
    (job / "memory.current").write_text(f"{40 * 10**6}\n")
    before = held_bytes()
    found = memory_budget(root=tmp_path)
    assert found.source == "the container's limit"
    assert found.total == pytest.approx(before + 10 * 10**6, abs=5 * 10**6)


@pytest.mark.parametrize(("which", "name"), [(resource.RLIMIT_AS, "RLIMIT_AS"), (resource.RLIMIT_DATA, "RLIMIT_DATA")])
def test_a_limit_of_the_process_is_known(which, name):
    """In a process of its own, since a limit cannot be taken back."""
    code = (
        "from network.machine.memory import memory_budget, held_bytes, _field, _STATUS\n"
        "import resource\n"
        f"field = 'VmSize' if {name!r} == 'RLIMIT_AS' else 'VmData'\n"
        f"resource.setrlimit({which}, (_field(_STATUS, field) + 300 * 10**6,) * 2)\n"
        "budget = memory_budget()\n"
        "print(budget.source, round((budget.total - held_bytes()) / 10**6))\n"
    )
    source, free = python("-c", code).stdout.split()
    assert source == name
    assert 250 < int(free) <= 310
