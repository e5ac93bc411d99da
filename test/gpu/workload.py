"""What the phases compute: networks of the size that nnU-Net's planner gives, on phantoms; or toys."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PROFILES = Path(__file__).with_name("profiles")
TOY = PROJECT / "training" / "profiles" / "demo.toml"


@dataclass(frozen=True)
class Workload:
    """Sizes and device of all phases."""

    toy: bool
    device: str
    scratch: Path
    """Folder of the phase, not there yet."""

    def profile(self, name: str) -> Path:
        """A real plan's profile, by its name in ``profiles``; the demo's for toys."""
        return TOY if self.toy else PROFILES / f"{name}.toml"

    def edited_profile(self, source: Path, name: str, more: str = "", **keys: object) -> Path:
        """A copy of a profile with other values of top-level keys, and with further tables."""
        begin, table, rest = source.read_text(encoding="utf-8").partition("\n[")
        lines = [line for line in begin.splitlines() if line.partition("=")[0].strip() not in keys]
        lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
        path = self.scratch / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n" + table + rest + more, encoding="utf-8")
        return path

    def prepared(self) -> Path:
        """Preprocessed phantoms, shared by the phases."""
        folder = self.scratch.parent / "data"
        prepared = folder / "prepared"
        if not prepared.exists():
            card = ["--card", "cspca-picai"]
            run("phantom", *card, "--cases", 6, "--positive-fraction", 0.5, "--seed", 1, "--output", folder / "archive")
            run("training", "prepare", *card, "--archive", folder / "archive", "--output", prepared)
        return prepared


def run(package: str, *arguments: object) -> None:
    """One of our commands; raises ``CalledProcessError`` if it fails."""
    subprocess.run(
        [sys.executable, "-m", package, *map(str, arguments)], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL
    )


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
