"""Find predictions, in any of their layouts.

A folder is one run's predictions when it holds ``predictions.json`` with a folder per job (the platform's layout, and
what ``algorithm batch`` writes) or plain detection maps ``CASE.mha`` with likelihoods ``CASE.json`` of all of them or
of none. A file ``predictions.csv`` (case_id, likelihood) is a model without detection maps. Otherwise each of a
folder's sub-folders with a ``predictions.json`` or a ``source.json`` is a run of its own.

Predictions never say by which rule they are scored. A card that they bring or name locates a job's outputs; where it
would score this truth by another rule than no card does, scoring is refused until the truth or the command line names a
card.
"""

import itertools
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contract.archive.duplicates import say_alike
from contract.card import Card, card_names, load_card
from contract.errors import OncoduetError
from contract.files.case_folders import case_name, require_none_below
from contract.files.reading import sha256_file, sha256_json
from contract.images.volume import is_image
from contract.outputs import require_as_written, require_unedited
from contract.records import Source, StudyRecord, read_record
from contract.sockets import Job, read_jobs, single_image
from contract.tables import read_table
from contract.text import first_few, short_hash
from evaluation.inputs.case_files import images_by_case, likelihoods_by_case
from evaluation.inputs.truth import OnMissing, TruthFolder
from evaluation.matching.cases import MatchingRule, PredictionFiles

LISTING = "predictions.json"
SOURCE = "source.json"
STUDY = "study.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionSet:
    """The predictions of one model, or of one ensemble, for the cases of a truth folder."""

    folder: Path
    name: str
    """Name of the sub-folder among several runs; empty for a folder that is one run itself."""
    predictions: Mapping[str, PredictionFiles]
    """Files by case id; other cases of the truth are missing."""
    source: Source | None
    card: Card | None
    """The card that scores it; None: every non-zero label is lesion."""
    likelihoods: Mapping[str, float] | None = None
    """Likelihoods by case id, of a model without detection maps; None: see ``predictions``."""
    claimed: Card | None = None
    """The card that the predictions bring or name: it describes their input images, and does not score."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.name or self.folder.resolve().name

    def sha256(self) -> str:
        """Hash of all predictions' bytes, or of the likelihoods of a table, by case id."""
        if self.likelihoods is not None:
            return sha256_json(dict(sorted(self.likelihoods.items())))
        return sha256_json(dict(self.sha256_of))

    @cached_property
    def sha256_of(self) -> Mapping[str, list[str]]:
        """Hashes of each case's detection map and likelihood, by case id."""
        return {
            case_id: [sha256_file(path) for path in (each.detection_map, each.likelihood) if path is not None]
            for case_id, each in sorted(self.predictions.items())
        }


def find_prediction_sets(
    folder: Path, truth: TruthFolder, *, card: Card | None, on_missing: OnMissing
) -> list[PredictionSet]:
    """Find the runs in a folder and match their predictions with the truth's cases.

    The card that scores is ``card`` or else the truth folder's; without either every non-zero label is lesion.

    Raises
    ------
    OncoduetError
        There are no predictions; a listing, card or source is faulty; a case has two predictions, a prediction has no
        truth, or (unless ``on_missing`` is ``worst``) a case has no prediction; predictions claim a card by which this
        truth would be scored otherwise, and no card decides.
    """
    if folder.is_file():
        return [_table(folder, truth, card=card or truth.card, on_missing=on_missing)]
    if not folder.is_dir():
        raise OncoduetError(folder, "folder of predictions not found")
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    inner = [path for path in entries if path.is_dir() and any((path / name).is_file() for name in (LISTING, SOURCE))]
    plain = any(is_image(path) for path in entries)
    if (folder / LISTING).is_file() or not inner:
        if not plain and not (folder / LISTING).is_file():
            _require_one_run(folder, entries)
        return [_run(folder, "", truth, card=card, on_missing=on_missing)]
    if plain:
        raise OncoduetError(folder, f"both detection maps and folders of detection maps, such as {inner[0].name}")
    others = [path.name for path in entries if path.is_dir() and path not in inner]
    if others:
        _log.warning("%s: not scored, without %s or %s: %s", folder, LISTING, SOURCE, ", ".join(others))
    return [_run(path, path.name, truth, card=card, on_missing=on_missing) for path in inner]


def _require_one_run(folder: Path, entries: Sequence[Path]) -> None:
    """Refuse a folder with the plain maps of several runs, which it does not name."""
    runs = [path.name for path in entries if path.is_dir() and any(map(is_image, path.iterdir()))]
    if runs:
        raise OncoduetError(
            folder,
            expected="the detection maps of one run (score each folder with --configuration, --fold and --restart)",
            found=f"folders of maps: {', '.join(runs)}",
        )


