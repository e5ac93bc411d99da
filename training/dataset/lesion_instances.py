"""Lesions as instances: numbered once in the whole study, and still distinct in a patch after augmentation.

Connected components are taken from the study's label map as it is. In a patch they would come out otherwise: turned and
resampled neighbours merge, and a lesion that the patch's edge cuts falls into pieces. So the numbers take the place of
the label map, go through the augmentation by nearest neighbour, and give the patch its boxes and its labels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from contract.images.volume import LabelArray

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Instances:
    """A study's label map with numbered lesions."""

    array: LabelArray
    """Shape (z, y, x). 0: background; 1 to ``lesions``: a lesion each; above: the other classes; below 0: as it was
    (nnU-Net marks the outside so)."""
    lesions: int
    classes: tuple[int, ...]
    """Class of each value from 0."""


def number_lesions(label: LabelArray, lesion_class: int) -> Instances:
    """Number the lesions of a study, in the order of their first voxels.

    Parameters
    ----------
    label
        Class indices, shape (z, y, x); 0 is background, negative values stay.
    lesion_class
        The class that is a lesion. Its voxels belong together where they touch at a face, an edge or a corner.
    """
    numbered, count = ndimage.label(label == lesion_class, structure=_TOUCHING)
    others = [int(value) for value in np.unique(label) if value > 0 and value != lesion_class]
    array = numbered.astype(np.int32)
    for number, value in enumerate(others, start=count + 1):
        array[label == value] = number
    outside = label < 0
    array[outside] = label[outside]
    return Instances(array, count, (0, *[lesion_class] * count, *others))


def labels_of(patch: Tensor, instances: Instances) -> Tensor:
    """Class indices of a patch of numbers, of any shape; negative values stay."""
    classes = torch.tensor(instances.classes, dtype=patch.dtype, device=patch.device)
    return torch.where(patch < 0, patch, classes[patch.clamp_min(0).long()])


def lesion_boxes(patch: Tensor, instances: Instances, *, minimum_voxels: int = 1) -> Tensor:
    """Boxes of the lesions in a patch.

    Parameters
    ----------
    patch
        Numbers of a patch of the study, shape (z, y, x), on any device.
    minimum_voxels
        A lesion with fewer voxels in the patch has no box.

    Returns
    -------
    Shape (lesions, 6), float32, by rising number; see :mod:`network.detection.boxes`.
    """
    places = ((patch > 0) & (patch <= instances.lesions)).nonzero()
    numbers = patch[places.unbind(1)].long()
    count = instances.lesions + 1
    index = numbers[:, None].expand(-1, 3)
    lower = places.new_full((count, 3), max(patch.shape)).scatter_reduce(0, index, places, "amin")
    upper = places.new_zeros((count, 3)).scatter_reduce(0, index, places + 1, "amax")
    voxels = numbers.bincount(minlength=count)
    present = voxels >= max(1, minimum_voxels)
    present[0] = False
    return torch.cat([lower, upper], dim=1)[present].float()
