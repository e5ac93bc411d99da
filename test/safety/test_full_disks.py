"""A disk that fills up, whatever is written at that moment: one line, exit code 3, and what has its name is whole.

Each test mounts a small memory file system in a mount namespace of its own, which needs root or the right to make user
namespaces.
"""

import re
import sys
from pathlib import Path

import pytest
from demo_files import CARD
from programs import run, run_on_small_disk

from contract.images.volume import is_image
from contract.images.whole_image import require_whole

COHORT = ("--card", CARD, "--cases", "2", "--positive-fraction", "0.5", "--seed", "1")


COMMANDS = {
    "phantom": lambda demo: ("phantom", *COHORT),
    "exec": lambda demo: ("algorithm", "--input", demo / "study", "--model", demo / "model", "--no-mirroring"),
    "candidates": lambda demo: ("algorithm", "candidates", "--probability", demo / "maps" / "ce"),
    "baseline": lambda demo: ("algorithm", "baseline", "--card", CARD, "--archive", demo / "archive"),
    "score": lambda demo: ("evaluation", "score", "--predictions", demo / "maps", "--truth", demo / "archive"),
}


@pytest.mark.parametrize(("command", "size_kb"), [*((name, 4) for name in COMMANDS), ("phantom", 60)])
def test_full_disk_is_one_line_and_leaves_no_partial_file(
    namespace: list[str], demo: Path, tmp_path: Path, command: str, size_kb: int
) -> None:
    ended, copy = run_on_small_disk(namespace, f"{size_kb}k", tmp_path, "-m", *COMMANDS[command](demo))
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1), ended.stderr
    assert re.search(r"on the disk, found|No space left", ended.stderr)
    assert not list(copy.rglob(".partial-*"))
    for path in filter(is_image, copy.rglob("*")):
        require_whole(path)


def test_a_read_only_disk_is_refused_before_work(namespace: list[str], demo: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o ro none "$1" || exit 99; shift; exec "$@"'
    plan = ("evaluation", "plan", "--studies", "20", "--runs", "2", "--cases", "30")
    train = ("training", "run", "--prepared", str(demo / "prepared"), "--configuration", "ce", "--fold", "0")
    train += ("--restart", "1", "--profile", str(demo / "tiny.toml"), "--device", "cpu")
    for words in (plan, train, ("training", "campaign", str(demo / "campaign.toml"))):
        call = [sys.executable, "-m", *words, "--output", disk / "output"]
        ended = run(*namespace, "sh", "-c", script, "sh", disk, *call)
        assert (ended.returncode, ended.stderr.count("\n")) == (3, 1), ended.stderr
        assert "cannot be written to: read-only file system" in ended.stderr
