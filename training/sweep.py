"""Box shapes and case scores of a detector: every combination, evaluated on the validation folds.

A finished detector predicts the validation studies of its fold: one search for boxes, a map and a likelihood for each
combination, as the algorithm makes them; and ``python -m evaluation score`` scores each
(``training.validation.predict_and_score``). So the combinations are compared by what they are for, AUROC of the cases
and AP of the lesions. (The rule by which predictions become boxes is chosen before, by the boxes alone:
``training.retina_unet.box_rule_sweep``.)

Several runs are evaluated each on its own fold, and their mean decides: members of an ensemble need one answer. A
combination is better only by a greater ranking score; of equal ones the first counts, and the first of all is
nnDetection's own, the cuboid and the maximum.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from rich.table import Table

from contract.errors import OncoduetError
from contract.files.atomic import held_folder, remove_partial_files, writable, write_text
from contract.files.reading import sha256_file, sha256_json
from contract.outputs import Output, claim_file, require_apart, require_free, subfolder
from contract.records import BatchRecord, Record, RunRecord, read_record, write_record
from contract.schema import Frozen
from network.detection.clustering import BoxPostprocessing, BoxShape, CaseScore
from network.machine.device import Device
from training.dataset.archive_stamps import read_sources, recorded_archive, unchanged_archive
from training.dataset.prepared import Prepared, load_prepared
from training.engine import engine_of
from training.finished_runs import FinishedRun, finished_runs
from training.retina_unet.engine import box_rule_file
from training.run_folder.folder import COMMAND as RUN
from training.run_folder.folder import RunFolder
from training.run_folder.lock import work_lock
from training.validation.predict_and_score import find_localisation, link_studies, predict_studies, score

Combination = tuple[BoxShape, CaseScore]

COMBINATIONS: tuple[Combination, ...] = tuple(
    (fill, case_score) for fill in get_args(BoxShape) for case_score in get_args(CaseScore)
)
PURPOSE = "to compare box shapes"
MEAN = "mean"
SAME = "the same"
OPTIMISM = (
    "The combination was chosen by its score on these validation studies, so that the score on them is too good: the "
    "best of nine looks better than it is, the more so the fewer studies there are. Scores to be reported come from "
    "studies that neither trained the network nor chose the combination."
)

COMMAND = "training sweep"

logger = logging.getLogger(__name__)


class ScoredMaps(Frozen):
    """One combination's strict scores on the validation studies of a run, or their mean over the runs."""

    run: str
    """Name of the run, or ``mean``."""
    fill: BoxShape
    case_score: CaseScore
    auroc: float
    ap: float
    score: float
    """Ranking score, (auroc + ap) / 2."""


class MapSweepRecord(Record):
    """``map_sweep.json``. Its parents are the ``run.json`` files as they were, by the runs' names."""

    validation: Mapping[str, tuple[str, ...]]
    """Case ids of the studies that were predicted, by run."""
    mirroring: bool
    """Whether mirrored copies were predicted too."""
    maps: tuple[ScoredMaps, ...]
    """Scores of each run, then their mean, in the order in which equal combinations are preferred."""
    fill: BoxShape
    """Box shape of the best combination."""
    case_score: CaseScore
    """Case score of the best combination."""
    stored: bool
    """Whether the runs' box rules have it now."""
    optimism: str
    """What this choice does to scores on the same studies."""


@dataclass(frozen=True)
class Whereabouts:
    """Current folders of what was moved since the training."""

    prepared: Path | None = None
    archive: Path | None = None
    localisation: Path | None = None
    """Finished run of stage 1; None: one of the same fold next to each run. Ignored for cards of one stage."""


