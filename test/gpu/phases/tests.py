"""The tests that need a GPU; as a toy, those of the choice of a device."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from workload import PROJECT, Workload

TOYS = "test/unit/network/machine/test_device.py"


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """One row of counts. Raises ``RuntimeError``: a test failed, or there was none."""
    workload.scratch.mkdir(parents=True)
    results = workload.scratch / "results.xml"
    which = [TOYS] if workload.toy else ["test/unit", "-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", *which]
    subprocess.run(command, cwd=PROJECT, stdout=sys.stderr, check=False)
    suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    yield counts | ({"failed": failed} if failed else {})
    if counts["failures"] or counts["errors"] or counts["tests"] == counts["skipped"]:
        raise RuntimeError(f"{counts['failures']} failures and {counts['errors']} errors of {counts['tests']} tests")
