"""A run is killed without warning at random moments of its whole life and ends with the bits of one that never was.

``--kills N`` says how often. The moments are spread over the life of a process: one at random in each N-th part of it.
"""

import os
import random
import shutil
import signal
import time

import pytest
from programs import fork

from contract.files.reading import read_json
from contract.records import RunRecord, read_record
from training.dataset.prepared import load_prepared
from training.make_run import execute
from training.nnunet import trainer  # noqa: F401 - imported once here, since killing an import shows nothing
from training.planned_run import plan_run

EPOCHS = 8


@pytest.fixture
def planned(prepared_folder, profile, tmp_path):
    """A run of eight short epochs with a checkpoint after each, so that much of its life is spent writing."""

    def plan(keep):
        path = tmp_path / "killed.toml"
        text = profile.read_text().replace('checkpoint = "final"', f'checkpoint = "{keep}"')
        path.write_text(
            text.replace("epochs = 3\niterations_per_epoch = 2", f"epochs = {EPOCHS}\niterations_per_epoch = 1")
        )
        run = plan_run(load_prepared(prepared_folder), configuration="ce", fold=0, restart=1, profile=str(path))
        assert (run.profile.epochs, run.keep) == (EPOCHS, keep)
        return run

    return plan


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["final", "best"])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(planned, tmp_path, request, keep):
    run, kills = planned(keep), request.config.getoption("--kills")
    began = time.monotonic()
    process = fork(lambda: execute(run, tmp_path / "whole", device="cpu"))
    process.join()
    life_s = time.monotonic() - began
    whole = read_record(tmp_path / "whole" / "run.json", RunRecord)
    chance = random.Random()
    moments = [(part + chance.random()) / kills * life_s for part in range(kills)]
    chance.shuffle(moments)
    report, killed, folder = [], 0, tmp_path / "killed"
    while killed < kills:
        moment_s = moments[killed]
        process = fork(lambda: execute(run, folder, device="cpu"))
        process.join(moment_s)
        process.kill()
        process.join()
        record = folder / "run.json"
        before = read_record(record, RunRecord) if record.is_file() else None  # every file that is there can be read
        epochs = f"{before.state} in epoch {len(before.epochs)}" if before else "no record"
        report.append(f"{moment_s:.3f} s: {epochs}, exit code {process.exitcode}")
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            continue
        assert process.exitcode == 0, report  # it was done before: that life is over, another begins
        assert before.weights_sha256 == whole.weights_sha256, report
        shutil.rmtree(folder)
        moments[killed] *= 0.9
    record = execute(run, folder, device="cpu")
    print(f"a life of {life_s:.2f} s, killed {killed} times:", *report, sep="\n  ")
    assert record.weights_sha256 == whole.weights_sha256, report
    assert [each.train_loss for each in record.epochs] == [each.train_loss for each in whole.epochs], report
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        each.name for each in (tmp_path / "whole").iterdir()
    )


@pytest.mark.slow
def test_a_run_killed_at_each_moment_of_writing_ends_with_the_same_bits(planned, tmp_path):
    """At every eighth call of fsync in turn: before it, when the file is written but may be lost, and after it."""
    run = planned("final")
    whole = execute(run, tmp_path / "whole", device="cpu").weights_sha256
    ended = []
    for number in range(1, 120, 8):
        folder = tmp_path / f"killed{number}"

        def work(folder=folder, number=number) -> None:
            calls, fsync = [], os.fsync

            def kill_at(descriptor) -> None:
                calls.append(descriptor)
                if len(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(descriptor)

            os.fsync = kill_at
            execute(run, folder, device="cpu")

        process = fork(work)
        process.join()
        ended.append(process.exitcode)
        assert all(read_json(path) for path in folder.glob("[!.]*.json"))
        assert execute(run, folder, device="cpu").weights_sha256 == whole
    assert set(ended) <= {-signal.SIGKILL, 0}
    assert ended.count(-signal.SIGKILL) >= 8
