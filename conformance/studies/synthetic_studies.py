"""Synthetic studies, laid out as the platform does: tilted, anisotropic, with a lesion at a known place.

Every channel has a grid of its own; the reference is tilted about two axes, its three sizes and spacings differ, and
the lesion is off the middle in all three, so that an exchanged or flipped axis shows. Its contrast comes from the
card's voxel-wise baselines (bright where one takes the maximum, dark where it takes the minimum; in CT darker than the
body around it). It is as obvious as a lesion can be: no measure of a network's quality.
"""

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from conformance.engine.container_engine import Files
from contract.archive.studies import find_studies
from contract.card import Card, Channel, Socket
from contract.errors import OncoduetError
from contract.images.grid import Grid
from contract.images.volume import Volume, read_grid, to_image
from contract.text import first_few

Point = tuple[float, float, float]
Keys = tuple[Literal["socket", "interface"], ...]

LESION_RADIUS_MM = 6.0
CT_TISSUE_HU, CT_LESION_HU = 100.0, 20.0


@dataclass(frozen=True)
class StudyGeometry:
    """Grid of a synthetic study in the patient, and place of its lesion."""

    size_xyz: tuple[int, int, int]
    spacing_mm_xyz: Point
    centre_mm_xyz: Point
    tilts_rad: tuple[float, float]
    """Tilts about the patient's x and z axes."""
    lesion_mm_xyz: Point
    """Offset of the lesion's centre from the image's, along the image's axes."""

    def grid(self, *, finer: float = 1.0, shift_mm: float = 0.0) -> Grid:
        """The reference's grid, or one with other voxels over nearly the same volume."""
        spacing = np.array(self.spacing_mm_xyz) * finer
        size = np.maximum(np.round(np.array(self.size_xyz) / finer), 4).astype(int)
        direction = self._direction()
        origin = np.array(self.centre_mm_xyz) + shift_mm - direction @ ((size - 1) / 2 * spacing)
        x, y, z = (int(each) for each in size)
        return Grid((x, y, z), _point(spacing), _point(origin), tuple(direction.ravel().tolist()))

    def lesion(self) -> Point:
        """The lesion's centre in the patient, in mm."""
        return _point(np.array(self.centre_mm_xyz) + self._direction() @ np.array(self.lesion_mm_xyz))

    def _direction(self) -> Any:
        a, b = self.tilts_rad
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        return about_x @ about_z


FIRST = StudyGeometry((64, 56, 15), (0.8, 0.9, 3.0), (3.0, -20.0, 11.0), (0.3, 0.2), (9.0, -8.0, 7.5))
SECOND = StudyGeometry((52, 60, 17), (0.9, 0.75, 2.6), (-14.0, 33.0, -105.5), (-0.2, 0.35), (-8.0, 7.0, -8.0))


@dataclass(frozen=True)
class MountedStudy:
    """The content of ``/input`` for one case, and what has to be found in it."""

    files: Files
    """Files by path below ``/input``."""
    reference: Grid
    lesion_mm_xyz: Point | None
    names: tuple[str, ...]
    """Words that only this study contains; they must not appear in another's outputs."""


def make_study(
    card: Card,
    *,
    shape: StudyGeometry = FIRST,
    name: str = "first",
    lesion: bool = True,
    whole_numbers: bool = False,
    keys: Keys = ("socket", "interface"),
    optional: bool = False,
    turned: bool = False,
    listing: bool = True,
) -> MountedStudy:
    """Make a synthetic study, laid out as on the platform.

    Parameters
    ----------
    name
        Decides the UUIDs (of files, of the listing) and the noise.
    whole_numbers
        Voxels are int16 and compressed instead of float32 and uncompressed.
    keys
        Keys of a socket in ``inputs.json``.
    optional
        Also give the card's optional inputs: images, and JSON whose values are null.
    turned
        List and write the inputs in the opposite order.
    listing
        Write ``inputs.json``; without it the sockets' own paths count.
    """
    reference = shape.grid()
    images: list[tuple[Socket, bytes]] = []
    rng = np.random.default_rng(uuid.uuid5(uuid.NAMESPACE_URL, repr(shape)).int % 2**32)
    for number, channel in enumerate(card.channels):
        is_reference = channel.name == card.geometry.reference
        grid = reference if is_reference else shape.grid(finer=1.7 + 0.2 * number, shift_mm=1.5 * number)
        array = _contrast(card, channel, grid, shape.lesion() if lesion else None, rng)
        images.append((channel.socket, image_bytes(array, grid, whole_numbers=whole_numbers)))
    values: list[tuple[Socket, bytes]] = []
    for socket in card.optional_inputs if optional else ():
        if socket.relative_path.endswith(".json"):
            values.append((socket, json.dumps({"patient_age": None, "PSA_report": None, "age": None}).encode()))
        else:
            images.append((socket, images[0][1]))
    laid_out = {f"{socket.relative_path}/{_uuid(name, socket)}.mha": content for socket, content in images}
    laid_out |= {socket.relative_path: content for socket, content in values}
    entries = [
        describe_input(socket, name=name, keys=keys, image=socket.relative_path.startswith("images/"))
        for socket, _ in [*images, *values]
    ]
    if listing:
        laid_out["inputs.json"] = json.dumps(entries[::-1] if turned else entries).encode()
    if turned:
        laid_out = dict(reversed(laid_out.items()))
    names = tuple(_uuid(name, socket) for socket, _ in images)
    return MountedStudy(laid_out, reference, shape.lesion() if lesion else None, names)


