"""Studies for tests: grids that no swapped axis survives, and a whole study on its study grid."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.card import Card
from contract.images.grid import Grid
from contract.images.volume import Float32Array, LabelArray
from network.study.placement import Placement
from network.study.scan import classes_on_study_grid, read_scan, read_truth, stack

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def tilted_grid(
    size_xyz: tuple[int, int, int],
    spacing_mm_xyz: tuple[float, float, float],
    centre_mm: tuple[float, float, float] = (3.0, -20.0, 11.0),
) -> Grid:
    """A grid around a point of the patient whose axes are tilted about two of the patient's."""
    a, b = 0.3, 0.2
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    direction = about_x @ about_z
    x, y, z = (np.array(centre_mm) - direction @ ((np.array(size_xyz) - 1) / 2 * np.array(spacing_mm_xyz))).tolist()
    return Grid(size_xyz, spacing_mm_xyz, (x, y, z), tuple(direction.ravel().tolist()))


def with_geometry(card: Card, **changes: object) -> Card:
    return card.model_copy(update={"geometry": card.geometry.model_copy(update=changes)})


@dataclass(frozen=True)
class StackedStudy:
    array: Float32Array
    placement: Placement

    @property
    def grid(self) -> Grid:
        return self.placement.grid


def read_study(card: Card, channels: Mapping[str, Path], *, name: str = "s") -> StackedStudy:
    scan = read_scan(card, channels, name=name)
    placement = Placement.of(card, scan.native)
    return StackedStudy(stack(scan, placement), placement)


def read_study_label(card: Card, path: Path, study: StackedStudy) -> LabelArray:
    placement = replace(study.placement, card=card)
    return classes_on_study_grid(read_truth(path, placement), placement)
