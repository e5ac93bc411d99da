"""Settings of the whole test suite: where the real data lies, and what a skip means.

``ONCODUET_DATA`` names the folder of small real data; without it ``../shared/data`` beside the project is tried.
Tests that need it take the fixture ``real_data``. ``--require-data`` turns their skip into a failure, ``--no-skips``
any skip. Tests that need a GPU, a Slurm, Chromium or Snakemake are deselected where there is none;
``ONCODUET_SLURM=required`` and ``ONCODUET_BROWSER=required`` keep theirs, which then fail.
"""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import DATA, MOUNT, SNAKEMAKE

# Before torch is imported: asked in the ordinary way, CUDA could no longer be used by processes that tests fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

# A shell has what it starts in the background ignore Ctrl-C, and a program that ignores it passes that on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-data", action="store_true", help="fail where the real data is missing")
    parser.addoption("--kills", type=int, default=5, help="how often a run is killed to see that it survives (5)")
    parser.addoption("--no-skips", action="store_true", help="fail when any test was skipped")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, is_there in [
        ("gpu", _has_gpu),
        ("slurm", _has_slurm),
        ("browser", _has_browser),
        ("snakemake", SNAKEMAKE.is_file),
    ]:
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in marked]


def _has_gpu() -> bool:
    """Whether torch finds a GPU; another process asks, since one that has asked cannot be forked any more."""
    if shutil.which("nvidia-smi") is None:
        return False
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _has_slurm() -> bool:
    """Whether a Slurm takes jobs here, or has to."""
    if os.environ.get("ONCODUET_SLURM") == "required":
        return True
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        return False
    try:
        asked = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0 and bool(asked.stdout.strip())


def _has_browser() -> bool:
    """Whether Chromium is here, or has to be."""
    return os.environ.get("ONCODUET_BROWSER") == "required" or browser() is not None


def browser() -> str | None:
    """Where Chromium is, by any of its names."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def pytest_terminal_summary(terminalreporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and terminalreporter.config.getoption("--no-skips"):
        terminalreporter.write_line(f"{len(skipped)} skipped, and --no-skips allows none", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _no_gpu_but_for_tests_that_need_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others give the same bits on every machine, and leave CUDA asleep for processes that are forked later."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """``main`` sets up logging for a process of its own, on the stdout of its time."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """``--threads`` is of a process."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        sys.modules["torch"].set_num_threads(before)


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of small real data."""
    folder = DATA
    if not folder.is_dir():
        if request.config.getoption("--require-data"):
            pytest.fail(f"no real data in {folder} (ONCODUET_DATA)")
        pytest.skip(f"no real data in {folder} (ONCODUET_DATA)")
    return folder


@pytest.fixture(scope="session")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that runs another one where it may mount."""
    found = ""
    for command in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        try:
            trial = [*command, "sh", "-c", MOUNT, "sh", "4k", str(tmp_path_factory.mktemp("trial"))]
            ended = subprocess.run(trial, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no unshare here, with which to mount a small file system")
        if ended.returncode == 0:
            return command
        found = ended.stderr
    return pytest.skip(f"no mount namespace can be made here, with which to mount a small file system: {found.strip()}")


@pytest.fixture
def unlistable(monkeypatch):
    """Make a folder one that may not be listed, also where root runs the tests."""

    def refuse(folder: Path) -> None:
        def guarded(ask):
            def listing(path="."):
                if Path(path) == folder:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return ask(path)

            return listing

        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name)))

    return refuse
