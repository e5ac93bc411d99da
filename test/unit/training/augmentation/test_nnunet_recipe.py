"""The recipe has nnU-Net's transforms, and refuses unknown ones."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from refusals import refused_with

from training.augmentation.intensity import LowResolution
from training.augmentation.nnunet_recipe import MaskOutside, read_recipe
from training.augmentation.random_parameters import PerChannel, Range
from training.augmentation.spatial import Spatial

PATCHES = 3
ROTATION = (-np.pi / 6, np.pi / 6)


def test_channels_are_masked_where_the_label_is_negative(patches):
    before = patches.image.clone()
    MaskOutside((1,), 0.0).apply(patches, np.empty((PATCHES, 0)))
    for patch in range(PATCHES):
        data = {"image": before[patch].clone(), "segmentation": patches.label[patch][None]}
        assert torch.equal(patches.image[patch], MaskImageTransform([1])(**data)["image"])


def transforms(**settings):
    return nnUNetTrainer.get_training_transforms(
        (8, 24, 24), ROTATION, [[1, 1, 1], [0.5, 0.5, 0.5]], (0, 1, 2), settings.pop("in_plane", False), **settings
    )


def test_the_recipe_has_nnunets_steps_in_order_with_its_probabilities():
    recipe = read_recipe(transforms())
    assert recipe.spatial == Spatial(0.2, Range(*ROTATION), 0.2, Range(0.7, 1.4), 1.0, in_plane=False)
    found = [
        (type(step).__name__, getattr(getattr(step, "parameters", None), "probability", None)) for step in recipe.steps
    ]
    # Source: nnUNetTrainer.get_training_transforms of nnU-Net 2.8.1.
    assert found == [
        ("Noise", 0.1), ("Blur", 0.2), ("Brightness", 0.15), ("Contrast", 0.15), ("LowResolution", 0.25),
        ("Gamma", 0.1), ("Gamma", 0.3), ("Mirror", None), ("RemoveLabel", None),
    ]  # fmt: skip
    assert recipe.steps[1].parameters == PerChannel(0.2, 0.5, Range(0.5, 1.0), synchronised=False, per_channel=3)
    assert (recipe.steps[5].invert, recipe.steps[6].invert, recipe.steps[6].retain) == (1, 0, 1)
    assert recipe.steps[6].parameters.values == Range(0.7, 1.5, about_one=True)
    assert not recipe.needs_outside


def test_patches_of_few_slices_are_augmented_slice_by_slice():
    recipe = read_recipe(transforms(in_plane=True))
    assert recipe.spatial is not None
    assert recipe.spatial.in_plane
    assert next(step for step in recipe.steps if isinstance(step, LowResolution)).ignored_axes == (0,)


def test_masked_channels_are_read_from_the_plan():
    recipe = read_recipe(transforms(use_mask_for_norm=[False, True]))
    assert MaskOutside((1,), 0.0) in recipe.steps
    assert recipe.needs_outside


def changed(**settings):
    composed = transforms()
    for name, value in settings.items():
        setattr(composed.transforms[0], name, value)
    return composed


@pytest.mark.parametrize(
    ("composed", "fields"),
    [
        (
            ComposeTransforms([BrightnessAdditiveTransform(0, 1)]),
            {"found": "the transform BrightnessAdditiveTransform"},
        ),
        (changed(p_elastic_deform=0.2), {"found": r"SpatialTransform.p_elastic_deform = 0.2 \(0 is known\)"}),
        (changed(mode_image="bicubic"), {"found": "SpatialTransform.mode_image = 'bicubic'"}),
        (changed(rotation="any"), {"expected": "rotation to be a number or a range", "found": "'any'"}),
        (
            ComposeTransforms([RandomTransform(MirrorTransform((0,)), 0.5)]),
            {"found": "a probability of 0.5 for MirrorTransf"},
        ),
        (
            ComposeTransforms([MirrorTransform((0,)), transforms().transforms[0]]),
            {"found": "the order of SpatialTransform"},
        ),
        (ComposeTransforms([transforms().transforms[-1]] * 2), {"found": "the order of DownsampleSegForDSTransform"}),
        (
            ComposeTransforms([Convert3DTo2DTransform(), MirrorTransform((0,)), Convert2DTo3DTransform()]),
            {"found": "the transform MirrorTransform"},
        ),
    ],
)
def test_what_is_not_known_of_nnunets_augmentation_is_refused(composed, fields):
    with refused_with("nnU-Net's augmentation", **fields):
        read_recipe(composed)
