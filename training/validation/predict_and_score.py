"""Predict an archive with one network and score it.

The network becomes a bundle of one; ``python -m algorithm batch`` predicts the studies and ``python -m evaluation
score`` scores what it predicted, as programs, since training, algorithm and evaluation meet in files alone. For a card
that first locates an organ, a network of stage 1 goes into the bundle too: one of the same fold, or else it would have
seen the studies.
"""

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.card import Card
from contract.errors import OncoduetError
from contract.records import Metrics, MetricsRecord, RunKey, RunRecord, read_record
from contract.text import one_line
from network.machine.device import Device
from training.dataset.archive_stamps import SourcesRecord
from training.run_folder.folder import RunFolder

logger = logging.getLogger(__name__)

_HOME = Path(__file__).resolve().parents[2]


def find_localisation(
    card: Card, key: RunKey, folder: RunFolder, localisation: Path | None, *, purpose: str
) -> Path | None:
    """The finished run of stage 1 that goes into a network's bundle; None for a card that needs none.

    Raises ``OncoduetError``: there is no such run.

    Parameters
    ----------
    folder
        The network's run.
    localisation
        The run of stage 1, where it was named; None: one of the same fold and card next to ``folder``.
    purpose
        What cannot be done without it, for the message.
    """
    if card.localisation is None:
        return None
    candidates = [localisation] if localisation else sorted(folder.path.resolve().parent.iterdir())
    for path in candidates:
        record = RunFolder(path).record
        if record.is_file() and _fits(read_record(record, RunRecord), key):
            return path
    where = localisation or folder.path.resolve().parent
    raise OncoduetError(
        where,
        f"no finished localisation run of fold {key.fold} and the same card, without which {purpose}; "
        "--localisation names one",
    )


def link_studies(sources: SourcesRecord, archive: Path, case_ids: Sequence[str], studies: Path) -> None:
    """Make an archive ``studies`` of only these studies, by links."""
    for case_id in case_ids:
        for stamp in sources.studies[case_id]:
            link = studies / stamp.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((archive / stamp.path).resolve())
    licence = archive / "archive.json"
    if licence.is_file():
        (studies / licence.name).symlink_to(licence.resolve())


def predict_studies(
    runs: Sequence[Path],
    output: Path,
    *,
    studies: Path,
    model: Path,
    options: Sequence[str],
    device: Device,
    purpose: str,
) -> None:
    """Predict an archive with the bundle of some runs.

    Raises ``OncoduetError``: the runs are not sound, or the algorithm refuses an input.

    Parameters
    ----------
    model
        Where the bundle is unpacked for the prediction; does not exist before.
    options
        More of ``algorithm batch``.
    device
        Where it predicts.
    purpose
        What the program is called for, for messages.
    """
    from training.bundle import bundle  # noqa: PLC0415 - imports torch

    packed = model.with_name(f"{model.name}.tar.gz")
    bundle(runs=runs, output=packed)
    with tarfile.open(packed) as archive:
        archive.extractall(model, filter="data")
    packed.unlink()
    folders = {"archive": studies, "model": model, "output": output}
    call("algorithm", "batch", "--device", device, *options, folders=folders, purpose=purpose)
    shutil.rmtree(model)


def score(predictions: Path, output: Path, *, studies: Path, card: Path, purpose: str) -> Metrics:
    """Score an ensemble's predictions against the labels of an archive, by a card; the strict answer.

    Raises ``OncoduetError``: the evaluation refuses an input, or there is no ranking score: the studies are not both
    with and without lesions.
    """
    folders = {"predictions": predictions, "truth": studies / "labels", "output": output, "card": card}
    # A fold sets its studies apart; one that is also there as another patient's is no reason to lose a training.
    call("evaluation", "score", "--training-studies-too", folders=folders, purpose=purpose)
    return read_score(output)


def read_score(scores: Path) -> Metrics:
    """The strict answer in a folder of scores, which has AUROC, AP and ranking score.

    Raises ``OncoduetError``: there is no ranking score.
    """
    metrics = scores / "metrics.json"
    strict = read_record(metrics, MetricsRecord).strict
    if strict is None or strict.score is None or strict.auroc is None or strict.ap is None:
        raise OncoduetError(metrics, f"no ranking score ({strict and strict.reason})")
    return strict


def call(*words: str, folders: Mapping[str, Path], purpose: str) -> None:
    """Run one of our programs; what it says goes to the log.

    Parameters
    ----------
    folders
        Options whose values are paths, by name.
    purpose
        What it is called for, for messages.

    Raises
    ------
    OncoduetError
        It refused its input, with its reason.
    RuntimeError
        It failed otherwise.
    """
    options = [word for name, folder in folders.items() for word in (f"--{name}", str(folder.resolve()))]
    path = os.pathsep.join([str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    ended = subprocess.run(
        [sys.executable, "-m", *words, *options], env=environment, capture_output=True, text=True, check=False
    )
    for line in (*ended.stdout.splitlines(), *ended.stderr.splitlines()):
        logger.info("%s: %s", words[0], line)
    if ended.returncode:
        found = one_line(ended.stderr).removeprefix("error: ") or f"exit code {ended.returncode}"
        message = f"python -m {' '.join(words[:2])}, called {purpose}, failed: {found}"
        raise (OncoduetError if ended.returncode == OncoduetError.exit_code else RuntimeError)(message)


def _fits(record: RunRecord, key: RunKey) -> bool:
    theirs = (record.state, record.key.stage, record.key.fold, record.key.card_sha256)
    return theirs == ("finished", "localisation", key.fold, key.card_sha256)
