"""Our own images pass every check, under both protocols; the reports stay in ``build/conformance``."""

import json
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.lesion_model import make_model, write_tarball

PROJECT = Path(__file__).resolve().parents[2]

# What does not apply: these need a server, a process per case, a tarball, or a truth by formula.
EXEC = {"C1-health", "C3", "C4", "D2", "M2", "N2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tarball(make_model(folder / "extracted"), folder / "model.tar.gz")
    return folder / "model.tar.gz"


def conform(engine: str, image: str, *options: object) -> tuple[int, dict]:
    folder = PROJECT / "build" / "conformance" / image
    status = main([image, "--engine", engine, "--output", str(folder), "--card", "cspca-picai", *map(str, options)])
    return status, json.loads((folder / "conformance.json").read_text())


def verdicts(report: dict, verdict: str) -> dict[str, str]:
    return {check["id"]: check["found"] for check in report["checks"] if check["verdict"] == verdict}


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_the_algorithm_passes_every_check(engine, model, api):
    options = ["--kind", "algorithm", "--model", model, "--planted"]
    status, report = conform(engine, f"oncoduet-algorithm-{api}", *options)
    assert (status, verdicts(report, "fail")) == (0, {})
    assert verdicts(report, "skipped").keys() <= (EXEC if api == "exec" else {"C4"})
    assert (report["api"], report["errors"], report["kind"]) == (api, 0, "algorithm")


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_the_evaluation_passes_every_check(engine, api):
    status, report = conform(engine, f"oncoduet-evaluation-{api}", "--kind", "evaluation")
    assert (status, verdicts(report, "fail")) == (0, {})
    assert verdicts(report, "skipped").keys() <= ({*EXEC, "A6"} if api == "exec" else {"A6"})
    assert report["api"] == api
