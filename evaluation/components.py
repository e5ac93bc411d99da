"""Connected components of an image, kept as a list of voxels instead of a volume.

Lesions and candidates alike are 26-connected. Almost every voxel of a label or detection map is zero, so what is kept
is where the others lie: all intersections of lesions with candidates then come from one merge of two sorted lists.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Int64Array = npt.NDArray[np.int64]

_26_CONNECTED = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Components:
    """The 26-connected components of one image, numbered from 0 in raster order."""

    shape_zyx: tuple[int, ...]
    voxels: Int64Array
    """Raster (C order) index of every voxel that belongs to a component, ascending."""
    owners: Int64Array
    """Number of the component that each of ``voxels`` belongs to."""
    sizes: Int64Array
    """Voxels of each component."""

    def __len__(self) -> int:
        return len(self.sizes)


def find_components(image: npt.NDArray[np.bool_] | npt.NDArray[np.float32]) -> Components:
    """Label the non-zero voxels of an image (z, y, x)."""
    labels, count = ndimage.label(image, structure=_26_CONNECTED)
    voxels = np.flatnonzero(labels)
    owners = labels.ravel()[voxels].astype(np.int64) - 1
    return Components(image.shape, voxels, owners, np.bincount(owners, minlength=count))


def intersections(lesions: Components, candidates: Components) -> Int64Array:
    """Voxels that each lesion shares with each candidate, shape (lesions, candidates).

    Raises
    ------
    ValueError
        Both have components and their images differ in shape.
    """
    shape = (len(lesions), len(candidates))
    if 0 in shape:
        return np.zeros(shape, dtype=np.int64)
    if lesions.shape_zyx != candidates.shape_zyx:
        raise ValueError(f"lesions on {lesions.shape_zyx} cannot meet candidates on {candidates.shape_zyx}")
    _, ours, theirs = np.intersect1d(lesions.voxels, candidates.voxels, assume_unique=True, return_indices=True)
    pairs = lesions.owners[ours] * len(candidates) + candidates.owners[theirs]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
