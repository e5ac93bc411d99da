"""An archive: one folder per patient with ``<patient>_<study>_<channel>.mha``, and ``labels/<patient>_<study>.nii.gz``.

Channels that the card does not name, and any other file, are ignored. ``marksheet.csv`` is optional; ``archive.json``,
where there is one, names the data's licence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.cards import Card, Geometry
from contract.errors import OncoduetError, one_line
from contract.extent import require_plausible_extent
from contract.files import read_json
from contract.volume import Grid, fields_of_view_meet, read_grid, require_same_grid

UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class Study:
    """One examination of one patient."""

    case_id: str  # <patient>_<study>, the name used everywhere
    patient_id: str
    channels: Mapping[str, Path]  # by channel name, in the card's order
    label: Path | None


@dataclass(frozen=True)
class Listing:
    """What an archive holds where one bad study must not stop the others."""

    studies: tuple[Study, ...]  # the sound ones, ordered by case id
    faults: Mapping[str, str]  # why each other one is not among them, in one line, by case id


def find_studies(archive: Path, card: Card, *, labels_required: bool) -> list[Study]:
    """List the archive's studies, ordered by case id, with their geometry checked.

    Raises
    ------
    OncoduetError
        The archive is empty; a study lacks a channel or has it twice; an image is unreadable or not 3D; the channels'
        fields of view are disjoint; a required label map is missing or on another grid than the reference channel.
    """
    found = _images_by_study(archive, card)
    return [_study(archive, card, case_id, found[case_id], labels_required) for case_id in sorted(found)]


def list_studies(archive: Path, card: Card, *, labels_required: bool) -> Listing:
    """List the archive's studies as :func:`find_studies`, with what is wrong with single ones beside them.

    Raises
    ------
    OncoduetError
        There is no archive, or it is empty.
    """
    found = _images_by_study(archive, card)
    studies: list[Study] = []
    faults: dict[str, str] = {}
    for case_id in sorted(found):
        try:
            studies.append(_study(archive, card, case_id, found[case_id], labels_required))
        except OncoduetError as error:
            faults[case_id] = one_line(str(error))
        except OSError as error:
            faults[case_id] = one_line(f"study {case_id} in {archive}: expected readable images, found: {error}")
    return Listing(tuple(studies), faults)


def archive_licence(archive: Path) -> str:
    """The licence of the data as ``archive.json`` names it (an SPDX expression), or ``unknown``."""
    path = archive / "archive.json"
    if not path.is_file():
        return UNKNOWN_LICENCE
    values = read_json(path)
    licence = values.get("data_licence") if isinstance(values, dict) else None
    if not isinstance(licence, str):
        raise OncoduetError(f"{path}: expected the text data_licence, found {licence!r}")
    return licence


def read_grids(name: str, channels: Mapping[str, Path], geometry: Geometry) -> dict[str, Grid]:
    """Read where every channel's voxels lie; ``OncoduetError`` where the card finds a spacing or extent implausible."""
    grids = {channel: read_grid(path) for channel, path in channels.items()}
    for channel, grid in grids.items():
        require_plausible_extent(channels[channel], grid, geometry, study=name)
    return grids


def check_geometry(name: str, channels: Mapping[str, Path], geometry: Geometry) -> None:
    """Raise ``OncoduetError`` unless every channel is a 3D image whose field of view meets the reference's.

    As :func:`read_grids` does, too.
    """
    grids = read_grids(name, channels, geometry)
    reference = geometry.reference
    for channel, grid in grids.items():
        if min(grid.size_xyz) < 2:
            raise OncoduetError(
                f"study {name}: expected {channels[channel]} to have several slices, rows and columns, "
                f"found {' × '.join(map(str, grid.size_xyz))} voxels"
            )
        if not fields_of_view_meet(grid, grids[reference]):
            raise OncoduetError(
                f"study {name}: expected {channels[channel]} to share a field of view with {reference!r} "
                f"({grids[reference].describe()}), found {grid.describe()}"
            )


def _images_by_study(archive: Path, card: Card) -> dict[str, dict[str, list[Path]]]:
    """Every image of a channel of the card, by case id and channel."""
    if not archive.is_dir():
        raise OncoduetError(f"{archive}: expected an archive, found no folder")
    found: dict[str, dict[str, list[Path]]] = {}
    for channel in card.channel_names:
        for path in sorted(archive.glob(f"*/*_{channel}.mha")):
            case_id = path.name.removesuffix(f"_{channel}.mha")
            if not path.name.startswith("."):  # what macOS leaves beside each file
                found.setdefault(case_id, {}).setdefault(channel, []).append(path)
    if not found:
        pattern = f"<patient>/<patient>_<study>_{card.channel_names[0]}.mha"
        raise OncoduetError(f"{archive}: expected studies named {pattern}, found none")
    return found


def _study(
    archive: Path, card: Card, case_id: str, found: Mapping[str, Sequence[Path]], labels_required: bool
) -> Study:
    for channel in card.channel_names:
        paths = found.get(channel, [])
        if not paths:
            raise OncoduetError(
                f"study {case_id} in {archive}: expected the channels {', '.join(card.channel_names)}, "
                f"found no {case_id}_{channel}.mha"
            )
        if len(paths) > 1:
            folders = ", ".join(str(path.parent) for path in paths)
            raise OncoduetError(f"study {case_id} in {archive}: expected once, found in {folders}")
    channels = {channel: found[channel][0] for channel in card.channel_names}
    check_geometry(case_id, channels, card.geometry)
    label = archive / "labels" / f"{case_id}.nii.gz"
    if label.is_file():
        require_same_grid(
            read_grid(label),
            read_grid(channels[card.geometry.reference]),
            found_name=str(label),
            expected_name=channels[card.geometry.reference].name,
        )
    elif labels_required:
        raise OncoduetError(f"study {case_id}: expected the label map {label}, found none")
    patient_id = _patient(case_id, channels[card.geometry.reference].parent.name)
    return Study(case_id, patient_id, channels, label if label.is_file() else None)


def _patient(case_id: str, folder: str) -> str:
    """The folder's name where the file names begin with it (it may hold underscores), else what is before the first."""
    return folder if case_id.startswith(f"{folder}_") else case_id.partition("_")[0]
