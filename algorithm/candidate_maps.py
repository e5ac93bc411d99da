"""Detection maps from finished probability maps, of any tool: ``CASE.mha`` or ``CASE.nii.gz`` in, ``CASE.mha`` out.

Each map gets its case likelihood, ``CASE.json``; without a card it is the detection map's maximum.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from algorithm.outputs.candidates import Rule, card_likelihood, extract_candidates, paint_candidates
from contract.archive.folder_scan import seeming_stem
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.case_folders import case_name, require_none_below
from contract.files.reading import inside, sha256_file, sha256_json
from contract.images.probability import UNDERSHOOT, as_probabilities
from contract.images.volume import Volume, image_stem, is_image, read_volume, write_volume
from contract.images.whole_image import read_header
from contract.names import require_case_id
from contract.outputs import Output, require_apart
from contract.process.progress import Track
from contract.records import Source, read_record, write_record
from contract.text import first_few

DEFAULT_RULE: Rule = "dynamic-v2"


def detect_in_maps(*, probability: Path, output: Path, rule: Rule | None, card: Card | None, track: Track) -> None:
    """Cut candidates from every map of a folder.

    Raises ``OncoduetError``: there is no map, two maps of one case, one in a sub-folder, one that is unreadable, or one
    whose values are labels or otherwise no probabilities; the output is the input, or holds files not written by
    oncoduet or of other cases. Nothing was written.

    Parameters
    ----------
    probability
        Folder of maps; a ``source.json`` there is handed on.
    rule
        None: the card's, or without a card ``dynamic-v2``.
    card
        Gives the limits of the search and the likelihood of a case without candidates.
    """
    require_apart(output, probability=probability)
    if rule is None:
        rule = card.candidates.rule if card else DEFAULT_RULE
    limits = (
        {} if card is None else {"maximum": card.candidates.maximum, "minimum_voxels": card.candidates.minimum_voxels}
    )
    paths = _find_maps(probability)
    cases = [image_stem(path) for path in paths]
    has_source = (probability / "source.json").is_file()
    source = read_record(probability / "source.json", Source) if has_source else None
    place = Output(
        output,
        "algorithm candidates",
        ["source.json", *(f"{case}{suffix}" for case in cases for suffix in (".mha", ".json"))],
        identity={
            "cases": sha256_json(cases),
            "maps": sha256_json([sha256_file(path) for path in paths]),
            "source": sha256_file(probability / "source.json") if source else None,
            "rule": rule,
            "card": None if card is None else card.sha256,
        },
    )
    with place.staged() as stage:
        for path in track(paths):
            volume = read_volume(path)
            array = as_probabilities(np.asarray(volume.array, np.float32), source=path, below=UNDERSHOOT)
            header = read_header(path)
            if np.issubdtype(header.type, np.integer) and not header.is_scaled:
                raise OncoduetError(path, expected="probabilities between 0 and 1", found="whole numbers, as of labels")
            extraction = extract_candidates(array, rule=rule, voxel_volume_ml=volume.grid.voxel_volume_ml, **limits)
            painted = paint_candidates(extraction)
            likelihood = card_likelihood(card, painted, array) if card else float(painted.max())
            write_volume(stage / f"{image_stem(path)}.mha", Volume(painted, volume.grid))
            write_json(stage / f"{image_stem(path)}.json", likelihood)
        if source is not None:
            parents = {**source.parents, "probability": sha256_file(probability / "source.json")}
            handed_on = source.model_dump(exclude={"schema_version", "written_by", "parents", "settings"})
            settings = {**source.settings, "candidate rule": rule}
            write_record(stage / "source.json", Source(**handed_on, parents=parents, settings=settings))


def _find_maps(folder: Path) -> Sequence[Path]:
    paths = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    stems = {image_stem(path) for path in paths}
    others = [
        path.name
        for path in (inside(folder) if folder.is_dir() else ())
        if seeming_stem(path.name) not in {None, *stems}
    ]
    if folder.is_dir():
        require_none_below(folder, {case_name(stem) for stem in stems}, asked=None)
    if others:
        raise OncoduetError(folder, expected="probability maps CASE.mha or CASE.nii.gz", found=first_few(others))
    if not paths:
        raise OncoduetError(folder, "no probability maps CASE.mha or CASE.nii.gz")
    cases: dict[str, Path] = {}
    for path in paths:
        other = cases.setdefault(require_case_id(image_stem(path), path), path)
        if other is not path:
            raise OncoduetError(path, f"duplicate case: {other.name} too")
    return paths
