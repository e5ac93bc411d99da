"""One small world for all commands: an archive of phantoms, and what the commands themselves make of it."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from tiny import tiny_profile

from algorithm.__main__ import main as algorithm
from contract.cards import load_card
from contract.volume import read_volume, write_volume
from evaluation.__main__ import main as evaluation
from phantom.__main__ import main as phantom
from training.__main__ import main as training

CARD = "cspca-picai"

CAMPAIGN = """
schema_version = 1
prepared = "prepared"
output = "runs"
profile = "tiny.toml"
configurations = ["ce"]
folds = [0]
restarts = [1, 2]
"""

ANALYSIS = """
schema_version = 1
name = "ce against fl"

comparisons = [["ce", "fl"]]
metrics = ["auroc"]
replicates = 100
swaps = 100
subgroups = ["centre"]
looks = [2]
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files by the names that the rows of commands use; nothing in it is ever changed."""
    root = tmp_path_factory.mktemp("world")
    archive = root / "archive"
    made = ["--positive-fraction", "1/2", "--seed", "1", "--output", archive]
    _succeed(phantom, "--card", CARD, "--cases", 4, *made)
    (root / "tiny.toml").write_text(tiny_profile())
    (root / "campaign.toml").write_text(CAMPAIGN)
    (root / "analysis.toml").write_text(ANALYSIS)
    shutil.copy(Path("contract/cards") / f"{CARD}.toml", root / "card.toml")
    _succeed(training, "prepare", "--card", CARD, "--archive", archive, "--output", root / "prepared", "--folds", 2)
    for restart in (1, 2):
        run = ["--prepared", root / "prepared", "--configuration", "ce", "--fold", 0, "--restart", restart]
        output = root / "runs" / f"ce_fold0_restart{restart}"
        _succeed(training, "run", *run, "--profile", root / "tiny.toml", "--output", output, "--device", "cpu")
    _succeed(training, "bundle", "--runs", root / "runs", "--output", root / "model.tar.gz")
    with tarfile.open(root / "model.tar.gz") as tar:
        tar.extractall(root / "model", filter="data")
    batch = ["batch", "--archive", archive, "--model", root / "model", "--no-mirroring", "--threads", 1]
    _succeed(algorithm, *batch, "--members", "each", "--output", root / "predictions")
    truth = root / "truth"
    shutil.copytree(archive / "labels", truth)
    shutil.copy(root / "card.toml", truth)
    (truth / "settings.json").write_text('{"few_patients": true}')
    score = ["score", "--predictions", root / "predictions", "--truth", truth, "--training-studies-too"]
    _succeed(evaluation, *score, "--output", root / "scores")
    _others(root)
    (root / "input").mkdir()
    shutil.copytree(root / "predictions" / "ce_fold0_restart1", root / "submission")
    _lay_out_study(root)
    probability = root / "probability"
    for path in sorted((root / "submission").glob("*/output/images/*/*.mha")):
        write_volume(probability / path.name, read_volume(path))
    return root


def _others(root: Path) -> None:
    """A second configuration's scores: those of the first under another name."""
    shutil.copytree(root / "scores", root / "scores-of-fl")
    for source in (root / "scores-of-fl").rglob("source.json"):
        record = json.loads(source.read_text())
        source.write_text(json.dumps({**record, "configuration": "fl"}))
    case_ids = [label.name.removesuffix(".nii.gz") for label in sorted((root / "truth").glob("*.nii.gz"))]
    rows = ["patient_id,study_id,centre", *(f"{case_id.replace('_', ',')},A" for case_id in case_ids)]
    (root / "marksheet.csv").write_text("\n".join(rows) + "\n")
    rows = ["case_id,patient_id", *(f"{case_id},{case_id.partition('_')[0]}" for case_id in case_ids)]
    (root / "patients.csv").write_text("\n".join(rows) + "\n")
    values = [("ce", 1, 0.8), ("ce", 2, 0.82), ("fl", 1, 0.7), ("fl", 2, 0.72)]
    rows = [
        "configuration,fold,restart,auroc,ap",
        *(f"{name},0,{restart},{auroc},0.5" for name, restart, auroc in values),
    ]
    (root / "runs.csv").write_text("\n".join(rows) + "\n")
    readers = [
        f"R{reader},{case_id},{(number + reader) % 5 + 1}"
        for reader in (1, 2)
        for number, case_id in enumerate(case_ids)
    ]
    (root / "readers.csv").write_text("\n".join(["reader,case_id,score", *readers]) + "\n")
    sizes = next((root / "scores").rglob("sizes.csv")).read_text().splitlines()[1:]
    rows = ["case_id,lesion,grade", *(",".join([*row.split(",")[:2], "2"]) for row in sizes)]
    (root / "lesions.csv").write_text("\n".join(rows) + "\n")
    plan = ["plan", "power", "--studies", 20, "--runs", 2, "--cases", 40, "--output", root / "planned"]
    _succeed(evaluation, *plan)
    shutil.copy(root / "planned" / "plan.json", root / "plan.json")


def _lay_out_study(root: Path) -> None:
    """``/input`` of one study, as the platform has it."""
    card = load_card(CARD)
    patient = sorted(path for path in (root / "archive").iterdir() if path.name.isdigit())[0]
    for channel in card.channels:
        folder = root / "input" / channel.socket.relative_path
        folder.mkdir(parents=True)
        image = next(patient.glob(f"*_{channel.name}.mha"))
        shutil.copy(image, folder / "image.mha")


def _succeed(main, *arguments: object) -> None:
    words = [str(each) for each in arguments]
    assert main(words) == 0, words
