"""The platform's exec mode: ``predictions.json`` and job folders in ``/input``, truth mounted, ``metrics.json`` out.

Input images are not mounted there, so cases are recognised by the names that their images were uploaded under. Jobs
come in any order and per-case rows are written only where the truth's ``settings.json`` asks for them: they would
reveal the truth. So would exact figures (:mod:`evaluation.metrics.disclosure`). Where frozen baselines ship with the
truth, the submission is compared with each.

The sockets of a job's outputs are the phase's, not the participant's, and so may identify the card.
"""

import logging
from dataclasses import replace
from pathlib import Path

from contract.outputs import Output, require_apart
from contract.records import write_record
from evaluation.inputs.predictions import LISTING, PredictionSet, card_of_outputs, check_complete, predictions_of_jobs
from evaluation.inputs.truth import BASELINES, find_truth
from evaluation.metrics.disclosure import disclosed, rounding_for
from evaluation.score import METRICS_FILE, ROW_FILES, Score, Tracker, score_run, untracked, write_rows

_log = logging.getLogger(__name__)


def evaluate(*, input_folder: Path, truth: Path, output: Path, track: Tracker = untracked) -> Score:
    """Score a submission.

    Parameters
    ----------
    input_folder
        ``/input``: ``predictions.json`` and ``<job pk>/output/<relative path>``.
    truth
        Label maps, optionally ``card.toml``, ``settings.json`` and ``baselines/``. Without a card, the project's card
        whose outputs the jobs have.
    output
        ``/output``: gets ``metrics.json``, and ``cases.csv`` and ``lesions.csv`` where the settings say so.
    track
        Shows progress.

    Raises
    ------
    OncoduetError
        The input is faulty, or files not written by oncoduet have an output's name; nothing is written then.
    """
    require_apart(output, input=input_folder, truth=truth)
    truth_folder = find_truth(truth)
    settings = truth_folder.settings
    files = [METRICS_FILE, *(ROW_FILES if settings.per_case else ())]
    answer = Output(output, "evaluation", files, identity={}, on_platform=True)
    answer.check()
    card = truth_folder.card or card_of_outputs(input_folder / LISTING)
    predictions = predictions_of_jobs(input_folder, card, truth_folder.label_maps)
    check_complete(input_folder, predictions, truth_folder, settings.on_missing)
    run = PredictionSet(input_folder, "", predictions, None, card)
    scored = score_run(run, truth_folder, truth_sha256=truth_folder.sha256(), track=track)
    if (truth_folder.folder / BASELINES).is_dir():
        from evaluation.index import compare_with_baselines  # noqa: PLC0415  (imports SciPy, which scoring does not need)

        against = compare_with_baselines(scored.cases, truth_folder, card)
        scored = replace(scored, metrics=scored.metrics.model_copy(update={"baselines": against}))
    if not (settings.exact or settings.per_case):
        if scored.metrics.strict is not None and rounding_for(scored.metrics.strict) is None:
            _log.warning("%s: too few cases to hide: metrics.json reveals their labels", truth_folder.folder)
        scored = replace(scored, metrics=disclosed(scored.metrics))
    with answer.staged() as stage:
        write_record(stage / METRICS_FILE, scored.metrics)
        if settings.per_case:
            write_rows(scored.cases, stage)
    return scored
