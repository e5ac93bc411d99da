"""Power by simulation, and the sentence on the sample size."""

from evaluation.__main__ import main
from evaluation.planning.plan_record import read_plan
from evaluation.planning.power import sample_size
from evaluation.statistics.analysis_file import METRICS

PLAN = ["plan", "power", "--runs", "2", "--cases", "30", "--studies", "20", "--difference", "0.1"]


def test_a_scored_design_that_was_not_planned_is_named(tmp_path):
    assert main([*PLAN, "--output", str(tmp_path)]) == 0
    said = sample_size(read_plan(tmp_path / "plan.json", METRICS), runs=3, cases=30)
    assert said.endswith("Scored were 3 runs per configuration on 30 cases, which was none of the planned designs.")
