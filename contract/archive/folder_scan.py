"""The files of an archive: the images that are read, and everything that only looks like one.

An image is read if its path is exactly ``<patient>/<patient>_<study>_<channel>`` with one of our endings. A study whose
files have another ending, spelling or place would otherwise be left out silently, as would a folder that cannot be
listed (``Path.glob`` ignores it) and a dangling link.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import OncoduetError, problem_of
from contract.files.case_folders import case_name

ENDINGS = (".mha", ".nii.gz", ".nii")
"""File name endings of images that are read."""
LABELS, LABEL_ENDING = "labels", ".nii.gz"
DEEPEST = 5
"""Depth to which folders of the archive are scanned."""

_LOST_AND_FOUND = "lost+found"  # made by file systems
_IMAGE = re.compile(r"(.+)(\.(?:mha|mhd|nii|nii\.gz|nrrd|nhdr|hdr|dcm|npz))", re.IGNORECASE)
_CHANNEL = re.compile(r"(?:(.*)[_.\- ])?([^_.\- ]+)")
_NNUNET = re.compile(r"(.+)_(\d{4})")


@dataclass
class ArchiveFiles:
    """Files of an archive by the case ids in their names, which are in NFC."""

    images: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    """Images by case id and channel; several where a channel is duplicated."""
    strays: dict[str, list[Path]] = field(default_factory=dict)
    """Images that look like a channel but have another name or place, by case id."""
    others: dict[Path, list[Path]] = field(default_factory=dict)
    """Image-like files in folders without a study image, by folder."""
    labels: dict[str, Path] = field(default_factory=dict)
    """Label maps by case id."""
    unread_labels: list[Path] = field(default_factory=list)
    """Images in the folder of label maps with another name or place."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Why a folder or link could not be read, by path relative to the archive."""
    deeper: list[str] = field(default_factory=list)
    """Folders too deep to be scanned, as paths relative to the archive."""


def seeming_stem(name: str) -> str | None:
    """A file name without its ending if that is an image's, including formats that are not read; else None."""
    image = None if name.startswith(".") else _IMAGE.fullmatch(name)
    return image and image[1]


def look(archive: Path, channels: Sequence[str]) -> ArchiveFiles:
    """Scan all folders of an archive. Raises ``OncoduetError``: there is no folder, or it cannot be listed."""
    if not archive.is_dir():
        raise OncoduetError(archive, "archive not found")
    files = ArchiveFiles()
    others: dict[Path, list[Path]] = {}
    for path in _walk(archive, archive, files):
        relative = path.relative_to(archive)
        if relative.parts[0] == LABELS:
            if len(relative.parts) == 2 and path.name.endswith(LABEL_ENDING):
                if files.labels.setdefault(case_name(path.name.removesuffix(LABEL_ENDING)), path) != path:
                    files.unknown[str(relative)] = (
                        "another label map has this name with its accents encoded differently"
                    )
            elif _IMAGE.fullmatch(path.name):
                files.unread_labels.append(path)
            continue
        case_id, channel = _named(case_name(path.name), channels)
        if channel and len(relative.parts) == 2:
            files.images.setdefault(case_id, {}).setdefault(channel, []).append(path)
        elif (seeming := _seeming_case(path, channels)) is not None:
            files.strays.setdefault(case_name(seeming), []).append(path)
        elif _IMAGE.fullmatch(path.name):
            others.setdefault(path.parent, []).append(path)
    holding = {path.parent for channels_of in files.images.values() for paths in channels_of.values() for path in paths}
    files.others = {folder: paths for folder, paths in others.items() if folder not in holding}
    if str(archive) in files.unknown:
        raise OncoduetError(archive, f"cannot be listed: {files.unknown[str(archive)]}")
    return files


def _walk(archive: Path, folder: Path, files: ArchiveFiles) -> Iterator[Path]:
    """Every file below a folder except hidden ones, in order; unread folders are recorded in ``files``."""
    unknown = files.unknown
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        unknown[str(folder if folder == archive else folder.relative_to(archive))] = problem_of(error)
        return
    for entry in inside:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name == _LOST_AND_FOUND:  # macOS leaves such files
            continue
        try:
            is_folder = entry.is_dir()
            leads_nowhere = entry.is_symlink() and not path.exists()
        except OSError as error:
            unknown[str(path.relative_to(archive))] = problem_of(error)
            continue
        if is_folder and len(path.relative_to(archive).parts) > DEEPEST:
            files.deeper.append(str(path.relative_to(archive)))
        elif is_folder:
            yield from _walk(archive, path, files)
        elif leads_nowhere and not _IMAGE.fullmatch(entry.name):
            unknown[str(path.relative_to(archive))] = "dangling link"
        elif not is_folder:
            yield path


def _named(name: str, channels: Sequence[str]) -> tuple[str, str]:
    """Case id and channel of a correct file name, else two empty texts."""
    for ending in ENDINGS:
        if name.endswith(ending):
            case_id, _, channel = name.removesuffix(ending).rpartition("_")
            return (case_id, channel) if case_id and channel in channels else ("", "")
    return "", ""


def _seeming_case(path: Path, channels: Sequence[str]) -> str | None:
    """The case whose image this seems to be, or None."""
    image = _IMAGE.fullmatch(path.name)
    if image is None:
        return None
    numbered = _NNUNET.fullmatch(image[1])
    if numbered and int(numbered[2]) < len(channels):
        return numbered[1]
    named = _CHANNEL.fullmatch(image[1])
    if named and named[2].lower() in channels:
        return named[1] or path.parent.name
    return None
