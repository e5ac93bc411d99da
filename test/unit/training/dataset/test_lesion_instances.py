"""Numbered lesions: by components of the whole study, apart after augmentation, whole after a cut."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from scipy import ndimage

from contract.card import load_card
from training.dataset.lesion_instances import labels_of, lesion_boxes, number_lesions
from training.dataset.study_steps import count_connected_lesions

SHAPE = (10, 24, 30)


@pytest.fixture
def two_lesions():
    """Two slabs one voxel apart (2), an organ (1) around them, and an outside (-1)."""
    label = np.zeros(SHAPE, np.int32)
    label[1:9, 2:22, 2:28] = 1
    label[2:7, 5:11, 6:14] = 2
    label[2:7, 12:18, 6:14] = 2
    label[:, :, -1] = -1
    return label


def test_lesions_are_numbered_and_other_classes_keep_their_places(two_lesions):
    instances = number_lesions(two_lesions, 2)
    assert (instances.lesions, instances.classes) == (2, (0, 2, 2, 1))
    assert (instances.array == 1).sum() == (instances.array == 2).sum() == 5 * 6 * 8
    np.testing.assert_array_equal(instances.array == 3, two_lesions == 1)
    np.testing.assert_array_equal(labels_of(torch.from_numpy(instances.array), instances), two_lesions)


def test_lesions_that_meet_at_a_corner_are_one():
    label = np.zeros((4, 4, 4), np.int32)
    label[0, 0, 0] = label[1, 1, 1] = 1
    assert number_lesions(label, 1).lesions == 1


@pytest.mark.parametrize(
    ("second", "lesions"),
    [((4, 3, 3), 1), ((4, 5, 3), 1), ((4, 5, 5), 1), ((2, 6, 3), 2), ((5, 6, 6), 2)],
    ids=["at a face", "at an edge", "at a corner", "a voxel apart", "a voxel apart along the diagonal"],
)
def test_prepare_counts_as_many_lesions_as_there_are_boxes(second, lesions):
    """Two cubes of two voxels, the first from (2, 3, 3) to (4, 5, 5)."""
    label = np.zeros((8, 10, 10), np.int32)
    label[2:4, 3:5, 3:5] = 1
    z, y, x = second
    label[z : z + 2, y : y + 2, x : x + 2] = 1
    instances = number_lesions(label, 1)
    boxes = lesion_boxes(torch.from_numpy(instances.array), instances)
    assert len(boxes) == instances.lesions == count_connected_lesions(label, load_card("cspca-picai")) == lesions


def test_a_study_without_lesions_has_no_boxes():
    instances = number_lesions(np.ones((2, 3, 4), np.int32), 2)
    assert (instances.lesions, instances.classes) == (0, (0, 1))
    assert lesion_boxes(torch.from_numpy(instances.array), instances).shape == (0, 6)


def test_boxes_hold_their_lesions_exactly(two_lesions):
    instances = number_lesions(two_lesions, 2)
    boxes = lesion_boxes(torch.from_numpy(instances.array), instances)
    assert boxes.tolist() == [[2, 5, 6, 7, 11, 14], [2, 12, 6, 7, 18, 14]]
    found = ndimage.find_objects(np.where(two_lesions == 2, instances.array, 0))
    assert boxes.tolist() == [[axis.start for axis in place] + [axis.stop for axis in place] for place in found]


def test_a_lesion_that_the_patch_cuts_in_pieces_keeps_one_box():
    label = np.zeros((3, 12, 12), np.int32)
    label[:, 1:11, 1:3] = label[:, 1:11, 8:10] = label[:, 1:3, 1:10] = 1  # a horseshoe
    instances = number_lesions(label, 1)
    patch = instances.array[:, 4:]
    assert ndimage.label(patch)[1] == 2  # what components of the patch would say
    assert lesion_boxes(torch.from_numpy(patch), instances).tolist() == [[0, 0, 1, 3, 7, 10]]


def test_neighbours_stay_apart_through_nearest_neighbour_augmentation(two_lesions):
    """Shrunk to 0.6, the voxel between them is lost in places: components of the patch merge, numbers do not."""
    instances = number_lesions(two_lesions, 2)
    transform = SpatialTransform(
        SHAPE,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=0.15,
        p_scaling=1,
        scaling=1.7,
        mode_seg="nearest",
    )
    turned = transform(
        image=torch.zeros(1, *SHAPE), segmentation=torch.from_numpy(instances.array[None].astype(np.int16))
    )["segmentation"][0]
    assert ndimage.label((labels_of(turned, instances) == 2).numpy(), np.ones((3, 3, 3)))[1] == 1
    boxes = lesion_boxes(turned, instances)
    assert len(boxes) == 2
    for number, box in enumerate(boxes.int().tolist(), start=1):
        where = np.nonzero((turned == number).numpy())
        assert box == [int(axis.min()) for axis in where] + [int(axis.max()) + 1 for axis in where]
    assert set(turned.unique().tolist()) <= {-1, 0, 1, 2, 3}
