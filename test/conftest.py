"""Settings of the whole test suite: where the real data lies, and what a skip means.

``ONCODUET_DATA`` names the folder of small real data; without it ``../shared/data`` beside the project is tried.
Tests that need it take the fixture ``real_data``. ``--require-data`` turns their skip into a failure, ``--no-skips``
any skip.
"""

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-data", action="store_true", help="fail where the real data is missing")
    parser.addoption("--no-skips", action="store_true", help="fail when any test was skipped")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch  # noqa: PLC0415

    there = {"gpu": torch.cuda.is_available(), "browser": browser() is not None}
    without = [item for item in items if any(item.get_closest_marker(name) and not there[name] for name in there)]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


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


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of small real data."""
    folder = Path(os.environ.get("ONCODUET_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        if request.config.getoption("--require-data"):
            pytest.fail(f"no real data in {folder} (ONCODUET_DATA)")
        pytest.skip(f"no real data in {folder} (ONCODUET_DATA)")
    return folder
