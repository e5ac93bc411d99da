"""``python -m algorithm serve``: the same bytes as a process per study, and nothing of one study in the next."""

import shutil
import subprocess
import sys
import time

import pytest
from paths import PROJECT
from programs import ask, python

from contract.card import load_card

CARD = load_card("cspca-picai")


def outputs(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def studies(make_channels, tmp_path):
    """Two studies as the platform lays them out."""
    folders = []
    for number in range(2):
        paths = make_channels(tmp_path / f"loose{number}", "x", seed=number)
        for channel in CARD.channels:
            target = tmp_path / f"study{number}" / channel.socket.relative_path / f"uuid-{number}.mha"
            target.parent.mkdir(parents=True)
            shutil.copy(paths[channel.name], target)
        folders.append(tmp_path / f"study{number}")
    return folders


@pytest.fixture
def start():
    """Start the server on a free port and wait until it is ready."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "algorithm", "serve", "--port", "0", "--threads", "1", *map(str, arguments)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "ready for cases on port" in line:
                return process, int(line.split()[-1])
        raise AssertionError(process.stderr and process.stderr.read())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_consecutive_studies_get_the_results_of_separate_processes(make_bundle, studies, start, tmp_path):
    model = make_bundle()
    alone = []
    for number, study in enumerate(studies):
        output = tmp_path / f"alone{number}"
        words = ("--input", study, "--output", output, "--model", model, "--threads", 1)
        assert python("-m", "algorithm", *words).returncode == 0
        alone.append(outputs(output))
    assert alone[0] != alone[1]

    place, output = tmp_path / "input", tmp_path / "output"
    process, port = start("--input", place, "--output", output, "--model", model)
    for number in (0, 1, 0):
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(studies[number], place)
        output.mkdir()
        assert ask(port, "POST", "/invoke") == 201
        assert outputs(output) == alone[number]

    shutil.rmtree(place / CARD.channels[1].socket.relative_path)
    assert ask(port, "POST", "/invoke") == 500
    assert outputs(output) == {}  # nor the last patient's
    shutil.rmtree(place)
    shutil.copytree(studies[1], place)
    assert ask(port, "POST", "/invoke") == 201
    assert outputs(output) == alone[1]

    begun = time.monotonic()
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert time.monotonic() - begun < 5
    (line,) = stderr.splitlines()
    assert line.startswith("error: ") and "transverse-adc-prostate-mri" in line


def test_a_model_that_is_none_ends_the_server_with_one_line(tmp_path):
    (tmp_path / "model").mkdir()
    ended = python("-m", "algorithm", "serve", "--port", "0", "--model", tmp_path / "model")
    assert ended.returncode == 3
    assert ended.stderr == f"error: {tmp_path / 'model'}: expected an extracted model bundle, found no bundle.json\n"
