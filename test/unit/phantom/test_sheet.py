"""The sample sheet: one image of four studies, or a line that says why not."""

import struct

import pytest

from contract.errors import OncoduetError
from phantom.__main__ import main
from phantom.sheet import draw_sheet


def test_the_command_draws_a_png_of_the_archive(archive, tmp_path):
    output = tmp_path / "sheet.png"
    assert main(["sheet", "--card", "cspca-picai", "--archive", str(archive), "--output", str(output)]) == 0
    content = output.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 600
    assert height > 600
    assert len(content) < 400_000


def test_the_same_archive_gives_the_same_sheet(archive, card, tmp_path):
    for name in ("first.png", "second.png"):
        draw_sheet(card, archive, tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_an_archive_without_marksheet_is_refused(archive_copy, card, tmp_path):
    (archive_copy / "marksheet.csv").unlink()
    with pytest.raises(OncoduetError, match="expected the marksheet of a phantom archive, found no file"):
        draw_sheet(card, archive_copy, tmp_path / "sheet.png")


def test_a_marksheet_of_real_studies_is_refused(archive_copy, card, tmp_path):
    (archive_copy / "marksheet.csv").write_text("patient_id,study_id\n10000,1000000\n")
    with pytest.raises(OncoduetError, match="expected the columns of a phantom archive, found no distractor_slices"):
        draw_sheet(card, archive_copy, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_shuffled_labels_are_not_shown_as_truth(shuffled_archive, card, tmp_path):
    with pytest.raises(OncoduetError, match="expected each study's own truth, found shuffled labels"):
        draw_sheet(card, shuffled_archive, tmp_path / "sheet.png")


def test_an_archive_without_invisible_lesion_is_refused(write, card, tmp_path):
    with pytest.raises(OncoduetError, match="expected a study of the kind 'positive, invisible', found none"):
        draw_sheet(card, write(cases=18), tmp_path / "sheet.png")
