"""The worst misses, as pictures: lesions that the fewest runs found, on the image.

Where the images are available, ``compare --archive DIR --predictions DIR…`` adds them to the report. A picture is
the reference channel in the slice where the lesion is largest, with the outline of the truth and the mean detection map
over the runs. It names the case and nothing else.

The lesions that most runs missed come first; ties are ordered by the mean likelihood of the case, the lowest first.
"""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contract.archive.folder_scan import ENDINGS
from contract.card import Card, card_names, load_card
from contract.errors import OncoduetError
from contract.files.reading import inside
from contract.images.grid import require_same_grid
from contract.images.volume import read_volume
from contract.records import Source
from contract.text import first_few, short_hash
from evaluation.inputs.one_case import read_one
from evaluation.inputs.predictions import PredictionSet, find_prediction_sets
from evaluation.inputs.truth import TruthFolder, find_truth
from evaluation.masks.sparse_image import open_image, read_confidences
from evaluation.matching import strict
from evaluation.matching.cases import LesionTruth, MatchingRule
from evaluation.metrics.outcomes import FloatArray
from evaluation.metrics.scored_run import ScoredRun

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MOST_PICTURES = 6
"""Most pictures in the report."""
_CASES = 2 * MOST_PICTURES
_SIDE_MM = 90.0  # of a picture, or twice the lesion where that is more
_OUTLINE = "#ffd400"
_MAP_RGB = (1.0, 0.35, 0.12)
_MAP_OPACITY = 0.65  # where every run is sure

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Miss:
    """One lesion that runs missed, and a picture's arrays (y, x), cropped around it."""

    case_id: str
    lesion: int
    """Number in the case, from 1, as in ``--explain``."""
    volume_ml: float
    missed: int
    runs: int
    slice_number: int
    """Number of the slice along z, from 1."""
    spacing_mm_yx: tuple[float, float]
    image: Image
    truth: Mask
    detection: Image
    """Mean detection map over the runs."""


def find_misses(runs: Sequence[ScoredRun], archive: Path, predictions: Sequence[Path]) -> list[Miss]:
    """Find the worst misses of the scored runs whose predictions are given.

    Parameters
    ----------
    runs
        Compared runs.
    archive
        Images as ``<patient>/<patient>_<study>_<channel>.mha`` and label maps, as for ``algorithm batch``.
    predictions
        Scored predictions: batch outputs, or folders of such.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.inputs.predictions.find_prediction_sets`; no predictions are those of a scored run, or they
        changed since they were scored; they name no card, or an image is missing, unreadable or on another grid than
        its label map.
    """
    truth = find_truth(archive)
    known = runs[0].truth
    if set(known.case_ids) != set(truth.label_maps):
        raise OncoduetError(
            archive,
            f"its {len(truth.label_maps)} label maps are not those of the {len(known.case_ids)} scored cases",
        )
    found = _predictions_of(runs, truth, predictions)
    card = found[0].card or found[0].claimed
    if card is None:
        raise OncoduetError(found[0].folder, "the predictions name no card")
    _require_scored(found, runs)
    worst = [
        (-missed, place, case_id, lesion)
        for place, case_id in enumerate(_worst_cases(runs))
        for lesion, missed in enumerate(_missed_by_lesion(case_id, found, truth))
        if missed
    ]
    misses = []
    for negative, _, case_id, lesion in sorted(worst)[:MOST_PICTURES]:
        of_case = truth.case(case_id, MatchingRule.of(found[0].card))
        image = _image(archive, case_id, card.geometry.reference, of_case)
        misses.append(_picture(case_id, lesion, image, of_case, found, missed=-negative))
        _log.info("%s, lesion %d: missed by %d of %d runs", case_id, lesion + 1, -negative, len(found))
    return misses


