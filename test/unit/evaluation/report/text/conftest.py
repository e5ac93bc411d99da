import pytest
from report_makers import quickly_judged

from evaluation.statistics.verdict_records import Verdict


@pytest.fixture(scope="session")
def demo_verdict(demo_scores) -> Verdict:
    return quickly_judged(demo_scores)[0]
