"""Compare configurations over their scored runs: verdict, report and figures.

Scored runs are grouped by the configuration in their ``source.json``;
:mod:`evaluation.statistics.configurations.comparison` judges the declared pairs. The result depends on what was scored
and on the analysis file, not on the order or place of the folders.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.archive.duplicates import say_alike
from contract.archive.marksheet import contradictions
from contract.errors import OncoduetError
from contract.file_stamps import glance
from contract.files.reading import below, inside, sha256_file, sha256_json
from contract.images.volume import is_image
from contract.outputs import Output, require_apart
from contract.records import write_record
from contract.tables import read_table
from contract.text import first_few
from evaluation.metrics.outcomes import TestSet, require_patients
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import group_by_configuration, identities, read_scored_runs
from evaluation.planning.plan_record import read_plan
from evaluation.planning.power import sample_size
from evaluation.report.figures.missed_lesions import find_misses
from evaluation.report.page import REPORT_FILES, write_report
from evaluation.statistics.analysis_file import EXPLORATORY, METRIC_NAMES, MOST_RUNS, Analysis, read_analysis
from evaluation.statistics.clinical.clinical_use import describe_clinically
from evaluation.statistics.clinical.thresholds import read_validation
from evaluation.statistics.configurations.comparison import compare_configurations, compare_table_of_runs
from evaluation.statistics.configurations.runs_table import RUN_COLUMNS, read_runs_table
from evaluation.statistics.readers.reader_comparison import compare_with_readers
from evaluation.statistics.readers.readers_table import Reader, read_readers_table
from evaluation.statistics.subgroups.case_subgroups import (
    Groups,
    compare_between_groups,
    compare_subgroups,
    read_groups,
)
from evaluation.statistics.subgroups.lesion_strata import compare_strata, read_strata
from evaluation.statistics.variance.arms import Arm, arms_of
from evaluation.statistics.verdict_records import ReaderStudy

COMMAND = "evaluation compare"
MOST_CONFIGURATIONS = 12

_log = logging.getLogger(__name__)


def compare(
    scores: Sequence[Path],
    output: Path,
    *,
    analysis: Path | None,
    marksheet: Path | None = None,
    archive: Path | None = None,
    predictions: Sequence[Path] = (),
    patients: str | None = None,
    few_patients: bool = False,
    readers: Path | None = None,
    lesions: Path | None = None,
    validation: Sequence[Path] = (),
    plan_record: Path | None = None,
    workers: int = 1,
) -> None:
    """Compare scored runs and write ``verdict.json``, ``report.html``, ``figures/`` and ``tables/`` into ``output``.

    An earlier comparison there is replaced if its runs are among these and all other inputs are the same: scores arrive
    one by one, while the declared analysis stays.

    Parameters
    ----------
    scores
        Scored runs, or folders of them.
    analysis
        The analysis file; without one all pairs are compared and the verdict says that it is exploratory.
    marksheet
        CSV with ``patient_id``, ``study_id`` and the columns that the analysis file declares as subgroups.
    archive, predictions
        Images and label maps, and what was scored: for pictures of the worst misses
        (:mod:`evaluation.report.figures.missed_lesions`).
    patients
        Value of ``--patients``; overrides what is recorded with the scores.
    few_patients
        Allow fewer than 20 patients to be resampled.
    readers
        A table of human readers (:mod:`evaluation.statistics.readers.readers_table`), to compare configurations with.
    lesions
        A table of lesions with the columns that the analysis file declares as strata
        (:mod:`evaluation.statistics.subgroups.lesion_strata`).
    validation
        The same runs scored on validation cases, or folders of such: thresholds are chosen there.
    plan_record
        ``plan.json`` of ``plan power``, for the sentence on the sample size.
    workers
        Processes; the result does not depend on them.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.metrics.scored_runs.read_scored_runs`; also for faults in the analysis file, for another
        number of configurations than 2 to 12 (with readers 1 to 12), for more than 20 runs of one, for ambiguous or too
        few patients, and for an output that holds another comparison, or files not written by oncoduet under the same
        names. Nothing is written.
    """
    require_apart(
        output,
        scores=scores,
        archive=archive,
        predictions=predictions,
        readers=readers,
        lesions=lesions,
        validation=validation,
        plan=plan_record,
    )
    plan = read_analysis(analysis) if analysis else EXPLORATORY
    runs = read_scored_runs(scores, patients=patients)
    where = ", ".join(map(str, scores[:3]))
    require_patients(runs[0].truth, where, few=few_patients, way_out="--few-patients")
    place = Output(
        output,
        COMMAND,
        ["verdict.json", *REPORT_FILES],
        identity={
            "cases": sha256_json(dict(zip(runs[0].truth.case_ids, runs[0].truth.lesions.tolist(), strict=True))),
            "runs": identities(scores),
            "analysis": _named(analysis),
            "patients": sha256_json(runs[0].truth.patients.tolist()),
            "few_patients": few_patients,
            "validation": identities(validation),
            "archive": None if archive is None else glance(archive, filter(is_image, below(archive))),
            "predictions": _sources(predictions),
            **{
                name: None if path is None else sha256_file(path)
                for name, path in {
                    "marksheet": marksheet,
                    "readers": readers,
                    "lesions": lesions,
                    "plan": plan_record,
                }.items()
            },
        },
        record="verdict.json",
    )
    place.check()
    by_configuration = group_by_configuration(runs)
    _require_legible(scores, by_configuration, fewest=1 if readers else 2)
    declared = plan.pairs(list(by_configuration), analysis)
    _require_planned(plan, {name: len(each) for name, each in by_configuration.items()}, declared)
    groups = _subgroups(plan, marksheet, runs[0].truth, analysis)
    strata = read_strata(runs, plan.lesions, lesions, analysis)
    _log.info("comparing %d scored runs in %d pairs", len(runs), len(declared))
    _warn(by_configuration)
    read = [] if readers is None else read_readers_table(readers, runs[0].truth)
    chosen_on = read_validation(validation, runs) if validation else {}
    planned = None if plan_record is None else read_plan(plan_record, plan.metrics)
    warn_of_alike_outcomes(runs, ", ".join(map(str, scores)))
    misses = [] if archive is None else find_misses(runs, archive, predictions)
    verdict = compare_configurations(runs, plan, declared, analysis=_named(analysis), workers=workers)
    arms = arms_of(runs)
    update: dict[str, object] = {"clinical": describe_clinically(arms, runs[0].truth, plan, chosen_on)}
    if read:
        update["readers"] = _against_readers(read, arms, declared, runs[0].truth, plan)
    if strata:
        update["lesion_strata"] = compare_strata(strata, arms, declared, plan, chosen_on)
    if groups:
        judged, left_out = compare_subgroups(groups, arms, declared, plan, few_patients=few_patients)
        for each in left_out:
            _log.warning("subgroup not tested: %s", each)
        between = compare_between_groups(groups, arms, declared, judged, plan)
        update |= {"subgroups": judged, "interactions": between, "subgroups_left_out": left_out}
    if planned is not None and plan_record is not None:
        scored = [each for each in by_configuration.values() if not each[0].is_baseline]
        counts = [len(each) for each in scored if not each[0].is_ensemble] or [len(each) for each in scored]
        said = sample_size(planned, runs=min(counts, default=1), cases=len(runs[0].truth.case_ids))
        update |= {"sample_size": said, "parents": {**verdict.parents, "plan": sha256_file(plan_record)}}
    verdict = verdict.model_copy(update=update)
    with place.staged() as stage:
        write_record(stage / "verdict.json", verdict)
        write_report(stage, verdict, runs, misses)
    _log.info("%s", output / "report.html")


def compare_table(table: Path, output: Path, *, analysis: Path | None) -> None:
    """Compare a table's runs (:mod:`~evaluation.statistics.configurations.runs_table`), and write the same files.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.statistics.configurations.runs_table.read_runs_table`; also for faults in the analysis
        file, for another number of configurations than 2 to 12, for more than 20 runs of one, and for an output that
        holds files not written by oncoduet under the same names. Nothing is written.
    """
    require_apart(output, runs=table, analysis=analysis)
    plan = read_analysis(analysis) if analysis else EXPLORATORY
    runs = read_runs_table(table)
    by_configuration = {name: arm.runs for name, arm in runs["auroc"].items()}
    place = Output(
        output,
        COMMAND,
        ["verdict.json", *REPORT_FILES],
        identity={
            "rows of runs": frozenset(map(sha256_json, read_table(table, RUN_COLUMNS).rows)),
            "analysis": _named(analysis),
        },
        record="verdict.json",
    )
    place.check()
    _require_legible([table], by_configuration)
    if plan.subgroups or plan.lesions:
        raise OncoduetError(
            analysis,
            f"{[*plan.subgroups, *(plan.lesions.strata if plan.lesions else ())][0]} cannot be compared: "
            "a table of runs holds no cases",
        )
    if plan.primary is not None and not all(arm.defined for arm in runs[plan.primary].values()):
        raise OncoduetError(table, f"lacks {METRIC_NAMES[plan.primary]}, the primary metric")
    declared = plan.pairs(list(by_configuration), analysis)
    _require_planned(plan, {name: len(each) for name, each in by_configuration.items()}, declared)
    verdict = compare_table_of_runs(
        runs,
        plan,
        declared,
        analysis=_named(analysis),
        parents={"runs": sha256_file(table)},
    )
    with place.staged() as stage:
        write_record(stage / "verdict.json", verdict)
        write_report(stage, verdict, [])
    _log.info("%s", output / "report.html")


def _named(analysis: Path | None) -> str:
    return sha256_file(analysis) if analysis else "exploratory"


def _sources(predictions: Sequence[Path]) -> frozenset[str]:
    """Hashes of the sources of predictions in some folders; whether these were scored is checked elsewhere."""
    places = [place for folder in predictions if folder.is_dir() for place in (folder, *inside(folder))]
    return frozenset(sha256_file(place / "source.json") for place in places if (place / "source.json").is_file())


def warn_of_alike_outcomes(runs: Sequence[ScoredRun], where: object) -> None:
    """Warn of cases in which every run found the same candidates to the last digit: there are no images to compare."""
    truth = runs[0].truth
    contents = {}
    for place, case_id in enumerate(truth.case_ids):
        found = []
        for run in runs:
            here = run.outcome.candidate_case == place
            found.append(sorted(zip(run.outcome.confidence[here], run.outcome.hit[here], strict=True)))
        if all(any(round(confidence, 4) != confidence for confidence, _ in each) for each in found):
            likelihoods = [run.outcome.likelihood[place] for run in runs]
            contents[case_id] = repr((truth.lesions[place], likelihoods, found))
    say_alike(where, contents, "cases {} and {} have the same candidates in every run: one study, or two?")


def _against_readers(
    readers: Sequence[Reader],
    arms: Mapping[str, Arm],
    declared: Sequence[tuple[str, str]],
    truth: TestSet,
    plan: Analysis,
) -> ReaderStudy:
    """Compare with the readers all configurations that a declared comparison names, or the only one."""
    asked = {name: arm for name, arm in arms.items() if len(arms) == 1 or any(name in pair for pair in declared)}
    study = compare_with_readers(readers, asked, truth, plan)
    unnamed = [f"{name}: in none of the analysis file's comparisons" for name in arms if name not in asked]
    return study.model_copy(update={"left_out": (*study.left_out, *unnamed)})


def _require_legible(scores: Sequence[Path], groups: Mapping[str, Sequence[object]], *, fewest: int = 2) -> None:
    where = first_few(list(map(str, scores)), 3)
    if not fewest <= len(groups) <= MOST_CONFIGURATIONS:
        raise OncoduetError(
            where,
            expected=f"{fewest} to {MOST_CONFIGURATIONS} configurations to compare",
            found=f"{len(groups)} ({', '.join(groups)})",
        )
    for name, members in groups.items():
        if len(members) > MOST_RUNS:
            raise OncoduetError(where, expected=f"at most {MOST_RUNS} runs of {name}", found=len(members))


def _warn(groups: Mapping[str, Sequence[ScoredRun]]) -> None:
    """Log warnings that matter before reading the report."""
    for run in (run for members in groups.values() for run in members):
        if run.trained_on:
            _log.warning("%s: %d of %d studies were trained on", run.name, run.trained_on, run.strict.cases)
    for name, members in groups.items():
        swept = sum(run.by_criterion is not None for run in members)
        if 0 < swept < len(members):
            _log.warning("%s: %d of %d runs have hits.csv; no mean by other hit criteria", name, swept, len(members))


def _require_planned(plan: Analysis, runs: Mapping[str, int], declared: Sequence[tuple[str, str]]) -> None:
    plan.require_planned({name: count for name, count in runs.items() if any(name in pair for pair in declared)})


def _subgroups(plan: Analysis, marksheet: Path | None, truth: TestSet, where: object) -> Groups:
    if marksheet is None and plan.subgroups:
        raise OncoduetError(where, f"subgroups {', '.join(plan.subgroups)} need --marksheet")
    if marksheet is not None and not plan.subgroups:
        raise OncoduetError(marksheet, "the analysis file declares no subgroups")
    if marksheet is not None:
        for line in contradictions(marksheet, dict(zip(truth.case_ids, truth.positive.tolist(), strict=True))):
            _log.warning("%s", line)
    return {} if marksheet is None else read_groups(marksheet, plan.subgroups, truth)
