"""``python -m evaluation score``: predictions and truth in, metrics and per-case rows out, for one run or many.

Both answers, strict and picai, are computed from one reading of the same files. Everything is read, checked and
computed before anything is written.
"""

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from contract.archive.marksheet import contradictions
from contract.archive.patients import FILE as PATIENTS
from contract.archive.patients import parse_patients_option, patients_by_case
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.files.case_folders import case_name
from contract.files.reading import sha256_json
from contract.images.volume import image_stem
from contract.names import require_name
from contract.outputs import Output, require_apart, require_folder, require_unowned, subfolder
from contract.process.workers import Workers
from contract.provenance import writer
from contract.records import Metrics, MetricsRecord, Source, write_record
from contract.text import first_few, short_hash
from evaluation.inputs.one_case import read_one, read_with
from evaluation.inputs.prediction_index import FORMAT, CaseScores, PredictionIndex, encoded, open_prediction_index
from evaluation.inputs.predictions import SOURCE, PredictionSet, find_prediction_sets
from evaluation.inputs.truth import CaseOfTruth, OnMissing, TruthFolder, find_truth
from evaluation.inputs.truth_index import encode_file
from evaluation.masks.sizes import sizes_of
from evaluation.matching import picai, strict
from evaluation.matching.cases import Case, LesionTruth, MatchingRule, ScoredCase
from evaluation.matching.hit_criteria import HIT_CRITERIA, HitCriterion, match_with
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, sensitivity_key
from evaluation.metrics.run_metrics import picai_metrics, strict_metrics

COMMAND = "evaluation score"
METRICS_FILE = "metrics.json"
ROW_FILES = ("cases.csv", "lesions.csv")
HITS_FILE = "hits.csv"
SIZES_FILE = "sizes.csv"
SIZE_COLUMNS = ("case_id", "lesion", "confidence", "volume_ml", "diameter_mm")
PICAI_ONLY = "not computed: --picai-only"

NO_MAPS = "AP and lesion sensitivity are undefined: the predictions have no detection maps"

_AT_ONCE = 16
"""Cases at most that a process is given at a time."""

_log = logging.getLogger(__name__)

Tracker = Callable[[Sequence[str], str], Iterable[str]]
"""Function that yields the case ids of one run (its name comes second) and shows progress."""


@dataclass(frozen=True)
class Score:
    """One run, scored."""

    run: PredictionSet
    metrics: MetricsRecord
    cases: tuple[ScoredCase, ...]
    """Cases by strict matching, or by picai's where that is the only answer."""
    source: Source | None
    patients: Mapping[str, str] | None = None
    """Patients by case id; None where they follow from the ids, or are unknown."""
    by_criterion: Mapping[HitCriterion, Metrics] = field(default_factory=dict)
    """Metrics by other hit criteria; empty unless asked for."""
    from_index: int = 0
    """Cases that were scored before."""


