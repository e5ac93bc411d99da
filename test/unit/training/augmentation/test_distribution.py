"""Patches of the resident loader and of nnU-Net's own, thousands of each, have the same distribution.

Statistics of each patch are compared by two-sample Kolmogorov-Smirnov tests. Seeds are fixed, so what passes always
passes; a level of 0.001, divided by the number of tests, is what chance alone would have had against it. What the tests
would notice is shown by changing our side.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from training.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise
from training.augmentation.random_parameters import Range
from training.augmentation.spatial import Mirror
from training.dataset.nnunet_folders import batches_on_one_thread, nnunet_folders
from training.nnunet.seeds import seed_generators
from training.nnunet.trainer import build_trainer
from training.run_folder.folder import RunFolder

NUMBER = 2400
LEVEL = 0.001


@pytest.fixture(scope="module")
def loaders(tmp_path_factory, planned):
    """Training batches of both loaders; nnU-Net's studies may be replaced."""
    work = tmp_path_factory.mktemp("distribution")

    def build(loader, patch=(8, 16, 16)):
        run = planned()
        place = "nnunet" if loader == "nnunet" else "device"
        task = run.engine.task(run, RunFolder(work / "run"), "cpu", training_set=place)
        task.plans["configurations"]["3d_fullres"]["patch_size"] = list(patch)
        built = build_trainer(task)
        with nnunet_folders(raw=work, preprocessed=work, results=work, loader_processes=0):
            built.initialize()
            training, _ = built.get_dataloaders()
        return training.batches if loader == "nnunet" else training

    return build


def in_one_place(ours, theirs, image):
    """Have both loaders cut the same patch of the same study again and again.

    Parameters
    ----------
    image
        The study, shape (channels, z, y, x).
    """
    size = image.shape[1:]
    label = np.zeros((1, *size), np.int16)
    study = replace(
        next(iter(ours.studies.by_id.values())),
        image=torch.from_numpy(image),
        label=torch.from_numpy(label[0]),
        voxels={},
        classes=(),
        foreground=None,
    )
    ours.studies, ours.case_ids, ours.channels = replace(ours.studies, by_id={"one": study}), ["one"], len(image)

    class One:  # as nnU-Net's dataset
        identifiers = ("one",)

        def load_case(self, identifier):
            return image.copy(), label.copy(), None, {"class_locations": {}}  # its transforms work in place

    loader = theirs.data_loader
    loader._data, loader.indices = One(), ["one"]


def patches(loader, number=NUMBER):
    """Images (n, c, z, y, x), labels (n, z, y, x), and which patches are forced to hold foreground."""
    seed_generators(7, "distribution")
    images, labels = [], []
    with batches_on_one_thread():
        while len(images) * 2 < number:
            batch = next(loader)
            images.append(batch["data"].clone())
            labels.append(batch["target"][0][:, 0].clone())
    return torch.cat(images), torch.cat(labels), np.arange(number) % 2 == 1


def statistics(images, labels, forced):
    """Per patch and channel: moments, extremes, and how rough it is along each axis; per patch: its lesion."""
    flat = images.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    std = centred.square().mean(2).sqrt()
    found = {
        "mean": flat.mean(2),
        "std": std,
        "skewness": centred.pow(3).mean(2) / std.pow(3),
        "kurtosis": centred.pow(4).mean(2) / std.pow(4),
        "minimum": flat.amin(2),
        "maximum": flat.amax(2),
    }
    for axis, name in enumerate("zyx", start=2):
        roughness = images.diff(dim=axis).abs().flatten(2)
        found[f"roughness along {name}"] = roughness.mean(2) / std
    per_patch = {f"{name}, channel {c}": values[:, c] for name, values in found.items() for c in range(images.shape[1])}
    lesion = labels == 1
    share = lesion.flatten(1).float().mean(1)
    places = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape[1:]), indexing="ij")).float()
    for name, chosen in (("forced", forced), ("anywhere", ~forced)):
        per_patch[f"lesion's share, {name}"] = share[chosen]
        for axis, letter in enumerate("zyx"):
            centre = (places[axis] * lesion).flatten(1).sum(1) / lesion.flatten(1).sum(1).clamp(min=1)
            per_patch[f"lesion's {letter}, {name}"] = centre[torch.from_numpy(chosen) & (share > 0)]
    # Rounded, since many patches keep a moment but for the last bits, in which arithmetic differs and chance does not.
    return {name: values.numpy().round(4) for name, values in per_patch.items()}


