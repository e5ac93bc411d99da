"""``requirements/install.sh``: packages with another hash are not installed. No network is used."""

import hashlib
import io
import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path

import pytest

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": "/dev/null"}


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory) -> Path:
    """A Python that has pip and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


@pytest.fixture
def python(clean_python):
    yield clean_python
    subprocess.run(
        [clean_python, "-m", "pip", "uninstall", "--quiet", "--yes", "torch", "lesion", "libcuda"],
        capture_output=True,
        check=True,
    )


@pytest.fixture
def requirements(bare, make_wheel) -> Path:
    """A lock with one small package, its wheel in wheels/, and no torch accepted yet."""
    sha256 = make_wheel(bare / "wheels", "lesion", "1.0")
    (bare / "requirements" / "small.lock").write_text(f"lesion==1.0 \\\n    --hash=sha256:{sha256}\n")
    (bare / "requirements" / "torch.txt").write_text(f"torch==2.13.0 \\\n    --hash=sha256:{'0' * 64}\n")
    return bare / "requirements"


def accept(requirements: Path, sha256: str) -> None:
    with (requirements / "torch.txt").open("a") as file:
        file.write(f"    --hash=sha256:{sha256}\n")


def installed(python: Path) -> dict[str, str]:
    code = "from importlib.metadata import distributions as d; print(*(f'{e.name}=={e.version}' for e in d()))"
    words = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {
        name: version for name, version in (word.split("==") for word in words) if name not in ("pip", "setuptools")
    }


def test_a_lock_is_installed_from_the_folder_of_wheels(run, python, requirements):
    ended = run(requirements / "install.sh", python, "small.lock", environment=OFFLINE)
    assert ended.status == 0, ended
    assert installed(python) == {"lesion": "1.0"}


def test_a_second_installation_gives_the_same_files_and_bytecode(run, python, requirements):
    contents = []
    for _ in range(2):
        ended = run(requirements / "install.sh", python, "small.lock", environment=OFFLINE)
        assert ended.status == 0, ended
        found = {path for path in python.parent.parent.rglob("*") if "lesion" in path.as_posix() and path.is_file()}
        contents.append({path.name: path.read_bytes() for path in found})
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "lesion"], check=True)
        assert not any(path.exists() for path in found)
        time.sleep(1.1)  # bytecode holds whole seconds, where it does
    assert contents[0] == contents[1]
    assert contents[0].keys() >= {"lesion.py", "lesion.cpython-311.pyc", "RECORD"}
    assert int.from_bytes(contents[0]["lesion.cpython-311.pyc"][4:8], "little") == 0b11  # by hash, and checked


def test_a_package_with_another_hash_than_the_locks_is_not_installed(run, python, requirements):
    lock = requirements / "small.lock"
    lock.write_text(lock.read_text().partition("sha256:")[0] + f"sha256:{'1' * 64}\n")
    ended = run(requirements / "install.sh", python, "small.lock", environment=OFFLINE)
    assert ended.status != 0
    assert "DO NOT MATCH THE HASHES" in ended.stderr
    assert installed(python) == {}


def test_the_cpu_build_of_torch_is_preferred_and_has_no_dependencies(run, python, requirements, make_wheel):
    wheels = requirements.parent / "wheels"
    make_wheel(wheels, "torch", "2.13.0", requires="libcuda==13.0")
    accept(requirements, make_wheel(wheels, "torch", "2.13.0+cpu", requires="libcuda==13.0"))
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=OFFLINE)
    assert ended.status == 0, ended
    assert installed(python) == {"lesion": "1.0", "torch": "2.13.0+cpu"}


@pytest.fixture
def with_cuda(requirements, make_wheel):
    """A torch for some build, its library in wheels/ and in a lock of the given hash; returns the environment."""

    def with_cuda(build: str, lock: str, *, sha256: str | None = None) -> dict[str, str]:
        wheels = requirements.parent / "wheels"
        (requirements / "torch-cuda.lock").unlink(missing_ok=True)
        found = make_wheel(wheels, "libcuda", "13.0")
        if lock:
            (requirements / lock).write_text(f"libcuda==13.0 --hash=sha256:{sha256 or found}\n")
        torch = make_wheel(wheels, "torch", f"2.13.0{build}", requires="libcuda==13.0")
        return {**OFFLINE, "TORCH_REQUIREMENT": f"torch==2.13.0{build} --hash=sha256:{torch}"}

    return with_cuda


@pytest.mark.parametrize(("build", "lock"), [("", "torch-cuda.lock"), ("+cu126", "torch-cu126.lock")])
def test_a_cuda_build_brings_the_libraries_that_its_lock_names(run, python, requirements, with_cuda, build, lock):
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=with_cuda(build, lock))
    assert ended.status == 0, ended
    assert installed(python) == {"lesion": "1.0", "torch": f"2.13.0{build}", "libcuda": "13.0"}


@pytest.mark.parametrize(
    ("build", "lock", "sha256"),
    [("", "torch-cuda.lock", "1" * 64), ("+cu126", "", None), ("+cu126", "torch-cuda.lock", None), ("", "", None)],
    ids=["another hash", "no lock of this build", "the lock of another build", "no lock"],
)
def test_a_library_without_the_hash_of_its_lock_is_not_installed(
    run, python, requirements, with_cuda, build, lock, sha256
):
    environment = with_cuda(build, lock, sha256=sha256)
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=environment)
    assert ended.status == 3
    wanted = f"requirements/torch-{build.removeprefix('+') or 'cuda'}.lock"
    assert ended.stderr.splitlines()[-1] == (
        f"install.sh: torch-2.13.0{build}-py3-none-any.whl: expected a sha256 in {wanted} of each package that it "
        "requires, found another or none (see above)"
    )
    assert installed(python) == {"lesion": "1.0"}


def test_source_that_an_index_offers_in_place_of_a_wheel_never_runs(run, python, requirements, tmp_path):
    """Not even the part of it that pip would run to learn the version, before any hash is known."""
    mark = tmp_path / "ran"
    for name in ("torch-2.13.0", "other-1.0"):
        with tarfile.open(requirements.parent / "wheels" / f"{name}.tar.gz", "w:gz") as tar:
            for file, text in {"setup.py": f"open({str(mark)!r}, 'w')", "PKG-INFO": f"Name: {name}\n"}.items():
                entry = tarfile.TarInfo(f"{name}/{file}")
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
    sha256 = hashlib.sha256((requirements.parent / "wheels" / "other-1.0.tar.gz").read_bytes()).hexdigest()
    (requirements / "source.lock").write_text(f"other==1.0 --hash=sha256:{sha256}\n")
    for words in (["torch.txt", "small.lock"], ["source.lock"]):
        ended = run(requirements / "install.sh", python, *words, environment=OFFLINE)
        assert ended.status != 0
        assert "No matching distribution found" in ended.stderr
    assert not mark.exists()


def test_a_torch_that_was_not_accepted_is_not_installed(run, python, requirements, make_wheel):
    sha256 = make_wheel(requirements.parent / "wheels", "torch", "2.13.0+cpu")
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=OFFLINE)
    assert ended.status == 3
    assert ended.stderr.splitlines()[-1] == (
        "install.sh: torch-2.13.0+cpu-py3-none-any.whl: expected a sha256 that torch.txt or TORCH_REQUIREMENT accepts, "
        f"found {sha256}"
    )
    assert installed(python) == {"lesion": "1.0"}


def test_another_build_of_torch_is_named_with_its_hash(run, python, requirements, make_wheel):
    wheels = requirements.parent / "wheels"
    make_wheel(wheels, "torch", "2.13.0+cpu")
    sha256 = make_wheel(wheels, "torch", "2.13.0+cu126")
    wanted = {**OFFLINE, "TORCH_REQUIREMENT": f"torch==2.13.0+cu126 --hash=sha256:{sha256}"}
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=wanted)
    assert ended.status == 0, ended
    assert installed(python)["torch"] == "2.13.0+cu126"


def test_another_build_of_torch_without_a_hash_is_refused(run, python, requirements, make_wheel):
    make_wheel(requirements.parent / "wheels", "torch", "2.13.0+cu126")
    wanted = {**OFFLINE, "TORCH_REQUIREMENT": "torch==2.13.0+cu126"}
    ended = run(requirements / "install.sh", python, "torch.txt", "small.lock", environment=wanted)
    assert ended.status == 3
    assert "torch.txt or TORCH_REQUIREMENT accepts" in ended.stderr


USAGE = (2, "install.sh: usage: install.sh PYTHON [torch.txt] LOCK\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((words, USAGE) for words in ([], ["python"], ["python", "a.lock", "b.lock"], ["python", "a", "b", "c"])),
        (["/no/python", "small.lock"], (3, "install.sh: expected a Python 3.11, found no /no/python\n")),
    ],
)
def test_wrong_usage_and_a_missing_python_are_named(run, requirements, arguments, said):
    ended = run(requirements / "install.sh", *arguments)
    assert (ended.status, ended.stderr) == said


def test_another_python_than_the_locks_were_made_for_is_refused(run, requirements, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.14\n")  # all that is asked of it here is its version
    other.chmod(0o755)
    ended = run(requirements / "install.sh", other, "small.lock")
    assert (ended.status, ended.stderr) == (3, f"install.sh: {other}: expected Python 3.11, found 3.14\n")


def test_an_unknown_lock_is_named_with_those_that_exist(run, requirements):
    ended = run(requirements / "install.sh", sys.executable, "nightly.lock")
    assert ended.status == 3
    assert "expected one of algorithm.lock dev.lock evaluation.lock" in ended.stderr
    assert "found nightly.lock" in ended.stderr
