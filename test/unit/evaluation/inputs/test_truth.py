import numpy as np
import pytest
from refusals import refused_with

from contract.card import CARDS
from evaluation.inputs.truth import find_truth
from evaluation.matching.cases import MatchingRule


@pytest.fixture
def folder(workshop):
    return workshop.truth({"b": workshop.image(), "a": workshop.image({1: workshop.box})})


def test_label_maps_are_found_directly_or_in_labels_by_case_id(workshop, folder):
    assert list(find_truth(folder).label_maps) == ["a", "b"]
    inner = workshop.truth({"a": workshop.image()}, name="archive/labels").parent
    assert find_truth(inner).label_maps["a"].parent.name == "labels"


def test_names_that_end_in_label_are_meant_and_lose_their_ending(workshop):
    folder = workshop.truth({"a_label": workshop.image(), "a_detection_map": workshop.image()})
    assert {case_id: path.name for case_id, path in find_truth(folder).label_maps.items()} == {"a": "a_label.nii.gz"}


def test_label_map_is_read_once(folder):
    truth = find_truth(folder)
    rule = MatchingRule()
    first = truth.case("a", rule)
    for path in truth.label_maps.values():
        path.unlink()
    again = truth.case("a", rule)
    assert (again.path, again.grid, again.lesions.sizes.tolist()) == (first.path, first.grid, [36])
    assert again.lesions.voxels.tolist() == first.lesions.voxels.tolist()


def test_card_in_the_truth_folder_precedes_that_of_the_settings(folder):
    assert find_truth(folder).card is None
    (folder / "settings.json").write_text('{"card": "cspca-rsna2022", "per_case": true}')
    assert (find_truth(folder).card.name, find_truth(folder).settings.per_case) == ("cspca-rsna2022", True)
    (folder / "card.toml").write_text((CARDS / "cspca-picai.toml").read_text())
    assert find_truth(folder).card.name == "cspca-picai"


def test_the_hash_of_the_truth_follows_its_content(workshop, folder):
    before = find_truth(folder).sha256()
    assert find_truth(folder).sha256() == before
    workshop.write(folder / "b.nii.gz", workshop.image({1: workshop.elsewhere}, np.uint8))
    assert find_truth(folder).sha256() != before


def text(name, content):
    return lambda workshop, folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (text("settings.json", '{"per_cases": 1, "on_missing": "ignore"}'),
         {"problem": "2 faults: on_.*; per_cases: "}),
        (text("settings.json", '{"card": "liver"}'), {"where": "card 'liver'", "expected": "one of"}),
        (text("marksheet.csv", "patient_id,study_id\n7,1\n7,2\n"),
         {"problem": "no label map for 7_1 and 1 more of its 2 cases"}),
        *((text(f"c.{ending}", "x"), {"problem": rf"unsupported image format: c\.{ending} \(use \.mha or \.nii\.gz\)$"})
          for ending in ("NII.GZ", "nrrd", "mhd", "MHA")),
        (lambda shop, folder: shop.write(folder / "a.mha", shop.image()),
         {"expected": "of a", "found": r"a\.mha and a\.nii\.gz"}),
        (lambda shop, _: shop.truth({"c": shop.image()}, name="truth/labels"),
         {"problem": "both in the folder and in labels/"}),
        (lambda shop, _: shop.truth({"c": shop.image()}, name="truth/centre"),
         {"where": r"centre/c\.nii\.gz", "problem": "image in"}),
        (lambda shop, _: shop.truth(dict.fromkeys(("a_label", "a_detection_map"), shop.image())),
         {"expected": "all names to end in _label", "found": r"a\.nii\.gz and 1 more$"}),
    ],
)  # fmt: skip
def test_faulty_truth_folder_is_refused(workshop, folder, change, fields):
    change(workshop, folder)
    with refused_with(**fields):
        find_truth(folder)


def test_a_truth_folder_that_is_absent_or_empty_is_refused(tmp_path):
    with refused_with(problem="folder of label maps not found"):
        find_truth(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no image")
    with refused_with(problem=r"no label maps \(CASE\.nii\.gz or CASE\.mha\)"):
        find_truth(tmp_path)


def test_files_of_macos_are_ignored(folder):
    (folder / "._a.nii.gz").write_text("macOS")
    assert list(find_truth(folder).label_maps) == ["a", "b"]


def test_patients_come_from_folders_marksheet_or_table(workshop):
    labels = {case_id: workshop.image() for case_id in ("scan_1", "scan_2", "scan_3")}
    truth = workshop.truth(labels, name="archive/labels").parent
    with refused_with("archive", expected="ids that tell the patient", found=r"scan_1, scan_2 \(3 cases"):
        find_truth(truth).patients()
    assert set(find_truth(truth).patients(({}, "by-prefix")).values()) == {"scan"}
    for patient, case_id in (("scan_1", "scan_1"), ("scan", "scan_2"), ("scan", "scan_3")):
        (truth / patient).mkdir(exist_ok=True)
        workshop.write(truth / patient / f"{case_id}_t2w.mha", workshop.image())
    assert find_truth(truth).patients() == {"scan_1": "scan_1", "scan_2": "scan", "scan_3": "scan"}
    (truth / "marksheet.csv").write_text("patient_id,study_id\nscan,1\nscan,2\nscan,3\n")
    assert set(find_truth(truth).patients().values()) == {"scan"}
    (truth / "patients.csv").write_text("\ufeffcase_id;patient_id\nscan_2;second\n")
    with refused_with("archive", expected="the patients of all cases of scan, or of none", found="that of scan_2, .*"):
        find_truth(truth).patients()
    (truth / "patients.csv").write_text("case_id;patient_id\nscan_1;scan\nscan_2;second\nscan_3;scan\n")
    assert find_truth(truth).patients() == {"scan_1": "scan", "scan_2": "second", "scan_3": "scan"}
    (truth / "settings.json").write_text('{"patients": "by-case"}')
    assert find_truth(truth.parent / "archive" / "labels").patients(({}, "by-case"))["scan_2"] == "scan_2"


def test_an_archive_that_names_a_card_of_ours_is_scored_by_it(workshop, caplog):
    truth = workshop.truth({"a": workshop.image()}, name="archive/labels").parent
    for text, name in (
        ('{"data_licence": "CC0-1.0"}', None),
        ('{"card": "pdac-panorama"}', "pdac-panorama"),
        ('{"card": "hospital"}', None),
        ('{"card": "pdac-panorama", "card_sha256": "0"}', None),
    ):
        (truth / "archive.json").write_text(text)
        card = find_truth(truth).card
        assert (card and card.name) == name
    assert "made with another version of the card pdac-panorama" in caplog.text


def test_a_card_with_a_byte_order_mark_is_read(folder):
    (folder / "card.toml").write_bytes(b"\xef\xbb\xbf" + (CARDS / "cspca-picai.toml").read_bytes())
    assert find_truth(folder).card.name == "cspca-picai"


def test_cases_with_the_same_label_map_are_named_unless_it_is_empty(workshop, caplog):
    lesion = workshop.image({1: workshop.box})
    truth = workshop.truth({"a": lesion, "b": workshop.image(), "c": lesion, "d": workshop.image()})
    find_truth(truth).say_alike()
    assert caplog.messages == [f"{truth}: cases a and c have the same label map: one study, or two?"]
