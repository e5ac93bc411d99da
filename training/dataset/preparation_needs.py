"""What preparing an archive needs of disk, memory and time, estimated from the images' headers before work begins.

The stacked studies are on the disk uncompressed until the dataset is finished: their size is exact, and where it alone
exceeds what is free, nothing is begun. The preprocessed ones are compressed, and their voxels are those of a plan that
is not made yet: as many as on the study grid and ``_COMPRESSED`` of their bytes is what phantoms and real studies come
to. The factors of the memory were measured as the largest resident set of a worker (bpMRI of 20 × 384 × 384 and
25 × 640 × 640, CT of 120 × 512 × 512 voxels).
"""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.archive.studies import Study, read_grids
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import nearest_folder
from contract.records import Stage
from network.machine.memory import GB, Budget, held_bytes, memory_budget
from network.study.placement import Placement

_FLOAT, _LABEL, _KEPT_LABEL = 4, 4, 2
_COMPRESSED = 0.8
_LIBRARIES_BYTES = 700_000_000
"""Resident set of a worker before its first study."""
_MARGIN = 1.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyNeeds:
    """One study."""

    voxels: int
    """Of all its images: what the time is roughly in proportion to."""
    stacked_bytes: int
    """On the disk while it is worked on: at least so many."""
    stacked_at_most_bytes: int
    """If the region around an organ were the whole image."""
    kept_bytes: int
    """On the disk in the end, about."""
    memory_bytes: int
    """Beyond the libraries, about."""


def study_needs(study: Study, card: Card, stages: Sequence[Stage]) -> StudyNeeds:
    """What a study needs, by its headers."""
    grids = read_grids(study.case_id, study.channels, card.geometry)
    native = [math.prod(grid.size_xyz) for grid in grids.values()]
    reference = math.prod(grids[card.geometry.reference].size_xyz)
    least = most = kept = 0
    memory = [0]
    for stage in stages:
        of_stage = card if stage == "detection" else card.localising()
        placed = math.prod(Placement.of(of_stage, grids[card.geometry.reference]).grid.size_xyz)
        stacked = placed * (len(native) * _FLOAT + _LABEL)
        most += stacked
        least += 0 if of_stage.localisation else stacked
        kept += round(placed * (len(native) * _FLOAT * _COMPRESSED + 0.1 * _KEPT_LABEL))
        memory.append(placed * (6 * len(native) + 12) * _FLOAT)  # resampled to about as many voxels, in float64
    reading = sum(native) * _FLOAT + max(native) * (4 * _FLOAT + 1) + reference * 3 * _FLOAT + most
    return StudyNeeds(sum(native), least, most, kept, round(_MARGIN * max(reading, *memory)))


def require_disk(output: Path, needs: Sequence[StudyNeeds], *, held: int) -> None:
    """Say what the disk has to hold. Raises ``OncoduetError``: it surely cannot.

    Parameters
    ----------
    held
        Bytes of what an earlier call has left to continue with.
    """
    least, most, kept = (
        sum(getattr(each, name) for each in needs) for name in ("stacked_bytes", "stacked_at_most_bytes", "kept_bytes")
    )
    free = shutil.disk_usage(nearest_folder(output)).free + held
    if least > free:
        raise OncoduetError(
            output,
            expected=f"at least {_gb(least)} free on the disk for {len(needs)} stacked studies",
            found=f"{_gb(free)} (and about {_gb(kept)} for the dataset, which is what remains)",
        )
    enough = "" if most + kept <= free else ", which may not suffice"
    logger.info(
        "%s: %d studies, about %s on the disk while they are prepared and %s in the end; %s are free%s",
        *(output, len(needs), _gb(most + kept), _gb(kept), _gb(free), enough),
    )


def fitting_workers(workers: int, needs: Sequence[StudyNeeds], budget: Budget | None = None) -> int:
    """As many of the workers as have memory for the largest study at a time; said where that is fewer, or none has."""
    budget = budget or memory_budget()
    each = max(need.memory_bytes for need in needs)
    free = budget.total - held_bytes()
    fit = workers if workers == 1 else max(1, min(workers, free // (_LIBRARIES_BYTES + each)))
    if fit < workers or each > free:
        logger.warning(
            "the largest study needs about %s of memory, and %s are left (%s): %s",
            *(_gb(each), _gb(max(0, free)), budget.source),
            f"working with {fit} of {workers} processes" if fit < workers else "it may not suffice",
        )
    return fit


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / GB:.2g} GB"
