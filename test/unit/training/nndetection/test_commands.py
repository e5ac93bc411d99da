"""nnDetection's programs as steps: given up, or ended by a signal."""

import os
import signal

from programs import is_at_work, wait_until
from refusals import refused_with

from training.dataset.prepared import load_prepared
from training.interleaving import run_to_end
from training.nndetection.commands import Programs, find_programs
from training.nndetection.dataset_layout import Layout


def test_a_step_that_is_given_up_ends_its_program(tmp_path, fake_nndet, prepared_folder):
    fake_nndet("hang:nndet_prep")
    layout = Layout(tmp_path / "root", load_prepared(prepared_folder).card)
    layout.root.mkdir()
    programs = Programs(find_programs(["nndet_prep"]), layout, tmp_path / "log")
    step = programs.run("nndet_prep", layout.task)
    hanging = layout.root / "hanging"
    wait_until(lambda: next(step) or hanging.is_file())
    processes = [int(pid) for pid in hanging.read_text().split()]
    step.close()
    wait_until(lambda: not any(map(is_at_work, processes)))


def test_a_program_ended_by_a_signal_is_reported(tmp_path, fake_nndet, prepared_folder):
    fake_nndet("hang:nndet_prep")
    layout = Layout(tmp_path / "root", load_prepared(prepared_folder).card)
    layout.root.mkdir()
    step = Programs(find_programs(["nndet_prep"]), layout, tmp_path / "log").run("nndet_prep", layout.task)
    wait_until(lambda: next(step) or (layout.root / "hanging").is_file())
    program, other = map(int, (layout.root / "hanging").read_text().split())
    os.kill(program, signal.SIGKILL)
    os.kill(other, signal.SIGKILL)
    with refused_with("nndet_prep", expected="nnDetection's program to succeed", found="signal 9"):
        run_to_end(step)
