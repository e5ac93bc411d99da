"""The probe, on a real training and on stand-ins: an engine whose steps take what a table says, and CUDA's events."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from training.campaign import load_campaign
from training.campaign.probe import TIMED_STEPS, on_few_studies, probe, timed_steps
from training.dataloading.resident_studies import ResidentStudies
from training.dataset.prepared import Fold, case_files


@pytest.fixture
def run(campaign_file):
    return load_campaign(campaign_file()).planned[0].run


def test_a_few_steps_are_timed_also_where_an_epoch_has_fewer(run):
    found = probe(run)
    assert re.fullmatch(r"from \d+ training steps timed on this machine's CPU \(\w+\)", found.source)
    assert int(found.source.split()[1]) > run.profile.iterations_per_epoch
    assert 0.01 < found.epoch_s < 200


def test_few_studies_are_read_evenly_from_both_kinds(run, tmp_path, monkeypatch):
    study = run.prepared.record.studies[0]
    studies = [study.model_copy(update={"case_id": f"{n:03}", "lesions": n % 2}) for n in range(300)]
    folds = (Fold(train=tuple(each.case_id for each in studies[:200]), validation=("200", "201")),)
    record = run.prepared.record.model_copy(update={"studies": tuple(studies)})
    large = replace(run, prepared=replace(run.prepared, record=record, folds=folds))
    few = on_few_studies(large).fold
    assert few.train == ("001", "051", "101", "151", "000", "050", "100", "150")
    assert few.validation == ("201", "200")

    folder = tmp_path / "prepared"
    shutil.copytree(run.prepared.folder, folder)
    names = [study.case_id for study in run.prepared.record.studies]
    for each in studies[:202]:
        like = names[each.lesions]  # the files of a study that is there
        for ours, theirs in zip(case_files(folder, each.case_id), case_files(folder, like), strict=True):
            ours.symlink_to(theirs)
    read, steps = [], []
    resident = ResidentStudies._read
    monkeypatch.setattr(ResidentStudies, "_read", lambda self, each: (read.append(each), resident(self, each))[1])
    monkeypatch.setattr("training.campaign.probe.TIMED_STEPS", 2)
    large = replace(large, prepared=replace(large.prepared, folder=folder))
    steps = timed_steps(on_few_studies(large), tmp_path / "run", "cpu")
    assert 1 <= len(steps) <= 2
    assert sorted(read) == sorted([*few.train, *few.validation])  # 10 of 300


@pytest.mark.parametrize(
    ("seconds", "counted"),
    [
        ([20, 9, 1, *[0.5] * 30], [0.5] * TIMED_STEPS),  # the first are not counted
        ([20, 11, 0.5, 0.5, 20, 1], [0.5, 0.5, 20]),  # the second ends the warm-up, the fifth the time
        ([100, 40, 1], [40]),  # one of each is made in any case
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_warm_up_is_not_counted_and_both_parts_end_in_time(run, tmp_path, monkeypatch, seconds, counted, device):
    clock = SimpleNamespace(now=0.0, known=0.0)
    monkeypatch.setattr("training.campaign.probe.time", SimpleNamespace(monotonic=lambda: clock.now))

    class Event:
        """As torch's: elapsed times are known after all that was recorded is done, in milliseconds."""

        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock.now

        def elapsed_time(self, end):
            assert end.at <= clock.known, "not synchronised"
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(clock, "known", clock.now))

    def steps(run, place):
        for number, each in enumerate(seconds):
            clock.now += each
            place.on_iteration(number + 1)
            yield

    engine = type("Engine", (), {"steps": staticmethod(steps)})()
    monkeypatch.setattr(type(run), "engine", engine)
    assert timed_steps(run, tmp_path / "run", device) == pytest.approx(counted)


def test_a_training_that_ends_before_a_step_gives_nothing(run, monkeypatch):
    def fail(*_):
        raise RuntimeError("no step")

    monkeypatch.setattr("training.campaign.probe.timed_steps", fail)
    assert probe(run) is None
