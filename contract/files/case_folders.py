"""Folders with one image per case: which case a file belongs to, and images one folder deeper, which would not be read.

Case ids are compared in Unicode's form NFC, since macOS and Linux write ``ü`` differently. Files that begin with ``.``
(macOS writes ``._CASE.mha``) are ignored.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from contract.errors import OncoduetError
from contract.files.reading import inside

LOOKS_LIKE_IMAGE = re.compile(r"\.(mha|mhd|nii|nii\.gz|nrrd|nhdr|hdr|img)$", re.IGNORECASE)
"""Endings of images, including formats that are not read."""


def case_name(text: str) -> str:
    """A case id as it is compared: in NFC."""
    return unicodedata.normalize("NFC", text)


def require_none_below(folder: Path, known: Collection[str], *, asked: Collection[str] | None, skip: str = "") -> None:
    """Raise ``OncoduetError`` where a sub-folder has an image of a case that is not ``known``.

    Parameters
    ----------
    known
        Cases that were found directly in the folder.
    asked
        Cases that are needed; None: all.
    skip
        Name of a sub-folder that is ignored.
    """
    for path in _images_below(folder, skip):
        stem = case_name(LOOKS_LIKE_IMAGE.sub("", path.name))
        if case_of(stem, known) is None and (asked is None or case_of(stem, asked) is not None):
            raise OncoduetError(path, f"image in a sub-folder; expected the images of all cases directly in {folder}")


def visible(folder: Path) -> list[Path]:
    """A folder's entries without hidden ones and litter, sorted."""
    return inside(folder, "[!.]*")


def case_of(stem: str, case_ids: Collection[str]) -> str | None:
    """The case whose id a name begins with, up to its end or a ``_``."""
    while stem not in case_ids:
        stem, parted, _ = stem.rpartition("_")
        if not parted:
            return None
    return stem


def _images_below(folder: Path, skip: str) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for top in visible(folder):
        if top.is_dir() and top.name != skip:
            for place, inner, names in os.walk(top, onerror=refuse):
                inner[:] = sorted(name for name in inner if not name.startswith("."))
                for name in sorted(names):
                    if LOOKS_LIKE_IMAGE.search(name) and not name.startswith("."):
                        yield Path(place, name)
