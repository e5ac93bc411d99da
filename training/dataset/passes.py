"""The passes over all studies of an archive: read and stack, take nnU-Net's fingerprint, preprocess.

In each pass every study is a step by itself, in one of several processes. What is done stays in the workplace, so that
a killed call is continued.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from contract.archive.studies import Study
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import write_json, write_text
from contract.files.reading import sha256_json
from contract.process.progress import clock, stdout_bar
from contract.process.workers import Workers
from contract.records import Stage, write_record
from training.dataset import nnunet_planning
from training.dataset.bad_studies import BadStudies
from training.dataset.preparation_needs import StudyNeeds
from training.dataset.prepared import SPLITS, PreparedRecord, PreparedStudy, SplitsRecord
from training.dataset.splits import require_one_patient
from training.dataset.study_steps import (
    Fault,
    PreprocessedRecord,
    ReadRecord,
    analyse,
    load_analysis,
    preprocess_study,
    preprocessed_files,
    read_study,
)

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_STUDIES_TIMED, _SHORT_S = 10, 60.0
"""After how many studies the time of all is estimated; it is shown unless it is so short."""
_OF_ALL = 1.7
"""The whole preparation takes so many times as long as reading and stacking: measured on bpMRI phantoms and CT."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crew:
    """Who does the work on single studies, and where it is kept."""

    work: Path
    workers: Workers
    log: Callable[[], AbstractContextManager[None]]
    """Opens prepare.log for what is logged within."""

    def each(
        self, what: str, step: Callable[[Piece], Result], pieces: Mapping[str, Piece], *, record: str
    ) -> Iterator[tuple[str, Result]]:
        """Do a step on every study, first on those that have a record of it; with each study's case id."""
        known = [case_id for case_id in pieces if (self.work / "studies" / case_id / record).is_file()]
        left = [case_id for case_id in pieces if case_id not in set(known)]
        order = [*known, *left]
        progress = iter(stdout_bar(what)(left, done=len(known)))
        if not known:
            next(progress, None)
        results = self.workers.each(step, [pieces[case_id] for case_id in order])
        for number, (result, case_id) in enumerate(zip(results, order, strict=True), start=1):
            yield case_id, result
            if number >= len(known):
                next(progress, None)


def read_studies(
    crew: Crew,
    studies: Sequence[Study],
    needs: Sequence[StudyNeeds],
    *,
    archive: Path,
    card: Card,
    stages: Sequence[Stage],
    bad: BadStudies,
    patient_of: Mapping[str, str],
) -> dict[str, ReadRecord]:
    """Read and stack every study, in the order of the studies; those that are wrong are noted."""
    pieces = {study.case_id: study for study in studies}
    step = partial(read_study, work=crew.work, archive=archive, card=card, stages=stages)
    forecast = _Forecast({study.case_id: need.voxels for study, need in zip(studies, needs, strict=True)})
    results = {}
    for case_id, result in crew.each("read studies", step, pieces, record="read.json"):
        results[case_id] = result
        forecast.note(case_id)
    read, known = {}, dict[str, str]()
    for case_id in pieces:
        result = results[case_id]
        if isinstance(result, Fault):
            bad.note(case_id, result.reason)
            continue
        contents = {f"{name} image": sha256 for name, sha256 in result.channel_sha256.items()}
        contents |= {"label map": result.label_sha256} if result.label_sha256 else {}
        try:
            require_one_patient(known, contents, case_id, patient_of)
        except OncoduetError as error:
            bad.note(case_id, str(error))
            continue
        read[case_id] = result
    with crew.log():
        said = dict.fromkeys(each for record in read.values() for each in record.said)  # Python's are of a process
        for each in said:
            logging.getLogger(each.logger).warning("%s", each.message)
    return read


class _Forecast:
    """Says once how long all will take, when enough studies were read to tell."""

    def __init__(self, voxels: Mapping[str, int]) -> None:
        self._voxels = voxels
        self._left = sum(voxels.values())
        self._times: list[float] = []
        self._counted = 0

    def note(self, case_id: str) -> None:
        """A study was read; the first ones' time is also that of starting processes."""
        self._left -= self._voxels[case_id]
        if self._times:
            self._counted += self._voxels[case_id]
        self._times.append(time.monotonic())
        if len(self._times) == _STUDIES_TIMED:
            per_voxel = (self._times[-1] - self._times[0]) / self._counted
            left_s = per_voxel * (_OF_ALL * sum(self._voxels.values()) - (sum(self._voxels.values()) - self._left))
            if left_s > _SHORT_S:
                logger.info("about %s in all are left, by the first studies", clock(left_s))


