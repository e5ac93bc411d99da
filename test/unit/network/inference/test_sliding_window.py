import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from network.inference.passes import one_thread_each
from network.inference.sliding_window import (
    NotFiniteError,
    Streamed,
    ensemble_probabilities,
    gaussian_weight,
    slab_depth,
    window_slices,
    windows_per_pass,
)
from network.model.architecture import build_network

PATCH = (8, 16, 16)
CLASSES = [(0,), (1,)]


class Pointwise(torch.nn.Module):
    """Logits that depend on the voxel alone, so that no window can matter."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.cat([-self.scale * x[:, :1], self.scale * x[:, :1]], dim=1)


class Counting(torch.nn.Module):
    """Counts the forward passes of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.network(x)


@pytest.fixture
def make_network(tiny_plans, tiny_dataset):
    def make(seed):
        torch.manual_seed(seed)
        return build_network(tiny_plans, tiny_dataset, deep_supervision=False).eval()

    return make


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mean_of(networks, data, **options):
    """Both classes of the ensemble of all networks, shape (class, z, y, x)."""
    return ensemble_probabilities(
        networks, data, ensembles=[range(len(networks))], groups=CLASSES, patch_size=PATCH, **options
    )[0]


@torch.inference_mode()
def with_whole_accumulators(network, data, *, batch=2):
    """The same windows in the same passes, but accumulators as large as the (large enough) study."""
    windows = window_slices(data.shape[1:], PATCH)
    sums, total = torch.zeros(2, *data.shape[1:]), torch.zeros(data.shape[1:])
    for first in range(0, len(windows), batch):
        some = windows[first : first + batch]
        some = some + [some[-1]] * (batch - len(some))
        logits = network(torch.stack([data[(slice(None), *window)] for window in some]))
        for window, each in list(zip(some, logits, strict=True))[: len(windows) - first]:
            sums[(slice(None), *window)] += each * gaussian_weight(PATCH)
            total[window] += gaussian_weight(PATCH)
    return torch.stack([torch.softmax(each, dim=0) for each in (sums / total).unbind(1)], dim=1)


@pytest.mark.parametrize("size", [(8, 16, 16), (9, 24, 30), (5, 40, 17), (3, 4, 5)])
def test_windows_do_not_matter_to_a_network_that_sees_single_voxels(size):
    data = noise(1, *size)
    probability = mean_of([Pointwise(0.7)], data, mirror_axes=(0, 1, 2), batch=3)
    assert probability.shape == (2, *size)
    torch.testing.assert_close(probability[1], torch.sigmoid(1.4 * data[0]), rtol=0, atol=1e-6)


def test_members_are_averaged_as_probabilities():
    data = noise(1, 9, 20, 20)
    probability = mean_of([Pointwise(0.5), Pointwise(3.0)], data)[1]
    expected = (torch.sigmoid(1.0 * data[0]) + torch.sigmoid(6.0 * data[0])) / 2
    torch.testing.assert_close(probability, expected, rtol=0, atol=1e-6)
    assert (probability - torch.sigmoid(3.5 * data[0])).abs().max() > 0.05  # the mean of the logits


@pytest.mark.parametrize("size", [(8, 16, 16), (9, 24, 30), (30, 20, 41), (21, 16, 50)])
@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_a_slab_of_accumulators_gives_the_bits_of_whole_accumulators(make_network, size, batch):
    data, network = noise(3, *size), make_network(1)
    with one_thread_each(data.device):
        expected = with_whole_accumulators(network, data, batch=batch)
    torch.testing.assert_close(mean_of([network], data, batch=batch), expected, rtol=0, atol=0)


def test_the_slab_is_a_patch_deep_or_as_deep_as_one_pass():
    assert slab_depth((400, 64, 64), (8, 16, 16), batch=2) == 12  # the last window of one row, the first of the next
    assert slab_depth((400, 16, 64), (8, 16, 16), batch=7) == 8  # seven windows along x: passes end with the row
    assert slab_depth((400, 16, 16), (8, 16, 16), batch=3) == 16  # three windows on top of each other
    assert slab_depth((5, 30, 30), (8, 16, 16)) == 8


