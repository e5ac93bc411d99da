"""Paths that tests use, so that a test may move to another folder."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ONCODUET_DATA", PROJECT.parent / "shared" / "data"))
"""Folder of the small real data; it may be missing."""
MOUNT = 'mount -t tmpfs -o size="$1" none "$2"'
"""Shell line that mounts a file system of a size in a folder."""
TINY_PLANS = PROJECT / "test" / "unit" / "network" / "tiny_plans.json"
"""nnU-Net's plans for a network of a few thousand weights."""
SNAKEMAKE = PROJECT / "build" / "snakemake" / "bin" / "snakemake"
"""In an environment of its own, where CI or a developer has made it; it may be missing."""
