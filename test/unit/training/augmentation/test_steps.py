"""Each step of the resident augmentation against nnU-Net's own transform, given the same parameters."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import (
    BrightnessAdditiveTransform,
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    _convert_my_grid_to_grid_sample_grid,
    _create_centered_identity_grid2,
    create_affine_matrix_2d,
    create_affine_matrix_3d,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.cropping import crop_tensor
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from refusals import refused_with

from contract.errors import OncoduetError
from training.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise, gaussian
from training.augmentation.nnunet_recipe import MaskOutside, read_recipe
from training.augmentation.patches import Patches
from training.augmentation.random_parameters import PerChannel, Range, range_of
from training.augmentation.spatial import Mirror, Spatial
from training.dataloading.batches import Cut
from training.dataloading.patch_sampling import PatchSampler
from training.dataloading.resident_studies import ResidentStudy

PATCHES, CHANNELS, SIZE = 3, 2, (7, 12, 11)
ROTATION = (-np.pi / 6, np.pi / 6)


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def patches(random):
    image = torch.from_numpy(random.normal(size=(PATCHES, CHANNELS, *SIZE))).float()
    return Patches(image, torch.from_numpy(random.integers(-1, 3, (PATCHES, *SIZE))).to(torch.int16))


def always(values, *, per_channel=1):
    return PerChannel(1.0, 1.0, values, synchronised=False, per_channel=per_channel)


def check(step, patches, random, stock):
    """Apply our step, and ``stock(image of one patch, its values per channel)`` beside it."""
    before, uniform = patches.image.clone(), random.random((PATCHES, step.columns(CHANNELS)))
    width = step.parameters.columns(CHANNELS)
    rows, values = step.parameters.draw(uniform[:, :width], CHANNELS)
    assert rows.tolist() == list(range(PATCHES * CHANNELS))
    step.apply(patches, uniform)
    for patch in range(PATCHES):
        expected = stock(before[patch].clone(), values.reshape(PATCHES, CHANNELS, -1)[patch])
        torch.testing.assert_close(patches.image[patch], expected, rtol=1e-4, atol=2e-5)
        assert not torch.allclose(patches.image[patch], before[patch], atol=1e-3)


def test_brightness_is_nnunets(patches, random):
    transform = MultiplicativeBrightnessTransform((0.5, 2), False)
    check(Brightness(always(Range(0.5, 2))), patches, random, lambda image, values: transform._apply_to_image(
        image, apply_to_channel=range(CHANNELS), multipliers=torch.from_numpy(values[:, 0]).float()
    ))  # fmt: skip


@pytest.mark.parametrize("preserve_range", [True, False])
def test_contrast_is_nnunets(patches, random, preserve_range):
    transform = ContrastTransform((0.5, 2), preserve_range, False)
    check(Contrast(always(Range(0.5, 2)), preserve_range), patches, random, lambda image, values: (
        transform._apply_to_image(
            image, apply_to_channel=torch.arange(CHANNELS), multipliers=torch.from_numpy(values[:, 0]).float()
        )
    ))  # fmt: skip


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("retained", [0, 1])
def test_gamma_is_nnunets(patches, random, inverted, retained):
    transform = GammaTransform((0.7, 1.5), inverted, False, 1, retained)
    check(Gamma(always(Range(0.7, 1.5)), inverted, retained), patches, random, lambda image, values: (
        transform._apply_to_image(
            image,
            apply_to_channel=torch.arange(CHANNELS),
            retain_stats=torch.full((CHANNELS,), bool(retained)),
            invert_image=torch.full((CHANNELS,), bool(inverted)),
            gamma=torch.from_numpy(values[:, 0]).float(),
        )
    ))  # fmt: skip


def test_gamma_retains_and_inverts_each_channel_by_its_own_coin(patches, random):
    step = Gamma(always(Range(1.4, 1.4)), 0.5, 0.5)
    transform = GammaTransform(1.4, 0.5, False, 1, 0.5)
    uniform = random.random((PATCHES, step.columns(CHANNELS)))
    coins = (uniform[:, -2 * CHANNELS :] < 0.5).reshape(PATCHES, CHANNELS, 2)
    assert len({tuple(pair) for pair in coins.reshape(-1, 2).tolist()}) > 2
    expected = [
        transform._apply_to_image(
            image.clone(),
            apply_to_channel=torch.arange(CHANNELS),
            invert_image=torch.from_numpy(coin[:, 0]),
            retain_stats=torch.from_numpy(coin[:, 1]),
            gamma=torch.full((CHANNELS,), 1.4),
        )
        for image, coin in zip(patches.image, coins, strict=True)
    ]
    step.apply(patches, uniform)
    torch.testing.assert_close(patches.image, torch.stack(expected), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sigma", [(0.5, 1.0), (0.3, 1.2)])
def test_blur_is_nnunets(patches, random, sigma):
    transform = GaussianBlurTransform(sigma, p_per_channel=1)
    check(Blur(always(Range(*sigma), per_channel=3)), patches, random, lambda image, values: (
        transform._apply_to_image(image, apply_to_channel=np.ones(CHANNELS, bool), sigmas=values.tolist())
    ))  # fmt: skip


def test_kernels_of_different_length_are_combined():
    kernels = gaussian(np.array([0.4, 1.0]))  # 0.4 * 6 + 0.5 = 2.9: 3 taps; 6.5: 6, next odd number above 7
    assert kernels.shape == (2, 7)
    assert kernels[0, [0, 1, 5, 6]].tolist() == [0, 0, 0, 0]
    assert kernels.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize("ignored", [(), (0,)])
def test_low_resolution_is_nnunets(patches, random, ignored):
    transform = SimulateLowResolutionTransform((0.3, 0.8), False, True, ignored)

    def stock(image, values):
        scales = torch.from_numpy(np.broadcast_to(values, (CHANNELS, 3)).copy()).float()
        scales[:, list(ignored)] = 1
        return transform._apply_to_image(image, apply_to_channel=range(CHANNELS), scales=scales)

    check(LowResolution(always(Range(0.3, 0.8)), ignored), patches, random, stock)


def test_noise_has_the_drawn_standard_deviation(random):
    patches = Patches(torch.zeros(4, CHANNELS, 20, 40, 40), torch.zeros(4, 20, 40, 40, dtype=torch.int16))
    step = Noise(PerChannel(0.5, 1.0, Range(0, 0.1), synchronised=True))
    uniform = random.random((4, step.columns(CHANNELS)))
    uniform[:, 0] = [0.2, 0.7, 0.2, 0.2]
    step.apply(patches, uniform)
    _, sigmas = step.parameters.draw(uniform[:, :-1], CHANNELS)
    found = patches.image.flatten(2).std(2)
    assert found[1].tolist() == [0, 0]
    assert found[[0, 2, 3]].flatten().numpy() == pytest.approx(sigmas[:, 0], rel=0.02)
    assert float(found[0, 0]) == pytest.approx(float(found[0, 1]), rel=0.02)  # synchronised
    values = patches.image[[0, 2, 3]].flatten(2).flatten(0, 1)
    assert np.abs(np.corrcoef(values) - np.eye(6)).max() < 0.03  # 5 standard errors


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


def test_channels_are_masked_where_the_label_is_negative(patches):
    before = patches.image.clone()
    MaskOutside((1,), 0.0).apply(patches, np.empty((PATCHES, 0)))
    for patch in range(PATCHES):
        data = {"image": before[patch].clone(), "segmentation": patches.label[patch][None]}
        assert torch.equal(patches.image[patch], MaskImageTransform([1])(**data)["image"])


def study(shape=(9, 20, 17), *, voxels=None):
    z, y, x = np.indices(shape)
    image = torch.from_numpy(np.stack([z, y, x])).float() + 1
    label = torch.zeros(shape, dtype=torch.int8)
    label[4, 10, 8] = 1
    return ResidentStudy(image, label, voxels or {}, (1,), ((4, 10, 8), (5, 11, 9)))


@pytest.mark.parametrize("corner", [(0, 0, 0), (3, 5, 4), (-4, -7, -2), (6, 15, 13), (9, 0, 0)])
def test_a_cut_reaches_beyond_the_study_into_filling(corner):
    size, given = (5, 8, 9), study()
    image, label = torch.zeros(3, *size), torch.full(size, -1, dtype=torch.int16)
    Cut(given, corner).into(image, label)
    centre = [at + length // 2 for at, length in zip(corner, size, strict=True)]
    assert torch.equal(image, crop_tensor(given.image, centre, size))
    expected = crop_tensor(given.label[None].short(), centre, size, pad_kwargs={"value": -1})
    assert torch.equal(label, expected[0])


def test_a_cut_knows_whether_it_may_hold_foreground():
    size = (5, 8, 9)
    assert Cut(study(), (0, 3, 0)).may_hold_foreground(size)  # its last voxels are the lesion's
    assert not Cut(study(), (0, 2, 0)).may_hold_foreground(size)
    assert not Cut(study(), (5, 10, 8)).may_hold_foreground(size)


class Stock(nnUNetDataLoader):
    """nnU-Net's rule for boxes, without data."""

    def __init__(self, box, patch):
        self.patch_size, self.has_ignore, self.annotated_classes_key = box, False, (-1, 1)
        self.need_to_pad = np.array(box) - np.array(patch)


