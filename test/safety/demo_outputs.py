"""One output of every command, made by the commands: archive, dataset, runs, bundle, predictions, scores."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from demo_files import make_demo_files, succeed

from contract.files.reading import sha256_file
from contract.images.volume import Volume, read_volume, write_volume
from contract.records import RunRecord, read_record, write_record
from training.nndetection.model import UpstreamRecord
from training.nndetection.run_files import NEEDED


def everything(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with a hash of its bytes or where it leads; folders with nothing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a command may be given, made once; no test changes it."""
    demo = tmp_path_factory.mktemp("demo")
    programs = demo / "programs"
    programs.mkdir()
    (programs / "nndet_predict").write_text("#!/bin/sh\nexit 1\n")
    (programs / "nndet_predict").chmod(0o755)
    make_demo_files(demo, {"ce": ("ce", 1), "retina-unet": ("retina-unet", 1)}, bundled="ce", study="study")
    _write_upstream_run(demo / "runs" / "ce", demo / "upstream")
    truth = demo / "archive" / "labels"
    for number, name in enumerate(("ce", "focal")):
        _write_maps(truth, demo / "maps" / name, seed=number, configuration=name, runs=demo / "runs")
    succeed("evaluation", "score", "--predictions", demo / "maps", "--truth", truth, "--output", demo / "scores")
    looks = 'schema_version = 1\nname = "looks"\ncomparisons = [["ce", "focal"]]\nlooks = [2]\n'
    (demo / "looks.toml").write_text(looks)
    (demo / "campaign.toml").write_text(
        f'schema_version = 1\nprepared = "prepared"\noutput = "campaign"\nprofile = "{demo}/tiny.toml"\n'
        'configurations = ["ce"]\nfolds = [0]\nrestarts = [1]\n'
    )
    return demo


def _write_maps(truth: Path, folder: Path, *, seed: int, configuration: str, runs: Path) -> None:
    """Detection maps of some run on the label maps' grids, and whose they are."""
    chance = np.random.default_rng(seed)
    for path in sorted(truth.glob("*.nii.gz")):
        label = read_volume(path)
        found = np.where(label.array > 0, chance.uniform(), 0).astype(np.float32)
        found[0, :2, :2] = chance.uniform()
        write_volume(folder / path.name.replace(".nii.gz", ".mha"), Volume(found, label.grid))
    record = read_record(runs / "ce" / "run.json", RunRecord)
    source = {
        **{"schema_version": 1, "written_by": record.written_by.model_dump(), "parents": {}, "card": record.key.card},
        **{"card_sha256": record.key.card_sha256, "configuration": configuration, "fold": 0, "restart": 1},
        **{"profile": "tiny", "runs": [str(seed) * 64], "bundle_sha256": None, "data_licence": "CC0-1.0"},
    }
    (folder / "source.json").write_text(json.dumps(source))


def _write_upstream_run(of: Path, folder: Path) -> None:
    """A finished run of nnDetection, as far as its prediction looks before it begins."""
    record = read_record(of / "run.json", RunRecord)
    key = record.key.model_copy(update={"configuration": "nndet"})
    (folder / "nndetection").mkdir(parents=True)
    for name in NEEDED:
        (folder / "nndetection" / name).write_text(name)
    files = {name: sha256_file(folder / "nndetection" / name) for name in NEEDED}
    about = UpstreamRecord(key=key, reported_commit=None, reported_torch=None, task="Task001", programs={}, files=files)
    write_record(folder / "nndetection.json", about)
    parents = {**record.parents, "nndetection": sha256_file(folder / "nndetection.json")}
    write_record(folder / "run.json", record.model_copy(update={"key": key, "parents": parents}))
    (folder / "card.toml").write_bytes((of / "card.toml").read_bytes())
