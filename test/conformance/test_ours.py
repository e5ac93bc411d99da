"""Our own images pass every check, under both protocols; the reports stay in ``build/conformance``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import PROJECT

from conformance.__main__ import main
from conformance.lesion_model import make_model, write_tarball

# What does not apply: these need a server, a process per case, a tarball, or a truth by formula.
EXEC = {"C1-health", "C3", "C4", "D2", "M2", "N2"}


# Of the CT card: what its studies and its model of two stages change. A server makes all of it in one process.
OF_CT = ["A6", "C1", "O1", "O2", "O3", "O4", "O5", "O5-max", "L1", "D2", "D5", "D4-optional", "D4-unknown"]
OF_CT += ["O6", "N1", "N2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Callable[[str], Path]:
    def model(card: str) -> Path:
        folder = tmp_path_factory.mktemp("model")
        write_tarball(make_model(folder / "extracted", card), folder / "model.tar.gz")
        return folder / "model.tar.gz"

    return model


def conform(engine: str, image: str, *options: object, card: str = "cspca-picai") -> tuple[int, dict]:
    folder = PROJECT / "build" / "conformance" / (image if card == "cspca-picai" else f"{image}-{card}")
    status = main([image, "--engine", engine, "--output", str(folder), "--card", card, *map(str, options)])
    return status, json.loads((folder / "conformance.json").read_text())


def verdicts(report: dict, verdict: str) -> dict[str, str]:
    return {check["id"]: check["found"] for check in report["checks"] if check["verdict"] == verdict}


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_the_algorithm_passes_every_check(engine, model, api):
    options = ["--kind", "algorithm", "--model", model("cspca-picai"), "--planted"]
    status, report = conform(engine, f"oncoduet-algorithm-{api}", *options)
    assert (status, verdicts(report, "fail")) == (0, {})
    assert verdicts(report, "skipped").keys() <= (EXEC if api == "exec" else {"C4"})
    assert (report["api"], report["errors"], report["kind"]) == (api, 0, "algorithm")


def test_the_algorithm_finds_lesions_in_ct_in_two_stages(engine, model):
    options = ["--kind", "algorithm", "--model", model("pdac-panorama"), "--planted", "--only", *OF_CT]
    status, report = conform(engine, "oncoduet-algorithm-invoke", *options, card="pdac-panorama")
    assert (status, {check["id"]: check["verdict"] for check in report["checks"]}) == (0, dict.fromkeys(OF_CT, "pass"))


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_the_evaluation_passes_every_check(engine, api):
    status, report = conform(engine, f"oncoduet-evaluation-{api}", "--kind", "evaluation")
    assert (status, verdicts(report, "fail")) == (0, {})
    assert verdicts(report, "skipped").keys() <= ({*EXEC, "A6"} if api == "exec" else {"A6"})
    assert report["api"] == api
