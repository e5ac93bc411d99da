"""Rules of the platform and the evaluation for outputs and logs: each returns what it found, or raises ``Broken``.

The rules do not depend on how an image was run; they read a folder, bytes and a card.
"""

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from conformance.results.verdicts import Broken
from conformance.studies.synthetic_studies import LESION_RADIUS_MM, Point
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import below, read_json
from contract.images.grid import Grid, same_grid
from contract.images.volume import from_image
from contract.images.whole_image import require_whole
from contract.text import first_few

GEOMETRY_MM = 1e-3
LONGEST_LINE_BYTES = 64 * 1024
_MOST_VALUES = 1000
_MOST_JSON_BYTES = 1 << 22
_MOST_VOXELS = 1 << 28


@dataclass(frozen=True)
class Map:
    """A detection map as the image wrote it."""

    array: Any
    """Voxels, shape (z, y, x)."""
    grid: Grid
    pixel: str


def written_files(output: Path) -> list[str]:
    """All files below an output folder, by relative path."""
    return sorted(path.relative_to(output).as_posix() for path in below(output) if path.is_file())


def require_declared(output: Path, card: Card) -> str:
    """Both outputs exist."""
    files = written_files(output)
    wanted = card.likelihood.relative_path, f"{card.detection_map.relative_path}/"
    missing = [path for path in wanted if not any(file == path or file.startswith(path) for file in files)]
    if missing:
        raise Broken(f"no {' and no '.join(missing)} among {_some(files)}")
    return _some(files)


def require_nothing_else(output: Path, card: Card) -> str:
    """No file but the declared ones."""
    surplus = [
        path
        for path in written_files(output)
        if path != card.likelihood.relative_path and not path.startswith(f"{card.detection_map.relative_path}/")
    ]
    if surplus:
        raise Broken(_some(surplus))
    return "none"


def map_file(output: Path, card: Card) -> Path:
    """The one image of the detection map's socket, whole and with an ending that the platform imports."""
    folder = output / card.detection_map.relative_path
    files = [path for path in sorted(below(folder)) if path.is_file()] if folder.is_dir() else []
    images = [path for path in files if path.suffix.lower() in (".mha", ".tif", ".tiff")]
    if len(images) != 1 or len(files) != 1:
        raise Broken(f"{len(images)} importable images among {_some([path.name for path in files])}")
    try:
        if images[0].suffix.lower() == ".mha":
            require_whole(images[0])
    except OncoduetError as error:
        raise Broken(str(error).removeprefix(f"{images[0]}: ")) from None
    return images[0]


def read_map(output: Path, card: Card) -> Map:
    """The detection map."""
    path = map_file(output, card)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if (voxels := math.prod(reader.GetSize())) > _MOST_VOXELS:
            raise Broken(f"{path.name} has {voxels} voxels")
        image = reader.Execute()
    except (RuntimeError, MemoryError):
        raise Broken(f"{path.name} cannot be read") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise Broken(f"{image.GetDimension()}D with {image.GetNumberOfComponentsPerPixel()} values per voxel")
    volume = from_image(image)
    return Map(volume.array, volume.grid, image.GetPixelIDTypeAsString())


