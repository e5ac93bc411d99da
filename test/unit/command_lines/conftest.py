"""Inputs of all commands: an archive of phantoms, and what the commands themselves make of it."""

import json
import shutil
from pathlib import Path

import pytest
from demo_files import CARD, make_demo_files, succeed

from contract.card import CARDS
from contract.images.volume import read_volume, write_volume

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
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and files by the names that the rows of commands use; nothing in it is ever changed."""
    root = tmp_path_factory.mktemp("demo")
    runs = {f"ce_fold0_restart{restart}": ("ce", restart) for restart in (1, 2)}
    make_demo_files(root, runs, bundled=".", study="input")
    (root / "campaign.toml").write_text(CAMPAIGN)
    (root / "analysis.toml").write_text(ANALYSIS)
    shutil.copy(CARDS / f"{CARD}.toml", root / "card.toml")
    archive = root / "archive"
    batch = ["batch", "--archive", archive, "--model", root / "model", "--no-mirroring", "--threads", 1]
    succeed("algorithm", *batch, "--members", "each", "--output", root / "predictions")
    truth = root / "truth"
    shutil.copytree(archive / "labels", truth)
    shutil.copy(root / "card.toml", truth)
    (truth / "settings.json").write_text('{"few_patients": true}')
    score = ["score", "--predictions", root / "predictions", "--truth", truth, "--training-studies-too"]
    succeed("evaluation", *score, "--output", root / "scores")
    _others(root)
    shutil.copytree(root / "predictions" / "ce_fold0_restart1", root / "submission")
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
    succeed("evaluation", *plan)
    shutil.copy(root / "planned" / "plan.json", root / "plan.json")
