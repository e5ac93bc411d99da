"""GPUs are billed one by one, by stand-ins for what CUDA says of them."""

import pytest
from refusals import refused_with

from network.machine.memory import Budget
from training.campaign import load_campaign
from training.campaign.devices import CudaDevice
from training.campaign.estimate import Capacity, estimate_costs
from training.campaign.local_executor import _read_studies
from training.campaign.memory_estimate import estimate_memory, estimate_memory_elsewhere
from training.campaign.status import StatusMonitor
from training.memory_bill import GB, bills, needs

MUCH = 10**12


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """Say how much of the main memory is free."""

    def say(host=MUCH):
        monkeypatch.setattr("network.machine.memory.memory_budget", lambda: Budget(host, "a stand-in"))
        monkeypatch.setattr("network.machine.memory.held_bytes", lambda: 0)

    say()
    return say


def of(run, kind, **more):
    return {bill.place: bill for bill in bills([run], kind, **more)}


def gpus(*free_bytes):
    return tuple(CudaDevice(index, f"model {index}", each) for index, each in enumerate(free_bytes))


def test_each_gpu_keeps_what_it_can_hold_and_a_busy_one_gets_no_run(planned):
    run, packed = planned(), 2
    bill = of(run, "cuda", packed=packed)
    devices = gpus(bill["nnunet"].device - 1, bill["device"].device, bill["device"].device - 1)
    estimate = estimate_memory([run], packed=packed, processes=3, devices=devices)
    assert [device.index for device in estimate.devices] == [1, 2]
    assert estimate.places == {(1, "detection"): "device", (2, "detection"): "host"}
    assert (estimate.needed, estimate.free) == (bill["device"].device, bill["device"].device)
    assert estimate.source == "GPU 1 (model 1)"  # nothing is left there
    at_device, at_host, left_out = estimate.lines
    assert "in the GPU's memory in half precision" in at_device
    assert "in the main memory in half precision" in at_host
    assert left_out.startswith("GPU 0 (model 0) gets no run: ")


@pytest.mark.parametrize(("named", "named_gpu"), [([0, 1], 0), (None, 1)])
def test_a_campaign_is_measured_against_the_named_or_the_freest_gpu(campaign_file, named, named_gpu):
    resources = {} if named is None else {"devices": named}
    campaign = load_campaign(campaign_file(resources=resources))
    step = needs(campaign.planned[0].run).on_cuda
    devices = gpus(step - 2, step - 1 if named is None else MUCH)
    costs = estimate_costs(campaign, StatusMonitor(campaign).look(), Capacity(2, 1, devices))
    with refused_with("campaign.toml", expected="of memory for 1 runs", found=rf"GPU {named_gpu} .model"):
        costs.refuse_if_short(campaign)


def test_a_training_set_in_the_main_memory_counts_once_for_all_gpus(planned, free):
    run = planned()
    devices = gpus(*[needs(run).on_cuda] * 3)
    once = of(run, "cuda", processes=3)["host"]
    free(once.host)
    assert set(estimate_memory([run], packed=1, processes=3, devices=devices).places.values()) == {"host"}
    free(once.host - 1)
    assert set(estimate_memory([run], packed=1, processes=3, devices=devices).places.values()) == {"nnunet"}


def test_on_the_cpu_all_processes_leave_each_other_room(planned, free):
    run = planned()
    bill = of(run, "cpu", processes=4, packed=2)
    for host, place in [(bill["device"].host, "device"), (bill["host"].host, "host"), (bill["nnunet"].host, "nnunet")]:
        free(host)
        estimate = estimate_memory([run], packed=2, processes=4)
        assert (estimate.places, estimate.needed) == ({(None, "detection"): place}, host)
    assert bill["nnunet"].host == 4 * (2 * needs(run).on_cpu + 75 * 10**6)


def test_the_parent_reads_what_is_kept_in_the_main_memory(planned):
    run = planned()
    read = {
        place: _read_studies([run], {(device, "detection"): place})
        for device, place in [(None, "device"), (3, "host"), (None, "nnunet")]
    }
    assert [(each.device.type, str(each.dtype)) for each in read["device"]] == [("cpu", "torch.float32")]
    assert [(each.device.type, str(each.dtype)) for each in read["host"]] == [("cpu", "torch.float16")]
    assert read["nnunet"] == []
    assert _read_studies([run], {(0, "detection"): "device"}) == []  # each process reads them into its GPU


def test_a_job_elsewhere_decides_by_itself(planned):
    run = planned()
    on_cpu, on_cuda = of(run, "cpu"), of(run, "cuda")
    enough = (600 * 10**6 + on_cpu["device"].host) / GB
    plenty, tight = (
        estimate_memory_elsewhere([run], packed=1, memory_gb=memory_gb, on_gpu=False)
        for memory_gb in (enough, enough - 10**-6)
    )
    assert (plenty.needed, plenty.free) == (round(enough * GB), round(enough * GB))
    assert tight.needed == 600 * 10**6 + on_cpu["host"].host
    on_gpu = estimate_memory_elsewhere([run], packed=1, memory_gb=None, on_gpu=True)
    assert (on_gpu.needed, on_gpu.free) == (600 * 10**6 + on_cuda["nnunet"].host, None)
    assert "each job decides" in on_gpu.lines[0]
