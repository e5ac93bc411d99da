"""Anchors against a loop over all positions, and their symmetry."""

import itertools

import pytest
import torch
from refusals import refused_with

from contract.schema import parse
from network.detection.anchors import AnchorPlan, anchor_sizes, anchors_of_patch, detection_levels, level_strides
from network.detection.boxes import mirror
from network.model.plans import edited_full_resolution

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 4, 8))
PATCH = (4, 8, 16)
PLAN = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 3, 4), (5.5, 6, 7)))


def test_anchors_are_centred_on_the_voxels_of_their_position():
    levels = anchors_of_patch(PLAN, STRIDES, PATCH)
    for level, found in zip(PLAN.levels, levels, strict=True):
        expected = []
        counts = [length // step for length, step in zip(PATCH, STRIDES[level], strict=True)]
        for position in itertools.product(*map(range, counts)):
            covered = [(i * step, (i + 1) * step) for i, step in zip(position, STRIDES[level], strict=True)]
            for size in PLAN.sizes_voxels_zyx:
                grown = [s * a / b for s, a, b in zip(size, STRIDES[level], STRIDES[1], strict=True)]
                middle = [(first + last) / 2 for first, last in covered]
                expected.append(
                    [m - s / 2 for m, s in zip(middle, grown, strict=True)]
                    + [m + s / 2 for m, s in zip(middle, grown, strict=True)]
                )
        assert found.shape[1:] == (2, 6)
        torch.testing.assert_close(found.flatten(0, 1), torch.tensor(expected))


def test_anchors_of_coarser_levels_grow_with_each_axis_own_stride():
    assert anchor_sizes(PLAN, STRIDES).tolist() == [[[2, 3, 4], [5.5, 6, 7]], [[4, 6, 16], [11, 12, 28]]]


def test_a_mirrored_patch_has_mirrored_anchors():
    for found in anchors_of_patch(PLAN, STRIDES, PATCH):
        boxes = found.flatten(0, 1)
        mirrored = mirror(boxes, PATCH, (0, 1, 2))
        assert {tuple(box) for box in boxes.tolist()} == {tuple(box) for box in mirrored.tolist()}


def test_strides_of_a_plan_multiply_from_level_to_level(tiny_plans):
    three = {"features_per_stage": [4, 8, 8], "n_stages": 3, "kernel_sizes": [[3, 3, 3]] * 3}
    three |= {"n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1]}
    three |= {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
    plans = edited_full_resolution(tiny_plans, name="three", changes={}, network=three)
    assert level_strides(plans) == ((1, 1, 1), (1, 2, 2), (2, 4, 4))


def test_levels_follow_nndetections_rule():
    # nnDetection: from min(max(1, levels - 4), 2) to the coarsest
    assert {count: detection_levels(count) for count in (1, 2, 3, 6, 7)} == {
        1: (0,),
        2: (1,),
        3: (1, 2),
        6: (2, 3, 4, 5),
        7: (2, 3, 4, 5, 6),
    }


@pytest.mark.parametrize("levels", [(1, 3), (2, 1), (1, 1)])
def test_levels_that_the_network_does_not_have_are_refused(levels):
    plan = AnchorPlan(levels=levels, sizes_voxels_zyx=((2, 2, 2),))
    with refused_with("anchors: levels", expected="rising levels among 0 to 2", found=r"\[[123], [13]"):
        anchors_of_patch(plan, STRIDES, PATCH)


def test_a_patch_that_is_no_multiple_of_the_stride_is_refused():
    with refused_with(expected=r"a multiple of \[2, 4, 8\], the stride of level 2", found=r"\[4, 8, 12"):
        anchors_of_patch(PLAN, STRIDES, (4, 8, 12))


def test_a_plan_comes_back_from_its_file_and_its_faults_are_named():
    assert parse(PLAN.model_dump(mode="json"), AnchorPlan, "plans.json") == PLAN
    with refused_with(r"plans\.json", r"1 fault: sizes_voxels_zyx\.0\.1: Input should be greater than 0"):
        parse({"levels": [1], "sizes_voxels_zyx": [[2, 0, 2]]}, AnchorPlan, "plans.json")
    with refused_with(r"plans\.json", "1 fault: levels: Tuple should have at least 1 item"):
        parse({"levels": [], "sizes_voxels_zyx": [[2, 2, 2]]}, AnchorPlan, "plans.json")
