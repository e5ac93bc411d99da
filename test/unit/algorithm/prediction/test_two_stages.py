"""A card that first locates an organ: from a CT in any orientation to a detection map on its own grid."""

import json
import logging

import numpy as np
import pytest
import torch
from bundles import dataset_of, write_bundle, write_member
from paths import TINY_PLANS

from algorithm.__main__ import main
from algorithm.prediction.bundle import read_bundle
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import load_predictor
from contract.card import load_card
from contract.files.atomic import write_json
from contract.images.grid import Grid
from contract.images.volume import Volume, read_volume, write_volume
from contract.records import StageRecord
from network.model.architecture import build_network

SIZE_XYZ, SPACING_MM_XYZ = (34, 27, 14), (4.0, 4.5, 6.0)


def ct_grid(*signs):
    direction = np.diag(signs).astype(float)
    corner = -direction @ ((np.array(SIZE_XYZ) - 1) / 2 * np.array(SPACING_MM_XYZ))
    return Grid(SIZE_XYZ, SPACING_MM_XYZ, tuple(corner.tolist()), tuple(direction.ravel().tolist()))


def write_ct(path, grid):
    """A body with structures that differ along every axis, in air."""
    x, y, z = grid.centres_mm()
    body = 60 + 40 * np.sin(x / 9 + 1) + 30 * np.cos(y / 13) + 25 * np.sin(z / 11 - x / 17)
    ct = np.where((x / 60) ** 2 + (y / 52) ** 2 <= 1, body, -1000.0) + 200 * (np.hypot(x - 20, y + 10) < 9)
    write_volume(path, Volume(ct.astype(np.int16), grid))
    return path


@pytest.fixture
def make_ct_bundle(tmp_path):
    """A bundle of untrained networks; biases raise the organ's logit in stage 1 and the pancreas's in stage 2."""

    def make(card_name="pdac-panorama", *, organ=0.0, pancreas=0.0):
        folder = tmp_path / f"model-{card_name}-{organ:g}-{pancreas:g}"
        card = load_card(card_name)
        plans, dataset, members = write_stage(folder, card, "localisation", {"localisation": {1: organ}})
        write_json(folder / "localisation/plans.json", plans)
        write_json(folder / "localisation/dataset.json", dataset)
        stage_1 = StageRecord(
            plans_file="localisation/plans.json", dataset_file="localisation/dataset.json", members=members
        )
        raised = {"ce": {4: pancreas}, "focal": {4: pancreas}}
        return write_bundle(folder, card, *write_stage(folder, card, "detection", raised), stage_1)

    def write_stage(folder, card, stage, raised):
        plans = json.loads(TINY_PLANS.read_text())
        plans["configurations"]["3d_fullres"] |= {
            "spacing": [6.0, 4.5, 4.0] if stage == "detection" else [9.0, 4.5, 4.5],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
        }
        plans["foreground_intensity_properties_per_channel"] = {
            "0": {"mean": 80.0, "std": 50.0, "percentile_00_5": -60.0, "percentile_99_5": 220.0}
        }
        dataset = dataset_of(card if stage == "detection" else card.localising())
        members = []
        for number, (configuration, biases) in enumerate(raised.items()):
            torch.manual_seed(number + 1)
            network = build_network(plans, dataset)
            head = network.decoder.seg_layers[-1]
            with torch.no_grad():
                head.weight.mul_(3)
                for index, by in biases.items():
                    head.bias[index] += by
            run = {"configuration": configuration, "stage": stage}
            members.append(write_member(folder, card, network.state_dict(), number, **run))
        return plans, dataset, tuple(members)

    return make


def predictor(folder):
    bundle = read_bundle(folder)
    return load_predictor(bundle, bundle.record.members, PredictionOptions(mirroring=False))


@pytest.fixture
def somewhere(make_ct_bundle, tmp_path):
    """A bundle whose stage 1 sees an organ in a part of the scan: the bias for which it does is looked for."""
    path = write_ct(tmp_path / "look.mha", ct_grid(1, 1, 1))
    for organ in (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5):
        folder = make_ct_bundle(organ=organ, pancreas=2.0)
        if np.prod(predictor(folder).predict({"ct": path}, name="s").placement.grid.size_xyz) < np.prod(SIZE_XYZ):
            return folder
    raise AssertionError("no bias makes the untrained network see a part of the scan")


def test_detection_map_is_rotated_with_the_scan(somewhere, tmp_path):
    loaded = predictor(somewhere)
    maps = {}
    for signs in [(1, 1, 1), (-1, -1, 1), (1, -1, -1)]:
        path = write_ct(tmp_path / "ct.mha", ct_grid(*signs))
        volume = loaded.predict({"ct": path}, name="s").ensemble(loaded.members)
        assert volume.grid == ct_grid(*signs)
        maps[signs] = volume.array
    plain = maps[1, 1, 1]
    assert plain.max() > 0
    np.testing.assert_allclose(maps[-1, -1, 1][:, ::-1, ::-1], plain, atol=1e-5)
    np.testing.assert_allclose(maps[1, -1, -1][::-1, ::-1, :], plain, atol=1e-5)


