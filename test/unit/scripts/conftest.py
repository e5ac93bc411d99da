"""Scripts run as a user runs them; a wheel is made by formula, so that installing needs no network."""

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import PROJECT

TOOLS = ("bash", "cat", "dirname", "grep", "timeout", "realpath", "sha256sum")


@dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def project() -> Path:
    return PROJECT


@pytest.fixture
def run() -> Callable[..., Ended]:
    """Run a command with additions to the environment."""

    def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> Ended:
        ended = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The scripts, requirements and cards alone, as in a clone where nothing has been installed or downloaded."""
    copy = tmp_path / "oncoduet"
    (copy / "wheels").mkdir(parents=True)
    for folder in ("requirements", "contract/cards"):
        shutil.copytree(PROJECT / folder, copy / folder)
    for name in ("build.sh", "demo.sh", "export.sh", "test.sh"):
        shutil.copy(PROJECT / name, copy)
    return copy


@pytest.fixture
def without_engine(tmp_path: Path) -> dict[str, str]:
    """An environment in which neither docker nor podman is found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(tools), "DOCKER": str(tmp_path / "no-docker")}


@pytest.fixture
def make_wheel() -> Callable[..., str]:
    """Write a wheel that holds one empty module; returns its sha256."""

    def make(folder: Path, name: str, version: str, *, requires: str | None = None, module: str | None = None) -> str:
        info = f"{name}-{version}.dist-info"
        files = {
            f"{module or name}.py": f"version = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            + (f"Requires-Dist: {requires}\n" if requires else ""),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        lines = [f"{path},sha256={_urlsafe(text)},{len(text.encode())}\n" for path, text in files.items()]
        files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"])
        folder.mkdir(exist_ok=True)
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        return hashlib.sha256(wheel.read_bytes()).hexdigest()

    return make


def _urlsafe(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