@pytest.mark.parametrize(
    ("box", "patch", "shape"),
    [
        ((12, 20, 25), (8, 15, 16), (30, 32, 34)),
        ((12, 20, 25), (8, 15, 16), (9, 20, 17)),
        ((8, 15, 16), (8, 15, 16), (30, 15, 16)),
        ((13, 40, 41), (12, 30, 30), (9, 11, 40)),  # larger than the study
    ],
)
def test_patches_are_cut_where_nnunet_cuts_them(random, box, patch, shape):
    rule, stock = PatchSampler(box, patch), Stock(box, patch)
    np.random.seed(3)  # noqa: NPY002 - nnU-Net draws from the global generator
    theirs = np.array([stock.get_bbox(np.array(shape), False, None)[0] for _ in range(2000)])
    ours = np.array([
        rule.lower_corner(shape, {}, forced=False, uniform=random.random(5)) for _ in range(2000)
    ])  # fmt: skip
    lowest, highest = rule.limits(shape)
    for corners in (theirs, ours):  # a value of at most 27 is missed with probability (26/27)^2000 < 1e-32
        assert corners.min(axis=0).tolist() == lowest
        assert corners.max(axis=0).tolist() == highest
    spread = np.maximum(np.subtract(highest, lowest), 1) / np.sqrt(12 * 2000)
    assert np.all(np.abs(ours.mean(axis=0) - np.add(lowest, highest) / 2) < 5 * spread)
    for voxel in random.integers(0, shape, (50, 3)):
        expected, _ = stock.get_bbox(np.array(shape), True, {1: np.array([[0, *voxel]])})
        found = rule.lower_corner(shape, {1: voxel[None]}, forced=True, uniform=random.random(5))
        assert list(found) == expected