def with_unknown_sockets(study: MountedStudy) -> MountedStudy:
    """The study with slugs and paths that no card has."""
    entries = json.loads(study.files["inputs.json"])
    files = {}
    for number, entry in enumerate(entries):
        for key in {"socket", "interface"} & entry.keys():
            entry[key]["slug"], old = f"unknown-socket-{number}", entry[key]["relative_path"]
            entry[key]["relative_path"] = f"images/unknown-socket-{number}"
        for path, content in study.files.items():
            if path.startswith(f"{old}/"):
                files[path.replace(old, f"images/unknown-socket-{number}", 1)] = content
    return MountedStudy({**files, "inputs.json": json.dumps(entries).encode()}, study.reference, None, study.names)


def corrupted(study: MountedStudy, card: Card) -> MountedStudy:
    """The study with the last quarter of its reference image cut off."""
    folder = _socket(card).relative_path
    files = {
        path: content[: len(content) * 3 // 4] if path.startswith(f"{folder}/") else content
        for path, content in study.files.items()
    }
    return MountedStudy(files, study.reference, None, study.names)


def own_studies(archive: Path, card: Card, keys: Keys = ("socket", "interface")) -> dict[str, MountedStudy]:
    """Studies of an archive, laid out as the platform does, by case id.

    Raises ``OncoduetError``: the archive does not fit the card.
    """
    found = {}
    for study in find_studies(archive, card, labels_required=False):
        name = study.case_id
        files: dict[str, bytes] = {}
        for channel in card.channels:
            read_grid(study.channels[channel.name])  # an unreadable image is the user's error, not the container's
            files[f"{channel.socket.relative_path}/{_uuid(name, channel.socket)}.mha"] = study.channels[
                channel.name
            ].read_bytes()
        entries = [describe_input(each.socket, name=name, keys=keys, image=True) for each in card.channels]
        files["inputs.json"] = json.dumps(entries).encode()
        reference = read_grid(study.channels[card.geometry.reference])
        found[name] = MountedStudy(files, reference, None, tuple(_uuid(name, each.socket) for each in card.channels))
    return found


def describe_input(
    socket: Socket, *, name: str, keys: Sequence[str], image: bool, image_name: str | None = None
) -> dict[str, Any]:
    """An entry of ``inputs.json`` with all fields that the platform writes."""
    pk = _uuid(name, socket)
    return {
        **dict.fromkeys(keys, describe_socket(socket, image=image)),
        "value": None,
        "file": None,
        "image": {"pk": pk, "name": image_name or f"{name}_{socket.slug}.mha"} if image else None,
        "pk": uuid.UUID(pk).int % 10**6,
    }


def describe_socket(socket: Socket, *, image: bool) -> dict[str, Any]:
    """A socket with all fields that the platform writes."""
    return {
        "title": socket.slug.replace("-", " "),
        "description": "",
        "slug": socket.slug,
        "kind": "Image" if image else "Anything",
        "pk": 7,
        "default_value": None,
        "super_kind": "Image" if image else "Value",
        "relative_path": socket.relative_path,
        "overlay_segments": [],
        "look_up_table": None,
    }


def image_bytes(array: Any, grid: Grid, *, whole_numbers: bool = False, compressed: bool | None = None) -> bytes:
    """A MetaImage as bytes; an array (z, y, x)."""
    array = np.round(array).astype(np.int16) if whole_numbers else array
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.mha"
        squeeze = whole_numbers if compressed is None else compressed
        sitk.WriteImage(to_image(Volume(array, grid)), str(path), useCompression=squeeze)
        return path.read_bytes()


def _contrast(card: Card, channel: Channel, grid: Grid, lesion: Point | None, rng: np.random.Generator) -> Any:
    """Intensities of a channel: uniform tissue, a spherical lesion, noise."""
    low = {each.extreme for each in card.baselines if each.channel == channel.name} == {"minimum"}
    high = {each.extreme for each in card.baselines if each.channel == channel.name} == {"maximum"}
    is_ct = channel.plausible is not None and channel.plausible.minimum_at_most is not None
    if is_ct:  # air, body, bone
        tissue, found, noise = CT_TISSUE_HU, CT_LESION_HU, 4.0
    elif low:
        tissue, found, noise = 1400.0, 450.0, 25.0
    elif high:
        tissue, found, noise = 60.0, 600.0, 4.0
    else:
        tissue, found, noise = 300.0, 160.0, 8.0
    array = np.full(grid.shape_zyx, tissue)
    if lesion is not None:
        distance = np.sqrt(((grid.centres_mm() - np.array(lesion)[:, None, None, None]) ** 2).sum(axis=0))
        inside = 1 / (1 + np.exp((distance - LESION_RADIUS_MM) / 0.7))
        array += (found - tissue) * inside
    if is_ct:
        array[:, :4, :] = -1000.0
        array[:, -6:-3, 10:-10] = 600.0
    return (array + rng.normal(scale=noise, size=grid.shape_zyx)).astype(np.float32)


def _socket(card: Card) -> Socket:
    return next(each.socket for each in card.channels if each.name == card.geometry.reference)


def _uuid(name: str, socket: Socket) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{socket.slug}"))


def _point(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z


def require_cases(truth: Mapping[str, object], cases: Sequence[str], where: Path) -> None:
    """Raise ``OncoduetError`` unless the truth has a label map of every case."""
    missing = [case for case in cases if case not in truth]
    if missing:
        raise OncoduetError(where, f"no label map for {first_few(missing)}")
