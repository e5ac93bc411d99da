"""Anchors: the boxes at every position of the detection levels, and that the heads move and stretch.

Levels are counted from the finest, 0, whose positions are voxels; a level's stride says how many voxels one of its
positions covers. An anchor is centred on the voxels that its position covers, so that mirroring a patch mirrors its
anchors (nnDetection centres them on the lower corner). Every position of every level has equally many anchors; their
sizes are planned for the finest detection level and grow with the stride, each axis by its own.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from contract.errors import OncoduetError
from contract.schema import Frozen
from network.model.plans import MOST_STAGES, full_resolution

Triple = tuple[int, int, int]
Voxels = Annotated[float, Field(gt=0, le=10_000)]

WANTED_LEVELS = 4
COARSEST_FIRST_LEVEL = 2
"""Coarsest level at which detection may begin; nnDetection uses four levels, never the costly full resolution."""


class AnchorPlan(Frozen):
    """Which anchors a network has; written into plans and bundles."""

    levels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=MOST_STAGES)]
    """Detection levels, finest first."""
    sizes_voxels_zyx: Annotated[tuple[tuple[Voxels, Voxels, Voxels], ...], Field(min_length=1, max_length=216)]
    """Sizes of the anchors at each position of the finest detection level."""


def level_strides(plans: Mapping[str, Any]) -> tuple[Triple, ...]:
    """Stride of every level of the plan's network along (z, y, x), in voxels."""

    def times(stride: Triple, step: Triple) -> Triple:
        return stride[0] * step[0], stride[1] * step[1], stride[2] * step[2]

    return tuple(itertools.accumulate(full_resolution(plans).architecture.arch_kwargs.strides, times))


def detection_levels(count: int) -> tuple[int, ...]:
    """Levels that boxes are detected on, for a network of ``count`` levels: nnDetection's rule."""
    first = min(max(1, count - WANTED_LEVELS), COARSEST_FIRST_LEVEL)
    return tuple(range(min(first, count - 1), count))


def require_levels(plan: AnchorPlan, strides: Sequence[Triple]) -> None:
    """Check that the levels are the network's, finest first.

    Raises ``OncoduetError``: a level that the network does not have, or levels out of order.
    """
    if list(plan.levels) != sorted(set(plan.levels)) or plan.levels[-1] >= len(strides):
        raise OncoduetError(
            "anchors: levels", expected=f"rising levels among 0 to {len(strides) - 1}", found=list(plan.levels)
        )


def anchor_sizes(plan: AnchorPlan, strides: Sequence[Triple]) -> Tensor:
    """Sizes of all anchors in voxels, shape (levels, anchors per position, 3), float32.

    Parameters
    ----------
    strides
        Of all levels of the network; see :func:`level_strides`.
    """
    require_levels(plan, strides)
    own = torch.tensor([strides[level] for level in plan.levels], dtype=torch.float32)
    finest = torch.tensor(plan.sizes_voxels_zyx, dtype=torch.float32)
    return finest[None] * (own / own[0])[:, None]


def anchors_of_patch(
    plan: AnchorPlan, strides: Sequence[Triple], patch_size_zyx: Sequence[int], *, device: torch.device | None = None
) -> list[Tensor]:
    """All anchors of a patch.

    Raises ``OncoduetError``: the patch is no multiple of the strides, or the plan's levels are not the network's.

    Parameters
    ----------
    strides
        Of all levels of the network.
    patch_size_zyx
        A multiple of the coarsest stride.

    Returns
    -------
    For each detection level the boxes, shape (positions, anchors per position, 6), float32. Positions run as in the
    level's feature map: x fastest.
    """
    boxes = []
    for level, sizes in zip(plan.levels, anchor_sizes(plan, strides).to(device), strict=True):
        stride = strides[level]
        if any(length % step for length, step in zip(patch_size_zyx, stride, strict=True)):
            raise OncoduetError(
                "anchors: patch size",
                expected=f"a multiple of {list(stride)}, the stride of level {level}",
                found=list(patch_size_zyx),
            )
        axes = [
            (torch.arange(length // step, dtype=torch.float32, device=device) + 0.5) * step
            for length, step in zip(patch_size_zyx, stride, strict=True)
        ]
        centre = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, 3)
        boxes.append(torch.cat([centre - sizes / 2, centre + sizes / 2], dim=-1))
    return boxes
