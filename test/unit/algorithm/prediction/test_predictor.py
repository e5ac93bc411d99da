import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from refusals import refused_with

from algorithm.prediction.bundle import MemberNetworks, read_bundle
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import load_predictor, remark_on_precision
from algorithm.single import predict_single
from contract.images.grid import Grid
from contract.images.volume import Volume, read_grid, write_volume
from network.inference.memory_plan import MemoryPlan, host_bytes
from network.study.placement import Placement

PLAIN = PredictionOptions(mirroring=False)


@pytest.fixture
def predict(make_bundle, make_channels, tmp_path):
    def run(card_name="cspca-picai", *, mirroring=None):
        runs = [("ce", 0, 1), ("focal", 0, 1), ("ce-dice", 0, 1)]
        bundle = read_bundle(make_bundle(runs, card_name=card_name, folder=tmp_path / f"model-{card_name}"))
        predictor = load_predictor(bundle, bundle.record.members, PredictionOptions(mirroring=mirroring))
        return predictor.predict(make_channels(tmp_path / "study", "s"), name="s")

    return run


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
def test_an_ensemble_is_the_arithmetic_mean_of_its_members_probabilities(predict, tmp_path, card_name):
    prediction = predict(card_name, mirroring=False)
    members = prediction.bundle.record.members
    singles = [np.asarray(prediction.ensemble([member]).array, np.float64) for member in members]
    for some in [(0, 1), (1, 2), (0, 1, 2)]:
        ensemble = prediction.ensemble([members[index] for index in some])
        # Resampling is linear, so the mean may be taken before (once) or, as here, after it.
        np.testing.assert_allclose(ensemble.array, np.mean([singles[index] for index in some], axis=0), atol=1e-6)
    assert np.abs(singles[0] - singles[1]).max() > 0.01
    assert ensemble.grid == read_grid(tmp_path / "study" / "s_t2w.mha")
    assert ensemble.array.dtype == np.float32
    assert 0 <= ensemble.array.min() < ensemble.array.max() <= 1


def test_an_ensemble_asked_for_alone_has_the_bits_of_one_among_many(predict, tmp_path):
    many = predict(mirroring=False)
    members = many.bundle.record.members
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in many.bundle.card.channel_names}
    for some in (members, members[1:]):
        alone = load_predictor(many.bundle, members, PLAIN, ensembles=[some]).predict(channels, name="s")
        assert len(alone.by_names) == 1
        np.testing.assert_array_equal(alone.ensemble(some).array, many.ensemble(some).array)
        with pytest.raises(ValueError, match="kept no average of ce_fold0_restart1"):
            alone.ensemble(members[:1])


def test_more_ensembles_than_members_are_made_from_the_members(predict):
    bundle = predict(mirroring=False).bundle
    a, b, c = bundle.record.members
    asked = [(a, b), (b, c), (a, c), (a, b, c)]
    assert load_predictor(bundle, [a, b, c], ensembles=asked).ensembles == ((a,), (b,), (c,))
    assert load_predictor(bundle, [a, b, c], ensembles=asked[2:]).ensembles == ((a, c), (a, b, c))


def test_little_memory_gives_the_same_bits(predict, tmp_path):
    plenty = predict(mirroring=False)
    members = plenty.bundle.record.members
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in plenty.bundle.card.channel_names}
    predictor = load_predictor(plenty.bundle, members, PLAIN)
    work = predictor.work(channels)
    need = [host_bytes(work, way) for way in (MemoryPlan(2, 3, False), MemoryPlan(2, 1, True))]
    assert need[1] < need[0]
    np.testing.assert_array_equal(
        predictor.predict(channels, name="s").ensemble(members).array, plenty.ensemble(members).array
    )
    for way in (MemoryPlan(2, 1, False), MemoryPlan(2, 1, True)):
        found = predictor.predict(channels, name="s", way=way).ensemble(members)
        np.testing.assert_array_equal(found.array, plenty.ensemble(members).array)


def test_a_study_larger_than_the_memory_is_refused_before_it_is_read(predict, tmp_path):
    bundle = predict(mirroring=False).bundle
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in bundle.card.channel_names}
    for path in channels.values():
        path.write_bytes(path.read_bytes()[:-20] + bytes(20))  # reading it would fail otherwise
    predictor = load_predictor(bundle, bundle.record.members, PredictionOptions(memory_gb=0.01))
    voxels = r"\(30 × 24 × 9 voxels, 3 channels\)"
    with refused_with("study s", rf"needs \d+\.\d GB of memory {voxels}; 0\.0 GB available \(--memory-gb\)"):
        predictor.predict(channels, name="s")


