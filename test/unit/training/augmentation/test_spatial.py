"""Rotation, scaling and mirroring against nnU-Net's own transforms, given the same parameters."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    _convert_my_grid_to_grid_sample_grid,
    _create_centered_identity_grid2,
    create_affine_matrix_2d,
    create_affine_matrix_3d,
)

from training.augmentation.patches import Patches
from training.augmentation.random_parameters import Range
from training.augmentation.spatial import Mirror, Spatial

CHANNELS = 2
ROTATION = (-np.pi / 6, np.pi / 6)


def spatial(*, in_plane, rotation=ROTATION, scaling=(0.7, 1.4)):
    return Spatial(1.0, Range(*rotation), 1.0, Range(*scaling), 1.0, in_plane)


def stock_spatial(patch, image, label, numbers, *, in_plane, rotation, scaling):
    """What nnU-Net's transform makes of a box, for the angles and scales that our numbers stand for."""
    where = numbers[3:].reshape(2, 3, 2)[..., 1]
    angles = rotation[0] + (rotation[1] - rotation[0]) * where[0]
    scales = [scaling[0] + (scaling[1] - scaling[0]) * where[1, 0]] * 3
    if in_plane:
        image, shape = image.flatten(0, 1), image.shape[2:]
        patch, affine = patch[1:], create_affine_matrix_2d(angles[2], scales[:2])
    else:
        shape, label, affine = image.shape[1:], label[None], create_affine_matrix_3d(angles, scales)
    transform = SpatialTransform(patch, 0, False, border_mode_seg="constant", padding_value_seg=-1)
    grid = torch.matmul(_create_centered_identity_grid2(patch).float(), torch.from_numpy(affine.T).float())
    grid = _convert_my_grid_to_grid_sample_grid(grid, shape)
    return transform._apply_to_image(image, grid=grid), transform._apply_to_segmentation(label, grid=grid)


@pytest.mark.parametrize("in_plane", [False, True])
@pytest.mark.parametrize("classes", [(1,), (1, 2, 3)])
def test_rotation_and_scaling_are_nnunets(random, in_plane, classes):
    box, patch, number = ((9, 22, 19), (9, 15, 14), 12) if in_plane else ((12, 22, 19), (8, 15, 14), 12)
    rotation, scaling = (-np.pi, np.pi) if in_plane else ROTATION, (0.7, 1.4)
    step = spatial(in_plane=in_plane, rotation=rotation)
    image = torch.from_numpy(random.normal(size=(number, CHANNELS, *box))).float()
    blocks = random.choice([0, *classes], (number, 3, 6, 5))
    label = torch.from_numpy(blocks.repeat(4, 1).repeat(4, 2).repeat(4, 3)[:, : box[0], : box[1], : box[2]]).short()
    label[:, :, :3] = -1
    image[:, :, :, :3] = 0
    uniform = random.random((number, step.columns()))
    rows, matrices = step.draw(uniform)
    assert rows.tolist() == list(range(number))
    images, labels = step.sample(
        image, label, step.grid(matrices, source=box, patch=patch, like=image), classes=classes
    )
    differing = 0
    for ours, our_label, *theirs, numbers in zip(images, labels, image, label, uniform, strict=True):
        expected, expected_label = stock_spatial(
            patch, *theirs, numbers, in_plane=in_plane, rotation=rotation, scaling=scaling
        )
        torch.testing.assert_close(ours.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
        differing += int((our_label.reshape(expected_label.shape) != expected_label).sum())
    assert differing <= 2e-4 * labels.numel()  # voxels where two classes are equal but for the last bit
    assert torch.equal(step.sample_image(image, step.grid(matrices, source=box, patch=patch, like=image)), images)


def test_equal_scores_are_settled_by_the_nearest_voxel_as_nnunet_does():
    # At twice the scale every sample lies between voxels of a checkerboard: all voxels are ties.
    step = spatial(in_plane=False, rotation=(0, 0), scaling=(1, 1))
    label = (torch.arange(5)[:, None, None] + torch.arange(6)[:, None] + torch.arange(7)).remainder(2).short()[None]
    image = torch.zeros(1, 1, 5, 6, 7)
    numbers = np.full(step.columns(), 0.5)
    _, matrices = step.draw(numbers[None])
    grid = step.grid(matrices, source=(5, 6, 7), patch=(4, 5, 6), like=image)
    _, ours = step.sample(image, label, grid, classes=(1,))
    _, theirs = stock_spatial((4, 5, 6), image[0], label[0], numbers, in_plane=False, rotation=(0, 0), scaling=(1, 1))
    assert torch.equal(ours, theirs)
    assert set(ours.unique().tolist()) == {0, 1}


def test_labels_never_become_a_class_that_is_not_there(random):
    step = spatial(in_plane=False)
    label = torch.from_numpy(random.choice([0, 1, 3], (20, 10, 12, 14))).short()  # 2 lies between 1 and 3
    _, matrices = step.draw(random.random((20, step.columns())))
    grid = step.grid(matrices, source=(10, 12, 14), patch=(8, 8, 8), like=torch.zeros(1))
    _, ours = step.sample(torch.zeros(20, 1, 10, 12, 14), label, grid, classes=(1, 2, 3))
    assert set(ours.unique().tolist()) == {-1, 0, 1, 3}


def test_mirroring_follows_the_coins(patches):
    before = Patches(patches.image.clone(), patches.label.clone())
    Mirror((0, 2)).apply(patches, np.array([[0.4, 0.6], [0.6, 0.4], [0.4, 0.4]]))
    for patch, axes in enumerate([(0,), (2,), (0, 2)]):
        stock = MirrorTransform((0, 2))
        assert torch.equal(patches.image[patch], stock._apply_to_image(before.image[patch], axes=axes))
        assert torch.equal(patches.label[patch], stock._apply_to_segmentation(before.label[patch][None], axes=axes)[0])
