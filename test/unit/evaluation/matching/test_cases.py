"""What a detection map, a likelihood and a label map may be, and what picai-eval makes of the ones that we refuse."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_makers import read_lesions
from picai_eval import evaluate_folder
from picai_eval.eval import evaluate_case
from refusals import refused_with

from contract.card import load_card
from contract.images.grid import Grid
from evaluation.matching.cases import MatchingRule, PredictionFiles, read_case, read_case_as_picai_eval, read_likelihood

SIZE = (13, 11, 7)


@pytest.fixture
def truth(workshop):
    path = workshop.write(workshop.root / "truth.nii.gz", workshop.image({1: workshop.box}, np.uint8))
    return read_lesions(path, MatchingRule())


@pytest.fixture
def benign(workshop):
    path = workshop.write(workshop.root / "benign.nii.gz", workshop.image(dtype=np.uint8))
    return read_lesions(path, MatchingRule())


def prediction(workshop, array, grid=None, likelihood=None):
    path = workshop.write(workshop.root / "map.mha", array, grid)
    if likelihood is None:
        return PredictionFiles(path, None)
    (workshop.root / "map.json").write_text(likelihood, encoding="utf-8")
    return PredictionFiles(path, workshop.root / "map.json")


def test_a_case_holds_candidates_confidences_and_its_maximum(workshop, truth):
    found = prediction(workshop, workshop.image({0.25: workshop.elsewhere, 0.75: workshop.box}))
    case = read_case(found, truth)
    assert case.confidences.tolist() == [0.75, 0.25]
    assert case.candidates.sizes.tolist() == [3 * 3 * 4, 2 * 3 * 3]
    assert (float(case.map_maximum), case.likelihood) == (0.75, 0.75)


def test_strict_ranks_by_likelihood_and_picai_by_the_maximum(workshop, truth):
    case = read_case(prediction(workshop, workshop.image({0.75: workshop.box}), likelihood="0.5"), truth)
    assert (case.likelihood, float(case.map_maximum)) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("text", "likelihood"),
    [("0", 0), ("1", 1), ("0.0", 0), ("1e-3", 0.001), ("0.3", 0.3), ("1.0000001192092896", 1), ("-1e-7", 0)],
)
def test_a_likelihood_is_a_bare_number_rounded_as_a_map_is(tmp_path, text, likelihood):
    (tmp_path / "a.json").write_text(text)
    assert read_likelihood(tmp_path / "a.json") == likelihood


OUT_OF_RANGE = ("1.00001", "1.01", "229.0", "-0.1", "true", '"0.5"', "null", "[0.5]", "1e400")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        *((text, {"where": r"a\.json", "expected": r"a likelihood, a number in \[0, 1\]"}) for text in OUT_OF_RANGE),
        *((text, {"where": r"a\.json", "problem": "not valid JSON"}) for text in ("NaN", "Infinity", "", "0.5 0.5")),
        (None, {"where": r"a\.json"}),
    ],
)
def test_any_other_likelihood_is_refused(tmp_path, text, fields):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with refused_with(**fields):
        read_likelihood(tmp_path / "a.json")


def test_lesions_are_the_components_of_the_cards_lesion_values(workshop):
    rule = MatchingRule(lesion_values=(2, 3), label_values=(0, 1, 2, 3))
    label = workshop.image(
        {1: (slice(0, 7), slice(0, 1), slice(0, 13)), 2: workshop.box, 3: workshop.elsewhere}, np.uint8
    )
    path = workshop.write(workshop.root / "organs.nii.gz", label)
    assert read_lesions(path, rule).lesions.sizes.tolist() == [36, 18]
    assert len(read_lesions(path, MatchingRule()).lesions) == 3  # without a card value 1 is a lesion too


@pytest.mark.parametrize(
    ("values", "said"),
    [({1: (slice(0, 7), slice(0, 11), slice(0, 13))}, "100% of the image"), ({1: "box", 4: "elsewhere"}, "organ's 18")],
)
def test_doubtful_truth_is_warned_of_and_scored(workshop, caplog, values, said):
    boxes = {value: getattr(workshop, box) if isinstance(box, str) else box for value, box in values.items()}
    path = workshop.write(workshop.root / "doubtful.nii.gz", workshop.image(boxes, np.uint8))
    assert len(read_lesions(path, MatchingRule.of(load_card("pdac-panorama"))).lesions) == 1
    assert [f"{path}: " in message and said in message for message in caplog.messages] == [True]


def test_organ_values_are_not_part_of_the_scoring_rule():
    rule = MatchingRule.of(load_card("pdac-panorama"))
    without = replace(rule, organ_values=())
    assert rule.organ_values == (4, 5)
    assert (rule, rule.sha256) == (without, without.sha256)


def test_a_label_map_stored_as_float_is_read_when_its_values_are_whole(workshop):
    path = workshop.write(workshop.root / "float.nii.gz", workshop.image({2: workshop.box}, np.float64))
    assert read_lesions(path, MatchingRule.of(workshop.card)).lesions.sizes.tolist() == [36]


@pytest.mark.parametrize(
    ("value", "dtype", "fields"),
    [
        (0.5, np.float32, {"where": r"map\.nii\.gz", "expected": "whole numbers in a label map"}),
        (9, np.uint8, {"where": r"map\.nii\.gz", "expected": r"label values \[0, 1, 2, 3, 4, 5\]", "found": r"\[9\]"}),
    ],
)
def test_faulty_label_map_is_refused(workshop, value, dtype, fields):
    path = workshop.write(workshop.root / "map.nii.gz", workshop.image({value: workshop.box}, dtype))
    with refused_with(**fields):
        read_lesions(path, MatchingRule.of(workshop.card))


def test_quirk_8_picai_eval_takes_a_component_with_two_values(workshop, truth):
    uneven = workshop.image({0.5: workshop.box, 0.25: workshop.elsewhere})
    uneven[1, 2, 3] = 0.25  # two components, two values: enough for picai-eval's guard
    found = prediction(workshop, uneven)
    with refused_with(found=r"1 of 2 candidates with several, such as 0\.25 and 0\.5"):
        read_case(found, truth)
    assert read_case_as_picai_eval(found, truth).confidences.tolist() == [0.5, 0.25]
    rows, *_ = evaluate_case(uneven, workshop.image({1: workshop.box}, np.int32))
    assert [row[1] for row in rows] == [0.5, 0.25]


def test_a_softmax_map_is_refused_in_both_readings(workshop, truth):
    softmax = np.linspace(0.01, 0.9, 7 * 11 * 13, dtype=np.float32).reshape(7, 11, 13)
    found = prediction(workshop, softmax)
    with refused_with(r"map\.mha", expected="a detection map", found="softmax"):
        read_case(found, truth)
    with refused_with(found="a softmax map: 1 components with 1001 values"):
        read_case_as_picai_eval(found, truth)
    with pytest.raises(ValueError, match="softmax"):
        evaluate_case(softmax, workshop.image({1: workshop.box}, np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_quirk_9_picai_eval_makes_rows_of_nan_and_infinity(workshop, truth, value):
    broken = workshop.image({value: workshop.box})
    found = prediction(workshop, broken)
    for read in (read_case, read_case_as_picai_eval):
        with refused_with(r"map\.mha", expected="finite voxels", found="36 NaN or infinite"):
            read(found, truth)
    [row], score, *_ = evaluate_case(broken, workshop.image({1: workshop.box}, np.int32))
    assert not np.isfinite(row[1])
    assert not np.isfinite(score)


def test_quirk_9_a_confidence_above_1_counts_in_picai(workshop, truth):
    found = prediction(workshop, workshop.image({1.5: workshop.box}))
    with refused_with(r"map\.mha", expected=r"confidences in \[0, 1\]", found=r"0 to 1\.5"):
        read_case(found, truth)
    assert read_case_as_picai_eval(found, truth).likelihood == 1.5
    [row], score, *_ = evaluate_case(workshop.image({1.5: workshop.box}), workshop.image({1: workshop.box}, np.int32))
    assert (row[1], score) == (1.5, 1.5)


def test_a_negative_confidence_is_refused_by_all(workshop, truth):
    found = prediction(workshop, workshop.image({-0.1: workshop.box}))
    with refused_with(expected=r"confidences in \[0, 1\]", found=r"-0\.1 to 0"):
        read_case(found, truth)
    with refused_with(expected="no negative confidence", found=r"-0\.1"):
        read_case_as_picai_eval(found, truth)
    with pytest.raises(ValueError, match="positive"):
        evaluate_case(workshop.image({-0.1: workshop.box}), workshop.image(dtype=np.int32))


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm_xyz": (0.5, 0.75, 3.1)},
        {"origin_mm_xyz": (-20.0, 31.0, 7.7)},
        {"direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)},
    ],
)
def test_quirk_11_picai_eval_ignores_the_grid(workshop, truth, change):
    values = {
        "size_xyz": SIZE,
        "spacing_mm_xyz": workshop.grid.spacing_mm_xyz,
        "origin_mm_xyz": workshop.grid.origin_mm_xyz,
        "direction": workshop.grid.direction,
    }
    found = prediction(workshop, workshop.image({0.5: workshop.box}), Grid(**{**values, **change}))
    with refused_with(r"map\.mha", expected=r"the grid of .*truth\.nii\.gz", found="size"):
        read_case(found, truth)
    assert read_case_as_picai_eval(found, truth).confidences.tolist() == [0.5]
    workshop.write(
        workshop.root / "x" / "a_detection_map.mha", workshop.image({0.5: workshop.box}), Grid(**{**values, **change})
    )
    workshop.write(workshop.root / "x" / "a_label.nii.gz", workshop.image({1: workshop.box}, np.uint8))
    reference = evaluate_folder(workshop.root / "x", verbose=0, num_parallel_calls=1)
    assert reference.lesion_results["a"] == [(1, 0.5, 1.0)]


def smaller(workshop, slices=4):
    grid = Grid((13, 11, slices), workshop.grid.spacing_mm_xyz, workshop.grid.origin_mm_xyz, workshop.grid.direction)
    array = np.zeros(grid.shape_zyx, np.float32)
    array[0:2, 2:5, 3:7] = 0.5
    array[3, 0, 0] = 0.25
    return array, grid


def test_quirk_11_missing_slices_are_refused_in_strict_and_padded_in_picai(workshop, truth):
    array, grid = smaller(workshop)
    found = prediction(workshop, array, grid)
    with refused_with(expected="the grid of"):
        read_case(found, truth)
    case = read_case_as_picai_eval(found, truth)
    rows, *_ = evaluate_case(array, workshop.image({1: workshop.box}, np.int32))
    assert [row[1] for row in rows] == [0.5, 0.25]
    padded = np.zeros((7, 11, 13), np.float32)
    padded[1:5] = array  # three slices are missing: one before, two after
    assert case.candidates.voxels.tolist() == np.flatnonzero(padded).tolist()
    assert rows[0][2] == pytest.approx(24 / 36)


def test_quirk_11_a_larger_map_passes_on_a_benign_case_alone(workshop, truth, benign):
    array, grid = smaller(workshop, slices=9)
    found = prediction(workshop, array, grid)
    for known in (truth, benign):
        with refused_with(expected="the grid of"):
            read_case(found, known)
    assert read_case_as_picai_eval(found, benign).confidences.tolist() == [0.5, 0.25]
    with refused_with(expected=r"the shape of .*, \(7, 11, 13\) \(z, y, x\)", found=r"\(9, 11, 13\)"):
        read_case_as_picai_eval(found, truth)
    rows, *_ = evaluate_case(array, workshop.image(dtype=np.int32))
    assert [row[1] for row in rows] == [0.5, 0.25]
    with pytest.raises(IndexError):
        evaluate_case(array, workshop.image({1: workshop.box}, np.int32))


def test_a_rounding_error_above_1_counts_as_1_in_strict(workshop, truth):
    above = np.nextafter(np.float32(1), np.float32(2))
    found = prediction(workshop, workshop.image({above: workshop.box}))
    assert read_case(found, truth).confidences.tolist() == [1.0]
    assert read_case(found, truth).likelihood == 1.0
    assert read_case_as_picai_eval(found, truth).likelihood == above
    [row], score, *_ = evaluate_case(workshop.image({above: workshop.box}), workshop.image({1: workshop.box}, np.int32))
    assert row[1] == score == above


def test_more_candidates_than_the_card_allows_are_refused(workshop):
    truth = read_lesions(workshop.write(workshop.root / "label.nii.gz", workshop.image(dtype=np.uint8)), MatchingRule())
    flood = workshop.image()
    flood[::2, ::2, ::2] = 0.5  # 4 · 6 · 7 voxels, none beside another
    found = prediction(workshop, flood)
    with refused_with(expected=r"at most 100 candidates \(the card's most_candidates\)", found="168"):
        read_case(found, truth, most_candidates=100)
    assert len(read_case(found, truth).candidates) == 168
