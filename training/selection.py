"""The choice of a checkpoint by detection: which kept weights find lesions best in the fold's validation studies.

Each kept epoch, the last included, becomes a bundle of one network; ``python -m algorithm batch`` predicts the
validation studies from the archive and ``python -m evaluation score`` scores them, as programs, since training,
algorithm and evaluation meet in files alone. The best strict ranking score counts, of equal ones the earliest epoch.
Mirrored copies, which would cost eight times as much, are not predicted.

For a card that first locates an organ, the networks need one of stage 1 in their bundle: the finished run of the same
fold beside this one, or the one that is named. It must be of the same fold, or else it would have seen the studies.

What was predicted and scored stays until the choice is made, so that an interrupted choice goes on.
"""

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contract.errors import OncoduetError, one_line
from contract.records import (
    BatchRecord,
    MetricsRecord,
    RunKey,
    RunRecord,
    ScoredCheckpoint,
    SelectionRecord,
    read_record,
    write_record,
)
from training.prepared import Prepared
from training.run_folder import RunFolder
from training.sources import SourcesRecord, read_sources, unchanged_archive

if TYPE_CHECKING:
    from training.run import Run

OPTIMISM = (
    "The checkpoint was chosen by its score on these validation studies, so that the score on them is too good: the "
    "best of several looks better than it is, the more so the fewer studies and the more checkpoints there are. Scores "
    "to be reported come from studies that neither trained nor chose the network."
)

logger = logging.getLogger(__name__)

_HOME = Path(__file__).resolve().parent.parent


def archive_to_choose_by(prepared: Prepared, archive: Path | None) -> Path:
    """The archive that the validation studies are predicted from.

    Raises
    ------
    OncoduetError
        It cannot be reached, or has changed since the dataset was prepared.
    """
    found = unchanged_archive(prepared, archive=archive)
    if found is None:
        raise OncoduetError(
            f"{read_sources(prepared).archive}: expected the archive that {prepared.folder} was prepared from, from "
            "which detection chooses the checkpoint, found none; --archive says where it lies now"
        )
    return found


def select(
    run: "Run", folder: RunFolder, *, device: Literal["cpu", "cuda"], archive: Path | None, localisation: Path | None
) -> Path:
    """Choose among a run's kept weights and write ``selection.json``.

    Parameters
    ----------
    archive
        Where the archive lies now; None: where it lay when the dataset was prepared.
    localisation
        Finished run of stage 1; None: one of the same fold beside this run. Not looked at for cards of one stage.

    Returns
    -------
    Path
        The weights that were chosen.

    Raises
    ------
    OncoduetError
        The archive cannot be reached or has changed; there is no finished run of stage 1; a study cannot be predicted
        or scored.
    """
    source = archive_to_choose_by(run.prepared, archive)
    partner = _partner(run, folder, localisation)
    case_ids = run.fold.validation
    work = folder.selecting
    validation = work / "archive"
    _link_studies(read_sources(run.prepared), source, case_ids, validation)
    kept = {int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.kept.glob("epoch_*.safetensors"))}
    scored = []
    mirroring = False
    for epoch, weights in kept.items():
        place = work / f"epoch_{epoch:06d}"
        metrics = place / "scores" / "metrics.json"
        sha256 = _candidate(run, folder, weights, place / "run")
        if not metrics.is_file():
            _predict(run, place, validation=validation, partner=partner, device=device)
            _call(
                "evaluation",
                "score",
                predictions=place / "predictions",
                truth=validation / "labels",
                output=place / "scores",
            )
        mirroring |= bool(read_record(place / "predictions" / "batch.json", BatchRecord).settings["mirroring"])
        scored.append(_score(metrics, epoch=epoch, sha256=sha256))
    chosen = best(scored)
    record = SelectionRecord(
        key=run.key,
        validation=case_ids,
        mirroring=mirroring,
        checkpoints=tuple(scored),
        chosen_epoch=chosen.epoch,
        optimism=OPTIMISM,
        parents=run.parents,
    )
    write_record(folder.selection, record)
    return kept[chosen.epoch]


def best(scored: Sequence[ScoredCheckpoint]) -> ScoredCheckpoint:
    """The best score; of equal ones the earliest epoch."""
    return max(scored, key=lambda each: (each.score, -each.epoch))


