"""``python -m evaluation score``: predictions and truth in, metrics and per-case rows out, for one run or many.

Both answers, strict and picai, are computed from one reading of the same files. Everything is read, checked and
computed before anything is written.
"""

import csv
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from contract.cards import Card
from contract.case_folders import case_name
from contract.errors import OncoduetError
from contract.files import atomic_file, sha256_json
from contract.marksheet import contradictions
from contract.outputs import Output, require_apart, require_folder, require_unowned, subfolder
from contract.patients import FILE as PATIENTS
from contract.patients import patients_by_case, require_named, said_patients
from contract.provenance import writer
from contract.records import MetricsRecord, Source, write_record
from evaluation.inputs.case_files import listed
from evaluation.inputs.predictions import SOURCE, PredictionSet, find_prediction_sets
from evaluation.inputs.truth import OnMissing, TruthFolder, find_truth
from evaluation.masks.components import connect
from evaluation.matching import picai, strict
from evaluation.matching.cases import (
    Case,
    LesionTruth,
    MatchingRule,
    Prediction,
    ScoredCase,
    read_case,
    read_case_as_picai_eval,
)
from evaluation.metrics.summary import picai_metrics, strict_metrics

COMMAND = "evaluation score"
METRICS = "metrics.json"
ROWS = ("cases.csv", "lesions.csv")
PICAI_ONLY = "not computed: --picai-only"

_log = logging.getLogger(__name__)

Tracker = Callable[[Sequence[str], str], Iterable[str]]
"""Yields the case ids of one run (its name comes second) and shows progress."""


@dataclass(frozen=True)
class Score:
    """One run, scored."""

    run: PredictionSet
    metrics: MetricsRecord
    cases: tuple[ScoredCase, ...]
    """By strict matching, or picai's where that is the only answer."""
    source: Source | None
    patients: Mapping[str, str] | None = None
    """By case id; None where they follow from the ids, or are unknown."""


def untracked(case_ids: Sequence[str], name: str) -> Iterable[str]:
    """Show nothing."""
    return case_ids


def score(
    *,
    predictions: Path,
    truth: Path,
    output: Path,
    card: Card | None = None,
    on_missing: OnMissing = "error",
    picai_only: bool = False,
    patients: str | None = None,
    training_studies_too: bool = False,
    track: Tracker = untracked,
) -> list[Score]:
    """Score the run in ``predictions``, or each of the runs in its sub-folders, into ``output``.

    Parameters
    ----------
    predictions
        A folder as :mod:`evaluation.inputs.predictions` describes.
    truth
        A folder as :mod:`evaluation.inputs.truth` describes.
    output
        Gets ``metrics.json``, ``cases.csv``, ``lesions.csv`` and, where the predictions have one, ``source.json``, and
        where the ids are ambiguous, ``patients.csv``; for several runs a folder each.
    card
        Scores instead of the truth's.
    on_missing
        ``worst`` counts a case without prediction as likelihood 0 without candidates.
    picai_only
        Leave strict null, and accept predictions that picai-eval accepts.
    patients
        Value of ``--patients``: ``by-case``, ``by-prefix`` or the path of a table.
    training_studies_too
        Also score studies that a network was trained on.
    track
        Shows progress.

    Raises
    ------
    OncoduetError
        Anything about the input is wrong, or the output holds other scores or files of other origin under the same
        names; nothing is written then.
    """
    require_apart(output, predictions=predictions, truth=truth)
    require_folder(output)
    require_unowned(output, COMMAND)
    truth_folder = find_truth(truth)
    decided = _patients(truth_folder, patients)
    runs = find_prediction_sets(predictions, truth_folder, card=card, on_missing=on_missing)
    for run in runs:
        _require_unseen(run, truth_folder, training_studies_too=training_studies_too)
    truth_sha256 = truth_folder.sha256()
    asked = {"on_missing": on_missing, "picai_only": picai_only}
    places = [_place(output, run, truth_sha256, asked) for run in runs]
    for place in places:
        place.check()
    scores = [
        replace(
            score_run(run, truth_folder, truth_sha256=truth_sha256, picai_only=picai_only, track=track),
            patients=decided,
        )
        for run in runs
    ]
    if truth_folder.marksheet is not None:
        for line in contradictions(truth_folder.marksheet, {case.case_id: case.positive for case in scores[0].cases}):
            _log.warning("%s", line)
    with ExitStack() as stages:
        for place, each in zip(places, scores, strict=True):
            write_score(each, stages.enter_context(place.staged()))
    return scores


def _place(output: Path, run: PredictionSet, truth_sha256: str, asked: Mapping[str, object]) -> Output:
    """Output of a run's scores; they replace those of the same run, rule and options, whatever the patients."""
    source = run.source
    whose = {"predictions": run.sha256()} if source is None else {"run": _key(source)}
    return Output(
        subfolder(output, run.name),
        COMMAND,
        [METRICS, *ROWS, PATIENTS, SOURCE],
        identity={
            **whose,
            "truth": truth_sha256,
            "card": run.card and run.card.sha256,
            "rule": MatchingRule.of(run.card).sha256,
            "method": source and source.method_sha256,
            **asked,
        },
        record=METRICS,
    )


