"""Folds of a dataset: each patient is assigned to one as a whole, so that none is on both sides of a fold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from training.dataset.prepared import Fold, PreparedStudy


def split_patients(studies: Sequence[PreparedStudy], *, folds: int, seed: int) -> tuple[Fold, ...]:
    """Deal patients to folds: shuffled, those with a lesion first, so that each fold gets its share of them."""
    positive = {study.patient_id: False for study in studies}
    for study in studies:
        positive[study.patient_id] |= study.lesions > 0
    shuffled = np.random.default_rng(seed).permutation(sorted(positive)).tolist()
    by_class = sorted(shuffled, key=lambda patient: not positive[patient])  # stable: shuffled within both groups
    fold_of = {patient: place % folds for place, patient in enumerate(by_class)}
    return tuple(
        Fold(
            train=tuple(study.case_id for study in studies if fold_of[study.patient_id] != fold),
            validation=tuple(study.case_id for study in studies if fold_of[study.patient_id] == fold),
        )
        for fold in range(folds)
    )


def require_enough_patients(archive: Path, patient_of: Mapping[str, str], folds: int) -> None:
    """Refuse more folds than patients."""
    patients = set(patient_of.values())
    if len(patients) < folds:
        raise OncoduetError(archive, expected=f"at least {folds} patients for {folds} folds", found=len(patients))


def require_one_patient(
    known: dict[str, str], contents: Mapping[str, str], case_id: str, patient_of: Mapping[str, str]
) -> None:
    """Refuse an image or a label map that an earlier study of another patient has, too.

    A fold could train on it and validate with it.

    Parameters
    ----------
    known
        Case ids by the hash of what they have; the study's own are added.
    contents
        Hashes of the study's images and label map, unless empty, by what they are.
    """
    for what, sha256 in contents.items():
        other = known.setdefault(sha256, case_id)
        if patient_of[other] != patient_of[case_id]:
            raise OncoduetError(f"study {case_id}", f"has the {what} of {other}, which is of another patient")
