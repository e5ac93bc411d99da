"""The whole chain, where users run it: each program a process of its own, which sees nothing but mounted folders.

There are two places. ``ONCODUET_ENGINE`` names a container engine: then the programs are the images, locked down as on
a platform. Without it they are local processes on the same folders, which is quicker and is **not** a container test.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from paths import PROJECT

CAMPAIGN = Path(__file__).parent / "campaign"
CARD, CT_CARD = "cspca-picai", "pdac-panorama"
LIMIT_S = 600
IMAGES = {
    "phantom": "oncoduet-train",
    "training": "oncoduet-train",
    "algorithm": "oncoduet-algorithm",
    "evaluation": "oncoduet-evaluation",
}
LOCKDOWN = [
    *["--network", "none", "--read-only", "--tmpfs", "/tmp:rw,exec,nosuid,size=1g", "--user", "1000:1000"],
    *["--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
    *["--memory", "8g", "--memory-swap", "8g", "--cpus", "1", "--pids-limit", "512"],
    *["--env", "CUDA_VISIBLE_DEVICES="],  # this host's /proc may tell of a GPU that is not lent
]


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    stdout: str
    stderr: str


class Place(Protocol):
    """Where programs run."""

    def run(self, program: str, *arguments: str, reads: Mapping[str, Path], writes: Mapping[str, Path]) -> Ended:
        """Run ``python -m program`` with folders mounted.

        Parameters
        ----------
        program
            phantom, training, algorithm or evaluation.
        arguments
            Of the program; paths as the program sees them.
        reads, writes
            Folders by mount point. What is written comes into the (new or empty) folder, whatever the exit status.
        """
        ...


class LocalProcesses:
    """The programs as they lie here, mount points translated on their command lines."""

    OPTIONS: Mapping[str, str] = {
        "/input": "--input",
        "/output": "--output",
        "/opt/ml/model": "--model",
        "/opt/ml/input/data/ground_truth": "--truth",
    }

    def run(self, program: str, *arguments: str, reads: Mapping[str, Path], writes: Mapping[str, Path]) -> Ended:
        folders = {**reads, **writes}
        for folder in writes.values():
            folder.mkdir(parents=True, exist_ok=True)
        command = [_translated(argument, folders) for argument in arguments]
        for mount, folder in folders.items():
            if mount in self.OPTIONS and not arguments:  # containers find their default folders by themselves
                command += [self.OPTIONS[mount], str(folder)]
        if program == "algorithm":
            command += ["--threads", "1", "--no-mirroring"]  # other tests run beside this one; containers mirror
        return _run([sys.executable, "-m", program, *command], cwd=PROJECT)


@dataclass(frozen=True)
class Containers:
    """The images, on named volumes: a bind mount would have the permissions of this machine's folders."""

    engine: str

    def run(self, program: str, *arguments: str, reads: Mapping[str, Path], writes: Mapping[str, Path]) -> Ended:
        image = IMAGES[program]
        entry = ["--entrypoint", "python"] if program == "phantom" else []
        command = ["-m", "phantom", *arguments] if program == "phantom" else list(arguments)
        volumes = {mount: f"oncoduet-test-{uuid.uuid4()}" for mount in [*reads, *writes]}
        containers = []
        try:
            for mount, folder in reads.items():
                filler = self._create("--volume", f"{volumes[mount]}:{mount}", image)
                containers.append(filler)
                self._engine("cp", f"{folder}/.", f"{filler}:{mount}/")
            mounts = [f"--volume={volumes[mount]}:{mount}:ro" for mount in reads]
            mounts += [f"--volume={volumes[mount]}:{mount}" for mount in writes]
            container = self._create(*LOCKDOWN, *mounts, *entry, image, *command)
            containers.append(container)
            ended = _run([self.engine, "start", "--attach", container])
            for mount, folder in writes.items():
                folder.mkdir(parents=True, exist_ok=True)
                self._engine("cp", f"{container}:{mount}/.", str(folder))
            return ended
        finally:
            for container in containers:
                self._engine("rm", "--force", container)
            self._engine("volume", "rm", "--force", *volumes.values())

    def ask(self, image: str, code: str) -> Ended:
        """Run a line of Python in an image under lockdown."""
        return _run([self.engine, "run", "--rm", *LOCKDOWN, "--entrypoint", "python", image, "-c", code])

    def inspect(self, image: str, template: str) -> str:
        """What the engine knows about an image, by a Go template."""
        return self._engine("image", "inspect", "--format", template, image)

    def _create(self, *arguments: str) -> str:
        return self._engine("create", *arguments)

    def _engine(self, *arguments: str) -> str:
        ended = _run([self.engine, *arguments])
        assert ended.status == 0, f"{self.engine} {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout.strip()


