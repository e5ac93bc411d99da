"""How patients are dealt to folds."""

from pathlib import Path

from training.dataset.prepared import PreparedStudy, load_prepared, require_folds
from training.dataset.splits import split_patients


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