@dataclass(frozen=True)
class RunName:
    """Configuration, fold and restart of another program's predictions."""

    configuration: str
    fold: int | None = None
    restart: int | None = None


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
    named: RunName | None = None,
    sweep_hits: bool = False,
    track: Tracker = untracked,
    workers: int = 1,
    index: Path | None = None,
) -> list[Score]:
    """Score the run in ``predictions``, or each of the runs in its sub-folders, into ``output``.

    Parameters
    ----------
    predictions
        A folder as :mod:`evaluation.inputs.predictions` describes.
    truth
        A folder as :mod:`evaluation.inputs.truth` describes.
    output
        Gets ``metrics.json``, ``cases.csv``, ``lesions.csv`` and, where there are lesions and detection maps,
        ``sizes.csv``; where the predictions have one, ``source.json``, and where the ids are ambiguous,
        ``patients.csv``; for several runs a folder each.
    card
        Card that scores instead of the truth's.
    on_missing
        ``worst`` counts a case without prediction as likelihood 0 without candidates.
    picai_only
        Skip the strict answer, and accept predictions that picai-eval accepts.
    patients
        Value of ``--patients``: ``by-case``, ``by-prefix`` or the path of a table.
    training_studies_too
        Also score studies that a network was trained on.
    named
        Name of another program's predictions, which lack ``source.json``.
    sweep_hits
        Also write ``hits.csv``: AP and lesion sensitivity by other hit criteria.
    track
        Shows progress.
    workers
        Processes; the scores do not depend on them.
    index
        Index of predictions, from which cases that were scored before are taken.

    Raises
    ------
    OncoduetError
        The input is faulty, or the output holds other scores or files not written by oncoduet under the same names;
        nothing is written then.
    """
    require_apart(output, predictions=predictions, truth=truth)
    if index is not None:
        require_apart(index, predictions=predictions, truth=truth)
    require_folder(output)
    require_unowned(output, COMMAND)
    truth_folder = find_truth(truth)
    decided = _patients(truth_folder, patients)
    runs = find_prediction_sets(predictions, truth_folder, card=card, on_missing=on_missing)
    if named is not None:
        runs = [_with_source(runs, named, predictions)]
    for run in runs:
        if sweep_hits and run.likelihoods is not None:
            raise OncoduetError(run.folder, "no detection maps, so --sweep-hits has nothing to match")
        _require_unseen(run, truth_folder, training_studies_too=training_studies_too)
    truth_sha256 = truth_folder.sha256()
    asked = {
        "on_missing": on_missing,
        "picai_only": picai_only,
        "tables": frozenset(["hits"] if sweep_hits else []),  # which may come in addition, as may patients
        "patients": frozenset([] if decided is None else [sha256_json(decided)]),
    }
    places = [_place(output, run, truth_sha256, asked) for run in runs]
    for place in places:
        place.check()
    how = partial(
        score_run,
        truth=truth_folder,
        truth_sha256=truth_sha256,
        picai_only=picai_only,
        sweep_hits=sweep_hits,
        track=track,
    )
    with ExitStack() as open_ones:
        known = None if index is None else open_ones.enter_context(open_prediction_index(index))
        crew = open_ones.enter_context(Workers(min(workers, len(truth_folder.label_maps))))
        if crew.count > 1:
            truth_folder.open_index(partial(crew.each, encode_file))
        scores = [replace(how(run, crew=crew, index=known), patients=decided) for run in runs]
    if truth_folder.marksheet is not None:
        for line in contradictions(truth_folder.marksheet, {case.case_id: case.positive for case in scores[0].cases}):
            _log.warning("%s", line)
    truth_folder.say_alike()
    with ExitStack() as stages:
        for place, each in zip(places, scores, strict=True):
            write_score(each, stages.enter_context(place.staged()))
    return scores


def _place(
    output: Path, run: PredictionSet, truth_sha256: str, asked: Mapping[str, str | bool | frozenset[str] | None]
) -> Output:
    """Output of a run's scores; they replace those of the same predictions, truth, rule, options and patients."""
    source = run.source
    return Output(
        subfolder(output, run.name),
        COMMAND,
        [METRICS_FILE, *ROW_FILES, SIZES_FILE, HITS_FILE, PATIENTS, SOURCE],
        identity={
            "run": None if source is None else _key(source),
            "predictions": run.sha256(),
            "truth": truth_sha256,
            "card": None if run.card is None else run.card.sha256,
            "rule": MatchingRule.of(run.card).sha256,
            "method": None if source is None else source.method_sha256,
            **asked,
        },
        record=METRICS_FILE,
    )


def _with_source(runs: Sequence[PredictionSet], named: RunName, folder: Path) -> PredictionSet:
    """The only run, named by a ``source.json`` of its own; its predictions' hash identifies the network."""
    if len(runs) != 1 or runs[0].source is not None:
        found = f"{len(runs)} runs" if len(runs) != 1 else SOURCE
        raise OncoduetError(folder, expected=f"one run without {SOURCE}, for --configuration", found=found)
    run = runs[0]
    source = Source(
        card=run.card.name if run.card else "none",
        card_sha256=run.card.sha256 if run.card else MatchingRule.of(None).sha256,
        configuration=require_name(named.configuration, "--configuration"),
        fold=named.fold,
        restart=named.restart,
        profile="external",
        runs=(run.sha256(),),
        bundle_sha256=None,
        data_licence="unknown",
        parents={},
    )
    return replace(run, source=source)


def _key(source: Source) -> str:
    place = f"fold {source.fold} restart {source.restart}"
    return f"{source.configuration} {place} ({short_hash(sha256_json(sorted(source.runs)))})"


