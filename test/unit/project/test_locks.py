"""The locks: everything is pinned and hashed, torch separately, and images have the tested versions."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from paths import PROJECT

LOCKS = sorted({path.stem for path in (PROJECT / "requirements").glob("*.lock")} - {"torch-cuda"})
IMAGES = ("algorithm", "evaluation", "train")
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
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^ ;]+( ;[^-]*)?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_holds_torch_or_a_package_that_brings_one(project: Path, name: str) -> None:
    found = [package for package in pins(project / "requirements" / f"{name}.lock") if NEVER.fullmatch(package)]
    assert found == []


def test_torch_is_pinned_and_hashed_in_its_own_file(project: Path) -> None:
    (line,) = entries(project / "requirements" / "torch.txt")
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+( +--hash=sha256:[0-9a-f]{64}){2}", line)


def test_libraries_of_a_cuda_build_are_in_no_other_lock(project: Path) -> None:
    requirements = project / "requirements"
    libraries = pins(requirements / "torch-cuda.lock")
    assert [name for name in libraries if not re.fullmatch(r"triton|nvidia-.*|cuda-.*", name)] == []
    assert not libraries.keys() & pins(requirements / "dev.lock").keys()
    (asked,), (accepted,) = entries(requirements / "torch-cuda.in"), entries(requirements / "torch.txt")
    assert asked == accepted.split()[0]


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_holds_an_obsolete_or_vulnerable_package(project: Path, name: str) -> None:
    held = pins(project / "requirements" / f"{name}.lock")
    assert not {"argparse", "unittest2", "traceback2", "linecache2"} & held.keys()  # Python 3 has them
    assert tuple(map(int, held.get("h11", "0.16").split(".")[:2])) >= (0, 16)  # CVE-2025-43859


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_the_tested_versions(project: Path, name: str) -> None:
    tested = pins(project / "requirements" / "dev.lock")
    image = pins(project / "requirements" / f"{name}.lock")
    assert {package: version for package, version in image.items() if tested.get(package) != version} == {}


def requested(requirements: Path, name: str, *, included: bool = True) -> set[str]:
    """Packages that a ``.in`` file names, with those of the files that it includes."""
    found: set[str] = set()
    for line in entries(requirements / name):
        if line.startswith("-r "):
            found |= requested(requirements, line.removeprefix("-r ").strip()) if included else set()
        else:
            found.add(normal(re.split(r"[=<>;\[ ]", line)[0]))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_requested_packages_are_locked(project: Path, name: str) -> None:
    requirements = project / "requirements"
    assert requested(requirements, f"{name}.in") <= set(pins(requirements / f"{name}.lock"))


@pytest.mark.parametrize("name", IMAGES)
def test_tools_of_the_tests_are_in_no_image(project: Path, name: str) -> None:
    requirements = project / "requirements"
    tools = requested(requirements, "dev.in", included=False) | requested(requirements, "monai.in")
    assert tools & set(pins(requirements / f"{name}.lock")) <= {"scikit-learn"}  # nnU-Net requires it


def test_no_package_of_the_evaluation_image_requires_torch(project: Path) -> None:
    image = pins(project / "requirements" / "evaluation.lock")
    needing = {name for name in image if any(re.match(r"torch\b", each) for each in metadata.requires(name) or [])}
    assert needing == set()


@pytest.mark.parametrize("name", [*LOCKS, "torch-cuda"])
def test_no_lock_names_an_index(project: Path, name: str) -> None:
    """That is the machine's configuration: a mirror, a proxy, a hospital without internet."""
    text = (project / "requirements" / f"{name}.lock").read_text()
    assert "index-url" not in text
    assert "://" not in text