@dataclass(frozen=True)
class PreparedStage:
    """One stage's plan and preprocessed studies."""

    stage: Stage
    work: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    fingerprint: dict[str, Any]
    samples: int
    read: Mapping[str, ReadRecord]
    preprocessed: Mapping[str, PreprocessedRecord]

    @property
    def lost(self) -> list[str]:
        """What is to be said of lesions that resampling lost."""
        return [line for case_id in self.read for line in self.preprocessed[case_id].lost]

    def studies(self, patient_of: Mapping[str, str]) -> tuple[PreparedStudy, ...]:
        """The studies as the dataset names them."""
        return tuple(
            PreparedStudy(
                case_id=case_id,
                patient_id=patient_of[case_id],
                lesions=record.stages[self.stage].components,
                content_sha256=record.content_sha256,
            )
            for case_id, record in self.read.items()
        )

    def record(self, card: Card, *, licence: str, patient_of: Mapping[str, str]) -> PreparedRecord:
        """The record, but for what it says of the others of its folder."""
        # Over case ids, voxels, labels and spacings; the order in which studies were found does not count.
        content = sha256_json({case_id: record.stages[self.stage].sha256 for case_id, record in self.read.items()})
        return PreparedRecord(
            card=card.name,
            card_sha256=card.sha256,
            dataset_fingerprint=content,
            data_licence=licence,
            stage=self.stage,
            foreground_samples_per_case=self.samples,
            studies=self.studies(patient_of),
            files={name: sha256 for case_id in self.read for name, sha256 in self.preprocessed[case_id].files.items()},
            parents={"archive": content, "card": card.sha256},
        )

    def write(self, folder: Path, card_text: str, splits: SplitsRecord) -> None:
        """Put all but the record into a folder of the same file system."""
        write_text(folder / "card.toml", card_text)
        write_record(folder / SPLITS, splits)
        write_json(folder / "plans.json", self.plans)
        write_json(folder / "dataset.json", self.dataset)
        write_json(folder / "dataset_fingerprint.json", self.fingerprint)
        (folder / "cases").mkdir()
        for case_id in self.read:
            for path in preprocessed_files(self.work, case_id, self.stage):
                _link(path, folder / "cases" / path.name)


def preprocess_stage(crew: Crew, stage: Stage, card: Card, read: Mapping[str, ReadRecord]) -> PreparedStage:
    """Fingerprint, plan and preprocessing of one stage's studies."""
    of_stage = card if stage == "detection" else card.localising()
    pieces = {case_id: (case_id, record.stages[stage]) for case_id, record in read.items()}
    dataset = nnunet_planning.dataset_json(of_stage, studies=len(pieces))
    samples = nnunet_planning.samples_per_case(
        studies=len(pieces), largest_foreground_voxels=max(each.foreground_voxels for _, each in pieces.values())
    )
    what = "" if stage == "detection" else f" ({stage})"
    look = partial(analyse, work=crew.work, stage=stage, samples=samples)
    analysed = dict(crew.each(f"take fingerprint{what}", look, pieces, record=f"{stage}_analysis.json"))
    fingerprint = nnunet_planning.fingerprint(
        [load_analysis(crew.work, case_id, stage, analysed[case_id]) for case_id in pieces]
    )
    with crew.log(), tempfile.TemporaryDirectory(prefix=".partial-", dir=crew.work) as planning:
        plans = nnunet_planning.plan(dataset, fingerprint, name=f"Dataset001_{card.name}", work=Path(planning))
    step = partial(preprocess_study, work=crew.work, stage=stage, card=of_stage, plans=plans, dataset=dataset)
    done = dict(crew.each(f"preprocess{what}", step, pieces, record=f"{stage}_preprocessed.json"))
    return PreparedStage(stage, crew.work, plans, dataset, fingerprint, samples, read, done)


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, so that a call that is killed now has lost nothing; where that cannot be, move it."""
    try:
        target.hardlink_to(path)
    except OSError:
        path.replace(target)
