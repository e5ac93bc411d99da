"""An archive: one folder per patient with ``<patient>_<study>_<channel>.mha``, and ``labels/<patient>_<study>.nii.gz``.

Images may also be NIfTI (``.nii.gz``). Channels that the card does not name, and any other file, are ignored.
``marksheet.csv`` and ``patients.csv`` are optional; ``archive.json``, if present, names the data's licence.

No study that the archive names anywhere is left out silently. What is wrong with it is a *fault*: the caller refuses
the archive or reports the fault. Entries without a study here (rows of the marksheet and, where no labels are needed,
label maps) are *remarks*.
"""

import logging
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.archive.folder_scan import DEEPEST, LABEL_ENDING, LABELS, ArchiveFiles, look, seeming_stem
from contract.archive.marksheet import read_marksheet
from contract.archive.patients import FILE as PATIENTS
from contract.archive.patients import (
    MOST_ON_AVERAGE,
    MOST_STUDIES,
    TELLING,
    ambiguous,
    parse_patients_option,
    patients_by_case,
    read_patients,
    require_folders_apart,
    require_rows,
)
from contract.card import Card, Geometry
from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.files.reading import read_json
from contract.images.grid import Grid, covered_share, fields_of_view_meet, require_same_grid
from contract.images.plausible_extent import require_plausible_extent
from contract.images.volume import read_grid
from contract.names import require_case_id
from contract.text import SHOWN, first_few, one_line

logger = logging.getLogger(__name__)

UNKNOWN_LICENCE = "unknown"
MARKSHEET = "marksheet.csv"


_ENDINGS_OF_PARTS = ("_seg", "_label")
"""What nnU-Net's folders and ours append to a study's name for its label map."""


@dataclass(frozen=True)
class Study:
    """One examination of one patient."""

    case_id: str  # <patient>_<study>, the name used everywhere
    folder: str  # name of the reference channel's folder, in NFC as the id
    channels: Mapping[str, Path]  # by channel name, in the card's order
    label: Path | None


@dataclass(frozen=True)
class Listing:
    """The studies of an archive, and the faults of those that cannot be used."""

    studies: tuple[Study, ...]  # those without faults, ordered by case id
    faults: Mapping[str, str]  # what is wrong with each of the others, in one line, by case id (or folder)
    remarks: tuple[str, ...] = ()  # entries without a study, one line each


def find_studies(archive: Path, card: Card, *, labels_required: bool) -> list[Study]:
    """List the archive's studies, ordered by case id, with their geometry checked.

    Raises ``OncoduetError``: the archive is empty; a study lacks a channel or has it twice, or its files are called or
    placed in another way; an image is unreadable or not 3D; the channels' fields of view are disjoint; a required label
    map is missing, is on another grid than the reference channel or belongs to no study; a folder cannot be listed. All
    of this is named together.
    """
    listing = list_studies(archive, card, labels_required=labels_required)
    if listing.faults:
        raise refusal_of(archive, listing.faults, studies=len(listing.studies) + len(listing.faults))
    for remark in listing.remarks:
        logger.warning("%s", remark)
    return list(listing.studies)


def list_studies(archive: Path, card: Card, *, labels_required: bool) -> Listing:
    """List the archive's studies as :func:`find_studies`, with the faults of single ones.

    Raises ``OncoduetError``: there is no archive, it is empty or cannot be listed, or all its label maps are missing.
    """
    files = look(archive, card.channel_names)
    if not files.images:
        raise OncoduetError(archive, _nothing(archive, card, files))
    if labels_required and not (archive / LABELS).exists():
        raise OncoduetError(archive / LABELS, "folder not found")
    studies: list[Study] = []
    faults = {
        name: f"{archive / name}: cannot be read: {why}"
        for name, why in files.unknown.items()
        if labels_required or Path(name).parts[0] != LABELS
    }
    for case_id in sorted({*files.images, *files.strays}):
        try:
            studies.append(_study(archive, card, case_id, files, labels_required))
        except OncoduetError as error:
            faults[case_id] = one_line(str(error))
        except OSError as error:
            faults[case_id] = one_line(f"study {case_id} in {archive}: unreadable: {error}")
    known = {*files.images, *files.strays}
    for case_id in known:
        for ending in _ENDINGS_OF_PARTS:
            if case_id.endswith(ending) and case_id.removesuffix(ending) in known:
                other = case_id.removesuffix(ending)
                faults[case_id] = f"study {case_id} in {archive}: named as the file {ending!r} of study {other}"
    alone = sorted(set(files.labels) - known)
    if labels_required:
        faults |= {case_id: f"{files.labels[case_id]}: no study of this name" for case_id in alone}
        alone = []
    labelled = {each.case_id for each in studies if each.label is not None}
    unread = [str(path.relative_to(archive)) for path in files.unread_labels if not _names_one_of(path, labelled)]
    rows = sorted(_marksheet_cases(archive) - known)
    elsewhere = sorted({str(folder.relative_to(archive)) for folder in files.others})
    remarks = [
        f"{archive / where}: {len(names)} {what}: {first_few(names)}"
        for where, what, names in [
            (LABELS, "label maps belong to no study here", alone),
            (LABELS, f"files are not called <patient>_<study>{LABEL_ENDING}, and not read", unread),
            (MARKSHEET, "rows belong to no study here", rows),
            (".", "folders hold images that no channel of the card is called by", elsewhere),
            (".", f"folders are more than {DEEPEST} deep, and not looked into", files.deeper),
        ]
        if names
    ]
    return Listing(tuple(studies), dict(sorted(faults.items())), tuple(remarks))


