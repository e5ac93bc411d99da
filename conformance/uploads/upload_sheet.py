"""``UPLOAD.md``: the values for the platform's forms, in the folder that ``export.sh`` writes.

Names, sizes and hashes come from the files, sockets from the card. Memory, time and GPU are those of the conformance
run; without one the sheet says so and leaves them open.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from contract.card import Card, Socket
from contract.errors import OncoduetError
from contract.files.atomic import write_text
from contract.files.reading import inside, read_json, sha256_file
from contract.outputs import EXPORT, file_output
from contract.schema import parse
from contract.text import markdown, printable

SHEET = "UPLOAD.md"

_WHERE = {"model.tar.gz": "the algorithm's model", "ground_truth.tar.gz": "the phase's ground truth"}


_COLUMNS = (("AUROC", "strict.auroc"), ("AP", "strict.ap"))
"""Further results columns: title and path in ``metrics.json``."""


class Markup(str):
    """Markdown of our own; every other text is written so that it shows and does nothing else."""


_PHASE = [
    ("score title", "Score"),
    ("score JSON path", Markup("`strict.score`")),
    ("error JSON path", "leave empty: no standard error is written"),
    ("default sort", "descending: the highest score is the best"),
    ("decimal places", "3"),
    ("scoring method", "absolute value of the score"),
    (
        "extra results columns",
        Markup("`" + json.dumps([{"title": title, "path": path, "order": "desc"} for title, path in _COLUMNS]) + "`"),
    ),
    (
        "display all metrics",
        Markup("no: participants would see all of `metrics.json`, the picai answer and the baselines too"),
    ),
    (
        "a baseline's column",
        Markup(
            "of a truth with `baselines/NAME/`, where wanted: path `baselines.NAME.auroc.difference`, `….ap.difference`"
        ),
    ),
]
"""Fields and values of the form's section on scoring."""


def write_sheet(folder: Path, card: Card, reports: Sequence[Path]) -> Path:
    """Write the sheet into the folder with the archives.

    Raises ``OncoduetError``: the folder holds no archive, a report is invalid, or a foreign sheet is there.

    Parameters
    ----------
    reports
        ``conformance.json`` of the images in the folder.
    """
    files = inside(folder, "*.tar.gz") if folder.is_dir() else []
    if not files:
        raise OncoduetError(folder, "no archives to upload")
    sections = [
        f"# Upload: {markdown(card.title)}",
        f"Card {code(card.name)}, sha256 {card.sha256}.",
        "## Files",
        _table(("file", "is", "MB", "sha256"), [_file(path) for path in files]),
        "## Sockets of the algorithm",
        _table(("direction", "slug", "relative path", "kind"), _sockets(card)),
        "The evaluation reads the outputs of the algorithm's jobs and has one output of its own, `metrics.json`. "
        "Sockets that the platform does not have yet are made by its staff: ask before the upload.",
        "## The phase's form",
        _table(("field", "value"), _PHASE),
        "## The algorithm's form",
        _table(("field", "value"), _algorithm_form(card)),
        "## Settings",
    ]
    for report in reports:
        sections.append(_settings(parse(read_json(report), _Report, report)))
    if not reports:
        sections.append("The conformance has not run on these files: memory, time and GPU are open.")
    path = folder / SHEET
    with file_output(path, EXPORT, source="exports").staged() as stage:
        write_text(stage / SHEET, "\n\n".join(sections) + "\n")
    return path


def _sockets(card: Card) -> list[tuple[str, ...]]:
    def row(direction: str, socket: Socket, kind: str) -> tuple[str, ...]:
        return direction, code(socket.slug), code(socket.relative_path), kind

    optional = [
        row("in, optional", each, "Anything" if each.relative_path.endswith(".json") else "Image")
        for each in card.optional_inputs
    ]
    return [
        *(row("in", channel.socket, "Image") for channel in card.channels),
        *optional,
        row("out", card.detection_map, "Heat Map, 0 to 1"),
        row("out", card.likelihood, "Float, 0 to 1"),
    ]


def _algorithm_form(card: Card) -> list[tuple[str, ...]]:
    images = ", ".join(channel.socket.slug for channel in card.channels)
    return [
        ("inputs and outputs", "exactly the sockets above; optional ones only if they are to be sent"),
        ("modalities, structures", f"those of the images ({images}) and of the organ, in the platform's words"),
        ("contact e-mail", "yours; the platform requires one before others may use the algorithm"),
        ("display editors, hanging protocol", "as you like: they change what readers see, and no result"),
        ("memory, GPU, time limit", "see the settings below"),
    ]


class _CheckRow(BaseModel):
    id: str
    found: str
    verdict: str


class _Report(BaseModel):
    """The part of ``conformance.json`` that the sheet shows."""

    image: str
    kind: str
    api: str
    profile: str
    memory_gb: float
    limit_s: float
    errors: int
    checks: tuple[_CheckRow, ...]


def _settings(report: _Report) -> str:
    found = {check.id: check.found for check in report.checks if check.verdict == "pass"}
    cuda = found.get("A8", "unknown")
    rows = [
        ("protocol", report.api),
        ("memory", f"{report.memory_gb:g} GB"),
        ("time limit", f"{report.limit_s / 60:g} min ({found.get('R6', 'not measured')} where it was checked)"),
        ("GPU", "none" if cuda == "no CUDA" else f"NVIDIA T4 ({cuda})"),
        ("conformance", f"{report.errors} errors, profile {report.profile}"),
    ]
    title = markdown(f"{report.kind.capitalize()}: {Path(report.image).name}")
    return f"### {title}\n\n" + _table(("setting", "value"), rows)


def _file(path: Path) -> tuple[str, ...]:
    meaning = _WHERE.get(path.name, "container image")
    return code(path.name), meaning, f"{path.stat().st_size / 1e6:.1f}", sha256_file(path)


def code(text: str) -> Markup:
    """A text as code."""
    return Markup("`" + printable(text).replace("`", "'") + "`")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, [Markup("---")] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|") if isinstance(text, Markup) else markdown(text)