def test_classes_and_their_voxels_are_drawn_uniformly():
    voxels = {1: np.array([[20, 20, 20]] * 1), 3: np.array([[30, 30, 30], [40, 40, 40]])}
    rule = PatchSampler((4, 4, 4), (4, 4, 4))
    random = np.random.default_rng(0)
    corners = [rule.lower_corner((60, 60, 60), voxels, forced=True, uniform=random.random(5))[0] for _ in range(4000)]
    values, counts = np.unique(corners, return_counts=True)
    assert values.tolist() == [18, 28, 38]
    assert counts / 4000 == pytest.approx([0.5, 0.25, 0.25], abs=0.04)  # 5 standard errors


def test_the_focus_is_the_only_class_where_the_study_has_it():
    voxels = {1: np.array([[20, 20, 20]]), 3: np.array([[30, 30, 30]])}
    random = np.random.default_rng(0)

    def corners(focus):
        rule = PatchSampler((4, 4, 4), (4, 4, 4), focus=focus)
        return {rule.lower_corner((60, 60, 60), voxels, forced=True, uniform=random.random(5))[0] for _ in range(50)}

    assert (corners(3), corners(2)) == ({28}, {18, 28})


def test_values_about_one_are_half_below_and_half_above():
    random = np.random.default_rng(0)
    ours = Range(0.7, 1.5, about_one=True).of(random.random((20000, 2)))
    np.random.seed(0)  # noqa: NPY002 - BGContrast draws from the global generator
    stock = BGContrast((0.7, 1.5))
    theirs = np.array([stock() for _ in range(20000)])
    levels = np.linspace(0, 1, 11)
    assert np.quantile(ours, levels) == pytest.approx(np.quantile(theirs, levels), abs=0.02)
    assert np.mean(ours < 1) == pytest.approx(0.5, abs=0.02)


