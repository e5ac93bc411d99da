"""Preprocessed files are plain arrays and records without calls, or they are refused before a voxel is read."""

import os
import pickle

import blosc2
import numpy as np
import pytest
from programs import python
from refusals import refused_with

from training.dataset.preprocessed import IMAGE, LABEL, class_voxels, open_array, read_preprocessed, require_study

SHAPE = (1, 3, 4, 5)


def write(path, array, **how):
    blosc2.asarray(array, urlpath=str(path), mode="w", **how)


def lazy(path):
    for name in "xy":
        write(path.with_name(f"{name}.b2nd"), np.ones(SHAPE, np.float32))
    first, second = (blosc2.open(str(path.with_name(f"{name}.b2nd"))) for name in "xy")
    (first + second).save(urlpath=str(path))


def test_an_array_of_voxels_is_read_as_it_was_written(tmp_path):
    voxels = np.arange(60, dtype=np.float32).reshape(SHAPE)
    write(tmp_path / "a.b2nd", voxels)
    assert open_array(tmp_path / "a.b2nd", IMAGE).shape == SHAPE
    np.testing.assert_array_equal(read_preprocessed(tmp_path / "a.b2nd", IMAGE), voxels)


def test_a_forked_process_reads_while_its_parent_holds_an_array(tmp_path):
    write(tmp_path / "a.b2nd", np.zeros((1, 8, 64, 64), np.float32), chunks=(1, 8, 64, 64), blocks=(1, 1, 64, 64))
    program = """
import os, signal, sys
from pathlib import Path
from training.dataset.preprocessed import IMAGE, open_array, read_preprocessed
path = Path(sys.argv[1])
held = open_array(path, IMAGE)
held[:]
if os.fork() == 0:
    signal.alarm(30)
    read_preprocessed(path, IMAGE)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert python("-c", program, tmp_path / "a.b2nd").returncode == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (
            lambda path: write(path, np.zeros((4, 5), np.float32)),
            {"expected": "of float32", "found": r"float32 \[4, 5\]"},
        ),
        (lambda path: write(path, np.zeros(SHAPE)), {"expected": "of float32", "found": r"float64 \[1, 3, 4, 5\]"}),
        (lambda path: write(path, np.zeros(SHAPE, "V16")), {"expected": "of float32", "found": ".*V16"}),
        (lambda path: write(path, np.zeros((1, 0, 4, 5), np.float32)), {"problem": "file is damaged"}),
        (
            lambda path: write(path, np.zeros(SHAPE, np.float32), cparams={"filters": [blosc2.Filter.BYTEDELTA]}),
            {"expected": "Blosc's own compression"},
        ),
        (
            lambda path: blosc2.SChunk(data=b"abcd", urlpath=str(path), mode="w"),
            {"expected": "an array of voxels", "found": "SChunk"},
        ),
        (lazy, {"problem": "file is damaged"}),
        (os.mkfifo, {"expected": "a preprocessed study", "found": "a pipe"}),
        (os.mkdir, {"expected": "a preprocessed study", "found": "a folder"}),
        (lambda path: None, {"problem": "preprocessed study not found"}),
        (lambda path: path.write_bytes(b"x" * 300), {"problem": "file is damaged"}),
    ],
)
def test_anything_else_is_refused(tmp_path, make, fields):
    make(tmp_path / "a.b2nd")
    with refused_with(r"a\.b2nd$", **fields):
        open_array(tmp_path / "a.b2nd", IMAGE)


def test_labels_are_whole_numbers(tmp_path):
    write(tmp_path / "a.b2nd", np.zeros(SHAPE, np.float32))
    with refused_with(r"a\.b2nd", expected="of int8 or int16", found="float32"):
        read_preprocessed(tmp_path / "a.b2nd", LABEL)


def test_voxels_of_each_class_are_read_as_nnunet_wrote_them(tmp_path):
    places = np.array([[0, 2, 3, 4], [0, 0, 0, 0]])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"class_locations": {1: places, 2: []}, "spacing": [1.0, 2.0, 3.0]}))
    found = class_voxels(tmp_path / "a.pkl", SHAPE)
    np.testing.assert_array_equal(found[1], places)
    assert found[2].shape == (0, 4)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "no voxels by class"),
        ({"class_locations": [1]}, "no voxels by class"),
        ({"class_locations": {"1": []}}, "no voxels by class"),
        ({"class_locations": {1: [[0, 1, 1, 1]]}}, r"voxels of class 1 are not an array of shape \(n, 4\)"),
        ({"class_locations": {1: np.zeros((2, 3), int)}}, r"voxels of class 1 are not an array of shape \(n, 4\)"),
        ({"class_locations": {1: np.zeros((2, 4))}}, r"voxels of class 1 are not an array of shape \(n, 4\)"),
        ({"class_locations": {1: np.array([[0, 0, 0, 5]])}}, r"voxels of class 1 are outside \[1, 3, 4, 5\]"),
        ({"class_locations": {1: np.array([[0, -1, 0, 0]])}}, "voxels of class 1 are outside"),
    ],
)
def test_a_record_that_says_something_else_is_refused(tmp_path, value, problem):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with refused_with(r"a\.pkl$", problem):
        class_voxels(tmp_path / "a.pkl", SHAPE)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"class_locations": {(1, 2): []}}))
    with refused_with(r"a\.pkl$", expected="a pickle of arrays and numbers only", found="tuple as a key"):
        class_voxels(tmp_path / "a.pkl", SHAPE)


@pytest.mark.parametrize(
    ("image", "label", "where", "expected", "found"),
    [
        (np.zeros((2, 3, 4, 5), np.float32), np.zeros(SHAPE, np.int8), r"a\.b2nd", r".* \[3, 3, 4, 5\]", r"\[2, 3"),
        (np.zeros((3, 3, 4, 5), np.float32), np.zeros((1, 2, 4, 5), np.int8), r"s\.b2nd", r"\[1, 3, 4, 5\]", ""),
        (np.zeros((3, 3, 4, 5), np.float32), np.full(SHAPE, 2, np.int8), "s.b2nd", "classes from -1 to 1", ""),
        (np.zeros((3, 3, 4, 5), np.float32), np.full(SHAPE, -2, np.int16), "s.b2nd", "classes", "-2 to -2"),
    ],
)
def test_a_study_of_another_network_s_channels_or_classes_is_refused(tmp_path, image, label, where, expected, found):
    write(tmp_path / "a.b2nd", image)
    write(tmp_path / "s.b2nd", label)
    with refused_with(where, expected=expected, found=found):
        require_study(tmp_path / "a.b2nd", tmp_path / "s.b2nd", channels=3, classes=2)
    write(tmp_path / "a.b2nd", np.zeros((3, 3, 4, 5), np.float32))
    write(tmp_path / "s.b2nd", np.resize(np.array([-1, 0, 1], np.int8), SHAPE))
    require_study(tmp_path / "a.b2nd", tmp_path / "s.b2nd", channels=3, classes=2)
