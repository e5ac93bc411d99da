"""Members that find boxes: alone, together, and beside members that segment."""

import numpy as np
import pytest
import torch

from algorithm.boxes import mean_rule
from algorithm.bundle import read_bundle
from algorithm.ensembles import choose_ensembles
from algorithm.outputs import detect
from algorithm.prediction import load_predictor
from contract.cards import load_card
from contract.errors import OncoduetError
from contract.records import write_record
from contract.volume import Grid, Volume, along_axes, axes_to_lps, read_grid
from network.detection.clustering import BoxRule, ScoredBoxes
from network.detection.maps import detection_map
from network.study import boxes_to_reference, read_study

FAMILIES = [("ce", 0, 1), ("focal", 0, 1), ("retina-unet", 0, 1), ("retina-unet", 0, 2)]


def loud(network):
    """Raise what an untrained detector says, so that it finds something everywhere."""
    if hasattr(network, "classifier"):
        network.classifier[-1].weight.data.normal_(std=0.5)
        network.classifier[-1].bias.data.fill_(-1.0)


@pytest.fixture
def bundle(make_bundle):
    return read_bundle(make_bundle(FAMILIES, spoil=loud))


@pytest.fixture
def predicted(bundle, make_channels, tmp_path):
    channels = make_channels(tmp_path, "p0_s0")
    return load_predictor(bundle, bundle.record.members, mirroring=False).predict(channels, name="p0_s0")


def test_an_ensemble_of_both_kinds_is_the_mean_in_which_each_counts_as_often_as_it_has_members(bundle, predicted):
    ce, focal, one, two = bundle.record.members
    segmented, painted = predicted.ensemble([ce, focal]), predicted.ensemble([one, two])
    both, three = predicted.ensemble(bundle.record.members), predicted.ensemble([ce, one, two])
    assert painted.array.max() > 0
    np.testing.assert_allclose(both.array, (segmented.array + painted.array) / 2, atol=1e-6)
    np.testing.assert_allclose(three.array, (predicted.ensemble([ce]).array + 2 * painted.array) / 3, atol=1e-6)
    assert both.grid == segmented.grid


def test_what_a_detector_finds_depends_on_neither_its_companions_nor_the_ensembles_asked_for(
    bundle, predicted, make_channels, tmp_path
):
    one = bundle.record.members[2]
    alone = load_predictor(bundle, [one], mirroring=False, ensembles=[[one]])
    again = alone.predict(make_channels(tmp_path / "again", "p0_s0"), name="p0_s0")
    np.testing.assert_array_equal(again.ensemble([one]).array, predicted.ensemble([one]).array)


def test_a_map_of_boxes_holds_the_scores_of_its_boxes_on_the_reference_grid(bundle, predicted, tmp_path):
    one = bundle.record.members[2]
    painted = predicted.ensemble([one])
    assert painted.grid == read_grid(tmp_path / "p0_s0_t2w.mha")
    scores = predicted.boxes.on_study_grid([one]).scores
    found = np.unique(painted.array[painted.array > 0])
    assert np.isclose(found[:, None], scores[None], atol=1e-6).any(axis=1).all()
    assert painted.array.max() == pytest.approx(scores.max(), abs=1e-6)


def test_detectors_are_clustered_together_by_the_mean_of_their_rules(bundle, predicted):
    one, two = bundle.record.members[2:]
    together = predicted.boxes.on_study_grid([one, two])
    expected = predicted.boxes.found.clustered(mean_rule([BoxRule(), BoxRule()]), [0, 1])
    np.testing.assert_array_equal(together.scores, expected.scores)
    rule = mean_rule([BoxRule(score_threshold=0.1, cluster_iou=0.2), BoxRule(score_threshold=0.3, cluster_iou=0.4)])
    assert (rule.score_threshold, rule.cluster_iou, rule.minimum_size_voxels) == pytest.approx((0.2, 0.3, 0.01))


def test_a_members_own_rule_is_followed(bundle, predicted, make_bundle, make_channels, tmp_path, seal):
    strict = read_bundle(bundle.folder)
    record = strict.record
    members = [
        member.model_copy(update={"box_rule_file": "members/rule.json"} if member.anchors_file else {})
        for member in record.members
    ]
    scores = predicted.boxes.on_study_grid([members[2]]).scores
    threshold = float(np.median(predicted.boxes.found.by_member[0].scores))
    write_record(bundle.folder / "members/rule.json", BoxRule(score_threshold=threshold))
    write_record(bundle.folder / "bundle.json", record.model_copy(update={"members": tuple(members)}))
    seal(bundle.folder)
    changed = read_bundle(bundle.folder)
    predictor = load_predictor(changed, changed.record.members, mirroring=False)
    fewer = predictor.predict(make_channels(tmp_path / "again", "p0_s0"), name="p0_s0")
    assert 0 < len(fewer.boxes.on_study_grid([members[2]])) < len(scores)


