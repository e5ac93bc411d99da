"""One training of nnDetection: the steps from a prepared dataset to a model, each once, also when interrupted.

The order is nnDetection's own: prepare, unpack, train, sweep, consolidate. Data and models are in the run's folder
while it is trained, fresh for each run, so that nothing of another dataset or fold is met there. Finished steps are
recorded in ``steps.json``; an interrupted step restarts, but training resumes from nnDetection's last checkpoint.

nnDetection draws its random numbers unseeded: the run's seed names the run and reaches none of them.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from contract.archive.studies import list_studies
from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json
from training.configuration import UpstreamConfiguration
from training.engine import Trained, TrainingContext
from training.interleaving import Steps
from training.nndetection.commands import TRAINING, Programs, find_programs, loaders
from training.nndetection.dataset_layout import MODEL, Layout, write_dataset, write_splits, write_training_study
from training.nndetection.model import keep_model, require
from training.nndetection.run_files import FOLD, steps_file, work_folder
from training.run_folder.folder import RunFolder
from training.run_folder.foreign_programs import at_work
from training.run_identity import RunIdentity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpstreamTask:
    """Everything that one training of nnDetection depends on."""

    run: RunIdentity
    folder: RunFolder
    archive: Path

    @property
    def layout(self) -> Layout:
        """Folders in which nnDetection reads and writes."""
        return Layout(work_folder(self.folder).resolve(), self.run.prepared.card)


def steps(run: RunIdentity, context: TrainingContext, *, archive: Path) -> Steps[Trained]:
    """Train or resume; yields while a program works. There is no record of epochs.

    Raises ``OncoduetError``: a program is missing, fails, or leaves nothing; the studies are not those of the dataset;
    a path or a study has a dot in its name.
    """
    task = UpstreamTask(run, context.folder, archive)
    paths = find_programs(TRAINING)
    layout = task.layout
    layout.require_names([*run.fold.train, *run.fold.validation])
    programs = Programs(paths, layout, task.folder.log)
    wall_s, cpu_s = context.earlier_s
    begun = time.monotonic() - wall_s
    done = _done(steps_file(task.folder), layout)
    with at_work(layout.root):
        for name, step in _STEPS.items():
            if name in done:
                logger.info("%s: done already", name)
                continue
            with closing(step(task, layout, programs)) as going:
                cpu_s += yield from going
            done.append(name)
            write_json(steps_file(task.folder), done)
            wall_s = time.monotonic() - begun
            context.on_progress((), wall_s, cpu_s)
    made = keep_model(layout, task.folder, key=run.key, programs=paths)
    versions = {
        "nndetection_targeted": made.targeted_commit,
        "nndetection": made.reported_commit or "unknown",
        "nndetection_torch": made.reported_torch or "unknown",
    }
    return Trained(None, (), wall_s, cpu_s, versions)


def _done(path: Path, layout: Layout) -> list[str]:
    """The steps that an earlier start finished; without the first one, everything restarts."""
    if path.is_file():
        return list(read_json(path))
    shutil.rmtree(layout.root, ignore_errors=True)
    layout.models.mkdir(parents=True)
    return []


def _write(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """The raw layout."""
    listing = list_studies(task.archive, layout.card, labels_required=True)
    studies = {study.case_id: study for study in listing.studies}
    write_dataset(layout)
    cpu_s = 0.0
    for case_id in sorted({*task.run.fold.train, *task.run.fold.validation}):
        before_s = time.process_time()
        if case_id not in studies:  # what was added to the archive since may be in its way
            raise OncoduetError(listing.faults.get(case_id, f"study {case_id}: not found in {task.archive}"))
        write_training_study(layout, studies[case_id])
        cpu_s += time.process_time() - before_s
        yield
    return cpu_s


def _prepare(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """Plan and preprocessing, and then the fold."""
    for folder in (layout.preprocessed, layout.dataset / "raw_cropped"):
        shutil.rmtree(folder, ignore_errors=True)
    cpu_s = yield from programs.run("nndet_prep", layout.task)
    for path in (layout.plan, layout.packed):
        require(path, program="nndet_prep")
    write_splits(layout, task.run.fold)
    return cpu_s


def _unpack(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """Preprocessed studies as training reads them; a file that is half written would be taken for a whole one."""
    for path in layout.packed.glob("*.npy"):
        path.unlink()
    return (yield from programs.run("nndet_unpack", str(layout.packed), str(loaders())))


def _train(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """The training itself."""
    last = layout.trained / "model_last.ckpt"
    overwrites = cast(UpstreamConfiguration, task.run.configuration).overwrites
    settings = [f"exp.fold={FOLD}", *(f"{name}={value}" for name, value in overwrites.items())]
    if last.is_file():
        logger.info("resumes from %s", last)
        settings.append("train.mode=resume")
    else:
        shutil.rmtree(layout.trained, ignore_errors=True)
    cpu_s = yield from programs.run("nndet_train", layout.task, "-o", *settings)
    require(last, program="nndet_train")
    return cpu_s


def _sweep(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """Thresholds, chosen on the validation studies."""
    shutil.rmtree(layout.trained / "sweep_predictions", ignore_errors=True)
    cpu_s = yield from programs.run("nndet_sweep", layout.task, MODEL, str(FOLD))
    require(layout.trained / "sweep_predictions", program="nndet_sweep")
    return cpu_s


def _consolidate(task: UpstreamTask, layout: Layout, programs: Programs) -> Steps[float]:
    """The model for predictions."""
    shutil.rmtree(layout.consolidated, ignore_errors=True)
    return (yield from programs.run("nndet_consolidate", layout.task, MODEL, "--num_folds", "1", "--sweep_boxes"))


_STEPS: Mapping[str, Callable[[UpstreamTask, Layout, Programs], Steps[float]]] = {
    "write": _write,
    "prepare": _prepare,
    "unpack": _unpack,
    "train": _train,
    "sweep": _sweep,
    "consolidate": _consolidate,
}
