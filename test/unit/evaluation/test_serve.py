"""``python -m evaluation serve``: submissions in turn, each with the metrics of a process of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import PROJECT
from programs import ask, python

from evaluation.__main__ import main


@pytest.fixture
def submissions(workshop) -> list[Path]:
    maps = {"a": workshop.image({0.75: workshop.box}), "b": workshop.image({0.25: workshop.elsewhere})}
    return [
        workshop.batch(maps, {"a": likelihood, "b": 0.5}, name=f"submission{number}")
        for number, likelihood in enumerate((0.8, 0.2))
    ]


@pytest.fixture
def truth(workshop) -> Path:
    return workshop.truth({"a": workshop.image({1: workshop.box}), "b": workshop.image()})


def test_submissions_in_turn_get_the_metrics_of_a_process_of_their_own(workshop, submissions, truth):
    alone = []
    for number, submission in enumerate(submissions):
        output = workshop.root / f"alone{number}"
        assert main(["--input", str(submission), "--truth", str(truth), "--output", str(output)]) == 0
        alone.append((output / "metrics.json").read_bytes())
    assert alone[0] != alone[1]

    place, output = workshop.root / "input", workshop.root / "output"
    options = ["--port", "0", "--input", str(place), "--truth", str(truth), "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-m", "evaluation", "serve", *options],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = next(line for line in process.stdout if "ready for cases on port" in line)
            port = int(line.split()[-1])
            assert ask(port, "GET", "/health") == 200
            for number in (0, 1, 0):
                shutil.rmtree(place, ignore_errors=True)
                shutil.rmtree(output, ignore_errors=True)
                shutil.copytree(submissions[number], place)
                assert ask(port, "POST", "/invoke") == 201
                assert (output / "metrics.json").read_bytes() == alone[number]
            shutil.rmtree(output)
            (place / "predictions.json").write_text("[]")
            assert ask(port, "POST", "/invoke") == 500
            assert not output.exists()
        finally:
            process.terminate()
        stderr = process.stderr.read()
    assert process.returncode == 0
    reason = f"error: {place / 'predictions.json'}: expected a list of jobs, found an empty list\n"
    assert stderr == reason * 2  # at once, and as the last line of all


def test_a_truth_that_is_none_ends_the_server_with_one_line(tmp_path):
    ended = python("-m", "evaluation", "serve", "--port", "0", "--truth", tmp_path / "none")
    assert ended.returncode == 3
    assert ended.stderr == f"error: {tmp_path / 'none'}: folder of label maps not found\n"