def least(ours, theirs):
    """The least p-value, corrected for the number of tests, and what it is of."""
    p = {name: ks_2samp(ours[name], theirs[name], method="asymp").pvalue for name in theirs}
    name = min(p, key=p.__getitem__)
    return p[name] * len(p), name


@pytest.fixture(scope="module")
def stock(loaders):
    return statistics(*patches(loaders("nnunet")))


def test_both_loaders_give_the_same_distribution(loaders, stock):
    p, name = least(statistics(*patches(loaders("resident"))), stock)
    assert p > LEVEL, name


@pytest.mark.slow
def test_both_loaders_give_the_same_distribution_slice_by_slice(loaders):
    flat = (4, 16, 16)
    ours, theirs = (patches(loaders(loader, flat), 1500) for loader in ("resident", "nnunet"))
    assert loaders("resident", flat).recipe.spatial.in_plane
    p, name = least(statistics(*ours), statistics(*theirs))
    assert p > LEVEL, name


def test_another_share_of_foreground_is_noticed(loaders, stock):
    loader = loaders("resident")
    loader.unforced = 2
    p, name = least(statistics(*patches(loader)), stock)
    assert p < LEVEL
    assert "lesion" in name


@pytest.fixture(scope="module")
def intensities(loaders):
    """Statistics of intensity changes alone: nnU-Net's, and ours after a change of the recipe."""
    random = np.random.default_rng(1)
    z, y, x = np.indices((8, 16, 16))
    image = np.stack([np.sin(0.5 * x + c) + np.cos(0.4 * y) + 0.1 * z for c in range(3)])
    image = (image + 0.05 * random.normal(size=image.shape)).astype(np.float32)
    theirs = loaders("nnunet")

    def ours(change):
        loader = loaders("resident")
        in_one_place(loader, theirs, image)
        loader.sampler = replace(loader.sampler, box=loader.sampler.patch)
        loader.recipe = change(replace(loader.recipe, spatial=None))
        return unlabelled(statistics(*patches(loader)))

    def unlabelled(found):
        return {name: values for name, values in found.items() if "lesion" not in name}

    ours(lambda recipe: recipe)  # sets the study of theirs, too
    loader = theirs.data_loader
    loader.patch_size, loader.need_to_pad = loader.final_patch_size, np.zeros(3, int)
    loader.transforms.transforms = [
        each for each in loader.transforms.transforms if type(each).__name__ != "SpatialTransform"
    ]
    return ours, unlabelled(statistics(*patches(theirs)))


def with_chance(kind, **changes):
    """Change the chance of all steps of a kind."""

    def change(recipe):
        steps = [
            replace(step, parameters=replace(step.parameters, **changes)) if isinstance(step, kind) else step
            for step in recipe.steps
        ]
        return replace(recipe, steps=tuple(steps))

    return change


def test_both_loaders_change_intensities_alike(intensities):
    ours, theirs = intensities
    p, name = least(ours(lambda recipe: recipe), theirs)
    assert p > LEVEL, name


@pytest.mark.parametrize(
    "change",
    [
        with_chance(Noise, probability=0.2),
        with_chance(Noise, values=Range(0.1, 0.3)),
        with_chance(Blur, probability=0.4),
        with_chance(Blur, channel_probability=1.0),
        with_chance(Blur, values=Range(0.5, 2)),
        with_chance(Brightness, probability=0.3),
        with_chance(Brightness, values=Range(1.0, 1.5)),
        with_chance(Contrast, probability=0.4),
        with_chance(LowResolution, probability=0.5),
        with_chance(Gamma, probability=0.5),
        *(with_chance(kind, probability=0.0) for kind in (Noise, Blur, Brightness, Contrast, LowResolution, Gamma)),
    ],
    ids=["noise", "noise's range", "blur", "blur's channels", "blur's range", "brightness", "brightness's range",
         "contrast", "resolution", "gamma", "no noise", "no blur", "no brightness", "no contrast", "no resolution",
         "no gamma"],
)  # fmt: skip
def test_a_changed_probability_or_range_or_a_missing_step_is_noticed(intensities, change):
    ours, theirs = intensities
    p, _ = least(ours(change), theirs)
    assert p < LEVEL


