"""Who the patient of a case is."""

import pytest
from refusals import refused_with

from contract.archive.patients import parse_patients_option, patients_by_case, read_patients


@pytest.mark.parametrize(
    ("case_ids", "patients"),
    [
        (["10_1", "10_2", "11_1"], ["10", "10", "11"]),  # PI-CAI
        (["100001_00001", "100002_00001"], ["100001", "100002"]),  # PANORAMA
        (["ProstateX-0000", "ProstateX-0001"], ["ProstateX-0000", "ProstateX-0001"]),
        (["msd001_0", "msd002_0"], ["msd001", "msd002"]),
        (["P001a", "P002a", "P003b"], ["P001a", "P002a", "P003b"]),
        (["MSD-2018-001", "MSD-2018-002"], ["MSD-2018-001", "MSD-2018-002"]),
        (["10_1", "10_2", "pancreas_001"], ["10", "10", "pancreas"]),
    ],
)
def test_ids_that_tell_the_patient(case_ids, patients):
    assert list(patients_by_case(case_ids, source="truth").values()) == patients


@pytest.mark.parametrize(
    "case_ids",
    [
        ["pancreas_001", "pancreas_002"],
        ["case_0001", "case_0002", "10_1"],
        ["ProstateX_0001_1", "ProstateX_0002_1"],
        ["10_1", "10_1b"],
        [f"2020_{number:04d}" for number in range(12)],  # a year, or a centre
        [f"{centre}_{number:04d}" for centre in (1, 2, 3) for number in range(10)],
        ["001-1", "001-2", "002-1"],
        ["p01.first", "p01.second", "p02.first"],
        ["P001v1", "P001v2", "P002v1"],
        ["P001a", "P001b", "P002a"],
        ["1pre", "1post", "2pre"],
    ],
)
def test_ambiguous_ids_are_refused(case_ids):
    with refused_with("truth", expected="ids that tell the patient", found=".*--patients by-case"):
        patients_by_case(case_ids, source="truth")


def test_rule_of_the_user_decides():
    case_ids = ["pancreas_001", "pancreas_002", "10_1", "10_2"]

    assert set(patients_by_case(case_ids, rule="by-case", source="truth").values()) == set(case_ids)
    assert set(patients_by_case(case_ids, rule="by-prefix", source="truth").values()) == {"pancreas", "10"}
    given = {"pancreas_001": "a", "pancreas_002": "a"}
    assert patients_by_case(case_ids, given=given, source="truth") == given | {"10_1": "10", "10_2": "10"}


def test_patients_come_from_a_table_or_a_rule(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("case_id,patient_id\npancreas_001,a\npancreas_002,a\n")

    assert parse_patients_option(str(path)) == ({"pancreas_001": "a", "pancreas_002": "a"}, None)
    assert parse_patients_option("by-case") == ({}, "by-case")


def test_a_case_of_two_patients_or_of_none_is_refused(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("case_id,patient_id\nx_1,a\nx_1,b\n")
    with refused_with("patients.csv: line 3", expected="the patient_id of x_1 as on line 2"):
        read_patients(path)
    path.write_text("case_id,patient_id\nx_1,\n")
    with refused_with(expected="a case and its patient on every line", found="'x_1', ''"):
        read_patients(path)


@pytest.mark.parametrize(("one", "other"), [("P1", "p1"), ("001", "1"), ("Straße", "STRASSE"), ("A-1", "A_1")])
def test_spellings_that_may_be_one_patient_are_ambiguous(one, other):
    given = {"s1": one, "s2": other, "s3": "P2"}
    with refused_with("truth", expected="one spelling of each patient", found=f"{one}.*{other}|{other}.*{one}"):
        patients_by_case(given, given=given, source="truth")
    assert patients_by_case(given, given=given, rule="by-case", source="truth") == given


def test_a_patient_without_case_and_a_case_without_patient_are_refused():
    given = {"case1": "a", "case2": "a", "case3": "b"}
    assert patients_by_case(["case1", "case2"], given=given, source="truth") == {"case1": "a", "case2": "a"}
    assert patients_by_case(["case1", "other"], given={"case1": "a"}, source="truth") == {
        "case1": "a",
        "other": "other",
    }
    with refused_with(
        "truth", problem=r"names 2 cases that do not exist \(such as case2\) and lacks 1 that do \(such as case02\)"
    ):
        patients_by_case(["case1", "case02"], given=given, source="truth")


@pytest.mark.parametrize(
    ("case_ids", "given", "folders"),
    [
        (["10_1", "10_2", "11_1"], {"10_1": "P7"}, {}),
        (["10_1", "10_2", "10_3"], {"10_1": "10", "10_2": "P7"}, {}),
        (["pancreas_001", "pancreas_002"], {"pancreas_001": "a"}, {}),
        (["A", "B", "C"], {"A": "P7"}, {"A": "X", "B": "X"}),  # as recorded, or in a folder of its own
        (["s_1_a", "s_1_b", "s_2_a"], {"s_1_b": "P7"}, {"s_1_a": "s_1", "s_1_b": "s_1", "s_2_a": "s_2"}),
    ],
)
@pytest.mark.parametrize("rule", [None, "by-prefix"])
def test_table_with_only_some_studies_of_a_patient_is_ambiguous(case_ids, given, folders, rule):
    with refused_with(
        "truth", expected="the patients of all cases of .*, or of none", found="that of .*, and not that"
    ):
        patients_by_case(case_ids, given=given, folders=folders, rule=rule, source="truth")
    whole = dict.fromkeys(case_ids, "P7")
    assert patients_by_case(case_ids, given=whole, folders=folders, rule=rule, source="truth") == whole


def test_a_table_may_name_some_patients_whole_or_as_their_ids_do():
    case_ids = ["10_1", "10_2", "11_1", "11_2"]
    given = {"10_1": "10", "11_1": "P7", "11_2": "P7"}
    assert list(patients_by_case(case_ids, given=given, source="truth").values()) == ["10", "10", "P7", "P7"]


def test_ids_that_separate_their_parts_differently_are_ambiguous():
    with refused_with("truth", expected="ids that tell the patient", found="001-1, 001-2 .*"):
        patients_by_case(["001-1", "001-2", "002-1"], given={"001-1": "P7"}, source="truth")