def predictions_of_jobs(folder: Path, card: Card, case_ids: Collection[str]) -> dict[str, PredictionFiles]:
    """Read ``predictions.json`` and find what each job that succeeded has written, by case id.

    Raises
    ------
    OncoduetError
        The listing is malformed; a job names no input image or lacks one of the card's outputs; a folder of detection
        maps does not hold exactly one; two jobs are about the same case.
    """
    listing = folder / LISTING
    found: dict[str, tuple[str, PredictionFiles]] = {}
    for job in sorted(read_jobs(listing), key=lambda job: job.pk):
        if not job.succeeded:
            continue
        case_id = case_of_job(job, card, case_ids, listing)
        if case_id in found:
            raise OncoduetError(listing, expected=f"one job for {case_id}", found=f"{found[case_id][0]} and {job.pk}")
        maps = job.output(card.detection_map.slug, folder)
        likelihood = job.output(card.likelihood.slug, folder)
        found[case_id] = job.pk, PredictionFiles(single_image(maps, card.detection_map), likelihood)
    return {case_id: prediction for case_id, (_, prediction) in sorted(found.items())}


def case_of_job(job: Job, card: Card, case_ids: Collection[str], listing: Path) -> str:
    """Which case a job is about, by the uploader's name of its reference image (or, without one, of any input).

    Endings that uploaders add (``.mha``, ``_0000``, ``_<channel>``) are taken off until the name is a case id.
    """
    slugs = [next(each.socket.slug for each in card.channels if each.name == card.geometry.reference)]
    slugs += sorted(entry.slug for entry in job.inputs)
    names = [
        entry.image_name
        for slug in slugs
        for entry in job.inputs
        if entry.slug == slug and entry.image_name is not None
    ]
    if not names:
        raise OncoduetError(f"{listing}: job {job.pk}", "no input image with a name")
    channels = "|".join(re.escape(name) for name in card.channel_names)
    name = case_name(names[0])
    while name not in case_ids:
        shorter = re.sub(rf"(_({channels}|\d{{4}})|\.[A-Za-z]+)$", "", name)
        if shorter == name:
            break
        name = shorter
    return name


def card_of_outputs(listing: Path) -> Card:
    """The project's card whose outputs the jobs have, for a truth folder that names none.

    Raises
    ------
    OncoduetError
        No card fits, or several fit that would score differently.
    """
    slugs = {entry.slug for job in read_jobs(listing) for entry in job.outputs}
    cards = [load_card(name) for name in card_names()]
    fitting = [card for card in cards if {card.detection_map.slug, card.likelihood.slug} <= slugs]
    meanings = {
        (MatchingRule.of(card), card.detection_map, card.likelihood, card.geometry.reference) for card in fitting
    }
    if len(meanings) != 1:
        names = ", ".join(card.name for card in fitting or cards)
        what = "outputs that identify the card" if fitting else "the outputs of one of the cards"
        raise OncoduetError(
            listing,
            expected=f"{what} ({names})",
            found=f"{', '.join(sorted(slugs)) or 'none'}; a card.toml in the truth folder would decide",
        )
    return fitting[0]


def _run(folder: Path, name: str, truth: TruthFolder, *, card: Card | None, on_missing: OnMissing) -> PredictionSet:
    source = read_record(folder / SOURCE, Source) if (folder / SOURCE).is_file() else None
    card = card or truth.card
    own = claimed_card(folder, source)
    if (folder / LISTING).is_file():
        predictions = predictions_of_jobs(folder, card or own or card_of_outputs(folder / LISTING), truth.label_maps)
    else:
        predictions = _plain_predictions(folder, truth)
    check_complete(folder, predictions, truth, on_missing)
    _require_unedited(folder, predictions, source)
    warn_of_alike_images(folder, predictions)
    if card is None and own is not None:
        _require_no_other_rule(folder, own, truth)
    return PredictionSet(folder, name, predictions, source, card, claimed=own)


def _table(path: Path, truth: TruthFolder, *, card: Card | None, on_missing: OnMissing) -> PredictionSet:
    """A table with case_id and likelihood, a number in [0, 1] for each case."""
    table = read_table(path, ("case_id", "likelihood"))
    likelihoods: dict[str, float] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        value = table.number(row["likelihood"])
        if value is None or not 0 <= value <= 1:
            raise OncoduetError(
                f"{path}: line {line}", expected="a likelihood, a number in [0, 1]", found=repr(row["likelihood"])
            )
        if row["case_id"] in likelihoods:
            raise OncoduetError(f"{path}: line {line}", f"duplicate case {row['case_id']}")
        likelihoods[row["case_id"]] = value
    _require_same_cases(path, likelihoods, truth, on_missing)
    return PredictionSet(path, "", {}, None, card, likelihoods)


