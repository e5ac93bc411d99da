"""Predict many studies: every member predicts each study once, for all requested ensembles.

Each ensemble gets a folder that the evaluation reads as its ``/input``: ``<case_id>/output/…`` per study as soon as it
is predicted, and at the end ``predictions.json``, ``source.json`` and ``card.toml``. The same command resumes where it
was stopped (see ``algorithm.outputs.batch_folder``).

A study that cannot be predicted stops no other: it is missing from ``predictions.json``, is listed in ``failures.json``
with its reason, and makes the command fail in the end. The same command tries it again. Where no study can be
predicted, only ``batch.json`` and ``failures.json`` are written.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from algorithm.outputs.batch_folder import BatchFolder
from algorithm.outputs.study_output import detect
from algorithm.prediction.bundle import Bundle, read_bundle
from algorithm.prediction.detectors import AS_IN_RULES, BoxChoice
from algorithm.prediction.ensembles import Ensemble, choose_ensembles, ensemble_source, method_sha256
from algorithm.prediction.options import DEFAULTS, PredictionOptions
from algorithm.prediction.overlap import Overlap
from algorithm.prediction.predictor import (
    LEANER,
    Predictor,
    ReadStudy,
    StudyPrediction,
    load_predictor,
    remark_on_precision,
)
from algorithm.prediction.trained_on import KnownStudies
from contract.archive.duplicates import say_alike
from contract.archive.studies import Study, archive_licence, list_studies
from contract.errors import OncoduetError
from contract.outputs import require_apart
from contract.process.progress import Track
from contract.records import BatchRecord, Failure, FailuresRecord, StudyRecord
from contract.text import one_line
from network.machine.device import free_device_memory, memory_or_refuse
from network.machine.memory import held_bytes, memory_budget

logger = logging.getLogger(__name__)


class _StudyError(Exception):
    """One study cannot be predicted; the others can."""


@dataclass
class _Ended:
    """Outcome of the studies that were to be predicted."""

    failures: dict[str, str]
    """Reasons of the studies that failed, by case id."""
    unforeseen: Exception | None = None
    """The first exception that is a bug; raised once the other studies are done."""


def predict_batch(
    *,
    archive: Path,
    output: Path,
    model: Path,
    members: Sequence[str],
    track: Track,
    choices: Sequence[BoxChoice] = (AS_IN_RULES,),
    options: PredictionOptions = DEFAULTS,
) -> None:
    """Predict every study of an archive that is not finished yet, with every ensemble.

    Raises ``OncoduetError``: the bundle is wrong, the archive is empty, or the output belongs to another batch: nothing
    was changed. Or single studies are wrong: all others are predicted.

    Parameters
    ----------
    members
        Words of ``--members``, see ``algorithm.prediction.ensembles``.
    choices
        How boxes become maps and likelihoods: an ensemble with boxes gets a folder for each of several choices.
    """
    require_apart(output, archive=archive, model_bundle=model)
    bundle = read_bundle(model)
    ensembles = choose_ensembles(bundle, members, choices)
    listing = list_studies(archive, bundle.card, labels_required=False)
    licence = archive_licence(archive)
    record = BatchRecord(
        parents={"bundle": bundle.sha256},
        members=tuple(sorted(members)),
        settings={
            "mirroring": options.mirrors(bundle.card),
            "precision": options.precision,
            **_settings(choices),
        },
    )
    methods = {ensemble.folder: method_sha256(bundle, ensemble, options) for ensemble in ensembles}
    folder = BatchFolder(output, bundle.card, methods)
    for remark in listing.remarks:
        logger.warning("%s", remark)
    everything = sorted({*listing.faults, *(study.case_id for study in listing.studies)})
    folder.check(record, archive=archive, case_ids=everything)
    done = folder.finished(listing.studies)
    waiting = [study for study in listing.studies if study.case_id not in done]
    to_predict = [*listing.faults, *(study.case_id for study in waiting)]
    if done == set(everything) and folder.is_listed(everything) and not folder.failures.exists():
        folder.require_unedited()
        folder.remove_partial_files()
        logger.info("%s: all %d studies are finished already", output, len(done))
        return
    folder.require_replaceable(to_predict)
    predictor = unforeseen = None
    if waiting:
        predictor = _load(bundle, ensembles, choices, options)
        remark_on_precision(predictor)
    with folder.begun(record):
        folder.require_replaceable(to_predict)  # which may have changed while the networks were loaded
        folder.unlist()
        failures = dict(listing.faults)
        for case_id in to_predict:
            folder.discard(case_id)
        for case_id, reason in failures.items():
            logger.error("study %s failed: %s", case_id, reason)
        if predictor is not None:
            begun = _predict_all(predictor, ensembles, waiting, folder, track=track, done=len(done))
            failures |= begun.failures
            unforeseen = begun.unforeseen
        predicted = [case_id for case_id in everything if case_id not in failures]
        if failures:
            folder.write_failures(_failures(bundle, len(everything), failures))
        if predicted:
            card_text = (bundle.folder / "card.toml").read_text(encoding="utf-8")
            contents = folder.contents(predicted, listing.studies)
            say_alike(archive, contents, "studies {} and {} are the same image")
            for ensemble, trained_on in _trained_on(bundle, ensembles, contents):
                source = ensemble_source(
                    bundle, ensemble, archive_licence=licence, trained_on=trained_on, options=options
                )
                folder.write_listing(ensemble.folder, card_text, predicted, source)
    if unforeseen is not None:
        raise unforeseen
    _require_none(failures, folder, studies=len(everything))


def _require_none(failures: Mapping[str, str], folder: BatchFolder, *, studies: int) -> None:
    """Raise ``OncoduetError`` with the first of the studies that failed, if any did."""
    if failures:
        first = min(failures)
        raise OncoduetError(
            f"{len(failures)} of {studies} studies failed, all listed in {folder.failures}; "
            f"the first, {first}: {failures[first]}"
        )


def _trained_on(
    bundle: Bundle, ensembles: Sequence[Ensemble], contents: Mapping[str, str]
) -> Iterator[tuple[Ensemble, tuple[str, ...] | None]]:
    """Each ensemble with the studies that its networks were trained on, which are also logged; None: not known."""
    unknown = []
    for ensemble in ensembles:
        known = KnownStudies.of(bundle, ensemble.members)
        if known is None:
            unknown.append(ensemble.name)
        else:
            known.say(ensemble.name, contents)
        yield ensemble, None if known is None else known.among(contents)
    if unknown:
        logger.warning(
            "%s: it is not known which studies %d of %d predictions were trained on: an older program trained them",
            *(bundle.folder, len(unknown), len(ensembles)),
        )


def _load(
    bundle: Bundle, ensembles: Sequence[Ensemble], choices: Sequence[BoxChoice], options: PredictionOptions
) -> Predictor:
    """Load the members that any ensemble needs, each once."""
    needed = {member.name for ensemble in ensembles for member in ensemble.members}
    return load_predictor(
        bundle,
        [member for member in bundle.record.members if member.name in needed],
        options,
        ensembles=list(dict.fromkeys(ensemble.members for ensemble in ensembles)),
        choices=choices,
    )


def _predict_all(
    predictor: Predictor,
    ensembles: Sequence[Ensemble],
    studies: Sequence[Study],
    folder: BatchFolder,
    *,
    track: Track,
    done: int,
) -> _Ended:
    """Predict studies one after the other; an unforeseen exception ends one study and not the others.

    While the networks have one, the next is read and the last is written (:mod:`algorithm.prediction.overlap`).
    """
    logger.info(
        "%d studies to predict, %d finished before; %d members, %d predictions of each study",
        *(len(studies), done, len(predictor.members), len(ensembles)),
    )
    ended = _Ended({})
    progress = iter(track(studies, done=done))
    next(progress, None)
    overlap = Overlap(
        read=partial(_read, predictor),
        work=partial(_predict, predictor),
        write=partial(_write, predictor, ensembles, folder),
        bytes_of=partial(_most_bytes, predictor),
        room_bytes=memory_budget(predictor.options.memory_gb).total - held_bytes(),
    )
    with closing(overlap.each(studies)) as outcomes:
        for study, error in outcomes:
            if error is not None:
                _note_failure(study, error, ended, folder)
            del error  # with the frames that it came from, and what they hold
            next(progress, None)
    return ended


def _note_failure(study: Study, error: Exception, ended: _Ended, folder: BatchFolder) -> None:
    """Keep why a study failed; raise what is wrong with the output instead."""
    if isinstance(error, _StudyError):
        reason = str(error)
    elif isinstance(error, OncoduetError | OSError):  # the output's, not the study's
        raise error
    else:
        ended.unforeseen = ended.unforeseen or error
        reason = one_line(f"study {study.case_id}: {type(error).__name__}: {error}")
    folder.discard(study.case_id)
    ended.failures[study.case_id] = reason
    logger.error("study %s failed: %s", study.case_id, reason)
    free_device_memory()


@dataclass(frozen=True)
class _Predicted:
    """A study between the networks and its files."""

    record: StudyRecord
    prediction: StudyPrediction
    begun: float


def _most_bytes(predictor: Predictor, study: Study) -> int:
    try:
        return predictor.most_bytes(study.channels, name=study.case_id)
    except (OncoduetError, OSError):  # reading it will say the same
        return 0


def _read(predictor: Predictor, study: Study, alone: bool) -> tuple[StudyRecord, ReadStudy]:
    with _blamed_on(study):
        record = StudyRecord.of(study.case_id, study.channels)
        return record, predictor.read(study.channels, name=study.case_id, alone=alone)


def _predict(predictor: Predictor, study: Study, read: tuple[StudyRecord, ReadStudy]) -> _Predicted:
    """One pass of all members over one study."""
    begun = time.monotonic()
    with _blamed_on(study):
        return _Predicted(read[0], predictor.predict_read(read[1]), begun)


def _write(
    predictor: Predictor, ensembles: Sequence[Ensemble], folder: BatchFolder, study: Study, done: _Predicted
) -> None:
    """A study's outputs for every ensemble."""
    prediction = done.prediction
    for (members, _), alike in itertools.groupby(ensembles, lambda each: (each.members, each.choice.fill)):
        probability = None  # one map for all case scores
        for ensemble in alike:
            with _blamed_on(study):
                if probability is None:
                    probability = prediction.ensemble(members, ensemble.choice)
                found = detect(predictor.bundle.card, probability, predictor.box_rule(members, ensemble.choice))
            folder.write(ensemble.folder, found, done.record, content_sha256=prediction.content_sha256)
    logger.info(
        "study %s: one pass of %d members, %.1f s", study.case_id, len(predictor.members), time.monotonic() - done.begun
    )


