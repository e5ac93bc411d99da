"""Boxes against voxels that are counted, and against cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from clustered_boxes import encode

from network.detection.boxes import (
    LARGEST_LOG_GROWTH,
    centres,
    clip,
    decode,
    giou,
    iou,
    large_enough,
    mirror,
    sizes,
    volumes,
)

SHAPE = (7, 9, 11)


def painted(box):
    """The voxels of a box with whole corners."""
    mask = np.zeros(SHAPE, dtype=bool)
    z0, y0, x0, z1, y1, x1 = (int(edge) for edge in box)
    mask[z0:z1, y0:y1, x0:x1] = True
    return mask


def whole_boxes(count, *, seed):
    random = np.random.default_rng(seed)
    corners = np.stack([np.sort(random.choice(length + 1, (2,), replace=False)) for length in SHAPE * count])
    return torch.tensor(corners.reshape(count, 3, 2).transpose(0, 2, 1).reshape(count, 6), dtype=torch.float64)


def test_iou_is_that_of_counted_voxels():
    first, second = whole_boxes(40, seed=1), whole_boxes(30, seed=2)
    found = iou(first[:, None], second[None])
    expected = [[(painted(a) & painted(b)).sum() / (painted(a) | painted(b)).sum() for b in second] for a in first]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert (found > 0.3).any() and (found == 0).any()


def test_giou_is_the_iou_less_the_uncovered_share_of_the_enclosing_box():
    first, second = whole_boxes(60, seed=3), whole_boxes(60, seed=4)
    for a, b, found in zip(first, second, giou(first, second), strict=True):
        union = painted(a) | painted(b)
        where = np.nonzero(union)
        enclosing = math.prod(axis.max() + 1 - axis.min() for axis in where)
        expected = (painted(a) & painted(b)).sum() / union.sum() - (enclosing - union.sum()) / enclosing
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_giou_of_two_unit_cubes_three_apart_by_hand():
    # union 2, enclosing box 1 x 1 x 5: 0 - (5 - 2) / 5
    cubes = torch.tensor([[0.0, 0, 0, 1, 1, 1], [0, 0, 4, 1, 1, 5]])
    assert giou(cubes[0], cubes[1]).item() == pytest.approx(-0.6)


def test_giou_draws_boxes_that_do_not_meet_together():
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2]], requires_grad=True)
    (1 - giou(box, torch.tensor([[0.0, 0, 6, 2, 2, 8]]))).sum().backward()
    assert box.grad[0, 5] < 0  # a descent moves the upper x edge towards the other box


def test_degenerate_boxes_overlap_nothing_and_have_finite_gradients():
    flat = torch.tensor([[1.0, 1, 1, 1, 3, 3], [4.0, 1, 1, 2, 3, 3]], requires_grad=True)  # flat; upside down
    other = torch.tensor([[0.0, 0, 0, 4, 4, 4], [0.0, 0, 0, 4, 4, 4]])
    assert volumes(flat).tolist() == [0, 0]
    assert iou(flat, other).tolist() == [0, 0]
    assert iou(flat[:1], flat[:1]).tolist() == [0]
    giou(flat, other).sum().backward()
    giou(flat, flat.detach()).sum().backward()
    assert torch.isfinite(flat.grad).all()
    assert not large_enough(flat, 0).any()


def test_a_code_by_hand():
    # anchor 2 x 4 x 8 at the centre (1, 2, 4); box 4 x 4 x 4 at the centre (3, 2, 2)
    anchor, box = torch.tensor([0.0, 0, 0, 2, 4, 8]), torch.tensor([1.0, 0, 0, 5, 4, 4])
    assert encode(box, anchor).tolist() == pytest.approx([1, 0, -0.25, math.log(2), 0, -math.log(2)])


def test_decoding_undoes_encoding():
    boxes, anchors = whole_boxes(50, seed=5), whole_boxes(50, seed=6)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-12, atol=1e-12)


def test_growth_is_bounded_where_a_network_asks_for_too_much():
    anchor = torch.tensor([0.0, 0, 0, 1, 1, 1])
    box = decode(torch.tensor([0.0, 0, 0, 500, 0, -500]), anchor)
    assert sizes(box).tolist() == pytest.approx([math.exp(LARGEST_LOG_GROWTH), 1, 0])


def test_clipping_cuts_at_the_array_and_leaves_nothing_of_a_box_outside():
    boxes = torch.tensor([[-1.5, 2, 3, 9, 8.5, 20], [0, 0, 12, 2, 2, 14], [1, 1, 1, 2, 2, 2]])
    clipped = clip(boxes, SHAPE)
    assert clipped[0].tolist() == [0, 2, 3, 7, 8.5, 11]
    assert volumes(clipped).tolist() == [7 * 6.5 * 8, 0, 1]


def test_small_means_no_larger_than_the_minimum_on_some_axis():
    boxes = torch.tensor([[0.0, 0, 0, 2, 3, 3], [0, 0, 0, 2.1, 3, 3]])
    assert large_enough(boxes, 2).tolist() == [False, True]


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrored_boxes_hold_the_mirrored_voxels(axes):
    for box in whole_boxes(10, seed=7):
        np.testing.assert_array_equal(painted(mirror(box, SHAPE, axes)), np.flip(painted(box), axes))


def test_centres_are_between_the_corners():
    assert centres(torch.tensor([1.0, 2, 3, 2, 6, 12])).tolist() == [1.5, 4, 7.5]
