"""The verdicts, as a table for people, as JSON, and as the XML that build servers show."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.checks import Verdict
from contract.files import atomic_file, write_json
from contract.provenance import writer

_COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow"}
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_NOT_IN_JSON = re.compile("[\ud800-\udfff]")
_NOT_ON_A_TERMINAL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print a row per check, and the sum."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("check", "level", "verdict"):
        table.add_column(heading, no_wrap=True)
    table.add_column("expected", overflow="fold", ratio=1)
    table.add_column("found", overflow="fold", ratio=1)
    for each in verdicts:
        verdict = Text(each.verdict, _COLOURS[each.verdict])
        table.add_row(each.id, each.level, verdict, Text(each.expected), Text(_NOT_ON_A_TERMINAL.sub("?", each.found)))
    console.print(table)
    counts = {word: sum(each.verdict == word for each in verdicts) for word in _COLOURS}
    errors = sum(each.verdict == "fail" and each.level == "error" for each in verdicts)
    console.print(
        f"{counts['pass']} passed, {counts['skipped']} skipped, {errors} errors, {counts['fail'] - errors} warnings",
        highlight=False,
    )


def write(verdicts: Sequence[Verdict], folder: Path, about: dict[str, Any]) -> Path:
    """Write ``conformance.json`` and ``conformance.xml`` (JUnit) into a folder; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [vars(each) for each in verdicts]
    errors = sum(each.verdict == "fail" and each.level == "error" for each in verdicts)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    values = {"schema_version": 1, "written_by": writer().model_dump(), **about, "written": written, "errors": errors}
    write_json(folder / "conformance.json", _fit_for_json({**values, "checks": rows}))
    suite = ElementTree.Element(
        "testsuite",
        name=_NOT_IN_XML.sub("?", str(about["image"])),
        tests=str(len(rows)),
        failures=str(errors),
        skipped=str(sum(each.verdict == "skipped" for each in verdicts)),
        time=f"{about['seconds']:.1f}",
    )
    for each in verdicts:
        test = ElementTree.SubElement(suite, "testcase", classname="conformance", name=f"{each.id}: {each.expected}")
        if each.verdict == "fail" and each.level == "error":
            ElementTree.SubElement(test, "failure", message=_NOT_IN_XML.sub("?", each.found))
        elif each.verdict == "skipped":
            ElementTree.SubElement(test, "skipped", message=_NOT_IN_XML.sub("?", each.found))
        else:
            said = ElementTree.SubElement(test, "system-out")
            said.text = _NOT_IN_XML.sub("?", f"{each.verdict} ({each.level}): {each.found}")
    with atomic_file(folder / "conformance.xml") as partial:
        ElementTree.ElementTree(suite).write(partial, encoding="utf-8", xml_declaration=True)
    return folder / "conformance.json"


def _fit_for_json(value: Any) -> Any:
    """The same without halves of surrogate pairs, as names that are no UTF-8 have them."""
    if isinstance(value, dict):
        return {key: _fit_for_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fit_for_json(inner) for inner in value]
    return _NOT_IN_JSON.sub("?", value) if isinstance(value, str) else value