@pytest.fixture
def fail_first(monkeypatch):
    """Let the first passes of networks, one at a time, end as torch ends where memory runs out."""
    hooks, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)

    def fail(count, error):
        left = [error] * count

        def hook(module, _):
            if isinstance(module, PlainConvUNet) and left:
                raise left.pop()

        hooks.append(torch.nn.modules.module.register_module_forward_pre_hook(hook))

    yield fail
    torch.set_num_threads(threads)
    for each in hooks:
        each.remove()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate"), MemoryError()],
)
def test_where_memory_runs_out_the_next_way_gives_the_same_bits(predict, tmp_path, caplog, fail_first, error):
    plenty = predict(mirroring=False)
    members = plenty.bundle.record.members
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in plenty.bundle.card.channel_names}
    predictor = load_predictor(plenty.bundle, members, PLAIN)
    fail_first(2, error)
    with caplog.at_level(logging.WARNING, "algorithm.prediction.predictor"):
        found = predictor.predict(channels, name="s", way=MemoryPlan(2, 3, streamed=False)).ensemble(members)
    ran_out = [record.message for record in caplog.records if "memory ran out" in record.message]
    assert [message.partition("the next way: ")[2] for message in ran_out] == [
        "2 windows per pass, 2 members at a time, weights resident",
        "2 windows per pass, 1 member at a time, weights resident",
    ]
    np.testing.assert_array_equal(found.array, plenty.ensemble(members).array)