def check_complete(
    folder: Path, predictions: Mapping[str, PredictionFiles], truth: TruthFolder, on_missing: OnMissing
) -> None:
    """Raise ``OncoduetError`` unless cases and predictions are the same ids, or fewer predictions are allowed."""
    _require_same_cases(folder, predictions, truth, on_missing)
    inside = folder.resolve()
    for case_id, prediction in predictions.items():
        for path in (prediction.detection_map, prediction.likelihood):
            if path is not None and not path.resolve().is_relative_to(inside):
                raise OncoduetError(path, f"links to a file outside {folder}")
        if prediction.detection_map.samefile(truth.label_maps[case_id]):
            raise OncoduetError(prediction.detection_map, "this is the truth, not a prediction")


def _require_same_cases(
    folder: Path, predictions: Mapping[str, object], truth: TruthFolder, on_missing: OnMissing
) -> None:
    missing = [case_id for case_id in truth.label_maps if case_id not in predictions]
    surplus = [case_id for case_id in predictions if case_id not in truth.label_maps]
    if surplus:
        raise OncoduetError(folder, f"predictions of cases that are not in {truth.folder}: {first_few(surplus, 1)}")
    if missing and on_missing == "error":
        raise OncoduetError(
            folder,
            f"no prediction for {first_few(missing, 1)} of {len(truth.label_maps)} cases in {truth.folder}",
        )


def _require_unedited(folder: Path, predictions: Mapping[str, PredictionFiles], source: Source | None) -> None:
    """Raise ``OncoduetError`` if this program's predictions were edited, or are not all of one batch.

    ``study.json`` next to a job's outputs, or the folder's list of files, says so; other predictions have neither.
    """
    read = {
        case_id: [path.relative_to(folder).as_posix() for path in (each.detection_map, each.likelihood) if path]
        for case_id, each in predictions.items()
    }
    require_unedited(folder, [LISTING, SOURCE, "card.toml", *itertools.chain(*read.values())])
    methods = [] if source is None else [source.method_sha256]
    for names in read.values():
        job = folder / names[0].split("/")[0]
        if not (job / STUDY).is_file():
            continue
        record = read_record(job / STUDY, StudyRecord)
        if record.case_id != job.name:
            raise OncoduetError(job / STUDY, expected=f"the record of {job.name}", found=record.case_id)
        methods.append(record.method_sha256)
        if methods[0] != record.method_sha256:
            found = f"one by others ({short_hash(record.method_sha256, 'not recorded')})"
            raise OncoduetError(
                job / STUDY, expected="a prediction by the networks and settings of this run", found=found
            )
        require_as_written(job, {name: (sha256,) for name, sha256 in record.outputs.items()})
        unknown = [name for name in names if name.removeprefix(f"{job.name}/") not in record.outputs]
        if record.outputs and unknown:
            raise OncoduetError(folder / unknown[0], f"not among the outputs that {STUDY} lists")


def warn_of_alike_images(folder: Path, predictions: Mapping[str, PredictionFiles]) -> None:
    """Warn of cases that are the same image by their records."""
    contents = {}
    for case_id, each in predictions.items():
        path = folder / each.detection_map.relative_to(folder).parts[0] / STUDY
        content = read_record(path, StudyRecord).content_sha256 if path.is_file() else None
        if content is not None:
            contents[case_id] = content
    say_alike(folder, contents, "cases {} and {} are the same image")


def _plain_predictions(folder: Path, truth: TruthFolder) -> dict[str, PredictionFiles]:
    maps = images_by_case(folder, "_detection_map", neighbour="_label")
    require_none_below(folder, maps, asked=truth.label_maps)
    if not maps:
        raise OncoduetError(folder, f"no predictions ({LISTING}, or CASE.mha or CASE.nii.gz)")
    likelihoods = likelihoods_by_case(folder, maps)
    return {case_id: PredictionFiles(path, likelihoods.get(case_id)) for case_id, path in maps.items()}


def claimed_card(folder: Path, source: Source | None) -> Card | None:
    """The card that predictions bring, or the project's card that they name."""
    path = folder / "card.toml"
    if path.is_file():
        return load_card(path)
    return load_card(source.card) if source is not None and source.card in card_names() else None


def _require_no_other_rule(folder: Path, claimed: Card, truth: TruthFolder) -> None:
    if not MatchingRule.of(claimed).reads_alike(MatchingRule(), truth.label_values()):
        raise OncoduetError(
            folder,
            f"the predictions name card {claimed.name}, which would give other scores; choose the card with --card or "
            "put card.toml into the truth folder",
        )
