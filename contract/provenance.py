"""The writer of a file: program, version and git revision."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from contract.schema import Frozen

VERSION = "0.1.0"


class Writer(Frozen):
    """Recorded in every file that outlives a process."""

    program: str
    version: str
    git_revision: str


@cache
def writer() -> Writer:
    """The running program. Images have no git; their build sets ``ONCODUET_REVISION``."""
    return Writer(program="oncoduet", version=VERSION, git_revision=os.environ.get("ONCODUET_REVISION") or _revision())


def _revision() -> str:
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = [
        "git",
        "--no-optional-locks",
        "-C",
        str(home),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
