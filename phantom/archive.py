"""Write a phantom archive: studies, label maps, a marksheet with the truth, and the record of its origin.

One generator per case, spawned from seed, population and index: a case is the same in an archive of any length. With
shuffled labels every study carries another study's lesions, elsewhere, so that nothing can be learned: the control.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import write_text
from contract.images.volume import Volume, write_volume
from contract.outputs import Output
from contract.records import Record, write_record
from phantom.cohort import POPULATIONS, CasePlan, Population, draw_phases, plan_case, positives_before
from phantom.generators import generator_for
from phantom.study import LabelValues, PhantomStudy

DATA_LICENCE = "CC0-1.0"
_MARKSHEET, _RECORD = "marksheet.csv", "archive.json"
_FIRST_PATIENT: Mapping[Population, int] = {"training": 10000, "external": 50000}
_FIRST_STUDY = 1000000
MOST_CASES = _FIRST_PATIENT["external"] - _FIRST_PATIENT["training"]
"""Limit of one archive: with more, training patients would get the numbers of external ones."""
_COHORT, _CASE, _SHUFFLE = range(3)  # streams of one seed


@dataclass(frozen=True)
class Order:
    """The archive to be written."""

    card: Card
    cases: int
    positive_fraction: Fraction
    seed: int
    population: Population = "training"
    shuffle_labels: bool = False

    def patient_id(self, index: int) -> str:
        """The patient's number; the populations have different ones."""
        return str(_FIRST_PATIENT[self.population] + index)

    def study_id(self, index: int) -> str:
        """The study's number; every patient has one study."""
        return str(_FIRST_STUDY + index)

    def case_id(self, index: int) -> str:
        """``<patient>_<study>``."""
        return f"{self.patient_id(index)}_{self.study_id(index)}"


class ArchiveRecord(Record):
    """``archive.json``."""

    data_licence: str
    card: str
    card_sha256: str
    cases: int
    positive_cases: int
    positive_fraction: float
    seed: int
    population: Population
    shuffled_labels: bool
    """Whether the truth is another patient's, elsewhere (the control); the marksheet's ``label_from`` says whose."""


@dataclass(frozen=True)
class _Written:
    """What is kept of a study once its images are on disk; its truth may be given to another study."""

    case_id: str
    label: Volume
    organs: npt.NDArray[np.uint8]
    truth: Mapping[str, str]
    facts: Mapping[str, str]


def write_archive(order: Order, output: Path, *, on_case: Callable[[], None] = lambda: None) -> None:
    """Write the ordered archive into a folder: all of it or nothing.

    Raises ``OncoduetError``: no generator makes the card's channels; there are no cases or too many; the folder already
    holds other patients, another archive, or files not written by oncoduet; there is nothing to shuffle.

    Parameters
    ----------
    on_case
        Called after each study, for a progress display.
    """
    generator = generator_for(order.card)
    if not 1 <= order.cases <= MOST_CASES:
        raise OncoduetError("--cases", expected=f"1 to {MOST_CASES}", found=order.cases)
    if order.shuffle_labels and order.cases < 2:
        raise OncoduetError("shuffled labels", expected="at least 2 cases to exchange", found=order.cases)
    record = _record(order)
    _require_no_strangers(output, {order.patient_id(index) for index in range(order.cases)})
    place = Output(
        output,
        "phantom",
        [*map(_label_file, _case_ids(order)), *_image_files(order), _MARKSHEET, _RECORD],
        identity=record.model_dump(mode="json", exclude={"schema_version", "written_by", "parents"}),
        record=_RECORD,
    )
    with place.staged() as stage:
        written = []
        for plan, study in draw_studies(order):
            written.append(_write_images(stage, order, plan, study, generator.case_column))
            on_case()
        shuffle = _rng(order, _SHUFFLE)
        sources = derangement(len(written), shuffle) if order.shuffle_labels else range(len(written))
        rows = []
        for index, source in enumerate(sources):
            case, truth = written[index], written[source]
            label = case.label.array
            if order.shuffle_labels:
                lesions = np.where(np.isin(truth.label.array, order.card.lesion_values), truth.label.array, 0)
                label = with_lesions_elsewhere(case.organs, lesions, shuffle)
            write_volume(stage / _label_file(case.case_id), Volume(label, case.label.grid))
            identity = {"patient_id": order.patient_id(index), "study_id": order.study_id(index)}
            center = {"center": f"phantom-{order.population}"}
            rows.append({**identity, **truth.truth, **case.facts, **center, "label_from": truth.case_id})
        write_text(stage / _MARKSHEET, _table(rows))
        write_record(stage / _RECORD, record)


