"""The results of the checks as a table, as JSON, and as JUnit XML for build servers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.results.verdicts import CheckResult
from contract.files.atomic import write_json
from contract.outputs import Output
from contract.provenance import writer
from contract.text import printable

_COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow"}


def show(verdicts: Sequence[CheckResult], console: Console) -> None:
    """Print a row per check, and the totals."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("check", "level", "verdict"):
        table.add_column(heading, no_wrap=True)
    table.add_column("expected", overflow="fold", ratio=1)
    table.add_column("found", overflow="fold", ratio=1)
    for each in verdicts:
        verdict = Text(each.verdict, _COLOURS[each.verdict])
        table.add_row(each.id, each.level, verdict, Text(each.expected), Text(printable(each.found)))
    console.print(table)
    counts = {word: sum(each.verdict == word for each in verdicts) for word in _COLOURS}
    errors = sum(each.verdict == "fail" and each.level == "error" for each in verdicts)
    console.print(
        f"{counts['pass']} passed, {counts['skipped']} skipped, {errors} errors, {counts['fail'] - errors} warnings"
    )


def write(verdicts: Sequence[CheckResult], place: Output, about: dict[str, Any]) -> Path:
    """Write ``conformance.json`` and ``conformance.xml`` (JUnit) into a folder; returns the first."""
    rows = [vars(each) for each in verdicts]
    errors = sum(each.verdict == "fail" and each.level == "error" for each in verdicts)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    values = {"schema_version": 1, "written_by": writer().model_dump(), **about, "written": written, "errors": errors}
    suite = ElementTree.Element(
        "testsuite",
        name=printable(str(about["image"])),
        tests=str(len(rows)),
        failures=str(errors),
        skipped=str(sum(each.verdict == "skipped" for each in verdicts)),
        time=f"{about['seconds']:.1f}",
    )
    for each in verdicts:
        test = ElementTree.SubElement(
            suite, "testcase", classname="conformance", name=printable(f"{each.id}: {each.expected}")
        )
        if each.verdict == "fail" and each.level == "error":
            ElementTree.SubElement(test, "failure", message=printable(each.found))
        elif each.verdict == "skipped":
            ElementTree.SubElement(test, "skipped", message=printable(each.found))
        else:
            said = ElementTree.SubElement(test, "system-out")
            said.text = printable(f"{each.verdict} ({each.level}): {each.found}")
    with place.staged() as stage:
        write_json(stage / "conformance.json", _printable({**values, "checks": rows}))
        ElementTree.ElementTree(suite).write(stage / "conformance.xml", encoding="utf-8", xml_declaration=True)
    return place.folder / "conformance.json"


def report_place(folder: Path, identity: Mapping[str, str | None], *, replaces: bool) -> Output:
    """Output folder of the reports; foreign files, and without ``replaces`` other reports, are refused."""
    files = ["conformance.json", "conformance.xml"]
    return Output(folder, "conformance", files, identity=identity, replaces=replaces, record="conformance.json")


def _printable(value: Any) -> Any:
    """The same with escapes for what is not printable, surrogates included."""
    if isinstance(value, dict):
        return {key: _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
