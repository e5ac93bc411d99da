"""nnDetection's programs on PATH are a stand-in, ``fake_nndet``: it writes what they write, and learns nothing."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from contract.records import RunRecord
from training.make_run import execute

FAKE = Path(__file__).parent / "fake_nndet"
NAMES = ("nndet_prep", "nndet_unpack", "nndet_train", "nndet_sweep", "nndet_consolidate", "nndet_predict")


@pytest.fixture(scope="session")
def fake_programs(tmp_path_factory) -> Path:
    """A folder with a program of each name."""
    folder = tmp_path_factory.mktemp("fake") / "bin"
    folder.mkdir()
    for name in NAMES:
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(FAKE)!r})\n"
            f"from fake import main\nmain({name!r})\n"
        )
        program.chmod(0o755)
    return folder


@pytest.fixture
def fake_nndet(fake_programs, tmp_path, monkeypatch):
    """Put the stand-in on PATH; call it to ask for trouble."""
    monkeypatch.setenv("PATH", f"{fake_programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_NNDET_VICTIM", str(tmp_path / "victim"))
    monkeypatch.setenv("det_num_threads", "1")
    return lambda trouble: monkeypatch.setenv("FAKE_NNDET", trouble)


@pytest.fixture(scope="session")
def planned(planned):
    return lambda configuration="nndet", **more: planned(configuration, **more)


@pytest.fixture(scope="session")
def trained(planned, fake_programs, tmp_path_factory) -> Path:
    """A finished run of fold 1."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run = planned(fold=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{fake_programs}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("det_num_threads", "1")
        record = execute(run, folder, device="cpu")
    assert isinstance(record, RunRecord)
    return folder


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