def test_after_the_leanest_way_memory_that_runs_out_is_one_line(make_bundle, make_input, tmp_path, fail_first):
    model, study = make_bundle([("ce", 0, 1), ("focal", 0, 1)]), make_input()
    fail_first(3, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    with refused_with("^study 0f3a-uuid$", "^not enough memory: CUDA out of memory. .*; fewer members"):
        predict_single(input_folder=study, output_folder=tmp_path / "output", model=model, options=PLAIN)
    assert not list((tmp_path / "output").glob("*"))


@pytest.mark.parametrize(("size_xyz", "is_tiny"), [((4, 5, 3), False), ((3, 5, 4), True), ((20, 18, 9), False)])
def test_images_much_smaller_than_the_window_are_logged_by_name(make_bundle, tmp_path, caplog, size_xyz, is_tiny):
    bundle = read_bundle(make_bundle())  # its network sees 8 × 16 × 16 voxels of 3 × 1 × 1 mm
    grid = Grid(size_xyz, (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    channels = {name: tmp_path / f"s_{name}.mha" for name in bundle.card.channel_names}
    for path in channels.values():
        write_volume(path, Volume(np.indices(grid.shape_zyx).sum(axis=0).astype(np.float32) + 500, grid))
    predictor = load_predictor(bundle, bundle.record.members, PLAIN)
    with caplog.at_level(logging.WARNING, "algorithm.prediction.predictor"):
        predictor.predict(channels, name="s")
    assert any("study s: its images fill " in record.message for record in caplog.records) is is_tiny


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_takes_the_passes_of_single(make_bundle, make_channels, tmp_path, precision):
    """Nothing is measured per study: no pass in fp32 comes in addition."""
    bundle = read_bundle(make_bundle([("ce", 0, 1), ("focal", 0, 1)]))
    channels = make_channels(tmp_path / "study", "s")
    maps, passes = [], []
    for each in ("fp32", precision):
        predictor = load_predictor(bundle, bundle.record.members, replace(PLAIN, precision=each))
        seen = []
        predictor.networks[0].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        maps.append(predictor.predict(channels, name="s").ensemble(bundle.record.members).array)
        passes.append(len(seen))
    assert passes[0] == passes[1] > 0
    assert 0 < np.abs(maps[0] - maps[1]).max() < 0.1


@pytest.mark.parametrize(("times", "warnings"), [(3.04, ["takes 3.0 times as long as fp32 on this CPU"]), (0.5, [])])
def test_a_precision_that_is_slower_on_this_cpu_is_warned_of(make_bundle, caplog, monkeypatch, times, warnings):
    monkeypatch.setattr("algorithm.prediction.predictor.slowdown", lambda *_: times)
    bundle = read_bundle(make_bundle())
    for precision in ("fp32", "bf16"):
        remark_on_precision(load_predictor(bundle, bundle.record.members, replace(PLAIN, precision=precision)))
    found = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(found) == len(warnings)
    assert all(part in message for part, message in zip(warnings, found, strict=True))


def test_weights_that_do_not_fit_together_are_streamed(make_bundle, make_channels, tmp_path, monkeypatch, caplog):
    bundle = read_bundle(make_bundle([("ce", 0, 1), ("focal", 0, 1)]))
    channels = make_channels(tmp_path / "study", "s")
    plenty = load_predictor(bundle, bundle.record.members, PLAIN).predict(channels, name="s")
    load, loaded = MemberNetworks._load, []

    def one_fits(self, index):
        if len(loaded) == 1:  # while the first is held
            loaded.clear()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        loaded.append(index)
        return load(self, index)

    monkeypatch.setattr(MemberNetworks, "_load", one_fits)
    predictor = load_predictor(bundle, bundle.record.members, PLAIN)
    assert "2 members do not fit into memory together (CUDA out of memory.)" in caplog.text
    monkeypatch.setattr(MemberNetworks, "_load", load)
    found = predictor.predict(channels, name="s", way=MemoryPlan(2, 1, streamed=True))
    np.testing.assert_array_equal(
        found.ensemble(bundle.record.members).array, plenty.ensemble(bundle.record.members).array
    )


def test_the_cards_box_spares_windows_and_changes_nothing_in_it(make_bundle, tmp_path):
    """A field of view twice the card's 192 mm."""
    bundle = read_bundle(make_bundle([("ce", 0, 1)], spacing_mm_zyx=(3.0, 4.0, 4.0)))
    grid = Grid((96, 90, 9), (4.0, 4.2, 3.0), (3.0, -20.0, 11.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    channels = {name: tmp_path / f"{name}.mha" for name in bundle.card.channel_names}
    for seed, path in enumerate(channels.values()):
        array = np.random.default_rng(seed).normal(300, 50, grid.shape_zyx).astype(np.float32)
        write_volume(path, Volume(array, grid))
    open_card = bundle.card.model_copy(
        update={"geometry": bundle.card.geometry.model_copy(update={"keep_central_mm_zyx": None})}
    )
    everywhere = replace(bundle, card=open_card)
    passes, maps = [], []
    for each in (bundle, everywhere):
        predictor = load_predictor(each, each.record.members, PLAIN)
        count = 0

        def counted(*_):
            nonlocal count
            count += 1

        predictor.networks[0].register_forward_hook(counted)
        maps.append(predictor.predict(channels, name="s").ensemble(each.record.members).array)
        passes.append(count)
    assert 0 < passes[0] < 0.7 * passes[1]
    kept = Placement.of(bundle.card, grid).kept_region()
    np.testing.assert_array_equal(maps[0][kept], maps[1][kept])
    assert not maps[0][~kept].any()
    assert maps[1][~kept].all()


def test_the_lesion_class_of_the_card_is_the_one_predicted(predict, tmp_path):
    prediction = predict(mirroring=False)
    member = prediction.bundle.record.members[0]
    predictor = load_predictor(prediction.bundle, [member], PLAIN)
    # Weights that always say "lesion": the last convolution's bias decides.
    for name, parameter in predictor.networks[0].named_parameters():
        if "seg_layers" in name:
            parameter.data.zero_()
            if name.endswith("bias"):
                parameter.data[prediction.bundle.card.lesion_index] = 20.0
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in prediction.bundle.card.channel_names}
    probability = predictor.predict(channels, name="s").ensemble([member]).array
    np.testing.assert_allclose(probability, 1.0, atol=1e-6)


def test_mirroring_is_as_the_card_says_unless_asked_otherwise(predict):
    bundle = predict(mirroring=False).bundle
    assert bundle.card.test_time_mirroring
    assert load_predictor(bundle, bundle.record.members[:1]).mirroring
    assert not load_predictor(bundle, bundle.record.members[:1], PLAIN).mirroring
    plain = bundle.card.model_copy(update={"test_time_mirroring": False})
    other = type(bundle)(bundle.folder, bundle.record, plain, bundle.plans, bundle.dataset, bundle.sha256)
    assert not load_predictor(other, bundle.record.members[:1]).mirroring


def test_networks_do_not_train_and_need_no_gradient(predict):
    bundle = predict(mirroring=False).bundle
    for network in load_predictor(bundle, bundle.record.members).networks:
        assert isinstance(network, torch.nn.Module)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
