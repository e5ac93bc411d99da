"""The locks: everything pinned and hashed, torch apart, the images with the versions that the tests ran with."""

import re
from pathlib import Path

import pytest

LOCKS = ("algorithm", "evaluation", "train", "sbom", "pip-audit", "tryout", "dev", "monai")
LEAST_ENTRIES = {"monai": 1, "torch-cuda": 10}
NEVER = re.compile(r"torch|torchvision|torchaudio|timm|triton|nvidia-.*|cuda-.*|imagecodecs")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(path: Path) -> list[str]:
    """Logical lines of a requirements file, comments removed."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def pins(path: Path) -> dict[str, str]:
    return {normal(line.split("==")[0]): line.split("==")[1].split()[0] for line in entries(path)}


@pytest.mark.parametrize("name", [*LOCKS, "torch-cuda"])
def test_every_entry_is_pinned_and_hashed(project: Path, name: str) -> None:
    lines = entries(project / "requirements" / f"{name}.lock")
    assert len(lines) >= LEAST_ENTRIES.get(name, 25)
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^ ;]+( ;[^-]*)?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_torch_or_what_would_bring_another_torch(project: Path, name: str) -> None:
    found = [package for package in pins(project / "requirements" / f"{name}.lock") if NEVER.fullmatch(package)]
    assert found == []


def test_torch_has_a_lock_of_its_own_pinned_and_hashed(project: Path) -> None:
    (line,) = entries(project / "requirements" / "torch.txt")
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+( +--hash=sha256:[0-9a-f]{64}){2}", line)


def test_the_libraries_of_a_cuda_build_are_in_no_other_lock(project: Path) -> None:
    requirements = project / "requirements"
    libraries = pins(requirements / "torch-cuda.lock")
    assert [name for name in libraries if not re.fullmatch(r"triton|nvidia-.*|cuda-.*", name)] == []
    assert not libraries.keys() & pins(requirements / "dev.lock").keys()
    (asked,), (accepted,) = entries(requirements / "torch-cuda.in"), entries(requirements / "torch.txt")
    assert asked == accepted.split()[0]


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_holds_what_is_dead_or_known_to_be_vulnerable(project: Path, name: str) -> None:
    held = pins(project / "requirements" / f"{name}.lock")
    assert not {"argparse", "unittest2", "traceback2", "linecache2"} & held.keys()  # Python 3 has them
    assert tuple(map(int, held.get("h11", "0.16").split(".")[:2])) >= (0, 16)  # CVE-2025-43859


@pytest.mark.parametrize("name", ["algorithm", "evaluation", "train"])
def test_images_get_the_versions_that_the_tests_run_with(project: Path, name: str) -> None:
    tested = pins(project / "requirements" / "dev.lock")
    image = pins(project / "requirements" / f"{name}.lock")
    assert {package: version for package, version in image.items() if tested.get(package) != version} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_asked_for_is_locked(project: Path, name: str) -> None:
    asked: set[str] = set()
    sources = [f"{name}.in"]
    for source in sources:
        for line in entries(project / "requirements" / source):
            if line.startswith("-r "):
                sources.append(line.removeprefix("-r ").strip())
            else:
                asked.add(normal(re.split(r"[=<>;\[ ]", line)[0]))
    assert asked <= set(pins(project / "requirements" / f"{name}.lock"))


@pytest.mark.parametrize("name", ["algorithm", "evaluation", "train"])
def test_oracles_and_checkers_of_the_tests_are_in_no_image(project: Path, name: str) -> None:
    image = pins(project / "requirements" / f"{name}.lock")
    assert not {"picai-eval", "mlxtend", "monai", "pytest", "mypy", "ruff", "hypothesis"} & set(image)


def test_the_evaluation_image_holds_nothing_that_needs_torch(project: Path) -> None:
    image = pins(project / "requirements" / "evaluation.lock")
    assert not {"nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures", "safetensors"} & set(image)


@pytest.mark.parametrize("name", [*LOCKS, "torch-cuda"])
def test_no_lock_says_where_packages_come_from(project: Path, name: str) -> None:
    """That is the machine's configuration: a mirror, a proxy, a hospital without internet."""
    text = (project / "requirements" / f"{name}.lock").read_text()
    assert "index-url" not in text
    assert "://" not in text
