"""Schemas of the files that outlive a process: nothing unknown, nothing converted, null only where it has a meaning."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from refusals import refused_with

from contract import provenance
from contract.provenance import VERSION, Writer, writer
from contract.records import Metrics, MetricsRecord, Record, RunKey, RunRecord, Source, read_record, write_record

HASH = "0" * 64


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        auroc=0.75, ap=None, score=None, cases=10, positive_cases=0, lesions=0, missing=1, reason="no lesion"
    )


@pytest.fixture
def record(metrics: Metrics) -> MetricsRecord:
    return MetricsRecord(strict=None, strict_reason="--picai-only", picai=metrics, parents={"source": HASH})


def test_a_record_comes_back_as_it_went_with_writer_and_parents(tmp_path: Path, record: MetricsRecord) -> None:
    write_record(tmp_path / "metrics.json", record)
    assert read_record(tmp_path / "metrics.json", MetricsRecord) == record
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["schema_version"] == 1
    assert values["written_by"]["program"] == "oncoduet"
    assert values["written_by"]["version"] == VERSION
    assert values["parents"] == {"source": HASH}
    assert values["strict"] is None


def test_no_key_of_a_record_contains_a_dot(tmp_path: Path, metrics: Metrics) -> None:
    full = metrics.model_copy(update={"lesion_sensitivity_at_fp": {"fp_0_125": 0.5, "fp_2": None}})
    write_record(tmp_path / "m.json", MetricsRecord(strict=full, picai=full))

    def keys(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [*value, *(key for each in value.values() for key in keys(each))]
        return []

    found = keys(json.loads((tmp_path / "m.json").read_text()))
    assert "fp_0_125" in found
    assert not [key for key in found if "." in key or key != key.lower()]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"f1": 0.5}, "picai.f1: Extra inputs are not permitted"),
        ({"auroc": "0.75"}, "picai.auroc: Input should be a valid number"),
        ({"cases": 10.5}, "picai.cases: Input should be a valid integer"),
        ({"cases": True}, "picai.cases: Input should be a valid integer"),
        ({"cases": None}, "picai.cases: Input should be a valid integer"),
        ({"lesion_sensitivity_at_fp": [0.5]}, "picai.lesion_sensitivity_at_fp: Input should be a"),
        ({"auroc": ...}, "picai.auroc: Field required"),  # a missing key is not the same as null
        ({"schema_version": 2}, "schema_version: Input should be 1"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(
    tmp_path: Path, record: MetricsRecord, change: dict[str, Any], fault: str
) -> None:
    values = record.model_dump(mode="json")
    values.update(change) if "schema_version" in change else values["picai"].update(change)
    values["picai"] = {key: value for key, value in values["picai"].items() if value is not ...}
    (tmp_path / "m.json").write_text(json.dumps(values))
    with refused_with("m.json", f"^1 fault: {fault}"):
        read_record(tmp_path / "m.json", MetricsRecord)


def test_another_file_s_schema_is_refused(tmp_path: Path, record: MetricsRecord) -> None:
    write_record(tmp_path / "m.json", record)
    with refused_with("m.json", r"\d+ faults: .*configuration: Field required"):
        read_record(tmp_path / "m.json", Source)


def test_a_record_can_neither_hold_nan_nor_be_changed(metrics: Metrics, record: MetricsRecord) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Metrics(**metrics.model_dump() | {"auroc": float("nan")})
    with pytest.raises(ValidationError, match="frozen"):
        record.strict = None  # type: ignore[misc]


def test_a_run_s_state_is_one_of_four(tmp_path: Path) -> None:
    key = RunKey(card="c", card_sha256=HASH, profile="demo", configuration="ce", fold=0, restart=1, seed=2**53 + 1)
    run = RunRecord(
        key=key,
        state="finished",
        dataset_fingerprint=HASH,
        data_licence="CC0-1.0",
        checkpoint="final",
        versions={"torch": "2"},
        hardware={"cores": 2},
        wall_s=1.5,
        cpu_s=1.0,
        gpu_s=0.0,
        epochs=(),
        weights_sha256=HASH,
    )
    write_record(tmp_path / "run.json", run)
    assert read_record(tmp_path / "run.json", RunRecord) == run
    values = run.model_dump(mode="json") | {"state": "done"}
    (tmp_path / "run.json").write_text(json.dumps(values))
    with refused_with("state", "Input should be 'planned', 'running', 'finished' or 'failed'"):
        read_record(tmp_path / "run.json", RunRecord)


def test_the_revision_is_the_checkouts_with_a_mark_if_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONCODUET_REVISION", raising=False)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    writer.cache_clear()
    assert writer() == Writer(program="oncoduet", version=VERSION, git_revision=writer().git_revision)
    assert writer().git_revision.removesuffix("-dirty") == (head or "unknown")


def test_in_an_image_the_build_names_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCODUET_REVISION", "abc")
    writer.cache_clear()
    try:
        assert Record().written_by.git_revision == "abc"
    finally:
        writer.cache_clear()


def test_a_copy_without_history_has_an_unknown_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONCODUET_REVISION", raising=False)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "contract" / "provenance.py"))
    writer.cache_clear()
    try:
        assert writer().git_revision == "unknown"
    finally:
        writer.cache_clear()
