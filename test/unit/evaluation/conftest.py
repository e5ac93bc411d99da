"""Small images by formula and the folders that the platform, ``algorithm batch`` and picai-eval put them in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from contract.cards import Card, load_card
from contract.files import write_json
from contract.images.volume import Grid, Volume, write_volume
from contract.records import Source, write_record
from contract.sockets import job_listing

COS, SIN = float(np.cos(0.3)), float(np.sin(0.3))
TILTED = (COS, -SIN, 0.0, SIN, COS, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((13, 11, 7), (0.5, 0.75, 3.0), (-20.0, 31.0, 7.5), TILTED)
Box = tuple[slice, slice, slice]


@dataclass
class Workshop:
    """Makes images and folders below one temporary folder."""

    root: Path
    card: Card
    grid: Grid = GRID
    box: Box = field(default=(slice(1, 4), slice(2, 5), slice(3, 7)))
    elsewhere: Box = field(default=(slice(5, 7), slice(8, 11), slice(9, 12)))

    def image(self, parts: Mapping[float, Box] | None = None, dtype: type = np.float32) -> np.ndarray:
        """An image (z, y, x) of boxes by their value."""
        array = np.zeros(self.grid.shape_zyx, dtype)
        for value, box in (parts or {}).items():
            array[box] = value
        return array

    def write(self, path: Path, array: np.ndarray, grid: Grid | None = None) -> Path:
        write_volume(path, Volume(array, grid or self.grid))
        return path

    def truth(self, labels: Mapping[str, np.ndarray], name: str = "truth") -> Path:
        for case_id, label in labels.items():
            self.write(self.root / name / f"{case_id}.nii.gz", label.astype(np.uint8))
        return self.root / name

    def plain(self, maps: Mapping[str, np.ndarray], name: str = "predictions") -> Path:
        for case_id, array in maps.items():
            self.write(self.root / name / f"{case_id}.mha", array)
        return self.root / name

    def batch(
        self,
        maps: Mapping[str, np.ndarray],
        likelihoods: Mapping[str, object],
        *,
        name: str = "batch",
        order: Sequence[str] | None = None,
    ) -> Path:
        folder = self.root / name
        listing = [job_listing(case_id, self.card) for case_id in order or maps]
        for case_id, array in maps.items():
            output = folder / case_id / "output"
            self.write(output / self.card.detection_map.relative_path / f"{case_id}.mha", array)
            text = json.dumps(likelihoods[case_id])
            (output / self.card.likelihood.relative_path).write_text(text, encoding="utf-8")
        write_json(folder / "predictions.json", listing)
        return folder

    def source(self, folder: Path, configuration: str = "ce") -> Source:
        source = Source(
            parents={"bundle": "b" * 64},
            card=self.card.name,
            card_sha256=self.card.sha256,
            configuration=configuration,
            fold=1,
            restart=2,
            profile="demo",
            runs=("a" * 64,),
            bundle_sha256="b" * 64,
            data_licence="Apache-2.0",
        )
        write_record(folder / "source.json", source)
        return source


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, load_card("cspca-picai"))