def _partner(run: "Run", folder: RunFolder, localisation: Path | None) -> Path | None:
    """The finished run of stage 1 that goes into the bundle, for a card that needs one."""
    if run.prepared.card.localisation is None:
        return None
    candidates = [localisation] if localisation else sorted(folder.path.resolve().parent.iterdir())
    for path in candidates:
        record = RunFolder(path).record
        if record.is_file() and _fits(read_record(record, RunRecord), run.key):
            return path
    where = localisation or folder.path.resolve().parent
    raise OncoduetError(
        f"{where}: expected a finished localisation run of fold {run.fold_number} and the same card, without which "
        f"detection cannot choose the checkpoint of {folder.path}, found none; --localisation names one"
    )


def _fits(record: RunRecord, key: RunKey) -> bool:
    theirs = (record.state, record.key.stage, record.key.fold, record.key.card_sha256)
    return theirs == ("finished", "localisation", key.fold, key.card_sha256)


def _link_studies(sources: SourcesRecord, archive: Path, case_ids: Sequence[str], validation: Path) -> None:
    """An archive of these studies alone, by links."""
    shutil.rmtree(validation, ignore_errors=True)
    for case_id in case_ids:
        for stamp in sources.studies[case_id]:
            link = validation / stamp.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((archive / stamp.path).resolve())
    licence = archive / "archive.json"
    if licence.is_file():
        (validation / licence.name).symlink_to(licence.resolve())


def _candidate(run: "Run", folder: RunFolder, weights: Path, place: Path) -> str:
    """A run folder as it would be if these weights were the run's own; returns their hash."""
    from network.weights import load_weights, tensors_sha256  # noqa: PLC0415 - takes seconds to import

    candidate = RunFolder(place)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for link, file in [
        (candidate.weights, weights),
        (candidate.card, folder.card),
        (candidate.plans, folder.plans),
        (candidate.dataset, folder.dataset),
    ]:
        link.symlink_to(file.resolve())
    sha256 = tensors_sha256(load_weights(weights))
    write_record(candidate.record, run.record(state="finished", weights_sha256=sha256))
    return sha256


def _predict(
    run: "Run", place: Path, *, validation: Path, partner: Path | None, device: Literal["cpu", "cuda"]
) -> None:
    from training.bundle import bundle  # noqa: PLC0415 - imports torch

    packed, model, predictions = place / "model.tar.gz", place / "model", place / "predictions"
    for folder in (model, predictions):
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted choice
    bundle(runs=[place / "run", *([partner] if partner else [])], output=packed)
    with tarfile.open(packed) as archive:
        archive.extractall(model, filter="data")
    packed.unlink()
    threads = str(run.profile.threads)
    _call(
        *("algorithm", "batch", "--no-mirroring", "--threads", threads),
        archive=validation,
        model=model,
        output=predictions,
        gpu=device == "cuda",
    )
    shutil.rmtree(model)


def _call(*words: str, gpu: bool = False, **folders: Path) -> None:
    """Run one of our programs; what it says goes to the log.

    Raises
    ------
    OncoduetError
        It refused its input, with its reason.
    RuntimeError
        It ended in another way.
    """
    options = [word for name, folder in folders.items() for word in (f"--{name}", str(folder.resolve()))]
    path = os.pathsep.join([str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    ended = subprocess.run(
        [sys.executable, "-m", *words, *options], env=environment, capture_output=True, text=True, check=False
    )
    for said in (*ended.stdout.splitlines(), *ended.stderr.splitlines()):
        logger.info("%s: %s", words[0], said)
    if ended.returncode:
        found = one_line(ended.stderr).removeprefix("error: ") or f"exit code {ended.returncode}"
        message = (
            f"python -m {' '.join(words[:2])}, called to choose a checkpoint: expected it to succeed, found: {found}"
        )
        raise (OncoduetError if ended.returncode == OncoduetError.exit_code else RuntimeError)(message)


def _score(metrics: Path, *, epoch: int, sha256: str) -> ScoredCheckpoint:
    strict = read_record(metrics, MetricsRecord).strict
    if strict is None or strict.score is None or strict.auroc is None or strict.ap is None:
        raise OncoduetError(f"{metrics}: expected a ranking score, found none ({strict and strict.reason})")
    return ScoredCheckpoint(epoch=epoch, weights_sha256=sha256, auroc=strict.auroc, ap=strict.ap, score=strict.score)
