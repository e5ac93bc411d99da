import io
import re

import pytest
from programs import python
from rich.console import Console

from training.__main__ import main
from training.campaign import load_campaign
from training.campaign.local_executor import make_locally
from training.make_run import execute_with_progress


@pytest.fixture
def terminal() -> Console:
    """A terminal whose screen can be read."""
    return Console(file=io.StringIO(), force_terminal=True, no_color=True, color_system=None, width=120)


@pytest.fixture
def arguments(prepared_folder, profile, tmp_path):
    def run(*more: str, restart: int = 1) -> list[str]:
        options = {"prepared": prepared_folder, "configuration": "ce", "fold": 0, "restart": restart}
        options |= {"profile": profile, "output": tmp_path / "run", "device": "cpu"}
        return ["run", *(str(each) for name, value in options.items() for each in (f"--{name}", value)), *more]

    return run


def test_a_run_prints_device_and_epochs_on_stdout_only(arguments, capsys):
    assert main(arguments()) == 0
    said = capsys.readouterr()
    assert said.err == ""
    device, studies, *lines = said.out.splitlines()
    assert re.fullmatch(r"device: cpu, .+, torch .+ \(as asked for.*\)", device)
    assert re.fullmatch(r"training set: 7 studies in the main memory in single precision, .+ GB", studies)
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert re.search(r"loss \d\.\d{4}, validation \d\.\d{4}, ", lines[0])
    assert main(arguments()) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "finished already, nothing to do" in said.out


def test_a_run_is_not_made_on_the_cpu_where_the_gpu_cannot_be_used(arguments, outcome, tmp_path, useless_gpu):
    code, message = outcome(*arguments("--device", "auto"))  # the last one counts
    assert code == 3
    assert "(Tesla T4), found that torch sees none; here: torch " in message
    assert "CUDA 13.0 asks for driver 580 or newer: update the driver, or install another build of torch" in message
    assert message.endswith(", or accept the CPU with --device cpu\n")
    assert not (tmp_path / "run").exists()


def test_wrong_input_is_one_line_and_exit_code_3(arguments, capsys):
    assert main(arguments("--resume")) == 3
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.endswith("expected a checkpoint to resume from, found none\n")
    assert main(arguments()) == 0
    capsys.readouterr()
    assert main(arguments(restart=2)) == 3
    assert "expected the run ce, fold 0, restart 2" in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2(arguments):
    assert main(arguments(restart=-1)) == 2
    for wrong in ([], ["paint"], ["run", "--fold", "first"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize("command", ["prepare", "run", "campaign", "status", "verify", "bundle"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m training {command}" in capsys.readouterr().out


def test_a_process_of_its_own_keeps_stderr_empty_too(arguments):
    """Warnings that libraries utter while they are imported count as well."""
    ended = python("-m", "training", *arguments(), OMP_NUM_THREADS="1")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_shows_a_bar_that_ends_full(tmp_path, terminal, planned):
    run = planned()
    execute_with_progress(run, tmp_path / "run", device="cpu", resume=False, console=terminal)
    shown = terminal.file.getvalue()
    assert "ce_fold0_restart1" in shown
    assert "100%" in shown
    assert "nnU-Net" not in shown
    assert "nnU-Net" in (tmp_path / "run" / "training.log").read_text()


def test_a_terminal_shows_all_runs_of_a_campaign_at_once(campaign_file, terminal):
    path = campaign_file(configurations=["ce", "ce-dice"], folds=[1], workers=2)
    make_locally(load_campaign(path), console=terminal, device="cpu")
    shown = terminal.file.getvalue()
    assert "running" in shown
    last = [line.split() for line in shown.splitlines() if "_fold1_restart1" in line][-2:]
    assert [line[:2] for line in last] == [["ce_fold1_restart1", "finished"], ["ce-dice_fold1_restart1", "finished"]]
    assert all("3/3" in line for line in last)
    assert "2 finished" in shown
