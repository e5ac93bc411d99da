"""Rules of the conformance suite on folders made by hand: each says what it found, and refuses what it is there for."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from conformance.checks.output_rules import (
    LONGEST_LINE_BYTES,
    Map,
    map_file,
    read_map,
    require_declared,
    require_detection_map,
    require_geometry,
    require_lesion_found,
    require_likelihood,
    require_metrics,
    require_nothing_else,
    require_same,
    require_short_lines,
    require_utf8,
)
from conformance.results.verdicts import Broken
from conformance.studies.synthetic_studies import FIRST, image_bytes
from contract.card import load_card
from contract.images.grid import Grid

CARD = load_card("cspca-picai")
GRID = FIRST.grid()
PATH = CARD.detection_map.relative_path


@pytest.fixture
def output(tmp_path):
    """Correct outputs: one candidate on the planted lesion."""
    folder = tmp_path / "output"
    (folder / PATH).mkdir(parents=True)
    (folder / PATH / "map.mha").write_bytes(image_bytes(planted(), GRID))
    (folder / CARD.likelihood.relative_path).write_text("0.75")
    return folder


def planted() -> np.ndarray:
    distance = np.linalg.norm(GRID.centres_mm() - np.array(FIRST.lesion())[:, None, None, None], axis=0)
    return np.where(distance < 6, 0.75, 0).astype(np.float32)


def broken(rule, *arguments) -> str:
    with pytest.raises(Broken) as caught:
        rule(*arguments)
    return str(caught.value)


def test_correct_outputs_keep_every_rule(output):
    found = read_map(output, CARD)
    assert CARD.likelihood.relative_path in require_declared(output, CARD)
    assert require_nothing_else(output, CARD) == "none"
    assert require_likelihood(output, CARD) == 0.75
    assert "size (64, 56, 15)" in require_geometry(found, GRID)
    assert require_detection_map(found) == "1 components, values up to 0.75"
    assert "mm from its centre" in require_lesion_found(found, FIRST.lesion())
    assert require_same(output, output, CARD, tolerance=0.0) == "likelihood 0.75 twice, maps differ by 0"


def test_an_output_that_is_missing_is_named(output):
    (output / CARD.likelihood.relative_path).unlink()
    assert broken(require_declared, output, CARD) == f"no {CARD.likelihood.relative_path} among {PATH}/map.mha"


def test_undeclared_files_are_named(output):
    (output / "log.txt").write_text("")
    assert broken(require_nothing_else, output, CARD) == "log.txt"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NaN", "not valid JSON: NaN is not JSON"),
        ('"0.5"', "str '0.5'"),
        ("true", "bool 'True'"),
        ("null", "NoneType 'None'"),
        ("1.5", "1.5"),
        ("-0.1", "-0.1"),
        ("1e400", "inf"),
        ("1" + "0" * 400, "1" + "0" * 39),
        ("{", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_a_likelihood_that_is_no_number_in_0_to_1_is_refused(output, text, found):
    (output / CARD.likelihood.relative_path).write_text(text)
    assert broken(require_likelihood, output, CARD) == found


def test_two_maps_none_or_one_of_another_kind_are_refused(output):
    folder = output / PATH
    (folder / "copy.mha").write_bytes((folder / "map.mha").read_bytes())
    assert broken(map_file, output, CARD) == "2 importable images among copy.mha, map.mha"
    (folder / "copy.mha").unlink()
    (folder / "map.mha").rename(folder / "map.nii.gz")
    assert broken(map_file, output, CARD) == "0 importable images among map.nii.gz"


def test_a_truncated_map_is_refused(output):
    file = output / PATH / "map.mha"
    file.write_bytes(file.read_bytes()[:-8])
    assert re.fullmatch(r"expected \d+ bytes of voxels, found \d+: truncated", broken(map_file, output, CARD))


def test_a_map_that_itk_cannot_read_is_refused(output):
    (output / PATH / "map.mha").unlink()
    (output / PATH / "map.tif").write_bytes(b"no image")
    assert broken(read_map, output, CARD) == "map.tif cannot be read"


def test_a_map_of_vectors_or_planes_is_refused(output):
    file = output / PATH / "map.mha"
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 2), str(file))
    assert broken(read_map, output, CARD).startswith("expected one value per voxel")
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkFloat32), str(file))
    assert broken(read_map, output, CARD).startswith("expected a 3D image")


def test_another_grid_is_refused_from_a_hundredth_of_a_millimetre(output):
    x, y, z = GRID.origin_mm_xyz
    moved = Grid(GRID.size_xyz, GRID.spacing_mm_xyz, (x + 0.01, y, z), GRID.direction)
    assert "where the reference has" in broken(require_geometry, read_map(output, CARD), moved)


def test_whole_numbers_are_no_detection_map(output):
    found = Map(planted() > 0, GRID, "8-bit unsigned integer")
    assert broken(require_geometry, found, GRID) == "voxels as 8-bit unsigned integer"


def test_what_no_evaluation_may_get_is_refused():
    array = planted()
    array[0, 0, 0] = np.nan
    assert broken(require_detection_map, Map(array, GRID, "float")) == "1 voxels are NaN or infinite"
    assert broken(require_detection_map, Map(planted() * 100, GRID, "float")) == "values from 0 to 75"
    array = planted()
    array[array > 0] = np.linspace(0.5, 0.75, int((array > 0).sum()), dtype=np.float32)
    assert "1 of 1 components have several values (one from 0.5 to 0.75)" in broken(
        require_detection_map, Map(array, GRID, "float")
    )
    scattered = np.zeros(GRID.shape_zyx, np.float32)
    scattered[::2, ::4, ::4] = 0.5
    assert broken(require_detection_map, Map(scattered, GRID, "float")).endswith(" components")


def test_components_that_touch_at_a_corner_are_one(output):
    array = np.zeros(GRID.shape_zyx, np.float32)
    array[2, 2, 2], array[3, 3, 3] = 0.5, 0.75
    assert broken(require_detection_map, Map(array, GRID, "float")).startswith("1 of 1 components")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_array_flipped_under_a_correct_header_misses_the_lesion(axis):
    flipped = np.flip(planted(), axis)
    assert "mm from the lesion" in broken(require_lesion_found, Map(flipped, GRID, "float"), FIRST.lesion())


def test_an_empty_map_finds_no_lesion():
    empty = np.zeros(GRID.shape_zyx, np.float32)
    assert broken(require_lesion_found, Map(empty, GRID, "float"), FIRST.lesion()) == "an empty map"


def test_different_answers_are_distinguished(output, tmp_path):
    other = tmp_path / "other"
    (other / PATH).mkdir(parents=True)
    (other / PATH / "map.mha").write_bytes(image_bytes(planted() * np.float32(0.5), GRID))
    (other / CARD.likelihood.relative_path).write_text("0.75")
    assert "maps differ by 0.375" in broken(lambda: require_same(output, other, CARD, tolerance=1e-6))
    (other / PATH / "map.mha").write_bytes(image_bytes(planted()[1:], Grid((64, 56, 14), *grid_rest())))
    assert broken(lambda: require_same(output, other, CARD, tolerance=1e-6)).startswith("maps of (15, 56, 64)")


def grid_rest():
    return GRID.spacing_mm_xyz, GRID.origin_mm_xyz, GRID.direction


def test_bytes_that_are_no_utf_8_are_found():
    assert require_utf8([b"L\xc3\xa4sion", b""]) == "7 bytes of UTF-8"
    assert broken(require_utf8, [b"", "Läsion".encode("latin-1")]) == "byte 0xe4 at 1 is not UTF-8"


def test_lines_that_the_platform_would_drop_are_found():
    fits = b"." * LONGEST_LINE_BYTES
    assert require_short_lines([fits + b"\n" + fits]) == f"longest line {LONGEST_LINE_BYTES} bytes"
    assert broken(require_short_lines, [fits + b"."]) == f"a line of {LONGEST_LINE_BYTES + 1} bytes"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"strict": {"score": None}}, "null at strict.score"),
        ({"strict": 1}, "null at strict.score"),
        ({"strict": {"score": True}}, "true at strict.score"),
        ({"strict": {"score": 10**400}}, "1" + "0" * 59 + " at strict.score"),
        ({"strict": {"score": 1, "per": [{"tpr@0.1": 1}]}}, "the key 'tpr@0.1' contains a dot"),
    ],
)
def test_metrics_that_no_ranking_can_read_are_refused(tmp_path, values, found):
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    assert broken(require_metrics, tmp_path, "strict.score") == found


def test_metrics_may_be_deep_or_large_and_are_read_to_a_bound(tmp_path):
    (tmp_path / "metrics.json").write_text('{"a": ' + "[" * 900 + '{"b.c": 1}' + "]" * 900 + "}")
    assert broken(require_metrics, tmp_path, "a") == "the key 'b.c' contains a dot"
    (tmp_path / "metrics.json").write_text('{"a": "' + "x" * (1 << 22) + '"}')
    assert broken(require_metrics, tmp_path, "a") == f"metrics.json has {(1 << 22) + 9} bytes"


def test_metrics_that_are_missing_or_no_strict_json_are_refused(tmp_path):
    assert broken(require_metrics, tmp_path, "a") == "no metrics.json among nothing"
    (tmp_path / "metrics.json").write_text('{"a": NaN}')
    assert broken(require_metrics, tmp_path, "a") == "not valid JSON: NaN is not JSON"
    (tmp_path / "metrics.json").write_text('{"a": {"b": 0.5}}')
    assert require_metrics(tmp_path, "a.b") == "a.b = 0.5"
