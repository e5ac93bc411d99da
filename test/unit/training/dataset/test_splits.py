"""What is refused in splits, whoever wrote them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import OncoduetError
from training.dataset.prepared import Fold, PreparedStudy, load_prepared, require_folds

STUDIES = [
    PreparedStudy(case_id=case_id, patient_id=case_id[:1], lesions=0) for case_id in ("a_1", "a_2", "b_1", "c_1", "d_1")
]
RIGHT = Fold(train=("a_1", "a_2", "b_1"), validation=("c_1", "d_1"))
PATH = Path("prepared/splits.json")


def fold(train: str, validation: str) -> Fold:
    return Fold(train=tuple(train.split()), validation=tuple(validation.split()))


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([], "expected at least one fold, found none"),
        ([fold("", "a_1 a_2 b_1 c_1 d_1")], "fold 0: expected studies in train, found none"),
        ([RIGHT, fold("a_1 a_2 b_1 c_1 d_1", "")], "fold 1: expected studies in validation, found none"),
        ([fold("a_1 a_2 b_1 z_9", "c_1 d_1")], "fold 0: expected studies of prepared in train, found z_9"),
        (
            [fold("a_1 a_2 b_1", "c_1 d_1 z_9 y_1")],
            "fold 0: expected studies of prepared in validation, found y_1, z_9",
        ),
        ([fold("a_1 a_2 b_1 b_1", "c_1 d_1")], "fold 0: expected each study once in train, found b_1 more often"),
        ([fold("a_1 a_2 b_1 c_1", "c_1 d_1")], "fold 0: expected each patient on one side, found c on both"),
        ([fold("a_1 b_1", "a_2 c_1 d_1")], "fold 0: expected each patient on one side, found a on both"),
        (
            [RIGHT, fold("b_1", "c_1 d_1")],
            "fold 1: expected every study in train or validation, found a_1, a_2 in none",
        ),
    ],
)
def test_folds_that_are_none_are_refused(folds: list[Fold], said: str) -> None:
    with pytest.raises(OncoduetError) as raised:
        require_folds(PATH, folds, STUDIES)
    assert str(raised.value) == f"{PATH}: {said}"


def test_folds_of_one_s_own_are_taken() -> None:
    require_folds(PATH, [RIGHT, fold("c_1 d_1", "a_1 a_2 b_1")], STUDIES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fold: fold["train"].append("nobody_1"), "nobody_1"),
        (lambda fold: fold.update(validation=[]), "expected studies in validation, found none"),
        (lambda fold: fold["train"].extend(fold["validation"]), "expected each patient on one side, found 10"),
    ],
)
def test_edited_splits_are_refused_before_anything_is_trained(
    prepared_folder: Path, tmp_path: Path, outcome: Callable, change: Callable, said: str
) -> None:
    shutil.copytree(prepared_folder, tmp_path / "prepared")
    splits = tmp_path / "prepared" / "splits.json"
    values = json.loads(splits.read_text())
    change(values["folds"][0])
    splits.write_text(json.dumps(values))
    run = ["run", "--prepared", tmp_path / "prepared", "--configuration", "ce", "--profile", "demo", "--device", "cpu"]
    code, message = outcome(*run, "--fold", 0, "--restart", 1, "--output", tmp_path / "run")
    assert code == 3
    assert message.startswith(f"error: {splits}: fold 0: ")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_prepare_deals_folds_that_are_taken(prepared_folder: Path) -> None:
    prepared = load_prepared(prepared_folder)
    require_folds(prepared_folder / "splits.json", prepared.folds, prepared.record.studies)
