"""nnDetection's files in a run's folder."""

from pathlib import Path

from training.run_folder.folder import RunFolder

FOLD = 0
"""nnDetection's number of the run's fold: the splits that it is given contain no other."""
NEEDED = (f"model_fold{FOLD}.ckpt", "plan_inference.pkl", "config.yaml")
"""Files of a consolidated model that ``nndet_predict`` reads."""
REPORTS = ("meta.json", "requirements.txt")
"""Files next to the trained fold in which nnDetection describes itself."""


def model_folder(folder: RunFolder) -> Path:
    """The trained model, as nnDetection's programs left it."""
    return folder.path / "nndetection"


def model_record(folder: RunFolder) -> Path:
    """Which programs made the model, and its files (``training.nndetection.model.UpstreamRecord``)."""
    return folder.path / "nndetection.json"


def work_folder(folder: RunFolder) -> Path:
    """Data and models while nnDetection is trained."""
    return folder.work / "nndetection"


def steps_file(folder: RunFolder) -> Path:
    """The steps of the training that are done."""
    return work_folder(folder) / "steps.json"
