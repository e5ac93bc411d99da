"""The folders that nnDetection reads: a dataset in its raw layout, one file per channel, with numbered lesions.

Images are a study's channels stacked on the study grid, as all our networks get them before preprocessing; nnDetection
crops, resamples and normalises them by itself. For a card that first locates an organ they are the whole study, since
nnDetection has no stage 1. All lesions are one class, its class 0; it knows no background.

nnDetection finds a dataset by its name below ``$det_data`` and a model by the same name below ``$det_models``, so each
training and each prediction has a root of its own for the two.

Source: MIC-DKFZ/nnDetection 97a58f3.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.archive.studies import Study
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import atomic_file, write_json
from contract.images.volume import Float32Array, Volume, write_volume
from network.study.placement import Placement
from network.study.scan import classes_on_study_grid, read_scan, read_truth, stack
from training.dataset.lesion_instances import number_lesions
from training.dataset.prepared import Fold
from training.nndetection.run_files import FOLD

COMMIT = "97a58f3"
"""The commit of nnDetection whose layout and programs are supported."""
PLAN = "D3V001_3d"
"""Name of nnDetection's plan at full resolution."""
MODEL = f"RetinaUNetV001_{PLAN}"
"""Name of nnDetection's experiment."""

_PICKLE_PROTOCOL = 4  # the newest that nnDetection's Python 3.8 writes by itself


@dataclass(frozen=True)
class Layout:
    """Where nnDetection reads and writes."""

    root: Path
    """Absolute path of the folder with ``det_data`` and ``det_models``."""
    card: Card

    @property
    def task(self) -> str:
        """Name of the dataset there."""
        return f"Task001_{self.card.name.replace('-', '_')}"

    @property
    def data(self) -> Path:
        """The folder ``$det_data``."""
        return self.root / "det_data"

    @property
    def models(self) -> Path:
        """The folder ``$det_models``."""
        return self.root / "det_models"

    @property
    def dataset(self) -> Path:
        """The dataset's folder."""
        return self.data / self.task

    @property
    def raw(self) -> Path:
        """Images and labels before preprocessing."""
        return self.dataset / "raw_splitted"

    @property
    def preprocessed(self) -> Path:
        """Plans, folds and preprocessed studies."""
        return self.dataset / "preprocessed"

    @property
    def plan(self) -> Path:
        """The plan; a pickle with references to functions, never loaded here."""
        return self.preprocessed / f"{PLAN}.pkl"

    @property
    def packed(self) -> Path:
        """Preprocessed training studies, which have to be unpacked before a training."""
        return self.preprocessed / PLAN / "imagesTr"

    @property
    def splits(self) -> Path:
        """The folds."""
        return self.preprocessed / "splits_final.pkl"

    @property
    def trained(self) -> Path:
        """What the training of the fold leaves."""
        return self.models / self.task / MODEL / f"fold{FOLD}"

    @property
    def consolidated(self) -> Path:
        """The model for predictions."""
        return self.models / self.task / MODEL / "consolidated"

    @property
    def predictions(self) -> Path:
        """Boxes of the studies to predict."""
        return self.consolidated / "test_predictions"

    def boxes_file(self, case_id: str) -> Path:
        """Boxes of one of these studies."""
        return self.predictions / f"{case_id}_boxes.pkl"

    def require_names(self, case_ids: Sequence[str]) -> None:
        """Raise ``OncoduetError`` for a dot where nnDetection, which cuts names at them, allows none."""
        if "." in str(self.root):
            raise OncoduetError(self.root, "path has a dot, which nnDetection refuses")
        dotted = [case_id for case_id in case_ids if "." in case_id]
        if dotted:
            raise OncoduetError(f"study {dotted[0]}", "name has a dot, at which nnDetection cuts names")


@dataclass(frozen=True)
class StudyToPredict:
    """A study that was written for nnDetection to predict."""

    placement: Placement
    content_sha256: str
    """Hash of the reference channel's voxels; see :func:`network.study.scan.content_sha256`."""


def write_dataset(layout: Layout) -> None:
    """Describe the dataset: its one class and its channels.

    nnDetection chooses a channel's normalisation by its name, and has one scheme for quantitative images, named CT.
    """
    card = layout.card
    names = ["CT" if channel.normalisation == "dataset" else channel.name for channel in card.channels]
    description = {
        "task": layout.task,
        "name": card.name,
        "dim": 3,
        "target_class": 0,
        "test_labels": False,
        "labels": {"0": card.lesion_class},
        "modalities": {str(number): name for number, name in enumerate(names)},
    }
    write_json(layout.dataset / "dataset.json", description)


def write_training_study(layout: Layout, study: Study) -> int:
    """Write a study's channels and numbered lesions; returns how many lesions it has.

    Raises ``OncoduetError``: an image or the label map is not what the card asks for (``network.study.scan``).
    """
    assert study.label is not None
    card = layout.card
    scan = read_scan(card, study.channels, name=study.case_id)
    placement = Placement.of(card, scan.native)
    label = classes_on_study_grid(read_truth(study.label, placement), placement)
    instances = number_lesions(label, card.lesion_index)
    lesions = np.where(instances.array <= instances.lesions, instances.array, 0).clip(min=0)
    _write_channels(stack(scan, placement), placement, layout.raw / "imagesTr", study.case_id)
    labels = layout.raw / "labelsTr"
    write_volume(labels / f"{study.case_id}.nii.gz", Volume(lesions.astype(np.int32), placement.grid))
    classes = {str(number): 0 for number in range(1, instances.lesions + 1)}
    write_json(labels / f"{study.case_id}.json", {"instances": classes})
    return instances.lesions


def write_study_to_predict(layout: Layout, study: Study) -> StudyToPredict:
    """Write a study's channels where nnDetection looks for studies to predict; raises as for training."""
    scan = read_scan(layout.card, study.channels, name=study.case_id)
    placement = Placement.of(layout.card, scan.native)
    _write_channels(stack(scan, placement), placement, layout.raw / "imagesTs", study.case_id)
    return StudyToPredict(placement, scan.content_sha256)


def write_splits(layout: Layout, fold: Fold) -> None:
    """Write the fold as the only one: consolidating fewer folds than five begins with nnDetection's fold 0.

    Plain lists, since an array that NumPy 2 pickles names a module that nnDetection's NumPy 1 does not have.
    """
    splits = [{"train": sorted(fold.train), "val": sorted(fold.validation)}]
    with atomic_file(layout.splits) as partial:
        partial.write_bytes(pickle.dumps(splits, protocol=_PICKLE_PROTOCOL))


def _write_channels(channels: Float32Array, placement: Placement, folder: Path, case_id: str) -> None:
    for number, array in enumerate(channels):
        write_volume(folder / f"{case_id}_{number:04d}.nii.gz", Volume(array, placement.grid))
