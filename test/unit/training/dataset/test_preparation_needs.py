"""What a preparation needs, by the images' headers. The factors of the memory were measured."""

import logging
from types import SimpleNamespace

import pytest
from refusals import refused_with

from contract.archive.studies import find_studies
from contract.card import load_card
from network.machine.memory import Budget, held_bytes
from training.dataset.preparation_needs import StudyNeeds, fitting_workers, require_disk, study_needs

GB = 10**9
NEEDS = [StudyNeeds(1, GB, GB, GB // 2, memory_bytes=memory) for memory in (GB, 2 * GB)]


def test_the_stacked_bytes_are_those_that_lie_on_the_disk(archive):
    card = load_card("cspca-picai")
    study = find_studies(archive, card, labels_required=True)[0]
    needs = study_needs(study, card, ["detection"])
    assert needs.voxels == 3 * 30 * 26 * 10
    assert needs.stacked_bytes == needs.stacked_at_most_bytes == 30 * 26 * 10 * (3 * 4 + 4)


@pytest.mark.parametrize(
    ("asked", "free_gb", "fit"),
    [(4, 100, 4), (4, 8.2, 3), (4, 5.5, 2), (4, 3, 1), (4, 0.5, 1), (1, 0.5, 1), (1, 100, 1)],
)  # 2.7 GB each: the libraries' 0.7 GB, and the larger study
def test_as_many_processes_as_have_memory(caplog, asked, free_gb, fit):
    budget = Budget(held_bytes() + round(free_gb * GB), "a test")
    with caplog.at_level(logging.WARNING):
        assert fitting_workers(asked, NEEDS, budget) == fit
    expected = f"working with {fit} of {asked} processes" if fit < asked else "it may not suffice" * (free_gb < 2)
    assert (expected in caplog.text) if expected else not caplog.records


def test_a_disk_is_asked_for_what_is_not_there_already(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=GB))
    with refused_with(str(tmp_path), expected=r"at least 2\.0 GB free", found=r"1\.5 GB"):
        require_disk(tmp_path, NEEDS, held=GB // 2)
    with caplog.at_level(logging.INFO):
        require_disk(tmp_path, NEEDS, held=GB)
    assert "about 3.0 GB on the disk while they are prepared and 1.0 GB in the end; 2.0 GB are free" in caplog.text
    assert "which may not suffice" in caplog.text
