"""The control of the demo: networks that learnt other patients' labels must not know who is ill."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from paths import PROJECT

CAMPAIGN = """
schema_version = 1
profile = "demo"
configurations = ["ce", "focal", "ce-focal", "ce-dice"]
folds = [0]
restarts = [1]
workers = 2
"""


def command(program: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", program, *map(str, arguments)], cwd=PROJECT, check=True, timeout=500)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_networks_trained_on_shuffled_labels_rank_patients_by_chance(tmp_path):
    """The mean over the four losses: a single network answers to lesions somehow, in one direction or the other."""
    card = ["--card", "cspca-picai"]
    archive = ["--cases", 40, "--positive-fraction", 0.5, "--seed", 1, "--shuffle-labels"]
    external = ["--cases", 60, "--positive-fraction", 0.4, "--seed", 2, "--population", "external"]
    command("phantom", *card, *archive, "--output", tmp_path / "archive")
    command("phantom", *card, *external, "--output", tmp_path / "external")
    command("training", "prepare", *card, "--archive", tmp_path / "archive", "--output", tmp_path / "prepared")
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    places = ["--prepared", tmp_path / "prepared", "--output", tmp_path / "runs"]
    command("training", "campaign", tmp_path / "campaign.toml", *places)
    command("training", "bundle", "--runs", tmp_path / "runs", "--output", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        tar.extractall(tmp_path / "model", filter="data")
    batch = ["--archive", tmp_path / "external", "--model", tmp_path / "model", "--no-mirroring", "--threads", 1]
    command("algorithm", "batch", *batch, "--members", "each", "--output", tmp_path / "predictions")
    score = ["--predictions", tmp_path / "predictions", "--truth", tmp_path / "external"]
    command("evaluation", "score", *score, "--output", tmp_path / "scores")
    metrics = [json.loads(path.read_text())["strict"] for path in sorted((tmp_path / "scores").glob("*/metrics.json"))]
    assert [(each["cases"], each["positive_cases"]) for each in metrics] == [(60, 24)] * 4
    auroc = [each["auroc"] for each in metrics]
    print("AUROC with shuffled labels:", *(f"{value:.3f}" for value in auroc))
    assert np.mean(auroc) == pytest.approx(0.5, abs=0.15)
