"""Lesions as instances: numbered once in the whole study, and still distinct in a patch after augmentation.

Connected components are taken from the study's label map as it is. In a patch they would come out otherwise: turned and
resampled neighbours merge, and a lesion that the patch's edge cuts falls into pieces. So the numbers take the place of
the label map, go through the augmentation by nearest neighbour, and give the patch its boxes and its labels.
"""

from collections.abc import Iterable, Sequence
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
    label = patch.clone()
    if instances.lesions:
        label.masked_fill_((patch > 0) & (patch <= instances.lesions), instances.classes[1])
    for number in range(instances.lesions + 1, len(instances.classes)):
        label.masked_fill_(patch == number, instances.classes[number])
    return label


def lesion_boxes(patch: Tensor, instances: Instances) -> Tensor:
    """Boxes of the lesions in one patch; see :func:`lesion_boxes_of_batch`."""
    return lesion_boxes_of_batch([patch], [instances])[0]


def lesion_boxes_of_batch(patches: Iterable[Tensor], instances: Sequence[Instances]) -> list[Tensor]:
    """Boxes of the lesions in each patch of a batch; the host waits for the device once.

    Parameters
    ----------
    patches
        Numbers of a patch of each study, shape (z, y, x), on any device.

    Returns
    -------
    For each patch, shape (lesions in it, 6), float32, by rising number, on its device; see
    :mod:`network.detection.boxes`.
    """
    extents = [_extents(patch, own.lesions) for patch, own in zip(patches, instances, strict=True)]
    on_host = torch.split(torch.cat(extents).cpu(), [len(each) for each in extents])
    return [
        boxes[boxes[:, 0] < boxes[:, 3]].float().to(each.device, non_blocking=True)
        for boxes, each in zip(on_host, extents, strict=True)
    ]


def _extents(patch: Tensor, lesions: int) -> Tensor:
    """First voxel and the one after the last of each number along each axis, (lesions, 6); upside down without any."""
    number = patch.where((patch > 0) & (patch <= lesions), 0).long()
    lower, upper = [], []
    for axis, length in enumerate(patch.shape):
        place = torch.arange(length, device=patch.device)
        index = number * length + place.view([-1 if axis == each else 1 for each in range(3)])
        seen = torch.zeros((lesions + 1) * length, dtype=torch.bool, device=patch.device)
        seen = seen.scatter_(0, index.flatten(), True).view(lesions + 1, length)[1:]
        lower.append(place.where(seen, length).amin(1))
        upper.append((place + 1).where(seen, 0).amax(1))
    return torch.stack([*lower, *upper], dim=1)
