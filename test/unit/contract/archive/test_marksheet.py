"""Marksheets against label maps: who has a lesion."""

from pathlib import Path

import pytest

from contract.archive.marksheet import contradictions
from contract.errors import OncoduetError

HAS_LESION = {"1_1": True, "2_1": False}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient_id,study_id,case_csPCa\n1,1,YES\n2,1,NO\n", []),
        ("patient_id,study_id,case_csPCa\n1,1,\n2,1,maybe\n3,1,NO\n", []),
        ("patient_id,study_id,center\n1,1,NO\n2,1,YES\n", []),
        (
            "patient_id,study_id,case_csPCa\n1,1,no\n2,1,Yes\n",
            [
                "by case_csPCa 1 cases have no lesion, and a label map with one: 1_1",
                "by case_csPCa 1 cases have a lesion, and a label map without: 2_1",
            ],
        ),
        (
            "patient_id;study_id;case_PDAC\n1;1;0\n2;1;0\n",
            ["by case_PDAC 1 cases have no lesion, and a label map with one: 1_1"],
        ),
        (
            "patient_id,study_id,case_csPCa\n1.0,1.0,no\n2,1.0,no\n",
            ["by case_csPCa 1 cases have no lesion, and a label map with one: 1_1"],
        ),
        (
            "PANORAMA_patient_id,PANORAMA_study_id,label\n1,1_1,non-PDAC\n2,2_1,non-PDAC\n",
            ["by label 1 cases have no lesion, and a label map with one: 1_1"],
        ),
    ],
)
def test_contradictions_of_marksheet_and_label_map_are_named(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "marksheet.csv"
    path.write_text(text)
    assert contradictions(path, HAS_LESION) == [f"{path}: {line}" for line in said]


def test_a_marksheet_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "marksheet.csv"
    path.write_text("patient_id,study_id,case_csPCa\n1,1,NO\n1,1,YES\n")
    with pytest.raises(OncoduetError) as caught:
        contradictions(path, HAS_LESION)
    assert caught.value.found == "'YES'"
