"""A stand-in for nnDetection's programs: its command lines, folders, checks and file schemas, and no network.

It was written by reading MIC-DKFZ/nnDetection 97a58f3, which cannot be installed beside this project, and holds to what
can be seen from outside: which files a program demands, which words it takes, what it refuses, what it leaves and in
which schema. In place of a network it finds what is bright in the last channel, so that its boxes mean something.

``FAKE_NNDET`` in the environment asks for trouble, as words apart by blanks:

* ``fail:PROGRAM``: it fails as an exception does, its last line on stderr;
* ``hang:PROGRAM``: it never ends; a training hangs once it has written its first checkpoint, and not when resumed;
* ``nothing:PROGRAM``: it succeeds and leaves nothing;
* ``stale``, ``missing``, ``foreign``, ``evil``: the prediction leaves an old file, none for a study, one for a study
  that nobody asked for, one with a call in it.
"""

# ruff: noqa: PLC0415, SIM112 - each program imports what it needs; the variables are nnDetection's

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

PLAN, MODULE = "D3V001_3d", "RetinaUNetV001"
TROUBLE = os.environ.get("FAKE_NNDET", "").split()
NUMPY_2, NUMPY_1 = b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"


def main(program: str) -> None:
    for name in ("det_data", "det_models", "OMP_NUM_THREADS"):
        if name not in os.environ:
            raise RuntimeError(f"'{name}' environment variable not set. ")
    print(f"{program} says {sys.argv[1:]}", flush=True)
    if f"fail:{program}" in TROUBLE:
        raise ValueError(f"{program} found no GPU")
    if f"nothing:{program}" in TROUBLE:
        return
    if f"hang:{program}" in TROUBLE and program != "nndet_train":
        hang()
    PROGRAMS[program]()


def hang() -> None:
    """Start another process, as loaders of batches are, and wait with it; their numbers stand in the working folder."""
    other = subprocess.Popen(["sleep", "600"])
    Path("hanging.partial").write_text(f"{os.getpid()} {other.pid}")
    Path("hanging.partial").rename("hanging")
    other.wait()


def prep() -> None:
    import numpy as np
    import SimpleITK as sitk

    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="+")
    (task,) = parser.parse_args().tasks
    folder = task_folder(task)
    description = json.loads((folder / "dataset.json").read_text())
    for key, kind in [("task", str), ("dim", int), ("labels", dict), ("modalities", dict)]:
        assert isinstance(description[key], kind), key
    assert description["task"] == folder.name
    assert sorted(map(int, description["labels"])) == list(range(len(description["labels"])))
    assert isinstance(description["target_class"], int)
    raw = folder / "raw_splitted"
    if "." in str(raw / "imagesTr"):
        raise ValueError("Avoid '.' in paths since this confuses nnDetection in its current version")
    unpacked = folder / "preprocessed" / PLAN / "imagesTr"
    unpacked.mkdir(parents=True)
    for case_id in case_ids(raw / "imagesTr"):
        images = [sitk.ReadImage(str(path)) for path in channels(raw / "imagesTr", case_id, description)]
        label = sitk.ReadImage(str(raw / "labelsTr" / f"{case_id}.nii.gz"))
        for image in [*images[1:], label]:
            assert image.GetSize() == images[0].GetSize()
            for get in ("GetOrigin", "GetSpacing", "GetDirection"):
                assert np.allclose(getattr(image, get)(), getattr(images[0], get)())
        instances = json.loads((raw / "labelsTr" / f"{case_id}.json").read_text())["instances"]
        assert all(isinstance(key, str) and isinstance(value, int) for key, value in instances.items())
        assert {str(value) for value in instances.values()} <= set(description["labels"])
        array = sitk.GetArrayFromImage(label)
        assert sorted(map(int, instances)) == list(range(1, len(instances) + 1))
        assert np.unique(array[array > 0]).tolist() == sorted(map(int, instances))
        data = np.stack([sitk.GetArrayFromImage(image) for image in images])
        np.savez_compressed(unpacked / f"{case_id}.npz", data=data, seg=array[None])
        save_pickle({"instances": instances}, unpacked / f"{case_id}.pkl")
    save_pickle({"data_identifier": PLAN, "num_modalities": len(description["modalities"])}, plan_file(folder))


