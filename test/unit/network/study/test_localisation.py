"""The region around an organ, worked by hand, and where lesions are kept."""

from pathlib import Path

import numpy as np
import pytest
from refusals import refused_with
from studies import IDENTITY

from contract.card import KeepNear, Localisation, load_card
from contract.images.grid import Grid
from contract.images.volume import Volume
from network.study.localisation import keep_near, organ_region, region_around, true_region
from network.study.placement import Placement, part


def stage(**margin):
    return Localisation(organ="organ", values=(1,), spacing_mm_zyx=(9.0, 4.5, 4.5), not_found="whole", **margin)


@pytest.fixture
def card():
    return load_card("pdac-panorama")


def test_the_region_reaches_from_the_organs_outer_edges_by_the_margin():
    # Reference: 1 × 2 × 5 mm (x, y, z). Along x the organ has the outer edges 2 and 4: from 2 − 3 < 0 to 4 + 3.
    reference = Grid((20, 20, 20), (1.0, 2.0, 5.0), (0.0, 0.0, 0.0), IDENTITY)
    organ = np.zeros(reference.shape_zyx, bool)
    organ[10, 8:10, 2:4] = True
    region = region_around(stage(margin_mm_zyx=(5.0, 3.0, 3.0)), organ, reference, reference)
    assert region == (slice(9, 12), slice(6, 12), slice(0, 7))
    voxels = region_around(stage(margin_voxels_zyx=(0, 1, 2)), organ, reference, reference)
    assert voxels == (slice(10, 11), slice(7, 11), slice(0, 6))


def test_a_coarse_voxel_covers_all_fine_voxels_under_it():
    # A coarse voxel of 4 mm on a reference of 1 mm with a common outer edge: coarse voxel 1 is fine voxels 4…7.
    reference = Grid((12, 12, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
    coarse = Grid((3, 3, 3), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5), IDENTITY)
    organ = np.zeros((3, 3, 3), bool)
    organ[1, 1, 1] = True
    assert region_around(stage(margin_mm_zyx=(0.0, 0.0, 0.0)), organ, coarse, reference) == (slice(4, 8),) * 3


def test_the_last_voxel_belongs_to_the_region():
    reference = Grid((12, 12, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
    organ = np.zeros((12, 12, 12), bool)
    organ[11, 11, 11] = True
    region = region_around(stage(margin_mm_zyx=(0.0, 0.0, 0.0)), organ, reference, reference)
    assert region == (slice(11, 12),) * 3
    assert part(reference, region).size_xyz == (1, 1, 1)


def test_stray_voxels_do_not_widen_the_organs_region(card):
    reference = Grid((40, 40, 20), (4.5, 4.5, 9.0), (0.0, 0.0, 0.0), IDENTITY)
    probability = np.zeros(reference.shape_zyx, np.float32)
    probability[9:12, 18:23, 18:23] = 0.9
    placement = Placement.of(card, reference)
    alone = organ_region(card.localisation, probability, placement)
    assert alone is not None
    probability[0, 0, 0] = 1.0
    assert organ_region(card.localisation, probability, placement) == alone
    assert organ_region(card.localisation, np.full_like(probability, 0.4), placement) is None


def test_training_region_is_two_coarse_voxels_larger_on_every_side(card):
    reference = Grid((200, 200, 60), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), IDENTITY)
    label = np.zeros(reference.shape_zyx, np.int32)
    label[30, 100, 100] = 4
    # 15 + 18 mm are 11 slices of 3 mm; 50 + 9 and 100 + 9 voxels of 1 mm.
    region = true_region(card, Volume(label, reference), Path("label.nii.gz"))
    assert region == (slice(19, 42), slice(41, 160), slice(0, 200))


def test_a_label_map_without_the_organ_is_refused(card, tmp_path):
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
    truth = Volume(np.full((4, 4, 4), 2, np.int32), grid)
    with refused_with("case.nii.gz", problem=r"no pancreas \(label values 1, 4, 5\)"):
        true_region(card, truth, tmp_path / "case.nii.gz")


def test_a_lesion_is_kept_within_the_dilated_classes_alone():
    lesion = np.full((5, 9, 9), 0.7, np.float32)
    nearby = np.zeros((5, 9, 9), np.float32)
    nearby[2, 4, 4] = 0.5
    rule = KeepNear(classes=("pancreas",), dilation_voxels_zyx=(0, 1, 2))
    kept = keep_near(rule, lesion, nearby)
    expected = np.zeros_like(lesion)
    expected[2, 3:6, 2:7] = 0.7
    assert np.array_equal(kept, expected)
    assert not keep_near(rule, lesion, np.full_like(nearby, 0.49)).any()
