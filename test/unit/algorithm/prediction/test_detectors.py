"""Members that find boxes: alone, together, and with members that segment; what they paint, and how a case scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import refused_with

from algorithm.__main__ import main
from algorithm.outputs.study_output import detect
from algorithm.prediction.bundle import MemberNetworks, read_bundle
from algorithm.prediction.detectors import BoxChoice, load_box_members, mean_rule
from algorithm.prediction.ensembles import choose_ensembles
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import load_predictor
from contract.card import load_card
from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file
from contract.images.grid import Grid
from contract.images.volume import Volume, read_grid, read_volume
from contract.records import BatchRecord, read_record, write_record
from network.detection.clustering import BoxPostprocessing, ScoredBoxes
from network.detection.painting import combine_scores, paint_boxes

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
def with_rules(bundle, seal):
    """Give the detectors of the bundle rules of their own."""

    def give(*rules):
        members = list(bundle.record.members)
        for number, rule in enumerate(rules, start=2):
            file = f"members/{number:03d}.box_rule.json"
            write_record(bundle.folder / file, rule)
            members[number] = members[number].model_copy(update={"box_rule_file": file})
        record = bundle.record.model_copy(update={"members": tuple(members)})
        write_record(bundle.folder / "bundle.json", record)
        seal(bundle.folder)
        return read_bundle(bundle.folder)

    return give


@pytest.fixture
def predicted(bundle, make_channels, tmp_path):
    channels = make_channels(tmp_path, "p0_s0")
    return load_predictor(bundle, bundle.record.members, PredictionOptions(mirroring=False)).predict(
        channels, name="p0_s0"
    )


def test_an_ensemble_of_both_kinds_is_weighted_by_numbers_of_members(bundle, predicted):
    ce, focal, one, two = bundle.record.members
    segmented, painted = predicted.ensemble([ce, focal]), predicted.ensemble([one, two])
    both, three = predicted.ensemble(bundle.record.members), predicted.ensemble([ce, one, two])
    assert painted.array.max() > 0
    np.testing.assert_allclose(both.array, (segmented.array + painted.array) / 2, atol=1e-6)
    np.testing.assert_allclose(three.array, (predicted.ensemble([ce]).array + 2 * painted.array) / 3, atol=1e-6)
    assert both.grid == segmented.grid


def test_a_detectors_findings_do_not_depend_on_other_members(bundle, predicted, make_channels, tmp_path):
    one = bundle.record.members[2]
    alone = load_predictor(bundle, [one], PredictionOptions(mirroring=False), ensembles=[[one]])
    again = alone.predict(make_channels(tmp_path / "again", "p0_s0"), name="p0_s0")
    np.testing.assert_array_equal(again.ensemble([one]).array, predicted.ensemble([one]).array)


def test_a_map_of_boxes_has_their_scores_on_the_reference_grid(bundle, predicted, tmp_path):
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
    expected = predicted.boxes.found.clustered(mean_rule([BoxPostprocessing(), BoxPostprocessing()]), [0, 1])
    np.testing.assert_array_equal(together.scores, expected.scores)
    rule = mean_rule(
        [
            BoxPostprocessing(score_threshold=0.1, cluster_iou=0.2),
            BoxPostprocessing(score_threshold=0.3, cluster_iou=0.4),
        ]
    )
    assert (rule.score_threshold, rule.cluster_iou, rule.minimum_size_voxels) == pytest.approx((0.2, 0.3, 0.01))


def test_a_members_own_rule_is_followed(predicted, with_rules, make_channels, tmp_path):
    threshold = float(np.median(predicted.boxes.found.by_member[0].scores))
    changed = with_rules(BoxPostprocessing(score_threshold=threshold), BoxPostprocessing(score_threshold=threshold))
    one = changed.record.members[2]
    predictor = load_predictor(changed, changed.record.members, PredictionOptions(mirroring=False))
    fewer = predictor.predict(make_channels(tmp_path / "again", "p0_s0"), name="p0_s0")
    assert 0 < len(fewer.boxes.on_study_grid([one])) < len(predicted.boxes.on_study_grid([one]))


def test_the_cards_candidate_rule_finds_each_painted_box_with_its_score():
    """By hand: seven boxes, of which the card keeps the five strongest."""
    card, scores = load_card("cspca-picai"), np.array([0.93, 0.5, 0.31, 0.05, 0.04, 0.03, 0.02])
    boxes = np.array([[2, 2 + 9 * number, 3, 5, 8 + 9 * number, 9] for number in range(7)], np.float64)
    painted = paint_boxes(ScoredBoxes(boxes, scores, scores), (12, 70, 20))
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
    with refused_with(expected="several configurations to pair", found="none that segment"):
        choose_ensembles(bundle, ["four"])


def test_a_bundle_without_the_anchors_that_it_names_is_refused(bundle, seal):
    (bundle.folder / "members/002.anchors.json").unlink()
    seal(bundle.folder)
    with refused_with(problem=r"file 'members/002\.anchors\.json' not found"):
        read_bundle(bundle.folder)


def test_the_number_of_anchors_enters_the_memory_estimate(bundle):
    detectors = [member for member in bundle.record.members if member.anchors_file is not None]
    assert load_box_members(bundle, detectors, torch.device("cpu")).most_features == 4  # 2 × 7 / 4 voxels
    for detector in detectors:
        write_json(bundle.folder / detector.anchors_file, {"levels": [0, 1], "sizes_voxels_zyx": [[2, 2, 2]] * 216})
    assert load_box_members(bundle, detectors, torch.device("cpu")).most_features == 7 * 216 + 7 * 54


def test_a_detector_that_gives_no_numbers_is_named(make_bundle, make_channels, tmp_path):
    def spoil(network):
        for parameter in network.parameters():
            parameter.data.fill_(torch.nan)

    bundle = read_bundle(make_bundle([("retina-unet", 0, 1)], spoil=spoil))
    predictor = load_predictor(bundle, bundle.record.members)
    with refused_with(r"000\.safetensors", expected="finite boxes for study p0_s0", found="NaN"):
        predictor.predict(make_channels(tmp_path, "p0_s0"), name="p0_s0")


# What a box paints, and how a case is scored

EVERY_FILL = [BoxChoice(fill) for fill in ("cuboid", "ellipsoid", "segmentation")]


@pytest.fixture
def filled(bundle, make_channels, tmp_path):
    """A study for which every fill may be asked."""
    predictor = load_predictor(bundle, bundle.record.members, PredictionOptions(mirroring=False), choices=EVERY_FILL)
    return predictor.predict(make_channels(tmp_path / "filled", "p0_s0"), name="p0_s0")


@pytest.mark.parametrize("fill", ["cuboid", "ellipsoid", "segmentation"])
def test_boxes_paint_what_was_chosen_on_the_reference_grid(filled, fill):
    """By the painting itself, on boxes and a segmentation that are brought to the reference image one by one."""
    members = filled.bundle.record.members[2:]
    found = filled.boxes.on_study_grid(members)
    segmentation = np.mean(filled.boxes.found.segmentations, axis=0)[None]
    placement = filled.placement
    expected = paint_boxes(
        ScoredBoxes(placement.boxes_to_reference(found.boxes), found.scores, found.weights),
        placement.native.shape_zyx,
        fill=fill,
        segmentation=placement.to_file(filled.grid.to_study_grid(segmentation)[0]).array,
    )
    painted = filled.ensemble(members, BoxChoice(fill))
    np.testing.assert_array_equal(painted.array, expected)
    assert painted.grid == placement.native


def test_the_three_fills_differ_and_the_default_is_the_cuboid(filled, predicted):
    members = filled.bundle.record.members[2:]
    cuboid, ellipsoid, segmentation = (filled.ensemble(members, choice).array for choice in EVERY_FILL)
    np.testing.assert_array_equal(cuboid, predicted.ensemble(members).array)
    assert predicted.boxes.found.segmentations == ()
    assert 0 < (ellipsoid > 0).sum() < (cuboid > 0).sum()
    assert not np.array_equal(segmentation, ellipsoid) and not np.array_equal(segmentation, cuboid)


@pytest.mark.parametrize("fill", ["cuboid", "ellipsoid", "segmentation"])
def test_an_ensemble_of_both_kinds_is_the_weighted_mean_for_every_fill(filled, fill):
    ce, focal, one, two = filled.bundle.record.members
    choice = BoxChoice(fill)
    three, painted = filled.ensemble([ce, one, two], choice), filled.ensemble([one, two], choice)
    np.testing.assert_allclose(three.array, (filled.ensemble([ce]).array + 2 * painted.array) / 3, atol=1e-6)
    np.testing.assert_array_equal(filled.ensemble([ce, focal], choice).array, filled.ensemble([ce, focal]).array)


def test_the_bundles_rules_decide_what_is_painted_and_how_cases_score(with_rules, filled, make_channels, tmp_path):
    bundle = with_rules(*[BoxPostprocessing(fill="segmentation", case_score="top-k-mean", k=2)] * 2)
    members = bundle.record.members
    predictor = load_predictor(bundle, members, PredictionOptions(mirroring=False), ensembles=[members])
    painted = predictor.predict(make_channels(tmp_path, "p0_s0"), name="p0_s0").ensemble(members)
    np.testing.assert_array_equal(painted.array, filled.ensemble(members, BoxChoice("segmentation")).array)
    rule = predictor.box_rule(members)
    assert (rule.fill, rule.case_score, rule.k) == ("segmentation", "top-k-mean", 2)
    assert predictor.box_rule(members[:2]) is None
    assert predictor.box_rule(members, BoxChoice(case_score="noisy-or")).case_score == "noisy-or"


@pytest.mark.parametrize(
    ("what", "one", "other"), [("fill", "cuboid", "ellipsoid"), ("case_score", "maximum", "noisy-or"), ("k", 3, 2)]
)
def test_contradicting_rules_are_refused_before_a_study_is_read(with_rules, what, one, other):
    bundle = with_rules(BoxPostprocessing(**{what: one}), BoxPostprocessing(**{what: other}))
    members = bundle.record.members
    expected = f"^one {what} in the box rules of members that are clustered together$"
    found = f"^{one} in retina-unet_fold0_restart1 and {other} in retina-unet_fold0_restart2$"
    with refused_with(f"^{bundle.folder}$", expected=expected, found=found):
        load_predictor(bundle, members, ensembles=[members])
    load_predictor(bundle, members, ensembles=[[member] for member in members])  # they are not clustered together
    if what != "k":
        chosen = BoxChoice(**{what: other})
        assert getattr(load_predictor(bundle, members, choices=[chosen]).box_rule(members, chosen), what) == other


def seven_boxes():
    """By hand: seven boxes in a map, of which the card keeps the five strongest."""
    scores = np.array([0.93, 0.5, 0.31, 0.05, 0.04, 0.03, 0.02])
    boxes = np.array([[2, 2 + 9 * number, 3, 5, 8 + 9 * number, 9] for number in range(7)], np.float64)
    grid = Grid((20, 70, 12), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    return Volume(paint_boxes(ScoredBoxes(boxes, scores, scores), (12, 70, 20)), grid)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BoxPostprocessing(), 0.93),
        (BoxPostprocessing(case_score="noisy-or"), 1 - 0.07 * 0.5 * 0.69 * 0.95 * 0.96),
        (BoxPostprocessing(case_score="top-k-mean"), (0.93 + 0.5 + 0.31) / 3),
        (BoxPostprocessing(case_score="top-k-mean", k=10), (0.93 + 0.5 + 0.31 + 0.05 + 0.04) / 10),
    ],
)
def test_a_case_is_scored_by_the_candidates_of_its_map(rule, expected):
    found = detect(load_card("cspca-picai"), seven_boxes(), rule)
    assert found.likelihood == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(
        found.detections.array, detect(load_card("cspca-picai"), seven_boxes()).detections.array
    )


@pytest.mark.parametrize(("case_score", "expected"), [("maximum", 0.6), ("noisy-or", 0.6), ("top-k-mean", 0.2)])
def test_a_case_without_candidates_is_scored_from_the_cards_value(case_score, expected):
    """A box of too few voxels for the card: its peak is the likelihood, or 0 where the card says so."""
    volume = seven_boxes()
    lonely = np.zeros_like(volume.array)
    lonely[3, 4:7, 5:7] = 0.6
    rule = BoxPostprocessing(case_score=case_score)
    found = [detect(load_card(name), replace(volume, array=lonely), rule) for name in ("cspca-picai", "cspca-rsna2022")]
    assert [each.candidates for each in found] == [0, 0]
    assert [each.likelihood for each in found] == pytest.approx([expected, 0])


# On the command line


@pytest.fixture
def batch(bundle, make_archive, tmp_path, capfd):
    """The batch command on the bundle of both kinds and two studies."""
    archive = make_archive(2)

    def run(*more, output=tmp_path / "predictions", model=bundle.folder):
        capfd.readouterr()
        paths = ["--archive", archive, "--model", model, "--output", output]
        code = main(["batch", *map(str, paths), "--threads", "1", "--no-mirroring", *more])
        return code, capfd.readouterr().err

    run.output = tmp_path / "predictions"
    return run


def outputs(folder, case_id="p1_s0"):
    card = load_card("cspca-picai")
    image = folder / case_id / "output" / card.detection_map.relative_path / f"{case_id}.mha"
    return read_volume(image).array, read_json(folder / case_id / "output" / card.likelihood.relative_path)


def test_one_pass_gives_every_combination_as_if_asked_for_alone(batch, bundle, tmp_path):
    fills, scores = ("cuboid", "ellipsoid", "segmentation"), ("maximum", "noisy-or", "top-k-mean")
    assert batch("--members", "all", "ce", "--fill", *fills, "--case-score", *scores) == (0, "")
    names = [f"{fill}_{score}" for fill in fills for score in scores]
    below = batch.output
    assert sorted(path.parent.name for path in below.glob("*/predictions.json")) == sorted(
        ["ce_fold0_restart1", *names]
    )
    assert read_record(below / "batch.json", BatchRecord).settings == {
        "mirroring": False,
        "precision": "fp32",
        "--fill": "cuboid ellipsoid segmentation",
        "--case-score": "maximum noisy-or top-k-mean",
    }
    for fill, score in [("cuboid", "maximum"), ("segmentation", "noisy-or")]:
        alone = tmp_path / f"{fill}_alone"
        assert batch("--fill", fill, "--case-score", score, output=alone) == (0, "")
        assert outputs(alone)[1] == outputs(below / f"{fill}_{score}")[1]
        np.testing.assert_array_equal(outputs(alone)[0], outputs(below / f"{fill}_{score}")[0])
    as_ever = tmp_path / "as_ever"
    assert batch(output=as_ever) == (0, "")
    assert outputs(as_ever)[1] == outputs(below / "cuboid_maximum")[1]
    np.testing.assert_array_equal(outputs(as_ever)[0], outputs(below / "cuboid_maximum")[0])


def test_the_likelihoods_of_one_map_are_those_of_its_candidates(batch):
    scores = ("maximum", "noisy-or", "top-k-mean")
    assert batch("--members", "retina-unet", "--case-score", *scores) == (0, "")
    found = {score: outputs(batch.output / score) for score in scores}
    candidates = np.unique(found["maximum"][0])[1:].astype(float)  # untrained: no two candidates score alike
    assert len(candidates) > 1
    for score, (painted, likelihood) in found.items():
        np.testing.assert_array_equal(painted, found["maximum"][0])
        assert likelihood == pytest.approx(combine_scores(candidates, score), abs=1e-6)
    assert len({likelihood for _, likelihood in found.values()}) == 3


def test_a_single_study_follows_the_rules_in_the_bundle(with_rules, make_input, tmp_path):
    bundle = with_rules(*[BoxPostprocessing(fill="ellipsoid", case_score="top-k-mean")] * 2)
    card = load_card("cspca-picai")
    folders = ["--input", make_input(), "--output", tmp_path / "output", "--model", bundle.folder]
    assert main([*map(str, folders), "--threads", "1", "--no-mirroring"]) == 0
    (image,) = (tmp_path / "output" / card.detection_map.relative_path).glob("*.mha")
    candidates = np.unique(read_volume(image).array)[1:].astype(float)
    likelihood = read_json(tmp_path / "output" / card.likelihood.relative_path)
    assert likelihood == pytest.approx(combine_scores(candidates, "top-k-mean"), abs=1e-6)
    assert likelihood != pytest.approx(candidates.max(), abs=1e-3)


def test_a_batch_that_was_begun_with_another_choice_is_refused(batch):
    assert batch("--members", "retina-unet", "--fill", "ellipsoid") == (0, "")
    code, message = batch("--members", "retina-unet", "--fill", "cuboid")
    assert code == 3
    assert message.endswith("begun with the same --fill (cuboid), found ellipsoid; give another output\n")
    before = sha256_file(batch.output / "batch.json")
    assert batch("--members", "retina-unet", "--fill", "ellipsoid") == (0, "")
    assert sha256_file(batch.output / "batch.json") == before


def test_a_choice_for_boxes_that_no_member_finds_is_refused(batch, bundle):
    code, message = batch("--members", "ce", "--fill", "ellipsoid")
    assert code == 3
    assert message.startswith(f"error: {bundle.folder}: no member of ce finds boxes")


@pytest.mark.parametrize(("option", "word"), [("--fill", "ellipsoid"), ("--case-score", "noisy-or")])
def test_a_duplicate_word_is_wrong_usage(batch, option, word):
    code, message = batch(option, word, word)
    assert (code, message) == (2, f"error: {option}: duplicate word in {word} {word}\n")


def test_contradicting_rules_are_wrong_input_unless_the_user_chooses(batch, with_rules):
    with_rules(BoxPostprocessing(fill="cuboid"), BoxPostprocessing(fill="ellipsoid"))
    code, message = batch("--members", "retina-unet")
    assert code == 3
    assert "expected one fill in the box rules of members that are clustered together" in message
    assert batch("--members", "retina-unet", "--fill", "ellipsoid") == (0, "")


def test_a_rule_with_an_unknown_fill_is_wrong_input(batch, with_rules, bundle, seal):
    with_rules(BoxPostprocessing(), BoxPostprocessing())
    file = bundle.folder / "members" / "002.box_rule.json"
    file.write_text(file.read_text().replace("cuboid", "sphere"))
    seal(bundle.folder)
    code, message = batch("--members", "retina-unet")
    assert code == 3
    assert "002.box_rule.json" in message and "fill" in message


def test_where_memory_runs_out_detectors_take_turns_and_find_the_same(bundle, predicted, tmp_path, monkeypatch, caplog):
    """Boxes are found first; all four networks at a time do not fit."""
    load, held = MemberNetworks.resident, []

    def too_many(self):
        held.append(len(self))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    predictor = load_predictor(bundle, bundle.record.members, PredictionOptions(mirroring=False))
    channels = {name: tmp_path / f"p0_s0_{name}.mha" for name in bundle.card.channel_names}
    monkeypatch.setattr(MemberNetworks, "resident", too_many)
    found = predictor.predict(channels, name="p0_s0")
    monkeypatch.setattr(MemberNetworks, "resident", load)
    assert held and "weights streamed" in caplog.text
    for member in bundle.record.members:
        np.testing.assert_array_equal(found.ensemble([member]).array, predicted.ensemble([member]).array)


def test_detectors_compute_in_half_precision_too(bundle, make_channels, tmp_path):
    detector = bundle.record.members[2]
    predictor = load_predictor(bundle, [detector], PredictionOptions(mirroring=False, precision="bf16"))
    dtypes = set()
    predictor.box_members.networks[0].register_forward_hook(lambda *ended: dtypes.add(ended[-1].logits.dtype))
    found = predictor.predict(make_channels(tmp_path, "p0_s0"), name="p0_s0")
    assert dtypes == {torch.bfloat16}
    assert found.ensemble([detector]).array.dtype == np.float32
