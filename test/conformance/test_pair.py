"""The pair proves itself: algorithm image → the platform's layout → evaluation image gives what batch and score give.

Five studies by formula. The model finds what is bright, and the truth disagrees twice: one lesion is not in it, and one
that it names cannot be seen. So the figures are no perfect ones, and depend on each job being matched to its case.
"""

import json
import random
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from paths import PROJECT

from conformance.engine.container_engine import session
from conformance.engine.hosted_image import HostedImage, scratch_folder
from conformance.lesion_model import make_model
from conformance.studies.submissions import job, made_truth, truth_files
from conformance.studies.synthetic_studies import FIRST, SECOND, make_study
from conformance.uploads.archives import folder_files
from contract.card import load_card

CARD = load_card("cspca-picai")
# Case → where it lies, whether a lesion can be seen, whether the truth has one.
CASES = {
    "10000_1000000": (FIRST, True, True),
    "10001_1000007": (SECOND, True, True),
    "10002_1000014": (FIRST, True, False),
    "10003_1000021": (SECOND, False, True),
    "10004_1000028": (FIRST, False, False),
}


@pytest.fixture(scope="module")
def truth() -> dict:
    of_shape = {FIRST: made_truth(CARD, positives=1, cases=1), SECOND: made_truth(CARD, positives=2, cases=2)}
    found = {}
    for case_id, (shape, _, positive) in CASES.items():
        label = list(of_shape[shape].values())[-1]
        found[case_id] = label if positive else type(label)(label.array * 0, label.grid)
    return found


@pytest.fixture(scope="module")
def studies() -> dict:
    return {
        case_id: make_study(CARD, shape=shape, name=case_id, lesion=visible)
        for case_id, (shape, visible, _) in CASES.items()
    }


def write(files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_images_give_the_metrics_of_batch_and_score_to_four_decimals(engine, truth, studies, tmp_path):
    model = make_model(tmp_path / "model")
    with session(engine) as used, scratch_folder() as work:
        algorithm = HostedImage(used, "oncoduet-algorithm-exec", work, model=folder_files(model))
        jobs, submission = [], {}
        for case_id, study in studies.items():
            case = algorithm.run_once(study.files)
            assert case.succeeded, case.how
            pk = str(uuid.uuid5(uuid.NAMESPACE_URL, f"pair/{case_id}"))
            jobs.append(job(CARD, case_id, pk, seconds=case.seconds))
            submission |= {f"{pk}/output/{path}": content for path, content in folder_files(case.output).items()}
        random.Random(5).shuffle(jobs)
        submission["predictions.json"] = json.dumps(jobs).encode()
        evaluation = HostedImage(used, "oncoduet-evaluation-exec", work, truth=truth_files(CARD, truth))
        scored = evaluation.run_once(submission)
        assert scored.succeeded, scored.how
        platform = json.loads((scored.output / "metrics.json").read_text())

    archive = tmp_path / "archive"
    for case_id, study in studies.items():
        for channel in CARD.channels:
            (content,) = [c for path, c in study.files.items() if path.startswith(channel.socket.relative_path)]
            folder = archive / case_id.partition("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{case_id}_{channel.name}.mha").write_bytes(content)
    run("algorithm", "batch", "--archive", archive, "--output", tmp_path / "batch", "--model", model, "--threads", 2)
    write(truth_files(CARD, truth), tmp_path / "truth")
    scores = tmp_path / "scores"
    run("evaluation", "score", "--predictions", tmp_path / "batch", "--truth", tmp_path / "truth", "--output", scores)
    local = json.loads((scores / "metrics.json").read_text())
    for answer in ("strict", "picai"):
        sensitivities = platform[answer].pop("lesion_sensitivity_at_fp"), local[answer].pop("lesion_sensitivity_at_fp")
        for shown, exact in ((platform[answer], local[answer]), sensitivities):
            assert shown == pytest.approx(exact, abs=5e-5)  # five cases hide nothing: four decimals
    # One lesion is missed and one found that is none: no figure is perfect.
    assert (local["strict"]["cases"], local["strict"]["positive_cases"], local["strict"]["lesions"]) == (5, 3, 3)
    assert 0 < local["strict"]["score"] < 1


def run(program: str, *arguments: object) -> None:
    command = [sys.executable, "-m", program, *map(str, arguments)]
    subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