def transforms(**settings):
    return nnUNetTrainer.get_training_transforms(
        (8, 24, 24), ROTATION, [[1, 1, 1], [0.5, 0.5, 0.5]], (0, 1, 2), settings.pop("in_plane", False), **settings
    )


def test_the_recipe_has_nnunets_steps_in_order_with_its_probabilities():
    recipe = read_recipe(transforms())
    assert recipe.spatial == Spatial(0.2, Range(*ROTATION), 0.2, Range(0.7, 1.4), 1.0, in_plane=False)
    found = [
        (type(step).__name__, getattr(getattr(step, "chance", None), "probability", None)) for step in recipe.steps
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
    ("composed", "found"),
    [
        (ComposeTransforms([BrightnessAdditiveTransform(0, 1)]), "found the transform BrightnessAdditiveTransform"),
        (changed(p_elastic_deform=0.2), r"found SpatialTransform.p_elastic_deform = 0.2 \(0 is known\)"),
        (changed(mode_image="bicubic"), "found SpatialTransform.mode_image = 'bicubic'"),
        (changed(rotation="any"), "rotation to be a number or a range, found 'any'"),
        (
            ComposeTransforms([RandomTransform(MirrorTransform((0,)), 0.5)]),
            "found a probability of 0.5 for MirrorTransf",
        ),
        (ComposeTransforms([MirrorTransform((0,)), transforms().transforms[0]]), "found the order of SpatialTransform"),
        (ComposeTransforms([transforms().transforms[-1]] * 2), "found the order of DownsampleSegForDSTransform"),
        (
            ComposeTransforms([Convert3DTo2DTransform(), MirrorTransform((0,)), Convert2DTo3DTransform()]),
            "found the transform MirrorTransform",
        ),
    ],
)
def test_what_is_not_known_of_nnunets_augmentation_is_refused(composed, found):
    with pytest.raises(OncoduetError, match=f"nnU-Net's augmentation: expected .*{found}"):
        read_recipe(composed)


def test_a_random_scalar_is_a_number_a_pair_or_a_contrast():
    assert range_of(2, what="x") == Range(2, 2)
    assert range_of([1, 3], what="x") == Range(1, 3)
    assert range_of(BGContrast((0.7, 1.5)), what="x") == Range(0.7, 1.5, about_one=True)
    assert range_of(BGContrast((0.7, 1.5)).sample_contrast, what="x") == Range(0.7, 1.5, about_one=True)
    with refused_with(expected="x to be a number or a range"):
        range_of(lambda: 1, what="x")
