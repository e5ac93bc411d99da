"""A small evaluation that keeps every rule; as a case, ``honest`` then scores a submission.

The figure is the area under the ROC curve by counting pairs. What ``DEFECT`` names replaces functions here.
"""

import json
from pathlib import Path

import honest
import numpy as np
import SimpleITK as sitk

TRUTH = Path("/opt/ml/input/data/ground_truth")


def score(_: float) -> None:
    """One submission, from reading to writing."""
    positive, likelihoods = {}, {}
    for path in sorted(TRUTH.glob("*.mha")):
        label = sitk.ReadImage(str(path))
        positive[path.stem] = bool(sitk.GetArrayFromImage(label).any())
        likelihoods[path.stem] = read_job(path.stem, label)
    write(metrics(positive, likelihoods))


def read_job(case: str, label: sitk.Image) -> float:
    """A case's likelihood, where its map lies on the truth's grid and is finite."""
    for job in jobs():
        if job["inputs"][0]["image"]["name"].startswith(f"{case}_"):
            folder = honest.INPUT / job["pk"] / "output"
            for path in (folder / "images/cspca-detection-map").glob("*.mha"):
                found = sitk.ReadImage(str(path))
                if found.GetSize() != label.GetSize() or not np.allclose(found.GetSpacing(), label.GetSpacing()):
                    raise honest.RefusedError(f"case {case}: expected a map on the truth's grid, found another")
                if not np.isfinite(sitk.GetArrayFromImage(found)).all():
                    raise honest.RefusedError(f"case {case}: expected finite values, found NaN")
                return json.loads((folder / "cspca-case-level-likelihood.json").read_text())
            raise honest.RefusedError(f"case {case}: expected a map, found none")
    raise honest.RefusedError(f"case {case}: expected a job, found none")


def jobs() -> list[dict]:
    """The jobs, in the platform's order."""
    return json.loads((honest.INPUT / "predictions.json").read_text())


def metrics(positive: dict[str, bool], likelihoods: dict[str, float]) -> dict:
    """What is written."""
    high = [likelihoods[case] for case in positive if positive[case]]
    low = [likelihoods[case] for case in positive if not positive[case]]
    if not (high and low):
        raise honest.RefusedError("expected positive and negative cases, found one kind")
    pairs = [(a > b) + (a == b) / 2 for a in high for b in low]
    return {"strict": {"score": sum(pairs) / len(pairs), "cases": len(positive)}}


def write(values: dict) -> None:
    """Write ``metrics.json``."""
    (honest.OUTPUT / "metrics.json").write_text(json.dumps(values))


honest.load, honest.predict = float, score
