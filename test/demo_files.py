"""Phantoms, a dataset, runs and a bundle, made by the commands themselves, for tests of many commands."""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tiny import tiny_profile

import algorithm.__main__
import evaluation.__main__
import phantom.__main__
import training.__main__
from contract.card import load_card

MAINS = {
    "algorithm": algorithm.__main__.main,
    "evaluation": evaluation.__main__.main,
    "phantom": phantom.__main__.main,
    "training": training.__main__.main,
}
CARD = "cspca-picai"


def run(package: str, *words: object) -> int:
    """One command in this process; its exit code."""
    return MAINS[package]([str(word) for word in words])


def succeed(*words: object) -> None:
    assert run(*words) == 0, words


def make_demo_files(root: Path, runs: Mapping[str, tuple[str, int]], *, bundled: str, study: str) -> None:
    """Write ``archive``, ``tiny.toml``, ``prepared``, ``runs`` and ``model``, and one study as the platform mounts it.

    ``runs`` are configuration and restart by folder; of them those in ``bundled`` are bundled.
    """
    archive = root / "archive"
    cohort = ("--card", CARD, "--cases", 4, "--positive-fraction", 0.5, "--seed", 1)
    succeed("phantom", *cohort, "--output", archive)
    (root / "tiny.toml").write_text(tiny_profile())
    prepared = root / "prepared"
    succeed("training", "prepare", "--card", CARD, "--archive", archive, "--output", prepared, "--folds", 2)
    for folder, (configuration, restart) in runs.items():
        key = ("--configuration", configuration, "--fold", 0, "--restart", restart, "--profile", root / "tiny.toml")
        output = root / "runs" / folder
        succeed("training", "run", "--prepared", prepared, *key, "--device", "cpu", "--output", output)
    succeed("training", "bundle", "--runs", root / "runs" / bundled, "--output", root / "model.tar.gz")
    with tarfile.open(root / "model.tar.gz") as tar:
        tar.extractall(root / "model", filter="data")
    for channel in load_card(CARD).channels:
        (image,) = (archive / "10000").glob(f"*_{channel.name}.mha")
        folder = root / study / channel.socket.relative_path
        folder.mkdir(parents=True)
        shutil.copy(image, folder / "image.mha")