def sweep_maps(
    runs: Sequence[Path],
    output: Path,
    *,
    whereabouts: Whereabouts = Whereabouts(),
    mirroring: bool | None = None,
    device: Device = "auto",
    store: bool = False,
) -> MapSweepRecord:
    """Evaluate every combination for some detectors, and write ``map_sweep.json`` and ``map_sweep.csv``.

    Raises ``OncoduetError``: a run is not finished or sound, finds no boxes, or is of another card than the first; its
    dataset or archive cannot be reached or has changed; there is no finished run of stage 1; ``output`` holds
    predictions of another network or files not written by oncoduet; a study cannot be predicted or scored; a run's
    folder cannot be written to.

    Parameters
    ----------
    runs
        Run folders, or folders of run folders.
    output
        Gets a folder for each run, with maps and scores, next to the two files.
    mirroring
        None: as the card says.
    device
        Where the studies are predicted.
    store
        Give the best combination to the runs' box rules; otherwise no run is touched.
    """
    finished = finished_runs(runs)
    require_apart(
        output,
        run=[run.folder.path for run in finished],
        prepared=whereabouts.prepared,
        archive=whereabouts.archive,
        localisation=whereabouts.localisation,
    )
    for run in finished:
        _require_ours(output, run.name)
    datasets = [_dataset(run, finished[0], whereabouts.prepared) for run in finished]
    tables = Output(
        output,
        COMMAND,
        ["map_sweep.csv", "map_sweep.json"],
        identity={
            "runs": frozenset(_measured(run, each, whereabouts) for run, each in zip(finished, datasets, strict=True)),
            "mirroring": mirroring,
        },
        record="map_sweep.json",
    )
    tables.check()
    require_apart(output, archive=[found for each in datasets if (found := recorded_archive(each))])
    scored: list[ScoredMaps] = []
    validation: dict[str, tuple[str, ...]] = {}
    mirrored = False
    for run, prepared in zip(finished, datasets, strict=True):
        place = output / run.name
        validation[run.name] = prepared.fold(run.record.key.fold).validation
        scored += _score_maps(run, prepared, place, whereabouts, mirroring=mirroring, device=device)
        mirrored |= bool(read_record(place / "predictions" / "batch.json", BatchRecord).settings["mirroring"])
    scored += means(scored)
    best = best_of(scored)
    parents = {run.name: sha256_file(run.folder.record) for run in finished}
    if store:
        for run in finished:
            store_in(run.folder, best.fill, best.case_score)
    record = MapSweepRecord(
        parents=parents,
        validation=validation,
        mirroring=mirrored,
        maps=tuple(scored),
        fill=best.fill,
        case_score=best.case_score,
        stored=store,
        optimism=OPTIMISM,
    )
    with tables.staged() as stage:
        write_text(stage / "map_sweep.csv", _as_csv(record.maps))
        write_record(stage / "map_sweep.json", record)
    return record


def _require_ours(output: Path, name: str) -> None:
    """A run's folder holds nothing under the names of predictions and scores, or an earlier sweep's."""
    place = subfolder(output, name)
    predictions, scores = (subfolder(place, each) for each in ("predictions", "scores"))
    if not (predictions / "batch.json").is_file():
        require_free(place, [predictions.name, scores.name], COMMAND)


def _measured(run: FinishedRun, prepared: Prepared, whereabouts: Whereabouts) -> str:
    """A hash of what decides a run's scores, but for the combination that its rule happens to have."""
    partner = _partner(run, prepared, whereabouts)
    where = [run.record.weights_sha256, partner and sha256_file(RunFolder(partner).weights), prepared.sha256]
    return sha256_json([run.name, *where, _usual_rule(run.folder).model_dump(mode="json", exclude={"written_by"})])


def _partner(run: FinishedRun, prepared: Prepared, whereabouts: Whereabouts) -> Path | None:
    return find_localisation(
        prepared.card,
        run.record.key,
        run.folder,
        whereabouts.localisation,
        purpose=f"the validation studies of {run.folder.path} cannot be predicted",
    )