def test_the_cards_candidate_rule_finds_each_painted_box_with_its_score():
    """By hand: seven boxes, of which the card keeps the five strongest."""
    card, scores = load_card("cspca-picai"), np.array([0.93, 0.5, 0.31, 0.05, 0.04, 0.03, 0.02])
    boxes = np.array([[2, 2 + 9 * number, 3, 5, 8 + 9 * number, 9] for number in range(7)], np.float64)
    painted = detection_map(ScoredBoxes(boxes, scores, scores), (12, 70, 20))
    grid = Grid((20, 70, 12), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    found = detect(card, Volume(painted, grid))
    np.testing.assert_array_equal(found.detections.array, np.where(painted < 0.035, 0, painted))
    assert (found.likelihood, found.candidates) == (pytest.approx(0.93), 5)


def test_four_and_control_leave_detectors_out_and_all_holds_them(bundle):
    (four,) = choose_ensembles(bundle, ["four"])
    assert [member.key.configuration for member in four.members] == ["ce", "focal"]
    (everything,) = choose_ensembles(bundle, ["all"])
    assert everything.members == bundle.record.members
    (both,) = choose_ensembles(bundle, ["retina-unet"])
    assert [member.key.restart for member in both.members] == [1, 2]


def test_detectors_alone_cannot_be_paired(make_bundle):
    bundle = read_bundle(make_bundle([("retina-unet", 0, 1), ("retina-unet", 0, 2)]))
    with pytest.raises(OncoduetError, match="expected several configurations to pair, found none that segment"):
        choose_ensembles(bundle, ["four"])


def test_a_bundle_without_the_anchors_that_it_names_is_refused(bundle, seal):
    (bundle.folder / "members/002.anchors.json").unlink()
    seal(bundle.folder)
    with pytest.raises(OncoduetError, match=r"expected the file 'members/002\.anchors\.json', found none"):
        read_bundle(bundle.folder)


def test_a_detector_that_gives_no_numbers_is_named(make_bundle, make_channels, tmp_path):
    def spoil(network):
        for parameter in network.parameters():
            parameter.data.fill_(torch.nan)

    bundle = read_bundle(make_bundle([("retina-unet", 0, 1)], spoil=spoil))
    predictor = load_predictor(bundle, bundle.record.members)
    with pytest.raises(OncoduetError, match=r"000\.safetensors: expected finite boxes for study p0_s0, found NaN"):
        predictor.predict(make_channels(tmp_path, "p0_s0"), name="p0_s0")


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022", "pdac-panorama"])
def test_boxes_lie_where_the_voxels_that_they_hold_lie_in_the_patient(make_channels, tmp_path, card_name):
    """By the grids' own way from voxels to the patient: corners of the box on both grids are the same places."""
    card = load_card(card_name)
    if card_name == "pdac-panorama":
        card = load_card("cspca-picai").model_copy(
            update={"geometry": load_card("cspca-picai").geometry.model_copy(update={"orientation": "lps"})}
        )
    study = read_study(card, make_channels(tmp_path, "p0_s0"), name="p0_s0")
    box = np.array([[1.0, 2.0, 3.5, 4.0, 9.0, 8.25]])
    on_reference = boxes_to_reference(card, box, study)
    reference = study.reference
    if card.geometry.orientation != "native":
        reference = along_axes(reference, axes_to_lps(reference))

    def places(grid, corners_zyx):
        index = (np.array(corners_zyx) - 0.5)[:, ::-1]
        direction = np.array(grid.direction).reshape(3, 3)
        return np.array(grid.origin_mm_xyz) + (index * grid.spacing_mm_xyz) @ direction.T

    np.testing.assert_allclose(
        places(reference, on_reference.reshape(2, 3)), places(study.grid, box.reshape(2, 3)), atol=1e-4
    )


def test_boxes_of_a_grid_that_is_cut_from_the_reference_keep_whole_voxels(make_channels, tmp_path):
    card = load_card("cspca-picai")
    geometry = card.geometry.model_copy(update={"spacing_mm_zyx": None, "crop_size_zyx": (7, 20, 24)})
    study = read_study(card.model_copy(update={"geometry": geometry}), make_channels(tmp_path, "p0_s0"), name="p0_s0")
    boxes = boxes_to_reference(
        card.model_copy(update={"geometry": geometry}), np.array([[0.0, 0, 0, 7, 20, 24]]), study
    )
    np.testing.assert_array_equal(boxes, [[1, 2, 3, 8, 22, 27]])  # (9 - 7) / 2, (24 - 20) / 2, (30 - 24) / 2
