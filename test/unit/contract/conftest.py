"""Grids and images made by formula: three different sizes and spacings, and a direction tilted about two axes."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.card import CARDS, Card, load_card
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume


def tilted_direction(about_z_rad: float, about_x_rad: float) -> tuple[float, ...]:
    cos_z, sin_z = np.cos(about_z_rad), np.sin(about_z_rad)
    cos_x, sin_x = np.cos(about_x_rad), np.sin(about_x_rad)
    about_z = np.array([[cos_z, -sin_z, 0], [sin_z, cos_z, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    return tuple((about_z @ about_x).ravel().tolist())


@pytest.fixture
def tilted_grid() -> Grid:
    """Numbers that no decimal fraction of a few digits can hold."""
    return Grid((11, 7, 5), (0.1 + 0.2, 10 / 9, 3.3000001), (-1 / 3, 2 / 7, 100 / 9), tilted_direction(0.3, 0.2))


@pytest.fixture
def noise(tilted_grid: Grid) -> Volume:
    values = np.random.default_rng(7).normal(size=tilted_grid.shape_zyx).astype(np.float32)
    return Volume(values, tilted_grid)


@pytest.fixture
def card() -> Card:
    return load_card("cspca-picai")


@pytest.fixture
def card_values() -> dict[str, Any]:
    return tomllib.loads((CARDS / "cspca-picai.toml").read_text())


@pytest.fixture
def write_archive(tmp_path: Path, card: Card, tilted_grid: Grid) -> Callable[..., Path]:
    """Write an archive of studies with every channel and a label map; the caller then spoils it."""

    def write(*case_ids: str, patient: str | None = None) -> Path:
        archive = tmp_path / "archive"
        for case_id in case_ids:
            folder = archive / (patient or case_id.partition("_")[0])
            for channel in card.channel_names:
                array = np.ones(tilted_grid.shape_zyx, np.float32)
                write_volume(folder / f"{case_id}_{channel}.mha", Volume(array, tilted_grid))
            label = np.zeros(tilted_grid.shape_zyx, np.uint8)
            write_volume(archive / "labels" / f"{case_id}.nii.gz", Volume(label, tilted_grid))
        return archive

    return write
