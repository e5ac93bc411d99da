"""Studies that all runs of a process share in memory."""

import gc

import pytest
import torch
from refusals import refused_with

from contract.images.volume import read_volume
from network.machine.memory import Budget
from training.dataloading.resident_studies import ResidentStudies, resident_studies, study_sizes

CPU = torch.device("cpu")


IDS = ["100_1", "101_1", "102_1"]  # every other has a lesion


MEBIBYTE = 2**20


def test_runs_of_a_process_share_the_studies_and_the_last_one_frees_them(prepared_folder):
    gc.collect()  # trainers of earlier tests, which were never run to their end, held some
    first = resident_studies(prepared_folder, IDS[:2], device=CPU)
    second = resident_studies(prepared_folder / ".." / prepared_folder.name, IDS[1:], device=CPU)
    assert first is second
    assert sorted(first.by_id) == IDS
    image = first.by_id["100_1"].image.data_ptr()
    assert resident_studies(prepared_folder, IDS, device=CPU).by_id["100_1"].image.data_ptr() == image
    assert resident_studies(prepared_folder, IDS, device=CPU, dtype=torch.float16) is not first
    del first, second
    from training.dataloading.resident_studies import _of_process  # noqa: PLC0415 - what is checked is that it is empty

    assert not _of_process


@pytest.mark.data
def test_half_precision_rounds_real_images_by_under_1_percent_of_their_sd(real_data):
    paths = sorted(real_data.glob("prostatex/mha/*/*_[tah]*.mha"))
    assert len(paths) == 6  # two exams of T2, ADC and high b-value
    for path in paths:
        voxels = read_volume(path).array
        image = torch.from_numpy((voxels - voxels.mean()) / voxels.std()).float()
        error = (image.half().float() - image).abs().max().item()
        print(f"{path.name}: {image.min():.1f} to {image.max():.1f}, rounded by at most {error:.4f}")
        assert error < 0.01


def test_studies_that_do_not_fit_are_refused_before_any_is_read(prepared_folder, monkeypatch):
    monkeypatch.setattr("training.dataloading.resident_studies.held_bytes", lambda: 0)
    studies = ResidentStudies(prepared_folder, CPU, torch.float32)
    with refused_with(f"^{prepared_folder}$", expected=r"^at most 4\.", found=r"^0\.000") as error:
        studies.load(IDS, budget=Budget(50_000, "--memory-gb"))
    assert not studies.by_id
    # 10 x 26 x 30 voxels and 9 x 32 x 28, twice and once, of 3 channels of 4 bytes and a label of 1: 0.3 MB.
    assert 'loader = "nnunet" in the profile reads them from disk' in error.value.found
    monkeypatch.setattr("training.dataloading.resident_studies.held_bytes", lambda: 100 * MEBIBYTE)
    with refused_with(expected="^at most 0 GB of memory"):
        studies.load(IDS, budget=Budget(50_000, "--memory-gb"))
    monkeypatch.setattr("training.dataloading.resident_studies.held_bytes", lambda: 0)
    studies.load(IDS, budget=Budget(100 * MEBIBYTE, "--memory-gb"))
    taken = sum(study.image.nbytes + study.label.nbytes for study in studies.by_id.values())
    assert taken <= study_sizes(prepared_folder, IDS).on(CPU, torch.float32) < 1.3 * taken


@pytest.mark.parametrize("name", ["100_1.b2nd", "100_1_seg.b2nd"])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_damaged_study_is_refused(name, share, own_prepared):
    path = own_prepared / "cases" / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with refused_with(name, "file is damaged"):
        resident_studies(own_prepared, IDS, device=CPU)
