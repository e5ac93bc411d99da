import logging
import math
import re
from dataclasses import replace

import pytest
import torch
from paths import TINY_PLANS
from programs import python
from refusals import refused_with

from contract.errors import OncoduetError
from network.inference.memory_plan import MemoryPlan, StudySize, host_bytes, leaner_way, plan_memory, window_bytes
from network.machine.memory import GB, Budget

BPMRI = StudySize(
    channels=[(20, 384, 384), (20, 120, 120), (20, 120, 120)],
    reference=(20, 384, 384),
    study=(20, 384, 384),
    network=(20, 384, 384),
    patch_size=(16, 160, 160),
    classes=2,
    features=32,
    members=20,
    member_bytes=120 * 10**6,
    outputs=1,
)
CT = StudySize(
    channels=[(600, 512, 512)],
    reference=(600, 512, 512),
    study=(600, 512, 512),
    network=(400, 512, 512),
    patch_size=(48, 128, 192),
    classes=7,
    features=32,
    members=4,
    member_bytes=120 * 10**6,
    outputs=1,
)


def budget(gigabytes):
    return Budget(round(gigabytes * GB), "a test")


def test_the_quickest_way_is_taken_where_it_fits():
    assert plan_memory(BPMRI, budget(1000), held=0, name="s") == MemoryPlan(2, 20, streamed=False)


def test_less_memory_means_fewer_members_at_once_then_streamed_weights():
    found = []
    for tenths in range(200, 1, -1):
        try:
            way = plan_memory(BPMRI, budget(tenths / 10), held=0, name="s")
        except OncoduetError:
            break
        if way not in found:
            found.append(way)
    expected = [MemoryPlan(2, each, streamed=False) for each in (20, 10, 5, 3, 2, 1)]
    assert found[0] == expected[0]
    assert [way for way in found if not way.streamed] == [way for way in expected if way in found]
    assert found[-1] == MemoryPlan(2, 1, streamed=True)
    needs = [host_bytes(BPMRI, way) for way in found]
    assert needs == sorted(needs, reverse=True)


def test_where_memory_is_short_fewer_passes_are_computed_at_a_time():
    several = [MemoryPlan(2, 20, streamed=False, at_a_time=each) for each in (9, 4, 2)]
    needs = [host_bytes(BPMRI, way) for way in several]
    assert needs == sorted(needs, reverse=True)
    for way, need in zip(several, needs, strict=True):
        assert plan_memory(BPMRI, Budget(need, "a test"), held=0, name="s", threads=9) == way
    assert leaner_way(several[-1], members=20) == MemoryPlan(2, 20, streamed=False)
    least = plan_memory(BPMRI, Budget(needs[-1] - 1, "a test"), held=0, name="s", threads=9)
    assert least.at_a_time == 1


def test_segmentations_that_are_as_large_as_the_study_are_counted():
    """By hand: sums of two members and two more of one at work, of seven classes, and the weights; then two outputs."""
    way, voxels = MemoryPlan(2, 4, streamed=False), 400 * 512 * 512
    both = replace(CT, segmentations=2)
    more = window_bytes(both, way) - window_bytes(CT, way)
    assert more == (4 * 7 + 1) * 4 * voxels
    assert host_bytes(both, way) - host_bytes(CT, way) >= more
    assert host_bytes(both, way, on_gpu=True) - host_bytes(CT, way, on_gpu=True) >= 2 * 4 * voxels


def test_the_log_says_in_one_line_what_was_chosen_and_why(caplog):
    with caplog.at_level(logging.INFO, "network.inference.memory_plan"):
        plan_memory(BPMRI, budget(3), held=GB // 2, name="10032_1000032")
    (record,) = caplog.records
    assert re.fullmatch(
        r"study 10032_1000032: at most \d\.\d GB of 3\.0 GB \(a test\): "
        r"2 windows per pass, \d+ members? at a time, weights (streamed|resident)",
        record.message,
    )


def test_a_scan_larger_than_the_memory_is_refused_with_need_and_budget():
    huge = replace(CT, reference=(6000, 512, 512), study=(6000, 512, 512), channels=[(6000, 512, 512)])
    with pytest.raises(OncoduetError) as error:
        plan_memory(huge, budget(8), held=GB // 2, name="ct1")
    assert re.fullmatch(
        r"study ct1: needs \d\d\.\d GB of memory \(512 × 512 × 6000 voxels, 1 channels\); 8\.0 GB available \(a test\)",
        str(error.value),
    )


def test_the_issues_sizes_fit_into_its_budgets():
    """Under 4 GB for bpMRI with 20 large members, under 8 GB for a CT of 512 × 512 × 600 with four."""
    held = 400 * 10**6  # Python, torch and nnU-Net
    assert plan_memory(BPMRI, budget(4), held=held, name="bpmri")
    assert plan_memory(CT, budget(8), held=held, name="ct")


def test_windows_on_a_gpu_do_not_count_in_the_main_memory():
    way = MemoryPlan(2, 20, streamed=False)
    assert host_bytes(BPMRI, way, on_gpu=True) < host_bytes(BPMRI, way) - 20 * BPMRI.member_bytes
    assert window_bytes(BPMRI, way) > 20 * BPMRI.member_bytes


class T4:
    """A stand-in for CUDA's memory with torch's cache: what was reserved once stays reserved."""

    TOTAL = 15_000_000_000

    def __init__(self, monkeypatch):
        self.allocated = self.reserved = 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.TOTAL - self.reserved, self.TOTAL))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)

    def predict(self, work, *, kept):
        """As a study is predicted: the way, and its need for a while."""
        way = plan_memory(work, budget(1000), held=0, kept=kept, name="s", device=torch.device("cuda"))
        self.reserved = max(self.reserved, window_bytes(work, way))
        return way


