"""Which files of a folder belong to which case, for truth and predictions alike.

Nothing that looks like part of a case is skipped silently: an image with another ending, a name without the
ending that the others have, a file one folder deeper, a likelihood without its map. Each is refused by name. Files that
begin with ``.`` (macOS writes ``._CASE.mha``) are ignored. Case ids are compared in Unicode's form NFC, since macOS
and Linux write ``ü`` differently.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from contract.errors import OncoduetError
from contract.files.case_folders import LOOKS_LIKE_IMAGE, case_name, case_of, visible
from contract.files.reading import read_json
from contract.images.volume import image_stem, is_image
from contract.names import require_case_id
from contract.text import first_few

_RECORDS = {"predictions.json", "source.json", "batch.json", "failures.json", "settings.json", "archive.json"}

_log = logging.getLogger(__name__)


def images_by_case(folder: Path, ending: str, *, neighbour: str) -> dict[str, Path]:
    """Images of a folder by case id; where some names end in ``ending``, only those, with the ending removed.

    Parameters
    ----------
    neighbour
        Ending of other images that the folder may hold (picai-eval keeps maps and labels in one folder).

    Raises
    ------
    OncoduetError
        Two images have the same case id; one has an ending that we do not read; some names end in ``ending`` and others
        in neither.
    """
    entries = visible(folder)
    images = [(case_name(image_stem(path)), path) for path in entries if is_image(path)]
    unread = [path.name for path in entries if LOOKS_LIKE_IMAGE.search(path.name) and not is_image(path)]
    if unread:
        raise OncoduetError(folder, f"unsupported image format: {first_few(unread, 1)} (use .mha or .nii.gz)")
    if any(stem.endswith(ending) for stem, _ in images):
        others = [path.name for stem, path in images if not stem.endswith((ending, neighbour))]
        if others:
            raise OncoduetError(folder, expected=f"all names to end in {ending}", found=first_few(others, 1))
        images = [(stem.removesuffix(ending), path) for stem, path in images if stem.endswith(ending)]
    found: dict[str, Path] = {}
    for case_id, path in images:
        if case_id in found:
            raise OncoduetError(
                folder, expected=f"one image of {case_id}", found=f"{found[case_id].name} and {path.name}"
            )
        found[require_case_id(case_id, path)] = path
    return dict(sorted(found.items()))


def likelihoods_by_case(folder: Path, maps: Mapping[str, Path]) -> dict[str, Path]:
    """Likelihood files ``CASE.json`` of all cases or of none.

    Raises
    ------
    OncoduetError
        Some maps have a likelihood and others none, for which their maximum would be another scale; a likelihood (by
        its name, or a bare number in JSON) belongs to no map.
    """
    found, strays = {}, []
    for path in visible(folder):
        stem, suffix = case_name(path.stem), path.suffix
        if suffix.lower() != ".json" or path.name in _RECORDS or not path.is_file():
            continue
        if suffix == ".json" and stem in maps:
            found[stem] = path
        else:
            strays.append(path)
    lost = [path.name for path in strays if case_of(case_name(path.stem), maps) or _is_number(path)]
    if lost:
        raise OncoduetError(folder, f"likelihoods without a detection map: {first_few(lost, 1)}")
    lacking = [case_id for case_id in maps if case_id not in found]
    if found and lacking:
        raise OncoduetError(
            folder,
            expected=f"a likelihood CASE.json of all {len(maps)} cases or of none",
            found=f"{first_few([path.name for path in found.values()], 1)}; none for {first_few(lacking, 1)}",
        )
    if strays:
        _log.warning("%s: not read: %s", folder, first_few([path.name for path in strays], 1))
    return found


def folders_of_patients(archive: Path, case_ids: Collection[str]) -> dict[str, str]:
    """The patient of each case whose images are in a patient's folder of an archive and begin with its name."""
    found = {}
    for folder in visible(archive):
        if not folder.is_dir() or folder.name == "labels":
            continue
        for path in visible(folder):
            case_id = case_of(case_name(image_stem(path)), case_ids)
            if case_id is not None and is_image(path) and case_name(path.name).startswith(f"{case_name(folder.name)}_"):
                found[case_id] = case_name(folder.name)
    return found


def _is_number(path: Path) -> bool:
    try:
        return path.stat().st_size < 1000 and isinstance(read_json(path), int | float)
    except OncoduetError:
        return False
