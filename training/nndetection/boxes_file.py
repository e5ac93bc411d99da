"""Reading ``CASE_boxes.pkl``, the boxes that nnDetection found in a study, without trusting it.

The file is a pickle, and a pickle may call anything; it is read without unpickling
(:mod:`training.dataset.plain_pickle`).

A box is (x1, y1, x2, y2, z1, z2) there, where x, y and z are the array's axes 0, 1 and 2: our z, y and x. Its lower
corner is one voxel before the box's first voxel, hence the 1 that is added.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import OncoduetError
from network.detection.clustering import Float64Array, ScoredBoxes
from training.dataset.plain_pickle import read_plain_pickle

LOWER, UPPER = [0, 1, 4], [2, 3, 5]
"""Columns of a box's corners along the array's axes 0, 1 and 2."""


def read_boxes(path: Path, shape_zyx: tuple[int, int, int]) -> ScoredBoxes:
    """Read a study's boxes.

    Raises ``OncoduetError``: the file names anything but arrays and numbers, of which nothing is called; it is no such
    file; it is about another image or not about the image as it was given; a number is none; a score is not in [0, 1];
    a box's corners are exchanged or outside the image.

    Parameters
    ----------
    shape_zyx
        Of the image that nnDetection was given.

    Returns
    -------
    ScoredBoxes
        In voxels of that image, in our convention (:mod:`network.detection.boxes`), each with the weight 1. What
        reaches beyond the image is cut off.
    """
    found = read_plain_pickle(path, what="boxes of nnDetection")
    if not isinstance(found, dict):
        raise OncoduetError(path, expected="boxes of nnDetection by name", found=type(found).__name__)
    boxes, scores, labels = (_array(path, found, name) for name in ("pred_boxes", "pred_scores", "pred_labels"))
    count = len(scores)
    if not count and not boxes.size:
        boxes = boxes.reshape(0, 6)
    if boxes.shape != (count, 6) or scores.shape != (count,) or labels.shape != (count,):
        shapes = ", ".join(str(each.shape) for each in (boxes, scores, labels))
        raise OncoduetError(path, expected="boxes (n, 6), scores (n,) and labels (n,)", found=shapes)
    restored = found.get("restore")
    if not (isinstance(restored, bool | np.bool_) and restored):
        raise OncoduetError(path, "boxes are not in voxels of the original image (restore)")
    size = _array(path, found, "original_size_of_raw_data")
    if size.shape != (3,) or tuple(size.tolist()) != shape_zyx:
        expected, other = (" × ".join(f"{each:g}" for each in sizes) for sizes in (shape_zyx, size.ravel()[:3]))
        raise OncoduetError(path, expected=f"boxes of an image of {expected} voxels", found=other)
    _require_sensible(path, boxes, scores, labels, shape_zyx)
    corners = np.concatenate([boxes[:, LOWER] + 1, boxes[:, UPPER]], axis=1)
    return ScoredBoxes(np.clip(corners, 0, np.tile(shape_zyx, 2)), scores, np.ones(count))


def _array(path: Path, found: dict[str, Any], name: str) -> Float64Array:
    value = found.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise OncoduetError(path, expected=f"an array of numbers as {name}", found=what)
    return value.astype(np.float64)


def _require_sensible(
    path: Path, boxes: Float64Array, scores: Float64Array, labels: Float64Array, shape_zyx: Sequence[int]
) -> None:
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise OncoduetError(path, expected="finite boxes and scores", found="NaN or infinity")
    if ((scores < 0) | (scores > 1)).any():
        raise OncoduetError(path, expected="scores in [0, 1]", found=f"{scores.min():g} to {scores.max():g}")
    if labels.any():
        raise OncoduetError(path, expected="the one class 0", found=sorted(set(labels.tolist()))[:5])
    lower, upper = boxes[:, LOWER], boxes[:, UPPER]
    for what, wrong in [
        ("boxes with the lower corner first", lower > upper),
        (
            f"boxes that meet the image of {' × '.join(map(str, shape_zyx))} voxels",
            (upper <= 0) | (lower >= np.array(shape_zyx)),
        ),
    ]:
        rows = np.flatnonzero(wrong.any(axis=1))
        if rows.size:
            raise OncoduetError(path, expected=what, found=boxes[rows[0]].tolist())