@pytest.mark.parametrize(
    ("work", "way"),
    [
        (replace(CT, network=(95, 180, 270), patch_size=(80, 128, 224)), MemoryPlan(1, 4, streamed=False)),
        (replace(BPMRI, patch_size=(20, 320, 256)), MemoryPlan(1, 20, streamed=False)),
    ],
    ids=["pdac-4-members", "cspca-20-members"],
)
def test_equal_studies_get_the_same_plan_whatever_torch_has_cached(monkeypatch, work, way):
    """On a T4 the second study was once refused, or streamed, for the cache that the first had left."""
    gpu = T4(monkeypatch)
    assert gpu.predict(work, kept=0) == way  # weights are loaded at the first study, or before
    gpu.allocated = kept = work.members * work.member_bytes
    assert [gpu.predict(work, kept=kept) for _ in range(3)] == [way] * 3


def test_what_others_hold_of_the_gpu_counts(monkeypatch):
    gpu = T4(monkeypatch)
    least = window_bytes(CT, MemoryPlan(1, 1, streamed=True))
    gpu.TOTAL = least
    assert gpu.predict(CT, kept=0) == MemoryPlan(1, 1, streamed=True)
    gpu.reserved, gpu.TOTAL = 0, window_bytes(CT, MemoryPlan(1, 4, streamed=False))
    gpu.reserved = gpu.allocated = 4 * CT.member_bytes  # weights count once
    assert gpu.predict(CT, kept=gpu.allocated) == MemoryPlan(1, 4, streamed=False)
    gpu.reserved, gpu.allocated, gpu.TOTAL = 0, 0, least - 1
    with refused_with("^.*s$", r"needs \d\.\d GB of the GPU's memory; \d\.\d GB available"):
        gpu.predict(CT, kept=0)


def test_each_way_is_leaner_than_the_one_before():
    way: MemoryPlan | None = MemoryPlan(2, 5, streamed=False)
    found = []
    while way is not None:
        found.append((way.at_once, way.streamed))
        way = leaner_way(way, members=5)
    assert found == [(5, False), (3, False), (2, False), (1, False), (1, True)]


_MEASURE = """
import json, sys, torch
from network.model.architecture import build_network
from network.inference.memory_plan import MemoryPlan, StudySize, window_bytes
from network.machine.memory import _STATUS, _field, held_bytes
from network.inference.sliding_window import ensemble_probabilities
torch.set_num_threads(1)
features, batch, members = (int(each) for each in sys.argv[2:])
patch, size = (16, 96, 96), (20, 192, 96)
plans = json.load(open(sys.argv[1]))
plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [features, 2 * features]
dataset = {"channel_names": {"0": "ct"}, "labels": {"background": 0, "tumour": 1, "pancreas": 2}}
networks = [build_network(plans, dataset).eval().requires_grad_(False) for _ in range(members)]
data = torch.randn(1, *size)
networks[0](data[None, :, :16, :16, :16].repeat(2, 1, 1, 1, 1))
before = held_bytes()
ensemble_probabilities(networks, data, ensembles=[range(members)], groups=[(1,)], patch_size=patch, batch=batch)
peak = _field(_STATUS, "VmHWM") - before  # ru_maxrss would remember the process that started this one
work = StudySize([size], size, size, size, patch, 3, features, members, 0, 1)
print(peak, window_bytes(work, MemoryPlan(batch, members, False)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("features", "batch", "members"), [(32, 2, 1), (32, 4, 1), (16, 2, 8)])
def test_the_estimate_of_the_windows_is_what_a_process_takes(features, batch, members):
    result = python("-c", _MEASURE, TINY_PLANS, features, batch, members, OMP_NUM_THREADS="1")
    peak, estimate = map(int, result.stdout.split())
    assert 0.5 * estimate < peak < 1.1 * estimate, (peak, estimate)


def test_the_slab_of_a_long_scan_does_not_count_its_slices():
    longer = replace(CT, network=(4000, 512, 512))
    data = (math.prod(longer.network) - math.prod(CT.network)) * 4
    way = MemoryPlan(2, 4, streamed=False)
    assert window_bytes(longer, way) - window_bytes(CT, way) == pytest.approx(data, rel=0.02)