def require_likelihood(output: Path, card: Card) -> float:
    """The likelihood: a JSON number in [0, 1]."""
    value = written_json(output / card.likelihood.relative_path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Broken(f"{type(value).__name__} {str(value)[:40]!r}")
    if not 0 <= value <= 1:
        raise Broken(str(value)[:40])
    return float(value)


def written_json(path: Path) -> Any:
    """JSON that an image wrote, read strictly and to a bounded size."""
    if path.is_file() and (size := path.stat().st_size) > _MOST_JSON_BYTES:
        raise Broken(f"{path.name} has {size} bytes")
    try:
        return read_json(path)
    except OncoduetError as error:
        raise Broken(error.problem or str(error.found)) from None


def require_geometry(found: Map, reference: Grid) -> str:
    """A float map on the reference's own grid."""
    if not same_grid(found.grid, reference, tolerance_mm=GEOMETRY_MM):
        raise Broken(f"{found.grid.describe()}, where the reference has {reference.describe()}")
    if "float" not in found.pixel:
        raise Broken(f"voxels as {found.pixel}")
    return f"{found.grid.describe()}, {found.pixel}"


def require_detection_map(found: Map) -> str:
    """Finite values in [0, 1]; each connected component (26 neighbours) has one value."""
    array = np.asarray(found.array, np.float64)
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise Broken(f"{wrong} voxels are NaN or infinite")
    if array.min() < 0 or array.max() > 1:
        raise Broken(f"values from {array.min():g} to {array.max():g}")
    inside = sitk.GetImageFromArray((array > 0).astype(np.uint8))
    components = sitk.GetArrayFromImage(sitk.ConnectedComponent(inside, True))
    count = int(components.max())
    if count > _MOST_VALUES:
        raise Broken(f"{count} components")
    low, high = np.full(count + 1, np.inf), np.zeros(count + 1)
    np.minimum.at(low, components.ravel(), array.ravel())
    np.maximum.at(high, components.ravel(), array.ravel())
    mixed = int(np.count_nonzero(high[1:] - low[1:] > 1e-6))
    if mixed:
        worst = 1 + int(np.argmax(high[1:] - low[1:]))
        raise Broken(f"{mixed} of {count} components have several values (one from {low[worst]:g} to {high[worst]:g})")
    return f"{count} components, values up to {array.max():g}"


def require_lesion_found(found: Map, lesion: Point) -> str:
    """The most suspicious component covers the planted lesion, both as places in the patient."""
    array = np.nan_to_num(np.asarray(found.array))
    if not array.size or array.max() <= 0:
        raise Broken("an empty map")
    places = found.grid.centres_mm()[:, array == array.max()]
    middle = places.mean(axis=1)
    distance = float(np.linalg.norm(middle - np.array(lesion)))
    where = "(" + ", ".join(f"{value:.1f}" for value in middle) + ") mm"
    if distance > LESION_RADIUS_MM:
        raise Broken(f"{where}, {distance:.1f} mm from the lesion")
    return f"{where}, {distance:.1f} mm from its centre"


def require_same(a: Path, b: Path, card: Card, *, tolerance: float) -> str:
    """Two outputs with the same voxels and likelihood."""
    first, second = read_map(a, card), read_map(b, card)
    if first.array.shape != second.array.shape:
        raise Broken(f"maps of {first.array.shape} and {second.array.shape} voxels")
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(np.asarray(first.array, np.float64) - np.asarray(second.array, np.float64)).max())
    numbers = require_likelihood(a, card), require_likelihood(b, card)
    if not largest <= tolerance or abs(numbers[0] - numbers[1]) > max(1e-6, tolerance):
        raise Broken(f"maps differ by {largest:g}, likelihoods are {numbers[0]:g} and {numbers[1]:g}")
    return f"likelihood {numbers[0]:g} twice, maps differ by {largest:g}"


def require_utf8(streams: Iterable[bytes]) -> str:
    """Every stream is UTF-8: the platform's reader of logs ends at the first other byte, and the job with it."""
    size = 0
    for stream in streams:
        size += len(stream)
        try:
            stream.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Broken(f"byte 0x{stream[error.start]:02x} at {error.start} is not UTF-8") from None
    return f"{size} bytes of UTF-8"


def require_short_lines(streams: Iterable[bytes]) -> str:
    """No line that the platform would drop."""
    longest = max((len(line) for stream in streams for line in stream.split(b"\n")), default=0)
    if longest > LONGEST_LINE_BYTES:
        raise Broken(f"a line of {longest} bytes")
    return f"longest line {longest} bytes"


def require_metrics(output: Path, ranking: str) -> str:
    """Strict JSON without dots in keys, in which the ranking's path leads to a number."""
    path = output / "metrics.json"
    if not path.is_file():
        raise Broken(f"no metrics.json among {_some(written_files(output))}")
    values = written_json(path)
    dotted = [key for key in _keys(values) if "." in key]
    if dotted:
        raise Broken(f"the key {dotted[0]!r} contains a dot")
    value = values
    for step in ranking.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        raise Broken(f"{json.dumps(value)[:60]} at {ranking}")
    return f"{ranking} = {str(value)[:40] if isinstance(value, int) else f'{value:g}'}"


def _keys(value: Any) -> Iterable[str]:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield from inner
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


def _some(names: Iterable[str]) -> str:
    return first_few(list(names), 5) or "nothing"
