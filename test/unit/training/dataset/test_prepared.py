"""What is refused as a prepared dataset and as its folds, whoever wrote them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused_with

from training.dataset.prepared import Fold, PreparedStudy, load_prepared, require_folds

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


@pytest.mark.parametrize(
    ("file", "text", "fields"),
    [
        ("plans.json", "{}", {"where": r"plans\.json", "problem": r"\d+ faults: .*configurations: Field required"}),
        ("dataset.json", "[]", {"where": r"dataset\.json", "problem": "1 fault: "}),
        ("cases/x.npz", "", {"where": "cases$", "expected": "only preprocessed studies", "found": r"'x\.npz'"}),
        ("cases/102_1_seg.b2nd", None, {"where": r"102_1_seg\.b2nd", "problem": "preprocessed study not found"}),
        (
            "card.toml",
            ("0.1", "0.2"),
            {"where": r"card\.toml", "problem": r"does not match the hash in prepared\.json"},
        ),
    ],
)
def test_a_prepared_dataset_with_other_files_is_refused(sealed, file, text, fields, own_prepared):
    path = own_prepared / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text if isinstance(text, str) else path.read_text().replace(*text))
    sealed(own_prepared)
    with refused_with(**fields):
        load_prepared(own_prepared)


def test_a_folder_that_is_no_prepared_dataset_is_refused(tmp_path):
    with refused_with(r"prepared\.json", "file not found"):
        load_prepared(tmp_path)
