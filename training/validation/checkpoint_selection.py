"""The choice of a checkpoint by detection: which kept weights find lesions best in the fold's validation studies.

Each kept epoch, the last included, predicts the validation studies and is scored there
(``training.validation.predict_and_score``). The best strict ranking score counts, of equal ones the earliest epoch.
Mirrored copies, which would cost eight times as much, are not predicted.

For a card that first locates an organ, the networks need one of stage 1 in their bundle: the finished run of the same
fold next to this one, or the one that is named.

The scores of an epoch stay until the choice is made, so that an interrupted choice resumes.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from contract.files.atomic import held_folder
from contract.files.reading import sha256_file
from contract.outputs import claim_scratch
from contract.records import BatchRecord, Record, ScoredCheckpoint, SelectionRecord, read_record, write_record
from network.machine.device import Kind
from training.dataset.archive_stamps import reachable_archive, read_sources
from training.planned_run import Run
from training.run_folder.folder import COMMAND, RunFolder
from training.validation.predict_and_score import find_localisation, link_studies, predict_studies, score

OPTIMISM = (
    "The checkpoint was chosen by its score on these validation studies, so that the score on them is too good: the "
    "best of several looks better than it is, the more so the fewer studies and the more checkpoints there are. Scores "
    "to be reported come from studies that neither trained nor chose the network."
)

PURPOSE = "to choose a checkpoint"
NEED = "detection chooses the checkpoint"


def select(run: Run, folder: RunFolder, *, device: Kind, archive: Path | None, localisation: Path | None) -> Path:
    """Choose among a run's kept weights and write ``selection.json``.

    Raises ``OncoduetError``: the archive cannot be reached or has changed; there is no finished run of stage 1; a study
    cannot be predicted or scored.

    Parameters
    ----------
    archive
        Current folder of the archive; None: that of ``prepare``.
    localisation
        Finished run of stage 1; None: one of the same fold next to this run. Ignored for cards of one stage.

    Returns
    -------
    Path
        The weights that were chosen.
    """
    source = reachable_archive(run.prepared, archive, purpose=NEED)
    purpose = f"detection cannot choose the checkpoint of {folder.path}"
    partner = find_localisation(run.prepared.card, run.key, folder, localisation, purpose=purpose)
    case_ids, kept = run.fold.validation, folder.all_kept()
    folder.selecting.mkdir(parents=True, exist_ok=True)
    with held_folder(folder.selecting) as work:
        claim_scratch(work, COMMAND)
        studies = work / "archive"
        link_studies(read_sources(run.prepared), source, case_ids, studies)
        scored = [
            _scored(run, folder, epoch, work / f"epoch_{epoch:06d}", studies=studies, partner=partner, device=device)
            for epoch in kept
        ]
    chosen = best([each.scores for each in scored])
    record = SelectionRecord(
        key=run.key,
        validation=case_ids,
        mirroring=any(each.mirroring for each in scored),
        checkpoints=tuple(each.scores for each in scored),
        chosen_epoch=chosen.epoch,
        optimism=OPTIMISM,
        parents=run.parents,
    )
    with folder.writing(folder.selection) as partial:
        write_record(partial, record)
    return kept[chosen.epoch]


def best(scored: Sequence[ScoredCheckpoint]) -> ScoredCheckpoint:
    """The best score; of equal ones the earliest epoch."""
    return max(scored, key=lambda each: (each.score, -each.epoch))


class ScoredEpoch(Record):
    """``work/selection/epoch_NNNNNN.json``: how the weights of one epoch detect."""

    scores: ScoredCheckpoint
    mirroring: bool


def _scored(
    run: Run, folder: RunFolder, epoch: int, place: Path, *, studies: Path, partner: Path | None, device: Kind
) -> ScoredEpoch:
    """Predict and score with the weights of one epoch, unless that was done before."""
    path, candidate = folder.scored(epoch), place / "run"
    sha256 = _candidate(run, folder, folder.kept_weights(epoch), candidate)
    if path.is_file():
        known = read_record(path, ScoredEpoch)
        if known.scores.weights_sha256 == sha256:
            return known
    predictions = place / "predictions"
    predict_studies(
        [candidate, *([partner] if partner else [])],
        predictions,
        studies=studies,
        model=place / "model",
        options=("--no-mirroring", "--threads", str(run.profile.threads)),
        device=device,
        purpose=PURPOSE,
    )
    strict = score(predictions, place / "scores", studies=studies, card=folder.card, purpose=PURPOSE)
    assert strict.auroc is not None and strict.ap is not None and strict.score is not None
    found = ScoredEpoch(
        scores=ScoredCheckpoint(
            epoch=epoch, weights_sha256=sha256, auroc=strict.auroc, ap=strict.ap, score=strict.score
        ),
        mirroring=bool(read_record(predictions / "batch.json", BatchRecord).settings["mirroring"]),
        parents=run.parents,
    )
    with folder.writing(path) as partial:
        write_record(partial, found)
    shutil.rmtree(place)
    return found


def _candidate(run: Run, folder: RunFolder, weights: Path, place: Path) -> str:
    """A run folder as it would be if these weights were the run's own; returns their hash."""
    from network.model.weights import load_weights, tensors_sha256  # noqa: PLC0415 - takes seconds to import

    candidate, accompanying = RunFolder(place), run.files_before_weights(folder)
    place.mkdir(parents=True)
    for link, file in [
        (candidate.weights, weights),
        (candidate.card, folder.card),
        (candidate.plans, folder.plans),
        (candidate.dataset, folder.dataset),
        *((place / path.name, path) for path in accompanying.values()),
    ]:
        link.symlink_to(file.resolve())
    sha256 = tensors_sha256(load_weights(weights))
    parents = {what: sha256_file(path) for what, path in accompanying.items()}
    write_record(candidate.record, run.record(state="finished", weights_sha256=sha256, more_parents=parents))
    return sha256
