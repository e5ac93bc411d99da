"""The sheet of an upload: what the forms ask for, from the files, the card and the conformance's reports alone."""

import hashlib
import json
import re

import pytest
from refusals import refused_with

from conformance import export
from conformance.uploads.upload_sheet import write_sheet
from contract.card import load_card
from contract.records import Metrics, MetricsRecord

CARD = load_card("cspca-picai")
REPORT = {
    "image": "build/export/oncoduet-algorithm.tar.gz",
    "kind": "algorithm",
    "api": "exec",
    "profile": "t4-16",
    "memory_gb": 16,
    "limit_s": 1200.0,
    "errors": 0,
    "checks": [
        {"id": "A8", "verdict": "pass", "found": "CUDA 12.6"},
        {"id": "R6", "verdict": "pass", "found": "at most 41.5 s of 600 s"},
    ],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "oncoduet-algorithm.tar.gz").write_bytes(b"image")
    (tmp_path / "model.tar.gz").write_bytes(b"model")
    (tmp_path / "SHA256SUMS").write_text("")
    return tmp_path


def test_the_sheet_has_files_sockets_and_settings(folder, tmp_path):
    (tmp_path / "conformance.json").write_text(json.dumps(REPORT))
    text = write_sheet(folder, CARD, [tmp_path / "conformance.json"]).read_text()
    sha256 = hashlib.sha256(b"model").hexdigest()
    assert f"| `model.tar.gz` | the algorithm's model | 0.0 | {sha256} |" in text
    assert "| `oncoduet-algorithm.tar.gz` | container image |" in text
    assert "SHA256SUMS" not in text
    assert "| out | `prostate-cancer-likelihood` | `cspca-case-level-likelihood.json` | Float, 0 to 1 |" in text
    assert "| in, optional | `clinical-information-prostate-mri` |" in text
    assert text.count("| in | ") == 3
    assert "| memory | 16 GB |" in text
    assert "| time limit | 20 min (at most 41.5 s of 600 s where it was checked) |" in text
    assert "| GPU | NVIDIA T4 (CUDA 12.6) |" in text


def test_markup_in_names_and_reports_is_text(folder, tmp_path):
    evil = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) | *a*"
    checks = [{"id": "A8", "verdict": "pass", "found": evil}, {"id": "R6", "verdict": "pass", "found": evil}]
    report = REPORT | {"api": evil, "profile": evil, "image": evil, "checks": checks}
    (tmp_path / "conformance.json").write_text(json.dumps(report))
    text = write_sheet(folder, CARD.model_copy(update={"title": evil}), [tmp_path / "conformance.json"]).read_text()
    assert len(re.findall(r"\\<img", text)) == text.count("<img") == 6
    assert "](javascript" not in text.replace(r"\](javascript", "")
    assert len([line for line in text.splitlines() if r"\<img" in line and line.startswith("| ")]) == 4


def test_the_sheet_has_the_fields_of_both_forms(folder):
    text = write_sheet(folder, CARD, []).read_text()
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.count("|") == 3)
    assert rows["score JSON path"] == "`strict.score`"
    assert rows["default sort"].startswith("descending")
    assert rows["display all metrics"].startswith("no")
    assert {"score title", "decimal places", "error JSON path", "scoring method", "contact e-mail"} <= rows.keys()
    assert "transverse-adc-prostate-mri" in rows["modalities, structures"]
    columns = json.loads(rows["extra results columns"].strip("`"))
    assert [each["order"] for each in columns] == ["desc", "desc"]
    for path in [rows["score JSON path"].strip("`"), *(each["path"] for each in columns)]:
        answer, metric = path.split(".")
        assert answer in MetricsRecord.model_fields and metric in Metrics.model_fields


def test_without_a_report_settings_are_open(folder, capsys):
    assert export.main(["sheet", str(folder), "--card", "pdac-panorama"]) == 0
    assert capsys.readouterr().out == f"{folder / 'UPLOAD.md'}\n"
    text = (folder / "UPLOAD.md").read_text()
    assert "The conformance has not run on these files: memory, time and GPU are open." in text
    assert "`venous-phase-ct-scan` | `images/venous-ct`" in text


def test_a_folder_without_archives_is_refused(tmp_path):
    with refused_with(problem="no archives to upload"):
        write_sheet(tmp_path, CARD, [])


def test_a_file_that_is_no_report_is_refused(folder, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with refused_with(r"other\.json", "8 faults: image: Field required"):
        write_sheet(folder, CARD, [tmp_path / "other.json"])
