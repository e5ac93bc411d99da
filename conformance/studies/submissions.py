"""Submissions as the platform gives them to an evaluation: ``predictions.json`` and a folder per job, in random order.

The cases are those of a truth folder, or four synthetic ones. The lesions of positive cases are found with confidences
0.9 and 0.2 in turn, and one negative case has a false positive of 0.3, so perfect metrics would be wrong.
"""

import json
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.engine.container_engine import Files
from conformance.studies.synthetic_studies import FIRST, SECOND, Point, describe_input, describe_socket, image_bytes
from contract.card import CARDS, Card, Socket
from contract.images.grid import Grid
from contract.images.volume import image_stem, is_image, read_label

Truth = Mapping[str, "Label"]


@dataclass(frozen=True)
class Label:
    """The label map of a case."""

    array: Any
    """Label values of the card, shape (z, y, x)."""
    grid: Grid


@dataclass(frozen=True)
class SyntheticPrediction:
    """Outputs of an algorithm for a case, correct or not."""

    array: Any
    grid: Grid
    likelihood: Any
    has_map: bool = True


def made_truth(card: Card, *, positives: int = 2, cases: int = 4) -> Truth:
    """Synthetic label maps, the first ``positives`` of them with a lesion."""
    value = next(each.values[0] for each in card.classes if each.name == card.lesion_class)
    truth = {}
    for number in range(cases):
        shape = (FIRST, SECOND)[number % 2]
        grid = shape.grid()
        array = np.zeros(grid.shape_zyx, np.uint8)
        if number < positives:
            array[_ball(grid, shape.lesion())] = value
        truth[f"{10000 + number}_{1000000 + 7 * number}"] = Label(array, grid)
    return truth


def read_truth_folder(folder: Path) -> Truth:
    """Label maps of a folder, directly in it or in ``labels``, by case id."""
    place = folder / "labels" if (folder / "labels").is_dir() else folder
    truth = {}
    for path in sorted(place.iterdir()):
        if is_image(path):
            label = read_label(path)
            truth[image_stem(path).removesuffix("_label")] = Label(label.array, label.grid)
    return truth


def truth_files(card: Card, truth: Truth) -> Files:
    """A truth folder's files, with the card."""
    files = {
        f"{case_id}.mha": image_bytes(label.array.astype(np.uint8), label.grid, compressed=True)
        for case_id, label in truth.items()
    }
    text = CARDS / f"{card.name}.toml"
    return {**files, "card.toml": text.read_bytes()} if text.is_file() else files


