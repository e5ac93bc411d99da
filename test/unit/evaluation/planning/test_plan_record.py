"""The record of a plan."""

import pytest

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.files.reading import read_json
from evaluation.__main__ import main
from evaluation.planning.plan_record import read_plan

PLAN = ["plan", "power", "--runs", "2", "--cases", "30", "--studies", "20", "--difference", "0.1"]


@pytest.mark.parametrize(
    ("command", "change", "found"),
    [
        (PLAN, {"metric": "ap"}, "AP"),
        (["plan", "errors", "--runs", "2", "--cases", "30", "--studies", "20"], {}, "errors by AUROC"),
        (PLAN, {"assumptions": {}}, "power to show a difference of 0.1 in AUROC"),
        (PLAN, {"designs": "many"}, None),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, command, change, found):
    path = tmp_path / "plan.json"
    assert main([*command, "--output", str(tmp_path)]) == 0
    write_json(path, read_json(path) | change)
    with pytest.raises(OncoduetError) as caught:
        read_plan(path, ["auroc"])
    assert str(path) in caught.value.where
    assert found is None or caught.value.found == found
