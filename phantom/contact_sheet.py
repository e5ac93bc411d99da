"""The sample sheet: studies of a phantom archive, one per row, one channel per column.

Rows: a negative study with a distractor, then one positive study of each visibility; every row is the slice that shows
most of it. All channels are resampled to the reference channel's grid, with the lesion's outline on the reference and a
thin one of the organ that the card locates first. The patient's right is on the left and the front above, for any
orientation of the files.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contract.archive.studies import Study, find_studies
from contract.card import Card, Channel
from contract.errors import OncoduetError
from contract.file_stamps import glance
from contract.files.reading import below
from contract.images.volume import Volume, read_grid, read_label, read_volume, resample
from contract.outputs import file_output, require_apart
from phantom.generators import Generator, generator_for

Row = Mapping[str, str]  # of the marksheet

_INK, _PAPER, _OUTLINE, _ORGAN = "#1b1b1b", "#ffffff", "#ffb000", "#4fb3ff"
_CELL_INCHES = 2.35


@dataclass(frozen=True)
class _Kind:
    """One row of the sheet."""

    title: str
    wanted: Callable[[Row], bool]


_KINDS = (
    _Kind("negative,\nwith distractors", lambda row: row["visibility"] == "none" and row["distractors"] != ""),
    _Kind("positive,\nobvious", lambda row: row["visibility"] == "obvious"),
    _Kind("positive,\nlow contrast", lambda row: row["visibility"] == "low-contrast"),
    _Kind("positive,\ninvisible", lambda row: row["visibility"] == "invisible"),
)


def draw_sheet(card: Card, archive: Path, output: Path) -> None:
    """Draw the sample sheet of a phantom archive as PNG.

    Raises ``OncoduetError``: no generator makes the card's channels; there is no marksheet of a phantom archive; labels
    were shuffled; a kind of study is missing; the output is a file not written by oncoduet or in the archive.
    """
    generator = generator_for(card)
    require_apart(output, archive=archive)
    rows = _read_marksheet(archive)
    studies = {study.case_id: study for study in find_studies(archive, card, labels_required=True)}
    place = file_output(output, "phantom sheet", card=card.sha256, archive=glance(archive, below(archive)))
    place.check()
    chosen = [_best(kind, rows, archive, generator) for kind in _KINDS]
    columns = [*(channel.name.upper() for channel in card.channels), "truth"]
    widest = max(_width_over_height(studies[_case_id(row)], card) for row in chosen)
    figure = Figure(
        figsize=(_CELL_INCHES * widest * len(columns) + 1.4, _CELL_INCHES * len(_KINDS) + 0.5), facecolor=_PAPER
    )
    axes = figure.subplots(
        len(_KINDS),
        len(columns),
        squeeze=False,
        gridspec_kw={"left": 0.125, "right": 0.995, "bottom": 0.005, "top": 0.955, "wspace": 0.03, "hspace": 0.03},
    )
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=12, color=_INK)
    for kind, row, line in zip(_KINDS, chosen, axes, strict=True):
        _draw_row(card, studies[_case_id(row)], row, kind, line)
    with place.staged() as stage:
        figure.savefig(stage / output.name, format="png", dpi=84, metadata={"Software": None})


def _draw_row(card: Card, study: Study, row: Row, kind: _Kind, axes: Sequence[Axes]) -> None:
    generator = generator_for(card)
    reference = read_volume(study.channels[card.geometry.reference])
    values = np.zeros(reference.array.shape) if study.label is None else read_label(study.label).array
    label = upright(Volume(values, reference.grid))
    truth = np.isin(label, card.lesion_values)
    organ = np.isin(label, card.localisation.values if card.localisation is not None else ())
    z = _slice_to_show(row, truth, generator)
    _, spacing_y, spacing_x = reference.grid.spacing_mm_zyx
    for axis, channel in zip(axes, [*card.channels, None], strict=True):
        shown = channel or next(each for each in card.channels if each.name == card.geometry.reference)
        image = upright(_on_grid(read_volume(study.channels[shown.name]), reference)).astype(np.float32)
        low, high = _window(shown, image, generator)
        axis.imshow(image[z], cmap="gray", vmin=low, vmax=high, aspect=spacing_y / spacing_x, interpolation="bicubic")
        for region, colour, width in ((organ, _ORGAN, 0.8), (truth, _OUTLINE, 1.6)):
            if channel is None and region[z].any():
                axis.contour(region[z], [0.5], colors=colour, linewidths=width)
        axis.set_xticks([])
        axis.set_yticks([])
    volumes, distractors = row["lesion_volumes_ml"].replace(";", " + "), row["distractors"].replace(";", ",\n")
    facts = f"{volumes} mL" if volumes else distractors
    axes[0].set_ylabel(f"{kind.title}\n{facts}", fontsize=10, color=_INK, rotation=0, ha="right", va="center")


def _best(kind: _Kind, rows: Sequence[Row], archive: Path, generator: Generator) -> Row:
    """The study of this kind whose lesion is of typical size or, among negative ones, that most invites a mistake."""
    found = [row for row in rows if kind.wanted(row)]
    if not found:
        title = kind.title.replace("\n", " ")
        raise OncoduetError(archive / "marksheet.csv", f"no study of the kind '{title}'")
    return min(
        found,
        key=lambda row: (
            abs(_largest_ml(row) - generator.shown_volume_ml),
            -row["distractors"].count(generator.shown_distractor),
        ),
    )


def _largest_ml(row: Row) -> float:
    return max((float(volume) for volume in row["lesion_volumes_ml"].split(";") if volume), default=0.0)


def _slice_to_show(row: Row, truth: npt.NDArray[np.bool_], generator: Generator) -> int:
    if truth.any():
        return int(truth.sum(axis=(1, 2)).argmax())
    kinds, slices = row["distractors"].split(";"), row["distractor_slices"].split(";")
    wanted = generator.shown_distractor
    return int(slices[kinds.index(wanted)] if wanted in kinds else slices[0])


def _window(channel: Channel, image: npt.NDArray[np.float32], generator: Generator) -> tuple[float, float]:
    """Values shown as black and white: fixed for a channel with a unit, the image's own range for others."""
    return generator.windows_by_channel.get(channel.name, (0.0, float(np.percentile(image, 99.7))))