def test_the_slab_of_any_study_is_that_of_its_windows_listed_one_by_one():
    random = np.random.default_rng(4)
    for _ in range(300):
        size, patch = random.integers(1, 40, 3).tolist(), random.integers(1, 12, 3).tolist()
        batch, step = int(random.integers(1, 9)), float(random.choice([0.25, 0.5, 0.7, 1.0]))
        padded = [max(pair) for pair in zip(size, patch, strict=True)]
        windows = window_slices(padded, patch, step)
        passes = [windows[first : first + batch] for first in range(0, len(windows), batch)]
        deepest = max(some[-1][0].stop - some[0][0].start for some in passes)
        assert slab_depth(size, patch, step=step, batch=batch) == deepest


def test_the_slab_of_a_huge_study_is_computed_without_listing_windows():
    assert slab_depth((19_000, 10**9, 10**9), (20, 320, 320)) == 30  # one pass ends a layer and begins the next


def test_ensembles_and_sums_of_classes_come_from_one_pass(make_network):
    data, networks = noise(3, 9, 24, 30), [Counting(make_network(seed)) for seed in (1, 2, 3, 4)]
    found = ensemble_probabilities(
        networks, data, ensembles=[(0,), (2,), (2, 0)], groups=[(1,), (0,), (0, 1)], patch_size=PATCH
    )
    assert found.shape == (3, 3, 9, 24, 30)
    windows = len(window_slices((9, 24, 30), PATCH))
    assert [network.passes for network in networks] == [windows // 2, 0, windows // 2, 0]
    first, third = (mean_of([networks[index]], data) for index in (0, 2))
    torch.testing.assert_close(found[0, :2], first.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(found[1, :2], third.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(found[2, :2], ((first + third) / 2).flip(0), rtol=0, atol=0)
    torch.testing.assert_close(found[:, 2], torch.ones(3, 9, 24, 30))


@pytest.mark.parametrize("at_once", [None, 1, 2, 3])
def test_members_one_by_one_and_streamed_give_the_same_bits(make_network, at_once):
    data, networks = noise(3, 19, 24, 30), [make_network(seed) for seed in (1, 2, 3)]
    expected = mean_of(networks, data, mirror_axes=(1,))
    loads: list[int] = []

    def load(member):
        loads.append(member)
        return networks[member]

    torch.testing.assert_close(mean_of(networks, data, mirror_axes=(1,), at_once=at_once), expected, rtol=0, atol=0)
    streamed = ensemble_probabilities(
        Streamed(3, load), data, ensembles=[range(3)], groups=CLASSES, patch_size=PATCH, mirror_axes=(1,),
        at_once=at_once,
    )  # fmt: skip
    torch.testing.assert_close(streamed[0], expected, rtol=0, atol=0)
    assert loads == [0, 1, 2]


@pytest.mark.parametrize("size", [(9, 40, 50), (30, 33, 41), (5, 60, 12)])
def test_inside_a_region_no_bit_changes_and_fewer_windows_are_run(make_network, size):
    data, everywhere, some = noise(3, *size), Counting(make_network(1)), Counting(make_network(1))
    region = (slice(2, min(7, size[0])), slice(3, 14), slice(0, 6))
    expected, found = mean_of([everywhere], data), mean_of([some], data, region=region)
    inside = (slice(None), *region)
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=0)
    assert 0 < some.passes < everywhere.passes
    assert found[:, :, -1].abs().max() == 0  # no window reaches that far
    covered = found.sum(dim=0)
    torch.testing.assert_close(covered[covered != 0], torch.ones_like(covered[covered != 0]))


def test_an_empty_region_needs_no_window(make_network):
    network = Counting(make_network(1))
    found = mean_of([network], noise(3, 9, 24, 30), region=(slice(0, 9), slice(5, 5), slice(0, 30)))
    assert network.passes == 0
    assert not found.any()


def test_the_number_of_windows_per_pass_does_not_matter(make_network):
    data, network = noise(3, 9, 24, 30), make_network(1)
    one, five = (mean_of([network], data, batch=batch) for batch in (1, 5))
    torch.testing.assert_close(one, five, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("alone", "windows"), [(False, 2), (True, 1)])
def test_only_a_network_that_minds_its_neighbours_gets_a_lone_window_twice(alone, windows):
    seen = []
    network = Pointwise(1.0)
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    network.each_window_alone = alone
    mean_of([network], noise(3, *PATCH))
    assert seen == [windows]


def test_mirroring_averages_all_combinations_of_the_axes(make_network):
    data, network = noise(3, *PATCH), make_network(1)
    found = mean_of([network], data, mirror_axes=(0, 2))
    with torch.inference_mode():
        flips: list[tuple[int, ...]] = [(), (1,), (3,), (1, 3)]
        logits = sum(torch.flip(network(torch.flip(data, each)[None])[0], each) for each in flips) / 4
    torch.testing.assert_close(found, torch.softmax(logits, dim=0), rtol=0, atol=1e-5)
    assert (found - mean_of([network], data)).abs().max() > 1e-3


@pytest.mark.parametrize(("precision", "digits"), [("fp16", 11), ("bf16", 8)])
def test_half_precision_is_off_by_its_digits_and_sums_stay_single(make_network, precision, digits):
    data, networks = noise(3, 9, 24, 30), [make_network(seed) for seed in (1, 2)]
    exact, found = (mean_of(networks, data, precision=each) for each in ("fp32", precision))
    assert found.dtype == torch.float32
    assert 0.02 * 2.0**-digits < (found - exact).abs().mean() < 2.0**-digits
    totals = found.double().sum(dim=0)
    torch.testing.assert_close(totals, torch.ones_like(totals), rtol=0, atol=1e-6)


def test_on_a_gpu_a_pass_has_one_window_and_on_a_cpu_two():
    assert [windows_per_pass(torch.device(kind)) for kind in ("cuda", "cpu")] == [1, 2]


def test_a_member_without_finite_logits_is_named(make_network):
    good, bad = make_network(1), make_network(2)
    for parameter in bad.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="member 1") as error:
        mean_of([good, bad], noise(3, 9, 24, 30))
    assert error.value.member == 1


@pytest.mark.parametrize(
    ("size", "step"), [((8, 16, 16), 0.5), ((20, 33, 50), 0.5), ((9, 17, 31), 1.0), ((30, 40, 41), 0.3)]
)
def test_windows_cover_the_volume_as_densely_as_asked(size, step):
    covered = np.zeros(size, int)
    windows = window_slices(size, PATCH, step)
    for window in windows:
        assert all(each.stop - each.start == patch for each, patch in zip(window, PATCH, strict=True))
        covered[window] += 1
    assert covered.min() >= 1
    for axis, patch in enumerate(PATCH):
        starts = sorted({window[axis].start for window in windows})
        assert np.diff(starts).max(initial=0) <= int(np.ceil(patch * step))


@pytest.mark.parametrize("step", [0.0, 1.5, -0.5])
def test_a_step_outside_of_0_to_1_is_a_bug(step):
    with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
        window_slices((9, 20, 20), PATCH, step)


@pytest.mark.parametrize("ensembles", [[], [()], [(0,), ()]])
def test_no_network_is_a_bug(ensembles):
    with pytest.raises(ValueError, match="no networks"):
        ensemble_probabilities([], noise(1, 8, 16, 16), ensembles=ensembles, groups=CLASSES, patch_size=PATCH)


@pytest.mark.parametrize("patch", [(8, 16, 16), (7, 20, 33), (1, 4, 160)])
def test_the_weight_is_nnunets_gaussian(patch):
    expected = compute_gaussian(patch, dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(gaussian_weight(patch), expected, rtol=1e-5, atol=1e-9)
