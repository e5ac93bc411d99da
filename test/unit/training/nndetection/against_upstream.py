"""nnDetection's own code judges what the adapter writes, and its own boxes are read: a script, for a checkout of it.

It needs what nnDetection imports there, hydra-core, omegaconf, loguru and PyYAML, beside this project's packages; its
network, its GPU code and nnU-Net v1 are not reached, and stand-ins take their names. From this project's root:

    git clone https://github.com/MIC-DKFZ/nnDetection.git CHECKOUT && git -C CHECKOUT checkout 97a58f3
    PYTHONPATH=.:test:CHECKOUT python test/unit/training/nndetection/against_upstream.py CHECKOUT
"""

import importlib
import os
import pickle
import sys
import tempfile
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from unit.training.conftest import _write_archive

from contract.archive.studies import find_studies
from contract.card import load_card
from contract.images.volume import read_label
from training.dataset.lesion_instances import lesion_boxes, number_lesions
from training.dataset.prepared import Fold
from training.nndetection.boxes_file import read_boxes
from training.nndetection.dataset_layout import (
    Layout,
    write_dataset,
    write_splits,
    write_study_to_predict,
    write_training_study,
)

UNREACHED = [
    *("git", "nnunet", "nnunet.preprocessing", "nnunet.preprocessing.preprocessing"),
    *("torchvision", "torchvision.models", "torchvision.models.detection", "torchvision.models.detection.rpn"),
]
WITHOUT_THEIR_INIT = ["nndet.core", "nndet.core.boxes", "nndet.inference", "nndet.io.transforms"]


def stand_in(checkout: Path) -> None:
    """Names that nnDetection imports and nothing here reaches."""
    six = types.ModuleType("torch._six")  # gone since torch 2
    six.string_classes, six.int_classes = (str, bytes), int
    sys.modules["torch._six"] = six
    sys.modules.update({name: MagicMock() for name in UNREACHED})
    for name in WITHOUT_THEIR_INIT:
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package


def main(checkout: Path, root: Path) -> None:
    stand_in(checkout)
    card = load_card("cspca-picai")
    archive = _write_archive(root / "archive")
    layout = Layout(root, card)
    studies = find_studies(archive, card, labels_required=True)
    write_dataset(layout)
    lesions = sum(write_training_study(layout, study) for study in studies)
    for study in studies:
        write_study_to_predict(layout, study)
    os.environ |= {
        "det_data": str(layout.data),
        "det_models": str(layout.models),
        "OMP_NUM_THREADS": "1",
        "det_verbose": "0",
    }

    check = importlib.import_module("nndet.utils.check")
    check.check_dataset_file(layout.task)
    for test in (False, True):
        check.check_data_and_label_splitted(layout.task, test=test, labels=not test, full_check=True)
    print(f"nnDetection's full check accepts {len(studies)} studies with {lesions} lesions")

    paths = importlib.import_module("nndet.io.paths")
    cropped = layout.dataset / "raw_cropped"
    cropper = importlib.import_module("nndet.preprocessing.crop").ImageCropper(0, cropped)
    cropper.run_cropping(paths.get_paths_from_splitted_dir(len(card.channels), layout.raw), overwrite_existing=True)

    load = importlib.import_module("nndet.io.load")
    write_splits(layout, Fold(train=tuple(study.case_id for study in studies[1:]), validation=(studies[0].case_id,)))
    splits = load.load_pickle(layout.splits)
    splits[0]["train"].sort()
    print(f"nnDetection reads the fold: {len(splits[0]['train'])} studies to train on, {len(splits[0]['val'])} apart")

    instances = importlib.import_module("nndet.io.transforms.instances")
    restore = importlib.import_module("nndet.inference.restore")
    agreeing = 0
    for study in studies:
        case = cropped / "imagesTr" / study.case_id
        properties = pickle.loads(case.with_suffix(".pkl").read_bytes())
        label = np.load(case.with_suffix(".npz"))["data"][-1]
        boxes = np.zeros((0, 6))
        if label.max() > 0:
            boxes = restore.restore_detection(
                instances.instances_to_boxes_np(label)[0],
                transpose_backward=[0, 1, 2],
                original_spacing=properties["original_spacing"],
                spacing_after_resampling=properties["original_spacing"],
                crop_bbox=properties["crop_bbox"],
            )
        written = {
            "pred_boxes": boxes.astype(np.float32),
            "pred_scores": np.full(len(boxes), 0.5, np.float32),
            "pred_labels": np.zeros(len(boxes), np.float32),
            "restore": True,
            **{name: value for name, value in properties.items() if name.startswith(("itk_", "original_size"))},
        }
        load.save_pickle(written, root / "a_boxes.pkl")
        truth = read_label(archive / "labels" / f"{study.case_id}.nii.gz").array
        numbered = number_lesions((truth > 0).astype(np.int32), 1)
        expected = lesion_boxes(torch.from_numpy(numbered.array), numbered).numpy()
        np.testing.assert_array_equal(read_boxes(root / "a_boxes.pkl", truth.shape).boxes, expected)
        agreeing += len(expected)
    print(f"nnDetection's boxes of {agreeing} lesions are read as the boxes that our own training has")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]).resolve(), Path(folder).resolve())
