"""The directions of import hold, and the check notices violations."""

import subprocess
import sys
from pathlib import Path

import pytest
from programs import python

PACKAGES = ("contract", "network", "algorithm", "evaluation", "training", "phantom", "conformance")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-cache", "--no-logo", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """The sources alone, to be spoilt."""
    for package in PACKAGES:
        for source in (project / package).rglob("*.py"):
            target = tmp_path / source.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((project / "pyproject.toml").read_bytes())
    return tmp_path


def test_the_directions_of_import_hold(project: Path) -> None:
    result = lint_imports(project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


WRONG = {
    "contract": ("network", "torch", "sklearn"),
    "network": ("training", "algorithm"),
    "algorithm": ("training", "evaluation"),
    "training": ("phantom", "algorithm"),
    "evaluation": ("algorithm", "network", "torch"),
    "phantom": ("network", "torch"),
    "conformance": ("network", "torch", "evaluation"),
    "contract.files.reading": ("contract.card",),
    "evaluation.masks.components": ("evaluation.compare",),
    "training.dataset.prepared": ("training.sweep",),
    "algorithm.outputs.study_output": ("algorithm.batch",),
    "contract.text": ("contract.upload",),
    "network.model.plans": ("network.inference.sliding_window",),
    "conformance.engine.server": ("conformance.checks.bench",),
}
"""By importing module; at least one for every contract of ``pyproject.toml``."""


def test_every_wrong_import_is_caught(copy: Path) -> None:
    for module, imported in WRONG.items():
        path = copy.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        source.write_text(source.read_text() + "".join(f"import {name}\n" for name in imported))
    result = lint_imports(copy)
    assert result.returncode == 1
    assert "0 kept" in result.stdout
    missed = [
        f"{module} imports {name}"
        for module, imported in WRONG.items()
        for name in imported
        if f"{module} -> {name} (l." not in result.stdout
    ]
    assert missed == []


def test_evaluation_and_phantom_run_without_torch_and_test_oracles() -> None:
    """Not by our imports alone: nothing that they import may import torch either."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for name in ('contract', 'evaluation', 'phantom'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "unwanted = {'torch', 'nnunetv2', 'picai_eval', 'sklearn', 'mlxtend', 'torchvision', 'timm'}\n"
        "print(sorted(unwanted & set(sys.modules)))\n"
    )
    result = python("-c", code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_algorithm_and_training_import_neither_timm_nor_torchvision() -> None:
    """The images do not hold them (docs/decisions/own-training-entry.md)."""
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules['timm'] = sys.modules['torchvision'] = None\n"
        "for name in ('network', 'algorithm', 'training'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
