"""The sample sheet: one image of four studies, or one line with the cause."""

import struct

import numpy as np
import pytest
from refusals import refused_with

from contract.card import load_card
from contract.images.grid import Grid
from contract.images.volume import Volume
from phantom.__main__ import main
from phantom.contact_sheet import draw_sheet, upright


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


def test_ct_is_shown_in_two_columns(ct_archive, ct_order, tmp_path):
    draw_sheet(ct_order.card, ct_archive, tmp_path / "sheet.png")
    width, height = struct.unpack(">II", (tmp_path / "sheet.png").read_bytes()[16:24])
    assert width > 500
    assert height > 600


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_images_of_every_orientation_are_shownupright(signs):
    array = np.arange(24).reshape(2, 3, 4)
    flipped = np.flip(array, tuple(2 - axis for axis in range(3) if signs[axis] < 0))
    direction = tuple(np.diag(signs).astype(float).ravel().tolist())
    grid = Grid((4, 3, 2), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), direction)
    assert np.array_equal(upright(Volume(flipped, grid)), array)


def test_a_card_without_generator_has_no_sheet(archive, card_without_generator, tmp_path):
    with refused_with(expected="the channels adc, hbv, t2w or ct for phantoms"):
        draw_sheet(load_card(card_without_generator), archive, tmp_path / "sheet.png")


def test_an_archive_without_marksheet_is_refused(archive_copy, card, tmp_path):
    (archive_copy / "marksheet.csv").unlink()
    with refused_with(problem="marksheet of a phantom archive not found"):
        draw_sheet(card, archive_copy, tmp_path / "sheet.png")


def test_a_marksheet_of_real_studies_is_refused(archive_copy, card, tmp_path):
    (archive_copy / "marksheet.csv").write_text("patient_id,study_id\n10000,1000000\n")
    with refused_with(problem="columns of a phantom archive are missing: distractor_slices"):
        draw_sheet(card, archive_copy, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_shuffled_labels_are_not_shown_as_truth(shuffled_archive, card, tmp_path):
    with refused_with(expected="each study's own truth", found="shuffled labels"):
        draw_sheet(card, shuffled_archive, tmp_path / "sheet.png")


def test_an_archive_without_invisible_lesion_is_refused(write, card, tmp_path):
    with refused_with(problem="no study of the kind 'positive, invisible'"):
        draw_sheet(card, write(cases=18), tmp_path / "sheet.png")