def score_run(
    run: PredictionSet,
    truth: TruthFolder,
    *,
    truth_sha256: str,
    picai_only: bool = False,
    sweep_hits: bool = False,
    track: Tracker = untracked,
    crew: Workers | None = None,
    index: PredictionIndex | None = None,
) -> Score:
    """Read, match and score every case of a run, by case id.

    Parameters
    ----------
    crew
        Processes to do it; None: this one does.
    index
        Has cases that were scored before, and gets the others; None on the platform.
    """
    rule = MatchingRule.of(run.card)
    case_ids = list(truth.label_maps)
    criteria = tuple(HIT_CRITERIA) if sweep_hits else ()
    here = partial(_score_here, run=run, truth=truth, picai_only=picai_only, criteria=criteria)
    names = {} if index is None else _names(run, truth, picai_only=picai_only, criteria=criteria)
    known = {} if index is None else _known(index, names, here)
    unknown = [case_id for case_id in case_ids if case_id not in known]
    if crew is None or crew.count == 1:
        results: Iterator[CaseScores] = map(here, unknown)
    else:
        work = partial(_score_elsewhere, picai_only=picai_only, criteria=criteria)
        pieces = [(case_id, _only(run, case_id), truth.elsewhere(case_id)) for case_id in unknown]
        results = crew.each(work, pieces, at_once=max(1, min(_AT_ONCE, len(pieces) // (4 * crew.count))))
    by_case = {case_id: known[case_id] if case_id in known else next(results) for case_id in track(case_ids, run.name)}
    scored = list(by_case.values())
    if index is not None:
        index.add({names[each]: by_case[each] for each in unknown if each in names and not by_case[each].told})
    by_strict = [each.strict for each in scored if each.strict is not None]
    by_picai = [each.picai for each in scored]
    every = [finding for case in by_strict for finding in case.findings]
    if every and all(finding.kind == "tp" and finding.overlap == 1 for finding in every):
        _log.warning("%s: equals the truth in every voxel: are these the label maps themselves?", run.folder)
    parents = {"predictions": run.sha256(), "truth": truth_sha256, "scoring_rule": rule.sha256}
    if run.card is not None:
        parents["scoring_card"] = run.card.sha256
    metrics = MetricsRecord(
        parents=parents,
        strict=None if picai_only else _of_cases(run, strict_metrics(by_strict)),
        strict_reason=PICAI_ONLY if picai_only else None,
        picai=_of_cases(run, picai_metrics(by_picai)),
        trained_on=None if (seen := _seen(run, truth)) is None else len(seen),
    )
    source = run.source and run.source.model_copy(
        update={
            "written_by": writer(),
            "parents": {name: of for name, of in run.source.parents.items() if name != "scoring_card"} | parents,
        }
    )
    swept = {
        criterion: strict_metrics([each.by_criterion[number] for each in scored])
        for number, criterion in enumerate(criteria)
    }
    cases = tuple(by_picai if picai_only else by_strict)
    return Score(run, metrics, cases, source, by_criterion=swept, from_index=len(known))


def _names(
    run: PredictionSet, truth: TruthFolder, *, picai_only: bool, criteria: Sequence[HitCriterion]
) -> dict[str, str]:
    """Names of entries in the index, by case id, of cases with a detection map."""
    rule = MatchingRule.of(run.card)
    common = [FORMAT, writer().model_dump(), asdict(rule), picai_only, [asdict(criterion) for criterion in criteria]]
    common_sha256 = sha256_json(common)
    return {
        case_id: sha256_json([common_sha256, case_id, *map(_ending, (each.detection_map, truth.label_maps[case_id])),
            truth.sha256_of[case_id], *run.sha256_of[case_id]])
        for case_id, each in run.predictions.items()
    }  # fmt: skip


def _ending(image: Path) -> str:
    return image.name.removeprefix(image_stem(image))


def _known(
    index: PredictionIndex, names: Mapping[str, str], again: Callable[[str], CaseScores]
) -> dict[str, CaseScores]:
    """Cases from the index, by case id; none where the first of them, scored again, differs."""
    entries = index.read(list(names.values()))
    known = {case_id: entries[name] for case_id, name in names.items() if name in entries}
    first = next(iter(known), None)
    if first is not None and encoded(again(first)) != encoded(known[first]):
        _log.warning("%s: differs from %s, scored again: not used", index.path, first)
        return {}
    return known


def _score_here(
    case_id: str, *, run: PredictionSet, truth: TruthFolder, picai_only: bool, criteria: Sequence[HitCriterion]
) -> CaseScores:
    with _listening() as heard:
        case, known = read_one(run, truth, case_id, picai_only=picai_only)
        scores = _scored(case_id, run, case, known, picai_only=picai_only, criteria=criteria)
    return replace(scores, told=bool(heard))


def _score_elsewhere(
    piece: tuple[str, PredictionSet, CaseOfTruth], *, picai_only: bool, criteria: Sequence[HitCriterion]
) -> CaseScores:
    case_id, run, truth = piece
    with _listening() as heard:
        known = truth.read(MatchingRule.of(run.card))
        case = read_with(run, known, case_id, picai_only=picai_only)
        scores = _scored(case_id, run, case, known, picai_only=picai_only, criteria=criteria)
    return replace(scores, told=bool(heard))


class _Listener(logging.Handler):
    def __init__(self, heard: list[logging.LogRecord]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record)


@contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """What is logged in here, which is logged all the same."""
    heard: list[logging.LogRecord] = []
    handler = _Listener(heard)
    logging.getLogger().addHandler(handler)
    try:
        yield heard
    finally:
        logging.getLogger().removeHandler(handler)


def _scored(
    case_id: str,
    run: PredictionSet,
    case: Case,
    known: LesionTruth,
    *,
    picai_only: bool,
    criteria: Sequence[HitCriterion],
) -> CaseScores:
    rule = MatchingRule.of(run.card)
    positive = len(known.lesions) > 0
    missing = case_id not in (run.predictions if run.likelihoods is None else run.likelihoods)
    by_picai = ScoredCase(case_id, positive, float(case.map_maximum), picai.match(case, rule), missing)
    by_strict = None
    if not picai_only:
        sizes = sizes_of(known.lesions, known.grid)
        by_strict = ScoredCase(case_id, positive, case.likelihood, strict.match(case, rule), missing, sizes)
    swept = tuple(
        ScoredCase(case_id, positive, case.likelihood, match_with(case, rule, criterion), missing)
        for criterion in criteria
    )
    return CaseScores(by_strict, by_picai, swept)


def _only(run: PredictionSet, case_id: str) -> PredictionSet:
    """A run with what it says of one case, which is little to send."""
    of_case = {case_id: run.predictions[case_id]} if case_id in run.predictions else {}
    likelihoods = run.likelihoods and {key: run.likelihoods[key] for key in [case_id] if key in run.likelihoods}
    return replace(run, predictions=of_case, likelihoods=likelihoods, source=None)


def write_score(score: Score, folder: Path) -> None:
    """Write a scored run's files."""
    write_record(folder / METRICS_FILE, score.metrics)
    write_rows(score.cases, folder)
    rows = [row for case in score.cases for row in _sizes_of(case)]
    if rows and score.run.likelihoods is None:
        _write_csv(folder / SIZES_FILE, SIZE_COLUMNS, rows)
    if score.by_criterion:
        _write_csv(
            folder / HITS_FILE,
            ("criterion", "minimum", "ap", *(sensitivity_key(rate) for rate in FALSE_POSITIVES_PER_CASE)),
            (_hits_row(criterion, metrics) for criterion, metrics in score.by_criterion.items()),
        )
    if score.source is not None:
        write_record(folder / SOURCE, score.source)
    if score.patients is not None:
        _write_csv(folder / PATIENTS, ("case_id", "patient_id"), sorted(score.patients.items()))


def write_rows(cases: Sequence[ScoredCase], folder: Path) -> None:
    """Write ``cases.csv`` and ``lesions.csv``: what each case and each finding contributed."""
    _write_csv(
        folder / ROW_FILES[0],
        ("case_id", "label", "likelihood"),
        ((case.case_id, int(case.positive), case.likelihood) for case in cases),
    )
    _write_csv(
        folder / ROW_FILES[1],
        ("case_id", "kind", "confidence", "overlap"),
        ((case.case_id, each.kind, each.confidence, each.overlap) for case in cases for each in case.findings),
    )


def _patients(truth: TruthFolder, words: str | None) -> dict[str, str] | None:
    """Patients to be recorded: where the ids are ambiguous."""
    said = ({}, None) if words is None else parse_patients_option(words)
    try:
        found = truth.patients(said)
    except OncoduetError as error:
        if said[1] is None and (said[0] or truth.named_patients):  # compare could not know what the table says
            raise
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
                f"its networks were trained on {len(seen)} of {len(truth.label_maps)} studies: {first_few(seen, 1)}; "
                "--training-studies-too scores them"
            ),
        )


def _of_cases(run: PredictionSet, metrics: Metrics) -> Metrics:
    """The metrics without those of lesions, where the predictions hold no detection maps."""
    if run.likelihoods is None:
        return metrics
    nothing: dict[str, object] = {"ap": None, "score": None, "lesion_sensitivity_at_fp": {}}
    reason = "; ".join(filter(None, [metrics.reason, NO_MAPS]))
    return metrics.model_copy(update={**nothing, "reason": reason})


def _sizes_of(case: ScoredCase) -> list[tuple[str | int | float, ...]]:
    """A row for each lesion: its number from 1, the confidence of the candidate that hit it or 0, and its size."""
    confidence = {each.lesion: each.confidence for each in case.findings if each.kind == "tp"}
    return [
        (case.case_id, number + 1, confidence.get(number, 0.0), size.volume_ml, size.diameter_mm)
        for number, size in enumerate(case.sizes)
    ]


def _hits_row(criterion: HitCriterion, metrics: Metrics) -> list[str | float]:
    values = [metrics.ap, *metrics.lesion_sensitivity_at_fp.values()]
    minimum: str | float = "" if criterion.minimum is None else criterion.minimum
    return [criterion.name, minimum, *("" if value is None else value for value in values)]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
