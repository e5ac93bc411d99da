"""nnDetection's boxes: what a file means, and what is refused before anything in it is called."""

import os
import pickle
import subprocess

import numpy as np
import pytest
from refusals import refused_with
from unit.training.nndetection.fake_nndet.fake import save_pickle

from network.detection.clustering import ScoredBoxes
from network.detection.painting import MINIMUM_VOXELS, paint_boxes
from training.nndetection.boxes_file import read_boxes

SHAPE = (9, 20, 30)
NUMPY_1_AND_2 = [save_pickle, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=4))]


def contents(boxes, scores=None, **changes):
    """What nnDetection writes, by its names."""
    boxes = np.array(boxes, np.float32).reshape(-1, 6)
    return {
        "pred_boxes": boxes,
        "pred_scores": np.full(len(boxes), 0.5, np.float32) if scores is None else np.array(scores, np.float32),
        "pred_labels": np.zeros(len(boxes), np.float32),
        "restore": True,
        "original_size_of_raw_data": np.array(SHAPE),
        "itk_origin": (1.0, 2.0, 3.0),
        "itk_spacing": (0.5, 0.6, 3.0),
        "itk_direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    } | changes


@pytest.mark.parametrize("write", NUMPY_1_AND_2)
def test_axes_are_reversed_and_boxes_begin_a_voxel_later(tmp_path, write):
    path = tmp_path / "a_boxes.pkl"
    write(contents([[1, 4, 3, 8, 10, 15.5]], [0.25]), path)
    found = read_boxes(path, SHAPE)
    # axis 0 from 1 to 3, axis 1 from 4 to 8, axis 2 from 10 to 15.5; lower corners + 1
    assert found.boxes.tolist() == [[2, 5, 11, 3, 8, 15.5]]
    assert found.scores.tolist() == [0.25]
    assert found.weights.tolist() == [1]


def test_the_fake_writes_what_numpy_1_writes(tmp_path):
    save_pickle(contents([]), tmp_path / "a")
    assert b"numpy.core.multiarray" in (tmp_path / "a").read_bytes()
    assert b"numpy._core" not in (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("boxes", [np.zeros((0, 6), np.float32), np.zeros(0, np.float32)])
def test_a_study_without_any_box_is_no_fault(tmp_path, boxes):
    save_pickle(contents([], pred_boxes=boxes), tmp_path / "a")
    assert read_boxes(tmp_path / "a", SHAPE).boxes.shape == (0, 6)


def test_what_reaches_beyond_the_image_is_cut_off(tmp_path):
    save_pickle(contents([[-1, -3.5, 2, 4, 25, 40]]), tmp_path / "a")
    # from -1 on: the box of a lesion that begins with the image's first voxel
    assert read_boxes(tmp_path / "a", SHAPE).boxes.tolist() == [[0, 0, 26, 2, 4, 30]]


def test_painted_boxes_are_those_of_the_challenges_own_rule(tmp_path):
    """Brute force: by falling score, voxels [int(lower) + 1, int(upper)), if more than ten and none is set around."""
    generator = np.random.default_rng(7)
    lower = generator.uniform(0, 0.8, (40, 3)) * SHAPE
    upper = np.minimum(lower + generator.uniform(2, 8, (40, 3)), SHAPE)
    rows = np.stack([lower[:, 0], lower[:, 1], upper[:, 0], upper[:, 1], lower[:, 2], upper[:, 2]], axis=1)
    values = contents(rows, generator.permutation(np.linspace(0.02, 0.8, 40)))
    save_pickle(values, tmp_path / "a")
    expected = np.zeros(SHAPE, np.float32)
    for index in np.argsort(-values["pred_scores"]):
        z0, y0, z1, y1, x0, x1 = (int(edge) for edge in values["pred_boxes"][index])
        place = np.zeros(SHAPE, bool)
        place[z0 + 1 : z1, y0 + 1 : y1, x0 + 1 : x1] = True
        around = expected[max(z0, 0) : z1 + 1, max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1]
        if place.sum() > MINIMUM_VOXELS and not around.any():
            expected[place] = values["pred_scores"][index]
    found = read_boxes(tmp_path / "a", SHAPE)
    assert isinstance(found, ScoredBoxes)
    np.testing.assert_array_equal(paint_boxes(found, SHAPE), expected)
    assert 3 < len(np.unique(expected)) < 40


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (subprocess.check_call, "subprocess.check_call"),
        (eval, "builtins.eval"),
        (np.load, "numpy.load"),
        (getattr, "builtins.getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_with_a_call_in_it_is_refused_and_nothing_is_called(tmp_path, function, name, protocol):
    victim, path = tmp_path / "victim", tmp_path / "a_boxes.pkl"
    value = {"extra": Calls(function, f"touch {victim}"), **contents([])}
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    with refused_with(path.name, expected="a pickle of arrays and numbers only", found="a reference to ") as raised:
        read_boxes(path, SHAPE)
    assert protocol < 3 or raised.value.found == f"a reference to {name}"  # older ones have other names for the same
    assert not victim.exists()


def test_the_same_pickle_would_do_it_if_it_were_trusted(tmp_path):
    victim = tmp_path / "victim"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {victim}")))
    assert victim.exists()


def test_a_persistent_object_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"Pname\n.")
    with refused_with(expected="a pickle of arrays and numbers only", found="a persistent object"):
        read_boxes(tmp_path / "a", SHAPE)


def test_a_missing_or_truncated_file_is_refused(tmp_path):
    with refused_with(r"a_boxes\.pkl", "boxes of nnDetection not found"):
        read_boxes(tmp_path / "a_boxes.pkl", SHAPE)
    save_pickle(contents([[0, 0, 4, 4, 0, 4]]), tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-20])
    with refused_with("a$", expected="a pickle of arrays and numbers only"):
        read_boxes(tmp_path / "a", SHAPE)


@pytest.mark.parametrize(
    ("value", "expected", "found"),
    [
        ([1.5], "boxes of nnDetection by name", "list"),
        (contents([], original_size_of_raw_data=np.array(9)), "boxes of an image of 9 × 20 × 30 voxels", "9"),
        (contents([], original_size_of_raw_data=SHAPE), "an array of numbers as original_size_of_raw_data", ""),
        ({"pred_boxes": np.zeros((0, 6))}, "an array of numbers as pred_scores", "NoneType"),
        (contents([], pred_labels="none"), "an array of numbers as pred_labels", "str"),
        (contents([], pred_labels=np.array([None])), "a pickle of arrays and numbers only", "a type that is no number"),
        (
            contents([[0, 0, 4, 4, 0, 4]], [0.5, 0.4]),
            r"boxes \(n, 6\), scores \(n,\) and labels \(n,\)",
            r"\(1, 6\), \(2,\), \(1,\)",
        ),
        (
            contents([], original_size_of_raw_data=np.array([30, 20, 9])),
            "boxes of an image of 9 × 20 × 30 voxels",
            "30 × 20 × 9",
        ),
        (contents([[0, 0, np.nan, 4, 0, 4]]), "finite boxes and scores", "NaN or infinity"),
        (contents([[0, 0, 4, 4, 0, 4]], [np.inf]), "finite boxes and scores", "NaN or infinity"),
        (contents([[0, 0, 4, 4, 0, 4]], [1.25]), r"scores in \[0, 1\]", "1.25 to 1.25"),
        (contents([[0, 0, 4, 4, 0, 4]], pred_labels=np.ones(1, np.float32)), "the one class 0", r"\[1.0\]"),
        (contents([[0, 6, 4, 5, 0, 4]]), "boxes with the lower corner first", r"\[0.0, 6.0, 4.0, 5.0, 0.0, 4.0\]"),
        (
            contents([[0, 0, 4, 4, 0, 4], [9, 0, 12, 4, 0, 4]]),
            "boxes that meet the image of 9 × 20 × 30 voxels",
            r"\[9.0, 0.0, 12.0, 4.0, 0.0, 4.0\]",
        ),
        (contents([[0, 0, 4, 4, -5, 0]]), "boxes that meet the image of 9 × 20 × 30 voxels", ""),
    ],
)
def test_inconsistent_boxes_are_refused(tmp_path, value, expected, found):
    save_pickle(value, tmp_path / "a_boxes.pkl")
    with refused_with("a_boxes.pkl$", expected=f"^{expected}", found=f"^{found}"):
        read_boxes(tmp_path / "a_boxes.pkl", SHAPE)


@pytest.mark.parametrize("restore", [False, np.ones(2, bool)])
def test_boxes_in_other_voxels_are_refused(tmp_path, restore):
    save_pickle(contents([], restore=restore), tmp_path / "a_boxes.pkl")
    with refused_with("a_boxes.pkl$", r"boxes are not in voxels of the original image \(restore\)"):
        read_boxes(tmp_path / "a_boxes.pkl", SHAPE)