def means(scored: Sequence[ScoredMaps]) -> list[ScoredMaps]:
    """Mean over the runs of each combination's scores."""
    found = []
    for fill, case_score in COMBINATIONS:
        own = [each for each in scored if (each.fill, each.case_score) == (fill, case_score)]
        auroc, ap = (float(np.mean([getattr(each, what) for each in own])) for what in ("auroc", "ap"))
        found.append(ScoredMaps(run=MEAN, fill=fill, case_score=case_score, auroc=auroc, ap=ap, score=(auroc + ap) / 2))
    return found


def best_of(scored: Sequence[ScoredMaps]) -> ScoredMaps:
    """The best mean score; of equal ones the first."""
    return max((each for each in scored if each.run == MEAN), key=lambda each: each.score)


def store_in(folder: RunFolder, fill: BoxShape, case_score: CaseScore) -> None:
    """Give a combination to a finished run's box rule, and the rule's hash to its record.

    Raises ``OncoduetError``: another process works on the run, its box rule was edited, or its folder cannot be written
    to.
    """
    with work_lock(folder.lock):
        path = box_rule_file(folder)
        if path.is_file():  # it may have been edited since the sweep began
            folder.require_as_recorded(read_record(folder.record, RunRecord), {"box_rule": path})
        rule = _rule(folder)
        changed = rule.model_copy(update={"fill": fill, "case_score": case_score})
        if changed == rule and path.is_file():
            return
        _write_rule(folder, changed)
        claim_file(folder.path, path.name, sha256_file(path), RUN)


def _rule(folder: RunFolder) -> BoxPostprocessing:
    path = box_rule_file(folder)
    return read_record(path, BoxPostprocessing) if path.is_file() else BoxPostprocessing()


def _write_rule(folder: RunFolder, rule: BoxPostprocessing) -> None:
    write_record(box_rule_file(folder), rule)
    record = read_record(folder.record, RunRecord)
    parents = {**record.parents, "box_rule": sha256_file(box_rule_file(folder))}
    write_record(folder.record, record.model_copy(update={"parents": parents}))


def _without_combination(folder: RunFolder, copy: Path) -> Path:
    """A run, by links, whose box rule has the usual combination: what ``--store`` changed makes no other network."""
    copy.mkdir()
    for path in folder.path.iterdir():
        if path.is_file() and not path.name.startswith("."):
            (copy / path.name).symlink_to(path.resolve())
    _write_rule(RunFolder(copy), _usual_rule(folder))
    return copy


def _usual_rule(folder: RunFolder) -> BoxPostprocessing:
    fill, case_score = COMBINATIONS[0]
    return _rule(folder).model_copy(update={"fill": fill, "case_score": case_score})


def sweep_tables(record: MapSweepRecord) -> list[Table]:
    """All combinations: a table for each run and, of several, one for their mean."""
    runs = list(dict.fromkeys(each.run for each in record.maps))
    tables = []
    for run in runs[:1] if len(runs) == 2 else runs:  # one run is its own mean
        table = Table(box=None, pad_edge=False, title=run, title_justify="left")
        for heading in ("fill", "case score", "AUROC", "AP", "score", "against cuboid, maximum"):
            table.add_column(heading)
        for combination in COMBINATIONS:
            own = _of_combination(record.maps, combination)[run]
            numbers = [f"{value:.4f}" for value in (own.auroc, own.ap, own.score)]
            table.add_row(*combination, *numbers, difference(record.maps, combination, run))
        tables.append(table)
    return tables


def verdict(record: MapSweepRecord) -> list[str]:
    """Which combinations differ from nnDetection's own, and which is the best, in words."""
    alike: list[str] = []
    other: list[str] = []
    for combination in COMBINATIONS[1:]:
        (alike if difference(record.maps, combination) == SAME else other).append(", ".join(combination))
    best = (record.fill, record.case_score)
    score, own = (_of_combination(record.maps, each)[MEAN].score for each in (best, COMBINATIONS[0]))
    stored = "stored in the runs" if record.stored else "not stored; --store gives it to the runs"
    return [
        f"differ from cuboid, maximum: {'; '.join(other) or 'none'}",
        f"the same in every run: {'; '.join(alike) or 'none'}",
        f"best: {', '.join(best)} (score {score:.4f}; cuboid, maximum {own:.4f}); {stored}",
    ]