def test_a_changed_scaling_is_noticed(loaders, stock):
    loader = loaders("resident")
    loader.recipe = replace(loader.recipe, spatial=replace(loader.recipe.spatial, scaling_probability=0.5))
    p, _ = least(statistics(*patches(loader)), stock)
    assert p < LEVEL


PLACES = np.concatenate([np.indices((40, 60, 60)), np.ones((1, 40, 60, 60))]).astype(np.float32)
"""A study whose channels are its voxels' places, and 1: a patch tells where each of its voxels came from."""


def movements(images):
    """Which matrix moved each patch: least squares on the voxels that lie in the study; shape (n, 3, 3)."""
    shape = images.shape[2:]
    design = np.stack([*np.indices(shape), np.ones(shape)]).reshape(4, -1).T
    found = []
    for image in images.numpy().reshape(len(images), 4, -1):
        inside = image[3] > 0.999999
        if inside.sum() > 100:
            solution, *_ = np.linalg.lstsq(design[inside], image[:3, inside].T, rcond=None)
            found.append(solution[:3].T)
    return np.array(found)


def geometry(matrices):
    """Scale, angles about z, y, x, and mirroring of each movement."""
    scale = np.abs(np.linalg.det(matrices)) ** (1 / 3)
    rotation = matrices / scale[:, None, None]
    mirrored = np.sign(np.einsum("nii->ni", rotation))  # rotations of at most 30 degrees about each axis
    rotation = rotation * mirrored[:, None]
    angles = {
        "z": np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]),
        "y": np.arcsin(np.clip(-rotation[:, 2, 0], -1, 1)),
        "x": np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
    }
    return scale, angles, mirrored


@pytest.fixture(scope="module")
def moved(loaders):
    """Movements by both loaders, of rotation, scaling and mirroring alone."""
    ours, theirs = loaders("resident"), loaders("nnunet")
    in_one_place(ours, theirs, PLACES)
    ours.recipe = replace(ours.recipe, steps=tuple(step for step in ours.recipe.steps if isinstance(step, Mirror)))
    composed = theirs.data_loader.transforms
    names = ("SpatialTransform", "MirrorTransform", "DownsampleSegForDSTransform")
    composed.transforms = [each for each in composed.transforms if type(each).__name__ in names]
    return [geometry(movements(patches(loader)[0])) for loader in (ours, theirs)]


def test_rotations_and_scales_have_nnunets_ranges_and_rates(moved):
    (our_scale, our_angles, _), (their_scale, their_angles, _) = moved
    for scale, angles in ((our_scale, our_angles), (their_scale, their_angles)):
        number = len(scale)
        scaled = np.abs(scale - 1) > 1e-3
        turned = np.max([np.abs(each) for each in angles.values()], axis=0) > 1e-3
        error = 4 * np.sqrt(0.2 * 0.8 / number)
        assert np.mean(scaled) == pytest.approx(0.2, abs=error)
        assert np.mean(turned) == pytest.approx(0.2, abs=error)
        assert np.mean(scaled & turned) == pytest.approx(0.04, abs=error)
        assert scale[scaled].min() == pytest.approx(0.7, abs=0.02)
        assert scale[scaled].max() == pytest.approx(1.4, abs=0.02)
        for each in angles.values():
            assert np.abs(each[turned]).max() == pytest.approx(np.pi / 6, abs=0.02)
    assert ks_2samp(our_scale, their_scale, method="asymp").pvalue > LEVEL
    for axis in "zyx":
        assert ks_2samp(our_angles[axis], their_angles[axis], method="asymp").pvalue > LEVEL


def test_each_axis_is_mirrored_as_often_as_by_nnunet(moved):
    for _, _, mirrored in moved:
        error = 4 * np.sqrt(0.25 / len(mirrored))
        assert np.mean(mirrored < 0, axis=0) == pytest.approx([0.5] * 3, abs=error)
        combined = mirrored @ [1, 2, 4]
        _, counts = np.unique(combined, return_counts=True)
        assert counts / len(mirrored) == pytest.approx([1 / 8] * 8, abs=error)
