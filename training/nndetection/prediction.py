"""``python -m training predict``: a finished run of nnDetection predicts an archive, in ``algorithm batch``'s layout.

nnDetection's models are pickles that enter no bundle, so that the program that predicts is nnDetection's own.
``nndet_predict`` takes neither an input nor an output folder and predicts again all that an earlier call left
preprocessed: so each prediction gets a dataset folder of its own, and the boxes that are read are those of just these
studies, written after the program was started.

A study's map is painted by the rules of :mod:`network.detection.painting`, without the card's limit on the number of
candidates, as upstream's users do; its likelihood is the highest score on the map, and without any as the card says.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from contract.archive.studies import Study, archive_licence, find_studies
from contract.batch_layout import (
    BATCH,
    LISTING_FILES,
    PREDICTIONS,
    STUDY,
    require_known_studies,
    study_files,
    write_listing,
)
from contract.card import Card, load_card
from contract.errors import OncoduetError
from contract.files.atomic import writable, write_json
from contract.files.locks import is_work_lock
from contract.files.reading import sha256_file, sha256_json
from contract.images.volume import Volume, write_volume
from contract.outputs import Output, require_apart, require_free, require_scratch, scratch, subfolder
from contract.records import (
    BatchRecord,
    RunRecord,
    Source,
    StudyRecord,
    TrainingStudiesRecord,
    read_record,
    write_record,
)
from network.detection.clustering import ScoredBoxes
from network.detection.painting import combine_scores, paint_boxes
from network.study.placement import Placement
from training.interleaving import run_to_end
from training.nndetection import PARENT
from training.nndetection.boxes_file import read_boxes
from training.nndetection.commands import PREDICTION, Programs, find_programs
from training.nndetection.dataset_layout import MODEL, Layout, StudyToPredict, write_dataset, write_study_to_predict
from training.nndetection.model import model_files
from training.nndetection.run_files import NEEDED, model_folder, model_record
from training.run_folder.folder import RunFolder
from training.run_folder.foreign_programs import at_work, require_untouched
from training.run_folder.lock import work_lock
from training.run_folder.logs import log_to

COMMAND = "training predict"
WORK = "nndetection"
"""nnDetection's data and a copy of the model, in the output folder until the prediction has ended."""
LOG = "prediction.log"
LOCK = ".lock"
_BEGINNING = "nnDetection predicts for oncoduet"

logger = logging.getLogger(__name__)


def predict(folder: RunFolder, *, archive: Path, output: Path) -> int:
    """Predict every study of an archive with a run of nnDetection; returns how many there were.

    Raises ``OncoduetError``: the run is not finished, or not as it was recorded; the archive is empty or a study of it
    is wrong; the output belongs to something else; the program is missing or fails; boxes are missing, stale, of other
    studies, or wrong (:func:`training.nndetection.boxes_file.read_boxes`). No prediction was written then.
    """
    record = _finished(folder)
    card = load_card(folder.card)
    require_apart(output, archive=archive, run=folder.path)
    paths = find_programs(PREDICTION)
    studies = find_studies(archive, card, labels_required=False)
    batch = BatchRecord(
        parents={"run": sha256_file(folder.record)},
        members=(record.key.name,),
        settings={"mirroring": card.test_time_mirroring},
    )
    _require_same_batch(output, batch, [study.case_id for study in studies], archive)
    layout = Layout(output.resolve() / WORK, card)
    layout.require_names([study.case_id for study in studies])
    place = _place(output, card, batch, studies)
    place.check()
    _require_ours(output)
    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
    with (
        work_lock(subfolder(output, LOCK), work="in this folder"),
        log_to(output / LOG),
        scratch(layout.root, COMMAND),
        at_work(layout.root),
    ):
        logger.info(_BEGINNING)
        # before the images are read
        stamps = {study.case_id: StudyRecord.of(study.case_id, study.channels) for study in studies}
        written = _lay_out(layout, folder, studies)
        programs = Programs(paths, layout, output / LOG)
        mirroring = [] if card.test_time_mirroring else ["--num_tta", "0"]
        begun = layout.root / "begun"
        begun.touch()  # a time of the clock that nnDetection's files are stamped by
        run_to_end(programs.run("nndet_predict", layout.task, MODEL, "--fold", "-1", *mirroring))
        found = _collect(layout, written, since_ns=begun.stat().st_mtime_ns)
        licences = {record.data_licence, archive_licence(archive)}
        with place.staged() as stage:
            for case_id, boxes in found.items():
                write_study_outputs(stage / case_id, card, written[case_id].placement, boxes, case_id=case_id)
                update = {"content_sha256": written[case_id].content_sha256, "method_sha256": _method_sha256(batch)}
                stamp = stamps[case_id].model_copy(update=update)
                write_record(stage / case_id / STUDY, stamp)
            write_record(stage / BATCH, batch)
            trained_on = _trained_on(
                folder, record, {case_id: each.content_sha256 for case_id, each in written.items()}
            )
            source = _source(record, batch, licence=" AND ".join(sorted(licences)), trained_on=trained_on)
            write_listing(stage, card, folder.card.read_text(encoding="utf-8"), list(found), source)
    return len(studies)


def paint(found: ScoredBoxes, placement: Placement) -> Volume:
    """Detection map, as in the reference image's file, of boxes in voxels of the study grid."""
    boxes = ScoredBoxes(placement.boxes_to_reference(found.boxes), found.scores, found.weights)
    return placement.as_in_file(paint_boxes(boxes, placement.reference.shape_zyx))