def difference(scored: Sequence[ScoredMaps], combination: Combination, run: str = MEAN) -> str:
    """How a combination's scores differ from those of the cuboid and the maximum; of the mean, whether any run's do."""
    own, usual = _of_combination(scored, combination), _of_combination(scored, COMBINATIONS[0])
    compared = own if run == MEAN else (run,)
    if all((own[each].auroc, own[each].ap) == (usual[each].auroc, usual[each].ap) for each in compared):
        return SAME
    return f"AUROC {own[run].auroc - usual[run].auroc:+.4f}, AP {own[run].ap - usual[run].ap:+.4f}"


def _of_combination(scored: Sequence[ScoredMaps], combination: Combination) -> dict[str, ScoredMaps]:
    return {each.run: each for each in scored if (each.fill, each.case_score) == combination}


def _dataset(run: FinishedRun, first: FinishedRun, folder: Path | None) -> Prepared:
    """The dataset that a run was trained on."""
    key, path = run.record.key, run.folder.path
    if "box_rule" not in engine_of(run.record).files(run.folder):
        raise OncoduetError(path, f"run of the configuration {key.configuration}, which does not find boxes")
    if key.card_sha256 != first.record.key.card_sha256:
        raise OncoduetError(path, f"differs from {first.folder.path} in its card")
    where = folder or Path(run.record.prepared_folder or "")
    if not (where / "prepared.json").is_file():
        raise OncoduetError(where, f"the prepared dataset of {path} not found; --prepared names its current folder")
    prepared = load_prepared(where)
    if prepared.sha256 != run.record.parents.get("prepared"):
        raise OncoduetError(where, f"not the prepared dataset that {path} was trained on")
    return prepared


def _score_maps(
    run: FinishedRun,
    prepared: Prepared,
    place: Path,
    whereabouts: Whereabouts,
    *,
    mirroring: bool | None,
    device: Device,
) -> list[ScoredMaps]:
    """Every combination's scores on the validation studies of one run."""
    key = run.record.key
    archive = unchanged_archive(prepared, archive=whereabouts.archive)
    if archive is None:
        raise OncoduetError(
            read_sources(prepared).archive,
            f"the archive of {prepared.folder} not found; --archive names its current folder",
        )
    partner = _partner(run, prepared, whereabouts)
    with writable(place):
        place.mkdir(parents=True, exist_ok=True)
    remove_partial_files(place)
    options = ["--threads", str(run.record.hardware.get("threads", 1))]
    options += ["--no-mirroring"] if mirroring is False else []
    options += ["--fill", *get_args(BoxShape), "--case-score", *get_args(CaseScore)]
    validation, predictions = prepared.fold(key.fold).validation, place / "predictions"
    logger.info("%s: %d validation studies", run.name, len(validation))
    scored = []
    with held_folder(place) as work:
        studies = work / "archive"
        link_studies(read_sources(prepared), archive, validation, studies)
        predict_studies(
            [_without_combination(run.folder, work / "run"), *([partner] if partner else [])],
            predictions,
            studies=studies,
            model=work / "model",
            options=options,
            device=device,
            purpose=PURPOSE,
        )
        for fill, case_score in COMBINATIONS:
            name = f"{fill}_{case_score}"
            strict = score(
                predictions / name, place / "scores" / name, studies=studies, card=run.folder.card, purpose=PURPOSE
            )
            assert strict.auroc is not None and strict.ap is not None and strict.score is not None
            values = {"auroc": strict.auroc, "ap": strict.ap, "score": strict.score}
            scored.append(ScoredMaps(run=run.name, fill=fill, case_score=case_score, **values))
    return scored


def _as_csv(scored: Sequence[ScoredMaps]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(ScoredMaps.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(each.model_dump() for each in scored)
    return stream.getvalue()
