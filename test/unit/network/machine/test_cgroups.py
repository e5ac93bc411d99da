"""Limits of control groups, by trees of files as kernels show them to processes in containers, jobs and services."""

import pytest

from network.machine.cgroups import cores_left, memory_left

MB = 10**6


def tree(root, own, files):
    """A root with ``/proc/self/cgroup`` and files below ``/sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def limited(folder, most, used, *, droppable=0):
    """Files of a group of version 2."""
    stat = f"anon 1\ninactive_file {droppable}\nactive_file 7"
    return {f"{folder}memory.max": most, f"{folder}memory.current": used, f"{folder}memory.stat": stat}


@pytest.mark.parametrize(
    ("own", "files", "left"),
    [
        ("0::/\n", limited("", 50 * MB, 40 * MB, droppable=15 * MB), 25 * MB),  # a container
        ("0::/\n", limited("", "max", 40 * MB), None),
        ("0::/a/b\n", limited("a/b/", 50 * MB, 40 * MB), 10 * MB),  # the group itself
        ("0::/a/b\n", limited("a/", 50 * MB, 45 * MB) | limited("a/b/", "max", MB), 5 * MB),  # the one above
        ("0::/a/b\n", limited("a/", 50 * MB, 20 * MB) | limited("a/b/", 60 * MB, 10 * MB), 30 * MB),  # the least
        ("0::/a/b\n", limited("a/c/", 2 * MB, MB) | limited("a/b/", "max", 1), None),  # a neighbour's is not ours
        ("0::/a\n", {"a/memory.high": 9 * MB, "a/memory.max": "max", "a/memory.current": 2 * MB}, 7 * MB),  # Slurm's
        ("0::/docker/0a/job\n", limited("job/", 9 * MB, MB), 8 * MB),  # a container that sees its own group as root
        ("0::/docker/0a\n", limited("", 9 * MB, MB), 8 * MB),
        ("0::/../../x\n", limited("", 9 * MB, MB), 8 * MB),  # a group outside of the namespace
        ("", limited("", 9 * MB, MB), 8 * MB),
        ("0::/a\n", limited("a/", "odd", MB), None),
        ("0::/a\n", {"a/memory.max": 5 * MB}, None),
    ],
)
def test_the_tightest_group_says_how_much_memory_is_left(tmp_path, own, files, left):
    assert memory_left(tree(tmp_path, own, files)) == left


@pytest.mark.parametrize(
    ("path", "most", "left"),
    [("", 50 * MB, 25 * MB), ("slurm/uid_1/job_7/", 50 * MB, 25 * MB), ("slurm/", 50 * MB, 25 * MB), ("", 2**63, None)],
)
def test_the_older_files_are_read_too(tmp_path, path, most, left):
    files = {
        "memory/slurm/uid_1/job_7/memory.limit_in_bytes": 2**63 - 4096,
        "memory/slurm/uid_1/job_7/memory.usage_in_bytes": MB,
        f"memory/{path}memory.limit_in_bytes": most,
        f"memory/{path}memory.usage_in_bytes": 40 * MB,
        f"memory/{path}memory.stat": f"inactive_file 3\ntotal_inactive_file {15 * MB}",
    }
    own = "9:name=systemd:/\n4:memory:/slurm/uid_1/job_7\n3:cpuset:/\n2:cpu,cpuacct:/\n"
    assert memory_left(tree(tmp_path, own, files)) == left


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "odd"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 0"}, None),
        ("0::/a\n", {"cpuset.cpus.effective": "0-15", "a/cpuset.cpus.effective": "0-1,8"}, 3),
        ("0::/a\n", {"a/cpuset.cpus.effective": "", "cpu.max": "700000 100000"}, 7),
        (
            "2:cpu,cpuacct:/j/s\n",
            {"cpu,cpuacct/j/cpu.cfs_quota_us": 400000, "cpu,cpuacct/j/cpu.cfs_period_us": 1000},
            400,
        ),
        ("2:cpuacct,cpu:/j\n", {"cpu/j/cpu.cfs_quota_us": 150000, "cpu/j/cpu.cfs_period_us": 100000}, 1.5),
        ("2:cpu:/j\n", {"cpu/j/cpu.cfs_quota_us": -1, "cpu/j/cpu.cfs_period_us": 100000}, None),
        ("3:cpuset:/j\n0::/\n", {"cpuset/j/cpuset.cpus": "4,6-7", "cpu.max": "max 1"}, 3),
        ("1:cpu:/\n0::/x\n", {"unified/x/cpu.max": "200000 100000"}, 2),
    ],
)
def test_the_tightest_group_says_how_many_cores_are_left(tmp_path, own, files, cores):
    assert cores_left(tree(tmp_path, own, files)) == cores


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert memory_left(tmp_path) is None
    assert cores_left(tmp_path) is None
