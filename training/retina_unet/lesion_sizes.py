"""Sizes of the lesions in preprocessed studies, from which anchors are planned."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from training.dataloading.resident_studies import read_preprocessed_label
from training.dataset.lesion_instances import lesion_boxes, number_lesions
from training.retina_unet.anchor_planning import Float64Array


def lesion_sizes(folder: Path, case_ids: Iterable[str], *, lesion_class: int) -> Float64Array:
    """Extents of all lesions' boxes in some studies, shape (lesions, 3), in voxels (z, y, x).

    Raises ``OncoduetError``: a file is damaged.

    Parameters
    ----------
    folder
        A prepared dataset's.
    lesion_class
        Index of the class that is a lesion.
    """
    sizes = [np.empty((0, 3))]
    for case_id in case_ids:
        instances = number_lesions(read_preprocessed_label(folder, case_id).astype(np.int32), lesion_class)
        boxes = lesion_boxes(torch.from_numpy(instances.array), instances).numpy()
        sizes.append((boxes[:, 3:] - boxes[:, :3]).astype(np.float64))
    return np.concatenate(sizes)
