import json
import math
import re

import blosc2
import pytest
from paths import PROJECT
from programs import python

from training.__main__ import main
from training.campaign import load_campaign
from training.campaign.estimate import Capacity, epoch_times, estimate_costs, hours_line
from training.campaign.status import StatusMonitor
from training.make_run import execute
from training.memory_bill import bills, needs

CPU = Capacity(processes=2, packed=1)


def widened(profile, tmp_path, features="4", patch="[8, 16, 16]", name="wide.toml"):
    text = profile.read_text().replace("features = 4,", f"features = {features},")
    path = tmp_path / name
    path.write_text(text.replace("patch_size_zyx = [8, 16, 16]", f"patch_size_zyx = {patch}"))
    return path.name


def test_the_weights_take_what_was_expected(campaign_file, tmp_path):
    run = load_campaign(campaign_file()).planned[0].run
    execute(run, tmp_path / "run", device="cpu")
    size = (tmp_path / "run" / "weights.safetensors").stat().st_size
    assert 0 < size - needs(run).weights < 20_000  # the names, and where their tensors lie
    assert needs(run).checkpoint == 2 * needs(run).weights  # keeps the final weights: network and momentum


def test_processes_share_the_training_set_but_not_the_lesion_numbers(campaign_file, prepared_folder):
    shapes = [blosc2.open(str(path)).shape for path in prepared_folder.glob("cases/*_seg.b2nd")]
    campaign = load_campaign(campaign_file(configurations=["retina-unet", "ce"]))
    runs = {planned.run.configuration.name: planned.run for planned in campaign.planned}
    with_numbers, without = (bills([runs[name]], "cpu")[0] for name in ("retina-unet", "ce"))
    more = with_numbers.step_host - needs(runs["retina-unet"]).on_cpu - without.step_host + needs(runs["ce"]).on_cpu
    assert more == 2 * sum(math.prod(shape) for shape in shapes)
    status = StatusMonitor(campaign).look()
    one, two = (estimate_costs(campaign, status, capacity).memory.needed for capacity in (Capacity(1, 1), CPU))
    assert two == 2 * one - without.images  # images are read before processes fork, numbers made after


def test_features_take_twice_as_much_of_a_gpu_in_single_precision(planned, edited_profile):
    half = needs(planned())
    single = needs(planned(profile=edited_profile(("[plan]", '[compute]\namp = "fp32"\n\n[plan]'))))
    features = half.on_cuda - 4 * half.weights  # weights, gradients, momentum and a copy are float32 in both
    assert single.on_cuda - half.on_cuda == pytest.approx(features, abs=1)
    assert single.on_cpu == half.on_cpu


def test_box_heads_count_in_addition_to_the_u_net(campaign_file, tmp_path):
    planned_runs = load_campaign(campaign_file(configurations=["retina-unet", "ce"], folds=[0])).planned
    need = {planned.run.configuration.name: needs(planned.run) for planned in planned_runs}
    detector = next(planned.run for planned in planned_runs if planned.run.configuration.name == "retina-unet")
    execute(detector, tmp_path / "run", device="cpu")
    size = (tmp_path / "run" / "weights.safetensors").stat().st_size
    assert 0 < size - need["retina-unet"].weights < 20_000  # the names, and where their tensors lie
    # Patches of 8 x 16 x 16, two of them; both networks convolve the U-Net's maps, the detector those of its heads too:
    # at strides (1, 2, 2) and (2, 4, 4) 8 channels from a projection and twice two convolutions, and 7 values of 27
    # anchors. nnU-Net has a second result, of 2 classes at the coarser of the decoder's two resolutions, for training.
    positions = 8 * 8 * 8 + 4 * 4 * 4
    heads = positions * (5 * 8 + 7 * 27) - 2 * 8 * 8 * 8
    parameters = (need["retina-unet"].weights - need["ce"].weights) / 4
    more = (need["retina-unet"].on_cpu - need["ce"].on_cpu) / 4
    assert more == pytest.approx(4 * parameters + 4.5 * 2 * heads, rel=0.01)


@pytest.mark.slow
def test_a_detectors_memory_is_within_a_factor_of_the_estimate(prepared_folder):
    """Measured in a forked process, as the estimate was calibrated: test/benchmark/campaign_memory.py."""
    program = PROJECT / "test" / "benchmark" / "campaign_memory.py"
    ended = python(program, prepared_folder, "--configuration", "retina-unet", "--plans", "demo")
    assert 0.8 < json.loads(ended.stdout.splitlines()[-1])["least"] < 1.6


def test_hours_are_timed_for_each_kind_of_network(campaign_file, write_run):
    campaign = load_campaign(campaign_file(configurations=["retina-unet", "ce"]))
    for planned in campaign.planned:
        slow = planned.run.configuration.name == "retina-unet"
        write_run(planned, "running", epochs=1, epoch_s=3600 if slow else 1800)
    status = StatusMonitor(campaign).look()
    times = epoch_times(status, CPU)
    assert {kind: each and each.epoch_s for kind, each in times.items()} == {
        ("retina-unet", "detection"): 3600,
        ("nnunet", "detection"): 1800,
    }
    # of three epochs two are missing in each of 2 + 2 runs: 4 x 1 h + 4 x 0.5 h
    assert hours_line(status, CPU, times).startswith("hours: about 6.0")


