"""A scan, and the files that other tools make of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_makers import Saved

from contract.images.grid import Grid
from contract.images.volume import Volume, to_image


@pytest.fixture
def scan(tilted_grid: Grid) -> Volume:
    """Larger than the buffers through which compressed streams are read."""
    grid = replace(tilted_grid, size_xyz=(61, 52, 43))
    return Volume(np.random.default_rng(3).normal(size=grid.shape_zyx).astype(np.float32), grid)


@pytest.fixture
def saved(tmp_path: Path, scan: Volume) -> Saved:
    """The same image as a file of one of the formats, compressed or not, as other tools write it."""

    def save(suffix: str, compressed: bool) -> Path:
        path = tmp_path / f"image{suffix}"
        sitk.WriteImage(to_image(scan), str(path), useCompression=compressed)
        return path

    return save