def draw_misses(misses: Sequence[Miss]) -> bytes:
    """Draw the pictures side by side as one PNG."""
    columns = 3
    rows = -(-len(misses) // columns)
    figure = Figure(figsize=(9.0, 3.35 * rows))
    for place, miss in enumerate(misses):
        axes = figure.add_axes(
            (
                (place % columns + 0.02) / columns,
                (rows - 1 - place // columns + 0.02) / rows,
                0.96 / columns,
                0.84 / rows,
            )
        )
        _draw(axes, miss)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    return stream.getvalue()


def describe_misses(misses: Sequence[Miss]) -> str:
    """Alternative text of the pictures."""
    said = [f"{each.case_id} lesion {each.lesion}, missed by {each.missed} of {each.runs} runs" for each in misses]
    return f"Lesions that the fewest runs found: {'; '.join(said)}."


def _predictions_of(runs: Sequence[ScoredRun], truth: TruthFolder, predictions: Sequence[Path]) -> list[PredictionSet]:
    scored = {_mark(run.source): run.name for run in runs}
    found: dict[str, PredictionSet] = {}
    card = _scoring_card(runs[0], truth, predictions)
    for folder in predictions:
        for run in find_prediction_sets(folder, truth, card=card, on_missing="worst"):
            name = None if run.source is None else scored.get(_mark(run.source))
            if name is not None:
                found[name] = run
    if not found:
        where = ", ".join(map(str, predictions))
        raise OncoduetError(where, "no predictions of the scored runs (by source.json)")
    if others := sorted({*scored.values()} - {*found}):
        _log.warning("misses are those of %d of %d scored runs, without %s", len(found), len(scored), first_few(others))
    return [found[name] for name in sorted(found)]


def _require_scored(given: Sequence[PredictionSet], runs: Sequence[ScoredRun]) -> None:
    """Raise ``OncoduetError`` unless predictions are those that were scored, to the byte."""
    scored = {_mark(run.source): run.parents.get("predictions") for run in runs}
    for each in given:
        expected = None if each.source is None else scored[_mark(each.source)]
        found = each.sha256()
        if expected is not None and found != expected:
            raise OncoduetError(
                each.folder,
                expected=f"the predictions that were scored ({short_hash(expected)})",
                found=short_hash(found),
            )


def _scoring_card(run: ScoredRun, truth: TruthFolder, predictions: Sequence[Path]) -> Card | None:
    """The card that scored, by its hash: the truth's, one of the project's, or one that came with predictions."""
    sha256 = run.parents.get("scoring_card")
    if sha256 is None:
        return None
    cards = [
        path
        for folder in predictions
        for path in (folder / "card.toml", *(each / "card.toml" for each in inside(folder)))
    ]
    known = [truth.card, *map(load_card, card_names()), *(load_card(path) for path in cards if path.is_file())]
    card = next((each for each in known if each is not None and each.sha256 == sha256), None)
    if card is None:
        raise OncoduetError(truth.folder, f"card.toml of the card that scored ({short_hash(sha256)}) not found")
    return card


def _mark(source: Source) -> tuple[str, ...]:
    return source.configuration, *source.runs


def _worst_cases(runs: Sequence[ScoredRun]) -> list[str]:
    """Cases with missed lesions, the worst first."""
    truth = runs[0].truth
    hits = np.zeros(len(truth.case_ids))
    for run in runs:
        hits += np.bincount(run.outcome.candidate_case[run.outcome.hit], minlength=hits.size)
    likelihood: FloatArray = np.mean([run.outcome.likelihood for run in runs], axis=0)
    missed = np.minimum(truth.lesions * len(runs) - hits, len(runs))
    cases = np.flatnonzero(missed > 0)
    order = cases[np.lexsort((cases, likelihood[cases], -missed[cases]))]
    return [truth.case_ids[case] for case in order[:_CASES]]


def _missed_by_lesion(case_id: str, runs: Sequence[PredictionSet], truth: TruthFolder) -> list[int]:
    """How many runs missed each lesion of a case."""
    missed: Counter[int] = Counter()
    lesions = 0
    for run in runs:
        case, _ = read_one(run, truth, case_id)
        lesions = len(case.lesions)
        findings = strict.match(case, MatchingRule.of(run.card))
        missed.update(each.lesion for each in findings if each.kind == "fn" and each.lesion is not None)
    return [missed[lesion] for lesion in range(lesions)]


def _image(archive: Path, case_id: str, channel: str, truth: LesionTruth) -> Image:
    names = [f"{case_id}_{channel}{ending}" for ending in ENDINGS]
    places = (folder / name for folder in inside(archive) for name in names)
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise OncoduetError(archive / "*" / names[0], "image not found")
    volume = read_volume(path)
    require_same_grid(volume.grid, truth.grid, found_name=str(path), expected_name=str(truth.path))
    return volume.array.astype(np.float32)


def _picture(
    case_id: str, lesion: int, image: Image, truth: LesionTruth, runs: Sequence[PredictionSet], *, missed: int
) -> Miss:
    shape = truth.grid.shape_zyx
    z, y, x = np.unravel_index(truth.lesions.voxels[truth.lesions.owners == lesion], shape)
    slice_number = int(np.bincount(z).argmax())
    _, *spacing = truth.grid.spacing_mm_zyx
    inside = z == slice_number
    window = tuple(
        _window(place[inside], step, length) for place, step, length in zip((y, x), spacing, shape[1:], strict=True)
    )
    outlined = _slice(truth.lesions.voxels, np.ones(truth.lesions.voxels.size, dtype=np.float32), shape, slice_number)
    maps = np.zeros(shape[1:], dtype=np.float32)
    for run in runs:
        prediction = run.predictions.get(case_id)
        if prediction is not None:
            confidence = read_confidences(open_image(prediction.detection_map))
            maps += _slice(confidence.voxels, confidence.values.astype(np.float32), shape, slice_number)
    return Miss(
        case_id=case_id,
        lesion=lesion + 1,
        volume_ml=float(truth.lesions.sizes[lesion]) * truth.grid.voxel_volume_ml,
        missed=missed,
        runs=len(runs),
        slice_number=slice_number + 1,
        spacing_mm_yx=(spacing[0], spacing[1]),
        image=image[slice_number][window],
        truth=outlined[window] > 0,
        detection=(maps[window] / len(runs)).astype(np.float32),
    )


def _slice(voxels: npt.NDArray[np.int64], values: Image, shape: tuple[int, int, int], number: int) -> Image:
    _, height, width = shape
    first, last = np.searchsorted(voxels, [number * height * width, (number + 1) * height * width])
    plane = np.zeros(height * width, dtype=np.float32)
    plane[voxels[first:last] - number * height * width] = values[first:last]
    return plane.reshape(height, width)


def _window(place: npt.NDArray[np.int64], spacing_mm: float, length: int) -> slice:
    """Along one axis: a fixed width around the lesion, moved into the image where it would leave it."""
    extent = int(np.ptp(place)) + 1
    width = min(length, max(2 * extent, round(_SIDE_MM / spacing_mm)))
    first = min(max(0, (int(place.min()) + int(place.max())) // 2 - width // 2), length - width)
    return slice(first, first + width)


def _draw(axes: Axes, miss: Miss) -> None:
    low, high = np.percentile(miss.image, [1, 99.5])
    height, width = (n * step for n, step in zip(miss.image.shape, miss.spacing_mm_yx, strict=True))
    extent = (0.0, width, height, 0.0)
    axes.imshow(miss.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent, interpolation="bilinear")
    shown = np.zeros((*miss.detection.shape, 4))
    shown[..., :3] = _MAP_RGB
    shown[..., 3] = _MAP_OPACITY * np.clip(miss.detection, 0, 1)
    axes.imshow(shown, extent=extent, interpolation="nearest")
    ys, xs = ((np.arange(n) + 0.5) * step for n, step in zip(miss.truth.shape, miss.spacing_mm_yx, strict=True))
    axes.contour(xs, ys, miss.truth.astype(float), levels=[0.5], colors=[_OUTLINE], linewidths=1.3)
    axes.set_axis_off()
    axes.set_title(
        f"{miss.case_id}, lesion {miss.lesion}\n"
        f"missed by {miss.missed} of {miss.runs} · {miss.volume_ml:.2f} mL · slice {miss.slice_number}",
        fontsize=8.5,
        loc="left",
        pad=4,
        parse_math=False,  # a $ in a name is a $
    )
