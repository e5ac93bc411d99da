"""The project's own files: those that git tracks or would, or in a copy without history all but what is built."""

import subprocess
from pathlib import Path

import pytest
from paths import PROJECT

BUILT = {".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    command = ["git", "-C", str(PROJECT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = (
        subprocess.run(command, capture_output=True, text=True, check=False) if (PROJECT / ".git").exists() else None
    )
    if listed and listed.returncode == 0:
        paths = [PROJECT / name for name in listed.stdout.splitlines()]
    else:
        paths = [path for path in PROJECT.rglob("*") if not BUILT & set(path.relative_to(PROJECT).parts)]
    files = [path for path in paths if path.is_file() and path.suffix != ".whl"]
    assert len(files) > 50
    return files