@dataclass(frozen=True)
class Model:
    """What the training of the chain gave."""

    archive: Path  # MODEL.tar.gz
    folder: Path  # extracted as the platform does


@pytest.fixture(scope="session")
def place() -> Place:
    """Containers where ``ONCODUET_ENGINE`` names an engine, else local processes."""
    engine = os.environ.get("ONCODUET_ENGINE")
    return Containers(engine) if engine else LocalProcesses()


@pytest.fixture(scope="session")
def containers(place: Place) -> Containers:
    """The images; without an engine the test is skipped."""
    if not isinstance(place, Containers):
        pytest.skip("NOT A CONTAINER TEST: ONCODUET_ENGINE names no container engine")
    return place


@pytest.fixture(scope="session")
def phantoms(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An archive of ten bpMRI phantoms, made by the train image."""
    yield from _draw_phantoms(place, CARD, tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def ct_phantoms(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An archive of ten CT phantoms, made by the train image."""
    yield from _draw_phantoms(place, CT_CARD, tmp_path_factory.mktemp("ct-phantoms"))


@pytest.fixture(scope="session")
def model(place: Place, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Two networks, trained for a moment on the phantoms by the train image, bundled and unpacked."""
    yield from _train(place, CARD, phantoms, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def ct_model(place: Place, ct_phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The same on the CT phantoms, with a network that locates the pancreas first."""
    yield from _train(place, CT_CARD, ct_phantoms, tmp_path_factory.mktemp("ct-model"))


def _draw_phantoms(place: Place, card: str, folder: Path) -> Iterator[Path]:
    archive = folder / "archive"
    made = place.run(
        "phantom",
        *["--card", card, "--cases", "10", "--positive-fraction", "0.5", "--seed", "7", "--output", "/archive"],
        reads={},
        writes={"/archive": archive},
    )
    assert (made.status, made.stderr) == (0, ""), made
    yield archive
    shutil.rmtree(archive)


def _train(place: Place, card: str, archive: Path, work: Path) -> Iterator[Model]:
    def train(*arguments: str, reads: Mapping[str, Path], output: str) -> Path:
        ended = place.run("training", *arguments, reads=reads, writes={"/runs": work / output})
        assert (ended.status, ended.stderr) == (0, ""), ended
        return work / output

    prepared = train(
        *["prepare", "--card", card, "--archive", "/archive", "--folds", "2", "--output", "/runs"],
        reads={"/archive": archive},
        output="prepared",
    )
    runs = train(
        *["campaign", "/campaign/campaign.toml", "--prepared", "/prepared", "--output", "/runs"],
        reads={"/campaign": CAMPAIGN, "/prepared": prepared},
        output="runs",
    )
    bundled = train(
        *["bundle", "--runs", "/finished", "--output", "/runs/model.tar.gz"], reads={"/finished": runs}, output="bundle"
    )
    folder = work / "extracted"
    folder.mkdir()
    with tarfile.open(bundled / "model.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    yield Model(bundled / "model.tar.gz", folder)
    shutil.rmtree(work)


def _translated(argument: str, folders: Mapping[str, Path]) -> str:
    for mount, folder in folders.items():
        if argument == mount or argument.startswith(f"{mount}/"):
            return str(folder) + argument.removeprefix(mount)
    return argument


def _run(command: Sequence[str], cwd: Path | None = None) -> Ended:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)
