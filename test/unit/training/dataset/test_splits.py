"""How patients are dealt to folds, and what is refused in splits, whoever wrote them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused_with

from training.dataset.prepared import Fold, PreparedStudy, load_prepared, require_folds
from training.dataset.splits import split_patients

STUDIES = [
    PreparedStudy(case_id=case_id, patient_id=case_id[:1], lesions=0) for case_id in ("a_1", "a_2", "b_1", "c_1", "d_1")
]
RIGHT = Fold(train=("a_1", "a_2", "b_1"), validation=("c_1", "d_1"))
PATH = Path("prepared/splits.json")


def fold(train: str, validation: str) -> Fold:
    return Fold(train=tuple(train.split()), validation=tuple(validation.split()))


@pytest.mark.parametrize(
    ("folds", "fields"),
    [
        ([], {"problem": "no folds"}),
        ([fold("", "a_1 a_2 b_1 c_1 d_1")], {"where": "fold 0", "problem": "no studies in train"}),
        ([RIGHT, fold("a_1 a_2 b_1 c_1 d_1", "")], {"where": "fold 1", "problem": "no studies in validation"}),
        (
            [fold("a_1 a_2 b_1 z_9", "c_1 d_1")],
            {"where": "fold 0", "expected": "studies of prepared in train", "found": "z_9"},
        ),
        (
            [fold("a_1 a_2 b_1", "c_1 d_1 z_9 y_1")],
            {"where": "fold 0", "expected": "studies of prepared in validation", "found": "y_1, z_9"},
        ),
        ([fold("a_1 a_2 b_1 b_1", "c_1 d_1")], {"where": "fold 0", "problem": "duplicate in train: b_1"}),
        ([fold("a_1 a_2 b_1 c_1", "c_1 d_1")], {"where": "fold 0", "problem": "patient on both sides: c"}),
        ([fold("a_1 b_1", "a_2 c_1 d_1")], {"where": "fold 0", "problem": "patient on both sides: a"}),
        (
            [RIGHT, fold("b_1", "c_1 d_1")],
            {"where": "fold 1", "problem": "study neither in train nor in validation: a_1, a_2"},
        ),
    ],
)
def test_folds_that_are_none_are_refused(folds: list[Fold], fields: dict[str, str]) -> None:
    with refused_with(**{field: f"{text}$" for field, text in fields.items()}) as refused:
        require_folds(PATH, folds, STUDIES)
    assert refused.value.where.startswith(str(PATH))


def test_valid_folds_are_accepted() -> None:
    require_folds(PATH, [RIGHT, fold("c_1 d_1", "a_1 a_2 b_1")], STUDIES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fold: fold["train"].append("nobody_1"), "nobody_1"),
        (lambda fold: fold.update(validation=[]), "no studies in validation"),
        (lambda fold: fold["train"].extend(fold["validation"]), "patient on both sides: 10"),
    ],
)
def test_edited_splits_are_refused_before_anything_is_trained(
    tmp_path: Path, change: Callable, said: str, refusal, own_prepared
) -> None:
    splits = own_prepared / "splits.json"
    values = json.loads(splits.read_text())
    change(values["folds"][0])
    splits.write_text(json.dumps(values))
    run = ["run", "--prepared", own_prepared, "--configuration", "ce", "--profile", "demo", "--device", "cpu"]
    message = refusal(*run, "--fold", 0, "--restart", 1, "--output", tmp_path / "run")
    assert message.startswith(f"error: {splits}: fold 0: ")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_prepare_assigns_valid_folds(prepared_folder: Path) -> None:
    prepared = load_prepared(prepared_folder)
    require_folds(prepared_folder / "splits.json", prepared.folds, prepared.record.studies)


def studies_of(patients: dict[str, list[int]]) -> list[PreparedStudy]:
    return [
        PreparedStudy(case_id=f"{patient}_{number}", patient_id=patient, lesions=lesions)
        for patient, counts in patients.items()
        for number, lesions in enumerate(counts)
    ]


def test_no_patient_is_on_both_sides_of_a_fold():
    studies = studies_of({f"p{n}": [n % 3 == 0, 0, 0][: 1 + n % 3] for n in range(23)})
    folds = split_patients(studies, folds=5, seed=3)
    assert sorted(case_id for fold in folds for case_id in fold.validation) == sorted(s.case_id for s in studies)
    for fold in folds:
        train, validation = ({case_id.split("_")[0] for case_id in part} for part in (fold.train, fold.validation))
        assert not train & validation
        assert len(fold.train) + len(fold.validation) == len(studies)
        assert 1 <= sum(study.lesions > 0 and study.case_id in fold.validation for study in studies) <= 2


def test_folds_follow_from_the_seed():
    studies = studies_of({f"p{n}": [n % 2] for n in range(20)})
    assert split_patients(studies, folds=5, seed=1) == split_patients(studies, folds=5, seed=1)
    assert split_patients(studies, folds=5, seed=1) != split_patients(studies, folds=5, seed=2)