def refusal_of(archive: Path, faults: Mapping[str, str], *, studies: int, hint: str = "") -> OncoduetError:
    """All faults of an archive in one line: how many, the first ones in full, then the hint; a single one as it is."""
    first = list(faults.values())[:SHOWN]
    if len(faults) == 1:
        return OncoduetError(first[0])
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return OncoduetError(archive, f"{len(faults)} faults in {studies} studies: {'; '.join(first)}{more}{hint}")


def archive_patients(archive: Path, studies: Iterable[Study], said: str | None = None) -> dict[str, str]:
    """The patient of every study, by case id.

    What counts, in this order: a table that was named (``said``) or ``patients.csv`` in the archive; a rule that was
    named; the folder, where the file names begin with its name (it may hold underscores); the ids.

    Raises ``OncoduetError`` as :func:`patients_by_case` and :func:`read_patients`; also if a folder that would be a
    patient holds very many studies, if such folders hold more on average than patients have or begin alike, if a folder
    of another name holds several whose ids tell no patient, or if a table may spell a study otherwise.

    Parameters
    ----------
    said
        The words of ``--patients``: a rule, or the path of a table.
    """
    table, rule = parse_patients_option(said) if said else ({}, None)
    given = (read_patients(archive / PATIENTS) if (archive / PATIENTS).is_file() else {}) | table
    by_folder: dict[str, list[str]] = {}
    for study in studies:
        by_folder.setdefault(study.folder, []).append(study.case_id)
    cases = [case_id for members in by_folder.values() for case_id in members]
    require_rows(cases, given, source=archive)
    bearing: dict[str, str] = {}
    if rule is None:
        for folder, members in by_folder.items():
            named = [case_id for case_id in members if case_id.startswith(f"{folder}_")]
            if len(named) > MOST_STUDIES and not given.keys() >= {*named}:
                raise ambiguous(archive / folder, "a folder per patient", named)
            others = [case_id for case_id in members if case_id not in named and not TELLING.fullmatch(case_id)]
            if len(by_folder) > 1 and len(others) > 1 and not given.keys() >= {*others}:
                raise ambiguous(archive / folder, "a folder that bears the patient's name", others)
            bearing |= dict.fromkeys(named, folder)
        open_ids = [case_id for case_id in bearing if case_id not in given]
        folders = sorted({bearing[case_id] for case_id in open_ids})
        if len(open_ids) > MOST_ON_AVERAGE * len(folders):
            raise ambiguous(archive, "a folder per patient", open_ids, " in few folders")
        require_folders_apart(folders, source=archive)
    return patients_by_case(cases, given=given, folders=bearing, rule=rule, source=archive)


def archive_licence(archive: Path) -> str:
    """The licence of the data as ``archive.json`` names it (an SPDX expression), or ``unknown``."""
    path = archive / "archive.json"
    if not path.is_file():
        return UNKNOWN_LICENCE
    values = read_json(path)
    licence = values.get("data_licence") if isinstance(values, dict) else None
    if not isinstance(licence, str):
        raise OncoduetError(path, expected="the text data_licence", found=f"{licence!r}")
    return licence


def read_grids(name: str, channels: Mapping[str, Path], geometry: Geometry) -> dict[str, Grid]:
    """Read every channel's grid; ``OncoduetError`` where the card finds a spacing or extent implausible."""
    grids = {channel: read_grid(path) for channel, path in channels.items()}
    for channel, grid in grids.items():
        require_plausible_extent(channels[channel], grid, geometry, study=name)
    return grids


def check_geometry(name: str, channels: Mapping[str, Path], geometry: Geometry) -> None:
    """Raise ``OncoduetError`` unless every channel is a 3D image whose field of view meets the reference's,
    and covers enough of its middle.

    As :func:`read_grids` does, too.
    """
    grids = read_grids(name, channels, geometry)
    reference = geometry.reference
    for channel, grid in grids.items():
        if min(grid.size_xyz) < 2:
            raise OncoduetError(
                f"study {name}",
                expected=f"{channels[channel]} to have several slices, rows and columns",
                found=f"{' × '.join(map(str, grid.size_xyz))} voxels",
            )
        if not fields_of_view_meet(grid, grids[reference]):
            raise OncoduetError(
                f"study {name}",
                expected=(
                    f"{channels[channel]} to share a field of view with {reference!r} ({grids[reference].describe()})"
                ),
                found=grid.describe(),
            )
        covered, least = covered_share(grid, grids[reference]), geometry.covered_at_least
        if covered < least:
            raise OncoduetError(
                f"study {name}",
                expected=f"{channels[channel]} to cover at least {least:.0%} of the middle of {reference!r}",
                found=f"{covered:.0%}: was it moved, or is it of another patient or place?",
            )