def synthetic_predictions(card: Card, truth: Truth) -> dict[str, SyntheticPrediction]:
    """Good predictions with one false alarm, by case id."""
    lesion = next(each.values for each in card.classes if each.name == card.lesion_class)
    found: dict[str, SyntheticPrediction] = {}
    positives, alarmed = 0, False
    for case_id, label in truth.items():
        inside = np.isin(label.array, lesion)
        array = np.where(inside, (0.9, 0.2)[positives % 2], 0.0).astype(np.float32)
        positives += int(inside.any())
        if not inside.any() and not alarmed:
            z, y, x = (size // 2 for size in array.shape)
            array[z : z + 2, y : y + 4, x : x + 4] = 0.3
            alarmed = True
        found[case_id] = SyntheticPrediction(array, label.grid, float(array.max()))
    return found


def submission(card: Card, predictions: Mapping[str, SyntheticPrediction], *, seed: int = 0) -> Files:
    """Files of an evaluation's ``/input``; the seed determines the jobs' names and order."""
    jobs, files = [], {}
    for case_id, prediction in predictions.items():
        pk = str(uuid.uuid5(uuid.NAMESPACE_URL, f"job/{seed}/{case_id}"))
        jobs.append(job(card, case_id, pk))
        if prediction.has_map:
            name = f"{pk}/output/{card.detection_map.relative_path}/{uuid.uuid5(uuid.NAMESPACE_URL, pk)}.mha"
            files[name] = image_bytes(prediction.array, prediction.grid, compressed=True)
        text = json.dumps(prediction.likelihood)
        files[f"{pk}/output/{card.likelihood.relative_path}"] = text.encode()
    random.Random(seed).shuffle(jobs)
    return {**files, "predictions.json": json.dumps(jobs).encode()}


def job(card: Card, case_id: str, pk: str, *, seconds: float = 37.5) -> dict[str, Any]:
    """An entry of ``predictions.json`` with all fields that the platform writes."""
    keys = ("socket", "interface")
    return {
        "pk": pk,
        "url": f"https://example.org/algorithms/a/jobs/{pk}/",
        "api_url": f"https://example.org/api/v1/algorithms/jobs/{pk}/",
        "algorithm_image": "https://example.org/api/v1/algorithms/images/1/",
        "inputs": [
            describe_input(each.socket, name=case_id, keys=keys, image=True, image_name=f"{case_id}_{each.name}.mha")
            for each in card.channels
        ],
        "outputs": [_output(socket, pk) for socket in (card.detection_map, card.likelihood)],
        "status": "Succeeded",
        "rendered_result_text": "",
        "exec_duration": f"P0DT00H00M{seconds:09.6f}S",
        "invoke_duration": None,
        "hanging_protocol": None,
        "optional_hanging_protocols": [],
        "view_content": {},
    }


Spoil = Callable[[dict[str, SyntheticPrediction]], None]


def _first(predictions: Mapping[str, SyntheticPrediction]) -> str:
    return next(iter(predictions))


def without_map(predictions: dict[str, SyntheticPrediction]) -> None:
    """One case's map is missing."""
    case_id = _first(predictions)
    predictions[case_id] = replace(predictions[case_id], has_map=False)


def without_job(predictions: dict[str, SyntheticPrediction]) -> None:
    """One case has no job at all."""
    del predictions[_first(predictions)]


def on_another_grid(predictions: dict[str, SyntheticPrediction]) -> None:
    """One map has another spacing and one slice less."""
    case_id = _first(predictions)
    old = predictions[case_id]
    x, y, z = old.grid.spacing_mm_xyz
    sx, sy, sz = old.grid.size_xyz
    grid = Grid((sx, sy, sz - 1), (x * 1.1, y, z), old.grid.origin_mm_xyz, old.grid.direction)
    predictions[case_id] = replace(old, array=old.array[:-1], grid=grid)


def with_nan(predictions: dict[str, SyntheticPrediction]) -> None:
    """One map holds NaN."""
    case_id = _first(predictions)
    array = predictions[case_id].array.copy()
    array[0, 0, 0] = np.nan
    predictions[case_id] = replace(predictions[case_id], array=array)


def as_softmax(predictions: dict[str, SyntheticPrediction]) -> None:
    """One map is a smooth probability instead of candidates."""
    case_id = _first(predictions)
    grid = predictions[case_id].grid
    distance = np.linalg.norm(grid.centres_mm() - _centre(grid)[:, None, None, None], axis=0)
    array = (0.9 * np.exp(-((distance / 15.0) ** 2))).astype(np.float32)
    predictions[case_id] = replace(predictions[case_id], array=array, likelihood=float(array.max()))


def _output(socket: Socket, pk: str) -> dict[str, Any]:
    described = describe_socket(socket, image=socket.relative_path.startswith("images/"))
    number = uuid.uuid5(uuid.NAMESPACE_URL, pk + socket.slug).int % 10**6
    return {"socket": described, "interface": described, "value": None, "file": None, "image": None, "pk": number}


def _ball(grid: Grid, centre: Point) -> Any:
    """Voxels within 6 mm."""
    return ((grid.centres_mm() - np.array(centre)[:, None, None, None]) ** 2).sum(axis=0) <= 6.0**2


def _centre(grid: Grid) -> Any:
    return grid.corners_mm().mean(axis=0)