def test_epochs_of_the_campaigns_own_runs_are_the_estimates_best_witness(campaign_file, write_run):
    campaign = load_campaign(campaign_file())
    write_run(campaign.planned[0], "finished", epochs=3, epoch_s=1200)
    write_run(campaign.planned[1], "running", epochs=1, epoch_s=1800)
    status = StatusMonitor(campaign).look()
    line = hours_line(status, CPU, epoch_times(status, CPU))
    # median of 1200 and 1800 s; 2 + 3 + 3 epochs are missing: 8 × 1500 s = 3.33 h
    assert line == (
        "hours: about 3.33 hours of computing for 3 runs, 1 h 40 min by the clock with 2 processes at a time "
        "(from 4 epochs of 2 runs in this folder)"
    )


def test_a_dry_run_reports_hours_disk_memory_and_their_basis(campaign_file, capsys):
    assert main(["campaign", str(campaign_file()), "--dry-run", "--device", "cpu"]) == 0
    studies, disk, memory, hours = capsys.readouterr().out.splitlines()[-4:]
    assert re.match(r"training set: 7 studies in the main memory in single precision, .* GB", studies)
    assert re.match(r"disk: .* MB per finished run, at most .* on the way; .* free", disk)
    assert re.match(r"memory: at most .* for 1 runs? at a time; .* there \(.*\)", memory)
    assert re.match(r"hours: about .* for 4 runs, .* by the clock .* \(from .* timed on .*\)", hours)


def test_estimate_is_zero_when_no_run_is_missing(campaign_file, write_run):
    campaign = load_campaign(campaign_file())
    for planned in campaign.planned:
        write_run(planned, "finished", epochs=3)
    status = StatusMonitor(campaign).look()
    costs = estimate_costs(campaign, status, CPU)
    assert (costs.missing, costs.disk, costs.memory) == (0, 0, None)
    assert hours_line(status, CPU, epoch_times(status, CPU)) == "hours: nothing to do"


def test_checkpoints_on_the_way_count_for_as_many_runs_as_go_at_a_time(campaign_file):
    campaign = load_campaign(campaign_file())
    status = StatusMonitor(campaign).look()
    need = needs(campaign.planned[0].run)
    for capacity, at_once in [(CPU, 2), (Capacity(1, 3), 3), (Capacity(256, 1, elsewhere=True), 4)]:
        assert (
            estimate_costs(campaign, status, capacity).disk == 4 * need.disk_when_finished + at_once * need.disk_at_work
        )


def test_too_little_disk_is_refused_before_the_first_iteration(campaign_file, profile, tmp_path, refusal):
    path = campaign_file(profile=widened(profile, tmp_path, features="1000000"))
    for option in ([], ["--dry-run"]):
        message = refusal("campaign", path, "--device", "cpu", *option)
        assert re.search(r"runs: expected [\d,.]+ GB of free disk for 4 runs, found [\d,.]+ [GM]B", message)
        assert not (tmp_path / "runs").exists()


def test_too_little_memory_is_refused_before_the_first_iteration(campaign_file, profile, tmp_path, refusal):
    path = campaign_file(profile=widened(profile, tmp_path, patch="[4096, 4096, 4096]"), workers=2)
    message = refusal("campaign", path, "--device", "cpu")
    assert re.search(
        r"campaign.toml: expected [\d,.]+ GB of memory for 2 runs at a time, found [\d,.]+ [GM]B \(.*\); fewer", message
    )
    assert not (tmp_path / "runs").exists()


def test_a_patch_that_does_not_fit_the_detectors_strides_is_refused(campaign_file, profile, tmp_path, refusal):
    path = campaign_file(profile=widened(profile, tmp_path, patch="[8, 18, 16]"), configurations=["retina-unet"])
    message = refusal("campaign", path, "--device", "cpu", "--dry-run")
    assert "patch_size: expected a multiple of 4 along y, found 18" in message


def test_a_probe_that_is_too_slow_leaves_the_hours_open(campaign_file):
    status = StatusMonitor(load_campaign(campaign_file())).look()
    line = hours_line(status, CPU, {("nnunet", "detection"): None})
    assert line.startswith("hours: not known: no training step ended within 180 s on this machine's CPU")


def test_runs_of_nndetection_are_planned_shown_and_not_counted(campaign_file, write_run, capsys):
    path = campaign_file(configurations=["ce", "nndet"], folds=[0])
    ours, upstream = load_campaign(path).planned
    assert upstream.name == "nndet_fold0_restart1"
    assert main(["campaign", str(path), "--dry-run", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"nndet_fold0_restart1 +planned", line) for line in lines)
    memory, uncounted, hours = lines[-3:]
    assert "for 1 runs at a time" in memory
    assert uncounted == "not counted: 1 run of nnDetection, whose costs are unknown"
    assert "for 1 runs" in hours
    write_run(ours, "finished", epochs=3)
    status = StatusMonitor(load_campaign(path)).look()
    assert hours_line(status, CPU, epoch_times(status, CPU)) == "hours: not known"
    write_run(upstream, "finished")
    status = StatusMonitor(load_campaign(path)).look()
    assert hours_line(status, CPU, epoch_times(status, CPU)) == "hours: nothing to do"
    assert not any("not counted" in line for line in estimate_costs(load_campaign(path), status, CPU).lines())
    assert main(["status", str(path)]) == 0
    assert "2 finished" in capsys.readouterr().out