def unpack() -> None:
    import numpy as np

    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("num_processes", type=int)
    for path in parser.parse_args().path.glob("*.npz"):
        if not path.with_suffix(".npy").is_file():  # and so a half-written one is taken for a whole one
            np.save(path.with_suffix(".npy"), np.load(path)["data"])


def train() -> None:
    import numpy as np

    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("-o", "--overwrites", nargs="+", default=[])
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    settings = dict(each.split("=", 1) for each in options.overwrites)
    folder = task_folder(options.task)
    fold = int(settings.get("exp.fold", 0))
    unpacked = folder / "preprocessed" / PLAN / "imagesTr"
    for path in unpacked.glob("*.npz"):
        if not path.with_suffix(".npy").is_file():
            raise RuntimeError("Unpack data first!")
        np.load(path.with_suffix(".npy"))
    splits = load_pickle(folder / "preprocessed" / "splits_final.pkl")
    for keys in splits[fold].values():
        keys.sort()
        assert all((unpacked / f"{key}.npy").is_file() for key in keys)
    output = Path(os.environ["det_models"]) / folder.name / f"{MODULE}_{PLAN}" / f"fold{fold}"
    resumed = settings.get("train.mode") == "resume"
    if resumed and not output.is_dir():
        raise ValueError(f"{output} is not a valid training dir and thus can not be resumed")
    output.mkdir(parents=True, exist_ok=True)
    epochs = int(settings.get("trainer_cfg.max_num_epochs", 50))
    last = output / "model_last.ckpt"
    done = json.loads(last.read_text())["epoch"] if resumed else 0
    meta = {"torch_version": "1.11.0", "date": "2021", "git": {"hash": "97a58f3" + 33 * "0", "gitdir": "/nndet/.git"}}
    (output / "meta.json").write_text(json.dumps(meta))
    (output / "requirements.txt").write_text("torch==1.11.0\n")
    (output / "config.yaml").write_text(json.dumps({"task": folder.name, "exp": {"fold": fold}}))
    shutil.copy(plan_file(folder), output / "plan.pkl")
    save_pickle(splits, output / "splits.pkl")
    (output / "model_best.ckpt").write_text(json.dumps({"epoch": 1}))
    last.write_text(json.dumps({"epoch": done + 1, "resumed_at": done}))
    if "hang:nndet_train" in TROUBLE and not resumed:
        hang()
    last.write_text(json.dumps({"epoch": epochs, "resumed_at": done}))


def sweep() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("fold", type=int)
    options = parser.parse_args()
    folder = Path(os.environ["det_models"]) / options.task / options.model / f"fold{options.fold}"
    assert (folder / "model_last.ckpt").is_file()
    (folder / "sweep_predictions").mkdir()
    for case_id in load_pickle(folder / "splits.pkl")[options.fold]["val"]:
        (folder / "sweep_predictions" / f"{case_id}_boxes.pt").touch()
    save_pickle({"inference_plan": {"model_nms_fn": print}}, folder / "plan_inference.pkl")


def consolidate() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("-c", "--consolidate", default="export")
    parser.add_argument("--num_folds", type=int, default=5)
    parser.add_argument("--sweep_boxes", action="store_true")
    options = parser.parse_args()
    if options.consolidate == "export" and not options.sweep_boxes:
        raise ValueError("Export needs new parameter sweep!")
    folder = Path(os.environ["det_models"]) / options.task / options.model
    target = folder / "consolidated"
    target.mkdir()
    for fold in range(options.num_folds):
        assert any((folder / f"fold{fold}" / "sweep_predictions").iterdir())
        shutil.copy2(folder / f"fold{fold}" / "model_last.ckpt", target / f"model_fold{fold}.ckpt")
    shutil.copy2(folder / "fold0" / "config.yaml", target)
    save_pickle({"data_identifier": PLAN, "inference_plan": {"model_nms_fn": print}}, target / "plan_inference.pkl")