def draw_studies(order: Order) -> Iterator[tuple[CasePlan, PhantomStudy]]:
    """Draw the order's studies one by one, each with its own truth (nothing is shuffled here)."""
    generator = generator_for(order.card)
    phases = draw_phases(_rng(order, _COHORT))
    for index in range(order.cases):
        plan = plan_case(index, positive_fraction=order.positive_fraction, phases=phases, volumes=generator.volumes)
        yield (
            plan,
            generator.draw(
                plan=plan, population=order.population, values=LabelValues.of(order.card), rng=case_rng(order, index)
            ),
        )


def derangement(count: int, rng: np.random.Generator) -> Sequence[int]:
    """A random cyclic permutation: none keeps its own (Sattolo, 1986)."""
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(rng.integers(last))
        order[last], order[other] = order[other], order[last]
    return order


def with_lesions_elsewhere(
    organs: npt.NDArray[np.uint8], lesions: npt.NDArray[np.generic], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Paint another study's lesions into a label map, moved by a random distance along each axis.

    What leaves the map comes back on the other side. Exchanging lesions is not enough for a control. Those of all
    patients are in the same zones, so a network that sees patches takes lesion-like tissue for a sign of the place
    where maps have lesions, and ranks patients well. After the move every place is as likely as any other, inside an
    organ or not. Organs stay with their patient, since a chain that locates one first still has to find it.

    Parameters
    ----------
    organs
        The study's own label map without its own lesions, shape (z, y, x).
    lesions
        The other study's lesions, 0 elsewhere; its shape may be another, voxels are moved and not resampled.
    """
    moved = organs.copy()
    shift = [int(rng.integers(length)) for length in organs.shape]
    places = np.nonzero(lesions)
    wrapped = tuple((place + step) % length for place, step, length in zip(places, shift, organs.shape, strict=True))
    moved[wrapped] = lesions[places]
    return moved


def case_rng(order: Order, index: int) -> np.random.Generator:
    """The generator of one case, the same in an archive of any length."""
    return _rng(order, _CASE, index)


def _rng(order: Order, *stream: int) -> np.random.Generator:
    key = (POPULATIONS.index(order.population), *stream)
    return np.random.default_rng(np.random.SeedSequence(order.seed, spawn_key=key))


def _write_images(stage: Path, order: Order, plan: CasePlan, study: PhantomStudy, case_column: str) -> _Written:
    case_id = order.case_id(plan.index)
    for channel, volume in study.channels.items():
        write_volume(stage / _image_file(order, plan.index, channel), volume)
    truth = {
        case_column: "YES" if plan.positive else "NO",
        "lesions": str(len(study.lesions)),
        "lesion_volumes_ml": ";".join(f"{lesion.volume_ml:.2f}" for lesion in study.lesions),
        "lesion_zones": ";".join(lesion.zone for lesion in study.lesions),
        "visibility": plan.visibility,
        "conspicuity": f"{plan.conspicuity:.2f}",
    }
    facts = {name: str(value) for name, value in study.facts.items()}
    return _Written(case_id, study.label, study.organs, truth, facts)


def _case_ids(order: Order) -> list[str]:
    return [order.case_id(index) for index in range(order.cases)]


def _image_files(order: Order) -> list[str]:
    return [_image_file(order, index, name) for index in range(order.cases) for name in order.card.channel_names]


def _image_file(order: Order, index: int, channel: str) -> str:
    return f"{order.patient_id(index)}/{order.case_id(index)}_{channel}.mha"


def _label_file(case_id: str) -> str:
    return f"labels/{case_id}.nii.gz"


def _require_no_strangers(output: Path, patients: set[str]) -> None:
    """Refuse a folder with other patients, who would stay among the new ones."""
    if not output.is_dir():
        return
    folders = {entry.name for entry in output.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    strangers = sorted(folders - patients - {"labels"})
    if strangers:
        raise OncoduetError(output, expected="no other patients in it", found=f"{len(strangers)} ({strangers[0]} …)")


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _record(order: Order) -> ArchiveRecord:
    return ArchiveRecord(
        data_licence=DATA_LICENCE,
        card=order.card.name,
        card_sha256=order.card.sha256,
        cases=order.cases,
        positive_cases=positives_before(order.cases, order.positive_fraction),
        positive_fraction=float(order.positive_fraction),
        seed=order.seed,
        population=order.population,
        shuffled_labels=order.shuffle_labels,
    )