def _settings(choices: Sequence[BoxChoice]) -> dict[str, str]:
    """What was chosen for boxes, as ``batch.json`` has it; nothing where the members' rules decide."""
    words: dict[str, set[str]] = {
        "--fill": {each.fill for each in choices if each.fill},
        "--case-score": {each.case_score for each in choices if each.case_score},
    }
    return {option: " ".join(sorted(chosen)) for option, chosen in words.items() if chosen}


@contextmanager
def _blamed_on(study: Study) -> Iterator[None]:
    """Attribute an error to the study, not to the output folder or the program."""
    try:
        with memory_or_refuse(f"study {study.case_id}", remedy=LEANER):
            yield
    except OncoduetError as error:
        raise _StudyError(one_line(str(error))) from None
    except OSError as error:
        raise _StudyError(one_line(f"study {study.case_id}: expected readable images, found: {error}")) from None
    except (ArithmeticError, ValueError, IndexError) as error:  # sizes and numbers that no image should have
        logger.debug("study %s", study.case_id, exc_info=True)
        found = one_line(f"{type(error).__name__}: {error}")
        raise _StudyError(f"study {study.case_id}: expected images that can be predicted, found: {found}") from None


def _failures(bundle: Bundle, studies: int, reasons: dict[str, str]) -> FailuresRecord:
    return FailuresRecord(
        parents={"bundle": bundle.sha256},
        studies=studies,
        failures=tuple(Failure(case_id=case_id, reason=reason) for case_id, reason in sorted(reasons.items())),
    )
