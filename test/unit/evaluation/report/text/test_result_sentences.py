"""A comparison's answer in a word, with the numbers of the test that gave it."""

import pytest
from report_makers import judged, text_of

from evaluation.report.number_format import p_in_words
from evaluation.report.text.result_sentences import numbers_of
from evaluation.report.text.verdict_paragraph import summary
from evaluation.statistics.analysis_file import Analysis


def test_on_par_is_given_with_the_interval_and_p_of_its_own_tests(scores):
    scores.cases = 60
    scores.arms()
    verdict = judged(scores, Analysis(name="x", primary="auroc", margin={"auroc": 0.5}))
    pair = verdict.pairs[0]
    equal = pair.equivalence
    assert (pair.code, equal.interval.level) == ("on-par", pytest.approx(0.9))
    assert abs(pair.p_holm - equal.p_holm) > 0.1
    low, high = (f"{end:+.3f}".replace("-", "−") for end in (equal.interval.low, equal.interval.high))
    numbers = f"[90 % CI {low} to {high}], two one-sided tests {p_in_words(equal.p_holm, pair.approximate)}"
    for said in (text_of(verdict)[1], summary(verdict)):
        assert numbers in said
        assert f"{pair.p_holm:.3f}" not in said


def test_a_shown_difference_within_the_margin_is_given_with_both_tests(scores):
    scores.cases = 60
    scores.arms(4.0, -0.5, runs=4)
    verdict = judged(scores, Analysis(name="x", primary="auroc", margin={"auroc": 0.9}))
    pair = verdict.pairs[0]
    assert (pair.code, pair.equivalence.shown) == ("better", True)
    assert "[95 % CI " in numbers_of(pair)
    assert "two one-sided tests p" in numbers_of(pair)
    assert "[90 % CI " in numbers_of(pair)
    assert f"({numbers_of(pair)}), but by less than the margin of 0.9." in summary(verdict)
    assert f"({numbers_of(pair)}" in text_of(verdict)[1]
    turned = pair.model_copy(update={"equivalence": None})
    low, high = (f"{-end:+.3f}".replace("-", "−") for end in (pair.interval.high, pair.interval.low))
    assert f"difference {-pair.estimate:+.3f}".replace("-", "−") in numbers_of(turned, turned=True)
    assert f"[95 % CI {low} to {high}]" in numbers_of(turned, turned=True)
