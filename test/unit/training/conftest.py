"""Archives made by formula: three channels, three image sizes and spacings, a tilted direction."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from programs import fork
from tiny import tiny_profile

from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume
from training.__main__ import main
from training.dataset.prepared import load_prepared, parts
from training.make_run import execute
from training.planned_run import Run, plan_run

SIZES_XYZ = [(30, 26, 10), (28, 32, 9), (34, 24, 11)]
SPACINGS_MM_XYZ = [(1.5, 1.4, 3.0), (1.6, 1.5, 3.3), (1.4, 1.7, 2.8)]
ANGLE = 0.2
COS, SIN = float(np.cos(ANGLE)), float(np.sin(ANGLE))
DIRECTION = (1.0, 0.0, 0.0, 0.0, COS, -SIN, 0.0, SIN, COS)

PROFILE = tiny_profile(epochs=3, iterations=2)


def _write_study(
    archive: Path,
    case_id: str,
    *,
    kind: int,
    lesion: bool,
    label_value: int = 1,
    adc_factor: float = 1.0,
    t2w_factor: float = 1.0,
) -> None:
    """One study; ``kind`` picks size, spacing and texture."""
    grid = Grid(SIZES_XYZ[kind % 3], SPACINGS_MM_XYZ[kind % 3], (-20.0, 7.5, 3.25), DIRECTION)
    z, y, x = np.indices(grid.shape_zyx, dtype=np.float64)
    texture = np.sin(0.4 * x + kind) + np.cos(0.3 * y) + 0.2 * z
    centre = np.array(grid.shape_zyx) / 2 + [0, 3 - kind // 6, -4]  # no two label maps are the same
    inside = ((z - centre[0]) / 2) ** 2 + ((y - centre[1]) / 4) ** 2 + ((x - centre[2]) / 4) ** 2 <= 1
    inside &= lesion
    patient = case_id.partition("_")[0]
    arrays = {
        "t2w": t2w_factor * (300 + 40 * texture - 80 * inside),
        "adc": adc_factor * (1400 + 100 * texture - 500 * inside),
        "hbv": t2w_factor * (100 + 10 * texture + 120 * inside),
    }
    for name, array in arrays.items():
        write_volume(archive / patient / f"{case_id}_{name}.mha", Volume(array.astype(np.float32), grid))
    label = (label_value * inside).astype(np.uint8)
    write_volume(archive / "labels" / f"{case_id}.nii.gz", Volume(label, grid))


def _write_archive(archive: Path, *, patients: int = 6) -> Path:
    """Studies of some patients, every other with a lesion; the first patient has two studies."""
    for number in range(patients):
        _write_study(archive, f"{100 + number}_1", kind=number, lesion=number % 2 == 0)
    _write_study(archive, "100_2", kind=7, lesion=False)
    (archive / "archive.json").write_text(json.dumps({"data_licence": "CC0-1.0"}))
    return archive


@pytest.fixture
def write_study():
    return _write_study


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return _write_archive(tmp_path / "archive")


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prepared dataset for all tests that only read it."""
    folder = tmp_path_factory.mktemp("prepared")
    archive = _write_archive(folder / "archive")
    arguments = ["prepare", "--card", "cspca-picai", "--archive", str(archive), "--output", str(folder / "prepared")]
    assert main([*arguments, "--folds", "3"]) == 0
    return folder / "prepared"


@pytest.fixture
def own_prepared(prepared_folder, tmp_path) -> Path:
    """A copy of the prepared dataset that a test may change."""
    return Path(shutil.copytree(prepared_folder, tmp_path / "prepared"))


@pytest.fixture(scope="session")
def planned(prepared_folder, profile):
    """Plan a run."""

    def plan(configuration="ce", restart=1, fold=0, profile=profile, prepared=prepared_folder, **more) -> Run:
        how = {"configuration": str(configuration), "fold": fold, "restart": restart, "profile": str(profile)}
        return plan_run(load_prepared(prepared), **how, **more)

    return plan


@pytest.fixture(scope="session")
def make_runs(planned, tmp_path_factory):
    """Make finished runs of configurations and folds in a new folder."""

    def make(*runs: tuple[str, int], **more) -> Path:
        folder = tmp_path_factory.mktemp("runs")
        for configuration, fold in runs:
            run = planned(configuration, fold=fold, **more)
            execute(run, folder / run.name, device="cpu")
        return folder

    return make


@pytest.fixture(scope="session")
def kill_after():
    """Make a run in another process, which is killed without warning once it has noted so many epochs."""

    def kill(epochs: int, run: Run, output: Path) -> None:
        def on_epoch(epoch) -> None:
            if epoch.epoch + 1 == epochs:
                os.kill(os.getpid(), signal.SIGKILL)

        process = fork(partial(execute, run, output, device="cpu", on_epoch=on_epoch))
        process.join()
        assert process.exitcode == -signal.SIGKILL

    return kill


@pytest.fixture(scope="session")
def interrupt_after():
    """Make a run and raise an exception when so many epochs have ended."""

    def interrupt(epochs: int, run: Run, output: Path, error: type[BaseException] = KeyboardInterrupt, **more) -> None:
        def on_epoch(epoch) -> None:
            if epoch.epoch + 1 == epochs:
                raise error

        with pytest.raises(error):
            execute(run, output, on_epoch=on_epoch, **({"device": "cpu"} | more))

    return interrupt


@pytest.fixture
def campaign_file(prepared_folder, profile, tmp_path):
    """Write a campaign file; a value may be a whole table, None leaves a key out."""

    def write(name: str = "campaign.toml", **changes) -> Path:
        values = {
            "schema_version": 1,
            "prepared": str(prepared_folder),
            "output": "runs",
            "profile": str(profile),
            "configurations": ["ce", "focal"],
            "folds": [0, 2],
            "restarts": [1],
        } | changes
        path = tmp_path / name
        tables = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None and key not in tables
        ]
        for table, content in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def sealed():
    """Give an edited dataset the hashes of its parts, as another ``prepare`` would have left it."""

    def seal(folder: Path) -> None:
        record = read_json(folder / "prepared.json")
        write_json(folder / "prepared.json", record | {"parts": parts(folder)})

    return seal


@pytest.fixture
def outcome(capsys: pytest.CaptureFixture[str]):
    """Run a command: its exit code and the one line on stderr, if any."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        message = capsys.readouterr().err
        assert message.count("\n") == (1 if code else 0)
        return code, message

    return run


@pytest.fixture
def refusal(outcome):
    """Run a command whose input is wrong (exit code 3): the one line on stderr."""

    def run(*arguments: object) -> str:
        code, message = outcome(*arguments)
        assert code == 3
        return message

    return run


@pytest.fixture
def useless_gpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver is older than torch's build asks for, by stand-ins at its border."""
    program = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla T4, 535.104.05'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of three epochs of two steps."""
    path = tmp_path_factory.mktemp("profile") / "tiny.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def edited_profile(profile, tmp_path):
    """The profile with parts of its text replaced."""

    def edit(*changes: tuple[str, str], name: str = "edited.toml") -> Path:
        text = profile.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / name
        path.write_text(text)
        return path

    return edit