def _finished(folder: RunFolder) -> RunRecord:
    record = folder.finished_record()
    files = {PARENT: model_record(folder)}
    if "training_studies" in record.parents:
        files["training_studies"] = folder.training_studies
    folder.require_as_recorded(record, files)
    for path, sha256 in model_files(folder):
        if not path.is_file() or sha256_file(path) != sha256:
            raise OncoduetError(path, f"does not match the hash in {model_record(folder).name}")
    return record


def _require_same_batch(output: Path, batch: BatchRecord, case_ids: Sequence[str], archive: Path) -> None:
    """The folder is new, or holds an earlier prediction by the same run of these studies."""
    path = output / BATCH
    if path.is_file() and read_record(path, BatchRecord).parents != batch.parents:
        raise OncoduetError(path, "folder was begun with another run; give another output")
    require_known_studies(output, case_ids, archive)


def _place(output: Path, card: Card, batch: BatchRecord, studies: Sequence[Study]) -> Output:
    contents = {study.case_id: {name: sha256_file(path) for name, path in study.channels.items()} for study in studies}
    files = [f"{case_id}/output/{name}" for case_id in contents for name in study_files(card, case_id)]
    return Output(
        output,
        COMMAND,
        [BATCH, *LISTING_FILES, *files, *(f"{case_id}/{STUDY}" for case_id in contents)],
        identity={"method": _method_sha256(batch), "studies": sha256_json(contents)},
        record=PREDICTIONS,
    )


def _require_ours(output: Path) -> None:
    """The log, the lock and the working folder are what an earlier call left, or nothing."""
    log = subfolder(output, LOG)
    if not log.is_file() or _BEGINNING not in log.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
        require_free(output, [LOG], COMMAND)
    lock = subfolder(output, LOCK)
    if lock.exists() and not is_work_lock(lock):
        require_free(output, [LOCK], COMMAND)
    require_scratch(output / WORK, COMMAND)
    require_untouched(output / WORK)


def _lay_out(layout: Layout, folder: RunFolder, studies: Sequence[Study]) -> dict[str, StudyToPredict]:
    """Write what ``nndet_predict`` reads; returns the studies' grids by case id."""
    layout.consolidated.mkdir(parents=True)
    for name in NEEDED:
        (layout.consolidated / name).symlink_to((model_folder(folder) / name).resolve())
    write_dataset(layout)
    return {study.case_id: write_study_to_predict(layout, study) for study in studies}


def _collect(layout: Layout, written: dict[str, StudyToPredict], *, since_ns: int) -> dict[str, ScoredBoxes]:
    """Boxes of just these studies, by case id."""
    expected = {layout.boxes_file(case_id): case_id for case_id in written}
    foreign = sorted(set(layout.predictions.glob("*_boxes.pkl")) - set(expected))
    if foreign:
        raise OncoduetError(foreign[0], "boxes of a study that is not predicted")
    found = {}
    for path, case_id in expected.items():
        if not path.is_file():
            raise OncoduetError(path, "boxes of the study not found after nndet_predict")
        if path.stat().st_mtime_ns < since_ns:
            raise OncoduetError(path, "boxes are older than this call of nndet_predict")
        found[case_id] = read_boxes(path, written[case_id].placement.grid.shape_zyx)
    return found


def write_study_outputs(folder: Path, card: Card, placement: Placement, found: ScoredBoxes, *, case_id: str) -> None:
    """Write a study's detection map and case likelihood, named and placed as the card says."""
    painted = paint(found, placement)
    likelihood = float(painted.array.max())
    if not likelihood and card.candidates.case_likelihood_without_candidate == "probability":
        likelihood = combine_scores(found.scores)
    map_file, likelihood_file = (folder / "output" / name for name in study_files(card, case_id))
    write_volume(map_file, painted)
    write_json(likelihood_file, likelihood)
    logger.info("study %s: %d boxes, likelihood %.3f", case_id, len(found), likelihood)


def _trained_on(folder: RunFolder, record: RunRecord, contents: dict[str, str]) -> tuple[str, ...] | None:
    """The studies that the run was trained on, which is also logged; None where an older program trained it."""
    if "training_studies" not in record.parents:
        logger.warning("%s: it is not known on which studies it was trained: an older program trained it", folder.path)
        return None
    known = set(read_record(folder.training_studies, TrainingStudiesRecord).trained_on)
    trained = tuple(sorted(case_id for case_id, content in contents.items() if content in known))
    if trained:
        logger.warning("%d of %d studies were trained on: scores on them say nothing", len(trained), len(contents))
    return trained


def _source(record: RunRecord, batch: BatchRecord, *, licence: str, trained_on: tuple[str, ...] | None) -> Source:
    key = record.key
    return Source(
        parents=batch.parents,
        card=key.card,
        card_sha256=key.card_sha256,
        configuration=key.configuration,
        fold=key.fold,
        restart=key.restart,
        profile=key.profile,
        runs=(batch.parents["run"],),
        bundle_sha256=None,
        data_licence=licence,
        trained_on=trained_on,
        settings=batch.settings,
        prepared_sha256=record.parents.get("prepared"),
        method_sha256=_method_sha256(batch),
    )


def _method_sha256(batch: BatchRecord) -> str:
    return sha256_json([dict(batch.parents), dict(batch.settings)])
