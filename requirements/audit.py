"""Known vulnerabilities of the locked packages, by an advisory service or a copy of an advisory list.

``audit.py [--advisories FOLDER]``; ``audit.sh`` calls it where pip-audit is installed. What was asked, of whom, and
what got no answer is printed; a silence is never taken for a good answer.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.utils import canonicalize_version
from packaging.version import Version

HERE = Path(__file__).resolve().parent

JUDGED = {
    "PYSEC-2023-163": "numexpr.evaluate of foreign text, in LangChain; no text from a file is evaluated here",
}
"""Advisories that do not concern us, each with the reason."""


class Pin(NamedTuple):
    """One package of one version, under its normal name."""

    name: str
    version: str


def read_pins() -> dict[Pin, list[str]]:
    """Every pin of every lock and of torch.txt, with the files that name it."""
    pins: dict[Pin, list[str]] = {}
    for path in [*sorted(HERE.glob("*.lock")), HERE / "torch.txt"]:
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE):
            pins.setdefault(Pin(re.sub(r"[-_.]+", "-", name).lower(), version), []).append(path.name)
    return pins


def ask_service(pins: list[Pin]) -> dict[Pin, list[str] | None]:
    """Ids of vulnerabilities by pin; None where pip-audit got no answer."""
    answers: dict[Pin, list[str] | None] = dict.fromkeys(pins)
    while pins:
        batch = {pin.name: pin for pin in reversed(pins)}  # a file may name a package once
        pins = [pin for pin in pins if batch[pin.name] != pin]
        lines = "".join(f"{pin.name}=={pin.version}\n" for pin in batch.values())
        command = ["-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        command += ["--timeout", "10", "--requirement", "/dev/stdin"]
        said = subprocess.run([sys.executable, *command], input=lines, capture_output=True, text=True, check=False)
        try:
            found = json.loads(said.stdout)["dependencies"]
        except (ValueError, KeyError):
            continue
        for each in found:
            if "vulns" in each:
                answers[batch[re.sub(r"[-_.]+", "-", each["name"]).lower()]] = [vuln["id"] for vuln in each["vulns"]]
    return answers


def look_up(pins: list[Pin], advisories: Path) -> dict[Pin, list[str] | None]:
    """The same by a copy of the list: one folder per package, one OSV file per advisory."""
    return {pin: [record["id"] for record in _records(advisories / pin.name) if _affects(record, pin)] for pin in pins}


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.yaml")):
        record = yaml.safe_load(path.read_text())
        if "withdrawn" not in record:
            yield record


def _affects(record: dict[str, Any], pin: Pin) -> bool:
    version = Version(pin.version)
    for affected in record["affected"]:
        if canonicalize_version(pin.version) in map(canonicalize_version, affected.get("versions", ())):
            return True
        for spans in affected.get("ranges", ()):
            if spans["type"] != "ECOSYSTEM":
                continue
            inside = False
            for event in spans["events"]:
                ((kind, bound),) = event.items()
                if kind == "introduced":
                    inside = inside or bound == "0" or version >= Version(bound)
                elif kind == "fixed":
                    inside = inside and version < Version(bound)
                else:  # last_affected
                    inside = inside and version <= Version(bound)
            if inside:
                return True
    return False


def main() -> int:
    """Ask, print what is known, and return the exit status."""
    parser = argparse.ArgumentParser(prog="requirements/audit.sh", description=__doc__)
    parser.add_argument("--advisories", type=Path, help="folder vulns of a copy of the PyPA advisory database")
    options = parser.parse_args()
    pins = read_pins()
    if options.advisories is None:
        answers, whom = ask_service(sorted(pins)), "the advisory service of PyPI"
    elif options.advisories.is_dir():
        answers, whom = look_up(sorted(pins), options.advisories), str(options.advisories)
    else:
        print(f"error: {options.advisories}: expected a folder of advisories, found none", file=sys.stderr)
        return 3
    known = [(pin, id) for pin, ids in answers.items() for id in ids or ()]
    for pin, id in known:
        print(f"{pin.name} {pin.version} ({', '.join(pins[pin])}): {id}; {JUDGED.get(id, 'NOT JUDGED YET')}")
    silent = sum(ids is None for ids in answers.values())
    pending = sum(id not in JUDGED for _, id in known)
    told = f"{len(known)} known vulnerabilities, {pending} of them not judged, {silent} pins NOT ANSWERED"
    print(f"{len(pins)} pins, asked of {whom}: {told}")
    return min(pending, 1)


if __name__ == "__main__":
    sys.exit(main())