def test_stage_2_sees_the_region_around_the_organ_alone(somewhere, tmp_path):
    loaded = predictor(somewhere)
    prediction = loaded.predict({"ct": write_ct(tmp_path / "ct.mha", ct_grid(1, 1, 1))}, name="s")
    assert np.prod(prediction.placement.grid.size_xyz) < np.prod(SIZE_XYZ)
    whole = prediction.ensemble(loaded.members)
    assert np.count_nonzero(whole.array) <= np.prod(prediction.placement.grid.shape_zyx)


@pytest.mark.parametrize(("card_name", "searched"), [("pdac-panorama", True), ("pdac-rsna2022", False)])
def test_where_no_organ_is_found_the_card_decides_and_the_log_says_so(
    make_ct_bundle, tmp_path, caplog, card_name, searched
):
    loaded = predictor(make_ct_bundle(card_name, organ=-50.0, pancreas=50.0))
    path = write_ct(tmp_path / "ct.mha", ct_grid(-1, -1, 1))
    with caplog.at_level(logging.WARNING):
        volume = loaded.predict({"ct": path}, name="s").ensemble(loaded.members)
    assert (volume.array.max() > 0) == searched
    assert volume.grid == ct_grid(-1, -1, 1)
    what = "the whole scan is searched" if searched else "the likelihood is 0"
    assert f"study s: no pancreas found; {what}" in caplog.text


def test_a_lesion_is_kept_near_the_pancreas_alone(make_ct_bundle, tmp_path):
    path = write_ct(tmp_path / "ct.mha", ct_grid(1, 1, 1))
    kept = {}
    for pancreas in (-50.0, 50.0):
        loaded = predictor(make_ct_bundle(organ=50.0, pancreas=pancreas))
        kept[pancreas] = np.count_nonzero(loaded.predict({"ct": path}, name="s").ensemble(loaded.members).array)
    assert kept[-50.0] < kept[50.0] == np.prod(SIZE_XYZ)


def test_the_platform_s_study_ends_in_the_card_s_two_outputs(make_ct_bundle, tmp_path):
    model = make_ct_bundle(organ=50.0)
    socket = tmp_path / "input" / "images" / "venous-ct"
    socket.mkdir(parents=True)
    write_ct(socket / "0f3a-uuid.mha", ct_grid(1, -1, -1))
    arguments = ["--input", tmp_path / "input", "--output", tmp_path / "output", "--model", model, "--threads", 1]
    assert main([str(each) for each in arguments]) == 0
    written = sorted(str(path.relative_to(tmp_path / "output")) for path in (tmp_path / "output").rglob("*.*"))
    assert written == ["images/pdac-detection-map/0f3a-uuid.mha", "pdac-likelihood.json"]
    assert read_volume(tmp_path / "output" / written[0]).grid == ct_grid(1, -1, -1)
    assert 0 <= json.loads((tmp_path / "output" / "pdac-likelihood.json").read_text()) <= 1


def test_a_scan_larger_than_the_memory_is_refused_before_it_is_read(make_ct_bundle, tmp_path, capsys):
    model = make_ct_bundle()
    socket = tmp_path / "input" / "images" / "venous-ct"
    socket.mkdir(parents=True)
    grid = ct_grid(1, 1, 1)
    large = Grid((512, 512, 400), grid.spacing_mm_xyz, grid.origin_mm_xyz, grid.direction)
    write_volume(socket / "large.mha", Volume(np.zeros(large.shape_zyx, np.int16), large))
    arguments = ["--input", tmp_path / "input", "--output", tmp_path / "output", "--model", model, "--threads", 1]
    assert main([*(str(each) for each in arguments), "--memory-gb", "1.5"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "study large: needs " in line
    assert "(512 × 512 × 400 voxels, 1 channels); 1.5 GB available (--memory-gb)" in line
    assert not any((tmp_path / "output").rglob("*.mha"))


def test_a_bundle_without_the_networks_of_stage_1_is_refused(make_ct_bundle, seal, tmp_path, capsys):
    model = make_ct_bundle()
    record = json.loads((model / "bundle.json").read_text())
    (model / "bundle.json").write_text(json.dumps(record | {"localisation": None}))
    seal(model)
    (tmp_path / "input").mkdir()
    arguments = ["--input", tmp_path / "input", "--output", tmp_path / "output", "--model", model]
    assert main([str(each) for each in arguments]) == 3
    assert "bundle.json: expected some in localisation, found none" in capsys.readouterr().err
