"""Resident studies whose labels hold the lesions' numbers in place of their class, for networks that find boxes.

Images are those of the resident studies, not copies. Lesions are numbered once per study, for all runs of a process;
what the numbers will take is compared with what is free before the first study is numbered.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch

from contract.errors import OncoduetError
from network.machine.memory import GB, Budget
from training.dataloading.resident_studies import SHARE, ResidentStudies, ResidentStudy
from training.dataset.lesion_instances import Instances, number_lesions

_NUMBER_BYTES = 2


@dataclass(frozen=True)
class InstanceStudies:
    """Studies of one prepared dataset on one device."""

    by_id: Mapping[str, ResidentStudy]
    """Studies by case id; their labels, int16, are numbers as in ``instances``."""
    instances: Mapping[str, Instances]
    device: torch.device


@dataclass(frozen=True)
class _Numbered:
    study: ResidentStudy
    instances: Instances


_of_studies: WeakKeyDictionary[ResidentStudies, dict[tuple[str, int], _Numbered]] = WeakKeyDictionary()


def numbered_studies(
    studies: ResidentStudies, case_ids: Iterable[str], *, lesion_class: int, budget: Budget | None = None
) -> InstanceStudies:
    """Number the lesions of some resident studies, or take what another run of this process has numbered.

    Raises ``OncoduetError``: the numbers do not fit.

    Parameters
    ----------
    lesion_class
        Index of the class that is a lesion.
    budget
        As in :meth:`training.dataloading.resident_studies.ResidentStudies.load`.
    """
    known = _of_studies.setdefault(studies, {})
    chosen = list(case_ids)
    missing = [case_id for case_id in dict.fromkeys(chosen) if (case_id, lesion_class) not in known]
    need = sum(math.prod(studies.by_id[case_id].shape) * _NUMBER_BYTES for case_id in missing)
    room, source = studies.room(budget)
    if need > room:
        raise OncoduetError(
            studies.folder,
            expected=f"at most {room / GB:.3g} GB of memory for lesion numbers ({SHARE:.0%} of what {source} leaves)",
            found=f"{need / GB:.3g} GB for {len(missing)} studies",
        )
    for case_id in missing:
        known[case_id, lesion_class] = _number(studies.by_id[case_id], lesion_class)
    each = {case_id: known[case_id, lesion_class] for case_id in chosen}
    return InstanceStudies(
        {case_id: one.study for case_id, one in each.items()},
        {case_id: one.instances for case_id, one in each.items()},
        studies.device,
    )


def _number(study: ResidentStudy, lesion_class: int) -> _Numbered:
    instances = number_lesions(study.label.cpu().numpy().astype(np.int32), lesion_class)
    numbers = torch.from_numpy(instances.array.astype(np.int16)).to(study.label.device)
    # The study's own tensor holds the numbers from here on.
    light = replace(instances, array=instances.array[:0, :0, :0].copy())
    return _Numbered(replace(study, label=numbers, classes=tuple(range(1, len(instances.classes)))), light)