def _study(archive: Path, card: Card, case_id: str, files: ArchiveFiles, labels_required: bool) -> Study:
    """One study, checked."""
    require_case_id(case_id, archive)
    found, strays = files.images.get(case_id, {}), files.strays.get(case_id, [])
    other = f", but {first_few([str(path.relative_to(archive)) for path in strays])}" if strays else ""
    if not found:
        raise OncoduetError(f"study {case_id} in {archive}", f"no images named {_pattern(card)}{other}")
    for channel in card.channel_names:
        paths = found.get(channel, [])
        if not paths:
            raise OncoduetError(
                f"study {case_id} in {archive}",
                f"{case_id}_{channel}.mha not found{other}; the card has the channels {', '.join(card.channel_names)}",
            )
        if len(paths) > 1:
            folders = dict.fromkeys(str(path.parent) for path in paths)
            where = ", ".join(folders) if len(folders) > 1 else ", ".join(path.name for path in paths)
            raise OncoduetError(f"study {case_id} in {archive}", f"duplicate: {where}")
        if not paths[0].exists():
            raise OncoduetError(f"study {case_id} in {archive}", f"dangling link {paths[0]}")
    channels = {channel: found[channel][0] for channel in card.channel_names}
    check_geometry(case_id, channels, card.geometry)
    label = files.labels.get(case_id)
    twins = [
        path.name
        for path in files.unread_labels
        if path.parent == archive / LABELS and case_name(seeming_stem(path.name) or "") == case_id
    ]
    if label is not None and twins and labels_required:
        raise OncoduetError(f"study {case_id} in {archive}", f"duplicate: {label.name}, {', '.join(twins)} in {LABELS}")
    if label is not None and label.is_file():
        require_same_grid(
            read_grid(label),
            read_grid(channels[card.geometry.reference]),
            found_name=str(label),
            expected_name=channels[card.geometry.reference].name,
        )
    elif labels_required:
        expected = archive / LABELS / f"{case_id}{LABEL_ENDING}"
        unread = [str(path.relative_to(archive)) for path in files.unread_labels if _names_one_of(path, {case_id})]
        instead = f", found {first_few(unread)}" if unread else ""
        raise OncoduetError(f"study {case_id}", f"label map {expected} not found{instead}")
    else:
        label = None
    return Study(case_id, case_name(channels[card.geometry.reference].parent.name), channels, label)


def _names_one_of(path: Path, case_ids: Container[str]) -> bool:
    """Whether a file's name, or its part before the last ``_``, is one of these cases."""
    stem = case_name(path.name.partition(".")[0])
    return stem in case_ids or stem.rpartition("_")[0] in case_ids


def _pattern(card: Card) -> str:
    return f"<patient>/<patient>_<study>_{card.channel_names[0]}.mha"


def _nothing(archive: Path, card: Card, files: ArchiveFiles) -> str:
    """The problem of an archive without any study: what it holds instead."""
    paths = [path for found in (*files.strays.values(), *files.others.values()) for path in found]
    message = f"no studies named {_pattern(card)} (or .nii.gz)"
    if files.unknown:
        name, why = next(iter(files.unknown.items()))
        message += f"; {len(files.unknown)} folders cannot be read, such as {name}: {why}"
    if not paths:
        return message
    relative = [path.relative_to(archive) for path in paths]
    endings = sorted(
        {"".join(path.suffixes[-2:] if path.name.endswith(".gz") else path.suffixes[-1:]) for path in paths}
    )
    message += f"; {len(paths)} files end in {', '.join(endings)}, such as {relative[0]}"
    depths = {len(path.parts) for path in relative}
    if depths == {1}:
        return f"{message}: each patient needs a folder"
    deeper = [path for path in relative if len(path.parts) > 2]
    if len(deeper) == len(relative):
        return f"{message}: one folder too deep; --archive {archive / deeper[0].parts[0]}?"
    if any(re.search(r"_\d{4}\.", path.name) for path in paths):
        return f"{message}: nnU-Net numbers channels, an archive names them ({', '.join(card.channel_names)})"
    return message


def _marksheet_cases(archive: Path) -> set[str]:
    """The cases that the marksheet names; none where it names them in other columns."""
    path = archive / MARKSHEET
    if not path.is_file():
        return set()
    try:
        _, rows = read_marksheet(path, ())
    except OncoduetError:  # reported where the marksheet is needed
        return set()
    return set(rows)