def predict() -> None:
    import SimpleITK as sitk

    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("-f", "--fold", type=int, default=-1)
    parser.add_argument("-ntta", "--num_tta", type=int)
    options = parser.parse_args()
    folder = task_folder(options.task)
    model = Path(os.environ["det_models"]) / folder.name / options.model / "consolidated"
    assert options.fold == -1
    assert json.loads((model / "config.yaml").read_text())["task"] == folder.name
    assert load_pickle(model / "plan_inference.pkl")["data_identifier"] == PLAN
    assert list(model.glob("*.ckpt"))
    raw = folder / "raw_splitted"
    description = json.loads((folder / "dataset.json").read_text())
    predictions = model / "test_predictions"
    predictions.mkdir(exist_ok=True)
    names = case_ids(raw / "imagesTs")
    for case_id in names:
        last = sitk.ReadImage(str(channels(raw / "imagesTs", case_id, description)[-1]))
        save_pickle(boxes(last), predictions / f"{case_id}_boxes.pkl")
    first = predictions / f"{names[0]}_boxes.pkl"
    if "stale" in TROUBLE:
        os.utime(first, (1e9, 1e9))
    if "missing" in TROUBLE:
        first.unlink()
    if "foreign" in TROUBLE:
        shutil.copy(first, predictions / "of_another_boxes.pkl")
    if "evil" in TROUBLE:
        first.write_bytes(pickle.dumps({"pred_boxes": Call()}))


class Call:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return os.system, (f"touch {os.environ['FAKE_NNDET_VICTIM']}",)


def boxes(image) -> dict[str, object]:
    """What is brighter than the rest of the image, as nnDetection writes it: its boxes begin one voxel earlier."""
    import numpy as np
    import SimpleITK as sitk
    from scipy import ndimage

    array = sitk.GetArrayFromImage(image)
    found, count = ndimage.label(array > array.mean() + 4 * array.std(), structure=np.ones((3, 3, 3)))
    rows, scores = [], []
    for place in ndimage.find_objects(found):
        (z0, z1), (y0, y1), (x0, x1) = ((axis.start - 1, axis.stop) for axis in place)
        rows.append([z0, y0, z1, y1, x0, x1])
        scores.append(1 - np.exp(-np.prod([axis.stop - axis.start for axis in place]) / 100))
    return {
        "pred_boxes": np.array(rows, np.float32).reshape(-1, 6),
        "pred_scores": np.array(scores, np.float32),
        "pred_labels": np.zeros(count, np.float32),
        "restore": True,
        "original_size_of_raw_data": np.array(array.shape),
        "itk_origin": image.GetOrigin(),
        "itk_spacing": image.GetSpacing(),
        "itk_direction": image.GetDirection(),
    }


def task_folder(task: str) -> Path:
    """As nnDetection finds a task: by its name among the folders of ``$det_data``."""
    (folder,) = [each for each in Path(os.environ["det_data"]).iterdir() if each.is_dir() and "Task" in each.name]
    assert folder.stem == folder.name == task
    return folder


def plan_file(folder: Path) -> Path:
    return folder / "preprocessed" / f"{PLAN}.pkl"


def case_ids(folder: Path) -> list[str]:
    return sorted({path.name.removesuffix(".nii.gz")[:-5] for path in folder.glob("*.nii.gz")})


def channels(folder: Path, case_id: str, description: dict[str, dict[str, str]]) -> list[Path]:
    return [folder / f"{case_id}_{number:04d}.nii.gz" for number in range(len(description["modalities"]))]


def save_pickle(value: object, path: Path) -> None:
    """As Python 3.8 and NumPy 1 write it: NumPy 2 has moved what an array refers to."""
    data = pickle.dumps(value, protocol=4)
    shorter = data.count(NUMPY_2)
    length = int.from_bytes(data[3:11], "little") - shorter
    data = data.replace(NUMPY_2, NUMPY_1)
    path.write_bytes(data[:3] + length.to_bytes(8, "little") + data[11:])


def load_pickle(path: Path):
    with path.open("rb") as stream:
        return pickle.load(stream)


PROGRAMS = {
    "nndet_prep": prep,
    "nndet_unpack": unpack,
    "nndet_train": train,
    "nndet_sweep": sweep,
    "nndet_consolidate": consolidate,
    "nndet_predict": predict,
}