def _on_grid(volume: Volume, reference: Volume) -> Volume:
    return resample(volume, reference.grid, interpolation="linear", outside=0.0)


def upright(volume: Volume) -> npt.NDArray[np.generic]:
    """The array with the axes flipped that run to the right, to the front or to the feet; phantoms exchange none."""
    axes = np.diag(np.array(volume.grid.direction).reshape(3, 3))
    return np.flip(volume.array, tuple(2 - axis for axis in range(3) if axes[axis] < 0))


def _width_over_height(study: Study, card: Card) -> float:
    _, height, width = read_grid(study.channels[card.geometry.reference]).extent_mm_zyx
    return width / height


def _case_id(row: Row) -> str:
    return f"{row['patient_id']}_{row['study_id']}"


def _read_marksheet(archive: Path) -> list[Row]:
    path = archive / "marksheet.csv"
    needed = {"visibility", "distractors", "distractor_slices", "lesion_volumes_ml", "label_from"}
    if not path.is_file():
        raise OncoduetError(path, "marksheet of a phantom archive not found")
    with path.open(encoding="utf-8", newline="") as stream:
        rows: list[Row] = list(csv.DictReader(stream))
    missing = sorted(needed - set(rows[0] if rows else ()))
    if missing:
        raise OncoduetError(path, f"columns of a phantom archive are missing: {', '.join(missing)}")
    if any(row["label_from"] != _case_id(row) for row in rows):
        raise OncoduetError(path, expected="each study's own truth", found="shuffled labels")
    return rows
