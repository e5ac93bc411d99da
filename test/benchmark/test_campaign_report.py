from pathlib import Path
from types import ModuleType

import pytest

from contract.records import read_record
from evaluation.statistics.verdict_records import Verdict

BENCHMARK = "campaign_report"


@pytest.mark.slow
def test_simulated_campaign_is_scored_compared_and_shown(benchmark: ModuleType, tmp_path: Path) -> None:
    words = ["--output", str(tmp_path), "--cases", "30", "--configurations", "2", "--runs", "2"]
    benchmark.main(benchmark._options(words))
    verdict = read_record(tmp_path / "comparison" / "verdict.json", Verdict)
    assert [(each.name, each.runs, each.cases) for each in verdict.configurations] == [("ce", 2, 30), ("focal", 2, 30)]
    assert verdict.analysis_name == "A simulated campaign of 2 losses"
    assert {each.column for each in verdict.subgroups} <= {"lesion_zones", "lesion_volumes_ml"}
    # the rule finds some lesions and misses others
    assert all(0.6 < each.metrics["auroc"].mean < 1 for each in verdict.configurations)
    assert (tmp_path / "comparison" / "figures" / "misses.png").is_file()