def _key(source: Source) -> str:
    place = f"fold {source.fold} restart {source.restart}"
    return f"{source.configuration} {place} ({sha256_json(sorted(source.runs))[:12]})"


def score_run(
    run: PredictionSet, truth: TruthFolder, *, truth_sha256: str, picai_only: bool = False, track: Tracker = untracked
) -> Score:
    """Read, match and score every case of a run, by case id."""
    rule = MatchingRule.of(run.card)
    by_strict: list[ScoredCase] = []
    by_picai: list[ScoredCase] = []
    for case_id in track(list(truth.label_maps), run.name):
        case, known = read_one(run, truth, case_id, picai_only=picai_only)
        positive, missing = len(known.lesions) > 0, case_id not in run.predictions
        maximum = float(case.map_maximum)
        by_picai.append(ScoredCase(case_id, positive, maximum, picai.match(case, rule), missing))
        if not picai_only:
            by_strict.append(ScoredCase(case_id, positive, case.likelihood, strict.match(case, rule), missing))
    findings = [finding for case in by_strict for finding in case.findings]
    if findings and all(finding.kind == "tp" and finding.overlap == 1 for finding in findings):
        _log.warning("%s: equals the truth in every voxel: are these the label maps themselves?", run.folder)
    parents = {"predictions": run.sha256(), "truth": truth_sha256, "scoring_rule": rule.sha256}
    if run.card is not None:
        parents["scoring_card"] = run.card.sha256
    metrics = MetricsRecord(
        parents=parents,
        strict=None if picai_only else strict_metrics(by_strict),
        strict_reason=PICAI_ONLY if picai_only else None,
        picai=picai_metrics(by_picai),
        trained_on=None if (seen := _seen(run, truth)) is None else len(seen),
    )
    source = run.source and run.source.model_copy(
        update={
            "written_by": writer(),
            "parents": {name: of for name, of in run.source.parents.items() if name != "scoring_card"} | parents,
        }
    )
    return Score(run, metrics, tuple(by_picai if picai_only else by_strict), source)


def read_one(
    run: PredictionSet, truth: TruthFolder, case_id: str, *, picai_only: bool = False
) -> tuple[Case, LesionTruth]:
    """One case of a run as it is scored, and its truth. Raises ``OncoduetError`` as :func:`score_run` does."""
    known = truth.case(case_id, MatchingRule.of(run.card))
    strictly = partial(read_case, most_candidates=MatchingRule.of(run.card).most_candidates)
    return _case(run.predictions.get(case_id), known, read_case_as_picai_eval if picai_only else strictly), known


def write_score(score: Score, folder: Path) -> None:
    """Write a scored run's files."""
    write_record(folder / METRICS, score.metrics)
    write_rows(score.cases, folder)
    if score.source is not None:
        write_record(folder / SOURCE, score.source)
    if score.patients is not None:
        _write_csv(folder / PATIENTS, ("case_id", "patient_id"), sorted(score.patients.items()))


def write_rows(cases: Sequence[ScoredCase], folder: Path) -> None:
    """Write ``cases.csv`` and ``lesions.csv``: what each case and each finding contributed."""
    _write_csv(
        folder / ROWS[0],
        ("case_id", "label", "likelihood"),
        ((case.case_id, int(case.positive), case.likelihood) for case in cases),
    )
    _write_csv(
        folder / ROWS[1],
        ("case_id", "kind", "confidence", "overlap"),
        ((case.case_id, each.kind, each.confidence, each.overlap) for case in cases for each in case.findings),
    )


def _patients(truth: TruthFolder, words: str | None) -> dict[str, str] | None:
    """Patients to be recorded: where the ids are ambiguous."""
    said = ({}, None) if words is None else said_patients(words)
    if said[1] is None:
        require_named(truth.label_maps, {**truth.named_patients, **said[0]}, source=truth.folder)
    try:
        found = truth.patients(said)
    except OncoduetError as error:
        _log.warning("%s; compare will ask", error)
        return None
    try:
        return None if found == patients_by_case(found, source=truth.folder) else found
    except OncoduetError:
        return found


def _seen(run: PredictionSet, truth: TruthFolder) -> list[str] | None:
    """Cases that a network of the run was trained on; None: not known."""
    trained_on = None if run.source is None else run.source.trained_on
    return None if trained_on is None else sorted({*map(case_name, trained_on)} & set(truth.label_maps))


def _require_unseen(run: PredictionSet, truth: TruthFolder, *, training_studies_too: bool) -> None:
    seen = _seen(run, truth)
    if seen and not training_studies_too:
        raise OncoduetError(
            run.folder,
            (
                f"its networks were trained on {len(seen)} of {len(truth.label_maps)} studies: {listed(seen)}; "
                "--training-studies-too scores them"
            ),
        )


def _case(prediction: Prediction | None, truth: LesionTruth, read: Callable[[Prediction, LesionTruth], Case]) -> Case:
    if prediction is not None:
        return read(prediction, truth)
    nothing = connect(np.zeros(0, dtype=np.int64), truth.grid.shape_zyx)
    return Case(truth.lesions, nothing, np.zeros(0), np.float32(0), 0.0)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
