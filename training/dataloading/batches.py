"""Batches from resident studies, without nnU-Net's loader and its worker processes.

Studies that do not fit into a GPU's memory are in the main memory, in half precision. Patches are then cut there into
page-locked buffers, brought to the GPU by copies for which the host does not wait, and augmented on the GPU: the next
batch is cut while the GPU computes on this one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.augmentation.nnunet_recipe import Recipe
from training.augmentation.patches import Patches, Size
from training.augmentation.random_parameters import Uniform
from training.augmentation.spatial import OUTSIDE
from training.dataloading.instance_studies import InstanceStudies
from training.dataloading.patch_sampling import COLUMNS, PatchSampler
from training.dataloading.resident_studies import ResidentStudies, ResidentStudy


@dataclass(frozen=True)
class Cut:
    """A place in a study."""

    study: ResidentStudy
    corner: Size
    """Lowest voxel of the patch; may be outside the study."""

    def moved(self, by: Sequence[int]) -> "Cut":
        """The place further on."""
        z, y, x = (here + step for here, step in zip(self.corner, by, strict=True))
        return Cut(self.study, (z, y, x))

    def into(self, image: torch.Tensor, label: torch.Tensor) -> None:
        """Copy the part that begins at the corner.

        Parameters
        ----------
        image, label
            Shapes (channels, z, y, x) and (z, y, x); filled where they reach beyond the study.
        """
        theirs, ours = [], []
        for begin, size, length in zip(self.corner, label.shape, self.study.shape, strict=True):
            first, last = max(begin, 0), min(begin + size, length)
            theirs.append(slice(first, max(first, last)))
            ours.append(slice(first - begin, max(first, last) - begin))
        image[:, *ours] = self.study.image[:, *theirs]
        label[*ours] = self.study.label[*theirs]

    def may_hold_foreground(self, size: Size) -> bool:
        """False guarantees that a box of this size holds none."""
        if self.study.foreground is None:
            return False
        first, after = self.study.foreground
        return all(
            begin < end and low < begin + length
            for begin, length, low, end in zip(self.corner, size, first, after, strict=True)
        )


class ResidentBatches:
    """An endless iterator over batches, as nnU-Net's trainer takes them.

    Parameters
    ----------
    studies
        Where these have numbered lesions, a patch's label holds the numbers.
    case_ids
        The studies that patches come from, each with the same chance.
    sampler
        Where patches are cut.
    foreground
        Fraction of a batch's patches, its last ones, that are centred on foreground.
    device
        Where patches are augmented; None: where the studies are.
    """

    def __init__(
        self,
        studies: ResidentStudies | InstanceStudies,
        case_ids: Sequence[str],
        *,
        recipe: Recipe,
        sampler: PatchSampler,
        batch_size: int,
        foreground: float,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or studies.device
        self.studies, self.case_ids = studies, list(case_ids)
        self.recipe, self.sampler = recipe, sampler
        self.batch_size = batch_size
        self.unforced = round(batch_size * (1 - foreground))
        image = studies.by_id[self.case_ids[0]].image
        self.channels, self.dtype = len(image), image.dtype
        self.seed([0])

    def seed(self, entropy: Sequence[int]) -> None:
        """Begin a sequence of batches that follows from these numbers alone."""
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(entropy))))

    def __iter__(self) -> "ResidentBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        """One batch: ``data`` (patches, channels, z, y, x), ``target`` per supervised resolution, ``keys``."""
        with torch.no_grad():
            widths = self._widths()
            uniform = self.generator.random((self.batch_size, sum(widths)))
            placing, spatial, *stepwise = np.split(uniform, np.cumsum(widths)[:-1], axis=1)
            keys = [self.case_ids[int(number * len(self.case_ids))] for number in placing[:, 0]]
            patches = self._cut(keys, placing[:, 1:], spatial)
            for step, numbers in zip(self.recipe.steps, stepwise, strict=True):
                step.apply(patches, numbers)
            return {"data": patches.image, "target": self.recipe.targets(patches.label), "keys": keys}

    def _widths(self) -> list[int]:
        """Uniform numbers that a patch takes: for its study and box, for rotation and scale, for each step."""
        spatial = self.recipe.spatial.columns() if self.recipe.spatial else 0
        return [1 + COLUMNS, spatial, *(step.columns(self.channels) for step in self.recipe.steps)]

    def _cut(self, keys: Sequence[str], placing: Uniform, spatial: Uniform) -> Patches:
        cuts = []
        for number, (key, numbers) in enumerate(zip(keys, placing, strict=True)):
            study = self.studies.by_id[key]
            forced = number >= self.unforced
            cuts.append(
                Cut(study, self.sampler.lower_corner(study.shape, study.voxels, forced=forced, uniform=numbers))
            )
        rows, matrices = self.recipe.spatial.draw(spatial) if self.recipe.spatial else (np.empty(0, int), None)
        turned = set(rows.tolist())
        # What is neither rotated nor scaled is cut from the middle of the box.
        margin = [box // 2 - patch // 2 for box, patch in zip(self.sampler.box, self.sampler.patch, strict=True)]
        straight = {number: cut.moved(margin) for number, cut in enumerate(cuts) if number not in turned}
        patches = self._filled(self.batch_size, self.sampler.patch, straight)
        if matrices is not None and len(rows):
            self._turn(patches, [cuts[row] for row in rows], rows.tolist(), matrices)
        return patches

    def _turn(self, patches: Patches, cuts: Sequence[Cut], rows: list[int], matrices: Any) -> None:
        """Rotate and scale some of the patches."""
        spatial = self.recipe.spatial
        assert spatial is not None
        # Without foreground, and where the outside is not asked for, all of a label becomes background in the end.
        asked = self.recipe.needs_outside
        holding = [asked or cut.may_hold_foreground(self.sampler.box) for cut in cuts]
        for held in (True, False):
            chosen = [number for number, each in enumerate(holding) if each == held]
            if not chosen:
                continue
            boxes = self._filled(len(chosen), self.sampler.box, {at: cuts[row] for at, row in enumerate(chosen)})
            grid = spatial.grid(matrices[chosen], source=self.sampler.box, patch=self.sampler.patch, like=patches.image)
            if held:
                if isinstance(self.studies, InstanceStudies):
                    images, labels = spatial.sample_nearest(boxes.image, boxes.label, grid)
                else:
                    classes = sorted({value for number in chosen for value in cuts[number].study.classes})
                    images, labels = spatial.sample(boxes.image, boxes.label, grid, classes=classes)
            else:
                images = spatial.sample_image(boxes.image, grid)
                labels = torch.zeros_like(images[:, 0], dtype=patches.label.dtype)
            for place, number in enumerate(chosen):
                patches.image[rows[number]] = images[place]
                patches.label[rows[number]] = labels[place]

    def _filled(self, count: int, size: Size, cuts: Mapping[int, Cut]) -> Patches:
        """Patches on the device, with what is cut for some of them; the others are empty."""
        crosses = self.studies.device.type != self.device.type
        image = torch.zeros(
            (count, self.channels, *size),
            dtype=self.dtype if crosses else torch.float32,
            device=self.studies.device,
            pin_memory=crosses,
        )
        label = torch.full((count, *size), OUTSIDE, dtype=torch.int16, device=self.studies.device, pin_memory=crosses)
        for number, cut in cuts.items():
            cut.into(image[number], label[number])
        if crosses:  # torch keeps the buffers until they are copied
            image = image.to(self.device, non_blocking=True).float()
            label = label.to(self.device, non_blocking=True)
        return Patches(image, label)
