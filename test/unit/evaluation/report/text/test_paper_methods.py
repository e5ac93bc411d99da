"""The section Methods."""

from report_makers import judged, text_of

from evaluation.report.text.checklists import checklists
from evaluation.report.text.paper_methods import holm_over


def test_holm_is_said_to_cover_the_comparisons_that_were_tested(scores):
    scores.arms(2.0, 0.5, runs=3)
    for restart in range(2):
        scores.run(f"other{restart}", "elsewhere", fold=4, restart=restart, seed=30 + restart)
    verdict = judged(scores)
    assert verdict.family == 3
    expected = "1 comparison per metric for new runs and cases and 1 comparison per metric on this test set"
    assert holm_over(verdict) == expected
    assert expected in text_of(verdict)[0]
    assert expected in {row.item: row.answer for row in checklists(verdict)["claim"]}["29"]
