import pytest

from evaluation.statistics.verdict import SENTENCES, Interval95, decide, sentence

ABOVE, BELOW, AROUND = (
    Interval95(low=low, high=high, undefined_replicates=0) for low, high in [(0.01, 0.1), (-0.1, -0.01), (-0.02, 0.1)]
)
SURE = {
    "estimate": 0.05,
    "interval": ABOVE,
    "run_level_p_holm": 0.01,
    "case_level_p_holm": 0.02,
    "run_level_applies": True,
    "spread_known": True,
    "equivalent": False,
    "alpha": 0.05,
}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "better"),
        ({"estimate": -0.05, "interval": BELOW}, "worse"),
        ({"case_level_p_holm": 0.3}, "better-on-this-test-set"),
        ({"case_level_p_holm": 0.3, "estimate": -0.05, "interval": BELOW}, "better-on-this-test-set"),
        ({"interval": AROUND}, "better-on-this-test-set"),
        ({"interval": BELOW}, "better-on-this-test-set"),
        ({"run_level_p_holm": 0.06}, "undecided"),
        ({"run_level_p_holm": None}, "undecided"),
        ({"run_level_p_holm": None, "run_level_applies": False}, "better"),
        ({"run_level_p_holm": None, "run_level_applies": False, "case_level_p_holm": 0.06}, "undecided"),
        ({"run_level_p_holm": None, "run_level_applies": False, "spread_known": False}, "undecided"),
        ({"run_level_p_holm": 0.3, "case_level_p_holm": 0.3, "equivalent": True}, "on-par"),
        ({"run_level_p_holm": None, "equivalent": True, "spread_known": False}, "undecided"),
        ({"equivalent": True}, "better"),
        ({"alpha": 0.01}, "better-on-this-test-set"),
        ({"estimate": None}, "undecided"),
        ({"interval": None}, "undecided"),
    ],
)
def test_code_follows_from_both_levels_the_interval_and_equivalence(changes, code):
    assert decide(**{**SURE, **changes}) == code


def test_sentence_names_the_one_that_is_better_on_this_test_set():
    said = sentence("better-on-this-test-set", a="ce", b="focal", metric="ap", estimate=-0.1, run_level_applies=True)
    assert said.startswith("By AP, focal is better than ce on this test set;")


def test_sentence_without_run_level_claims_cases_alone():
    said = sentence("better", a="ce", b="baseline", metric="auroc", estimate=0.1, run_level_applies=False)
    assert said == "By AUROC, ce is better than baseline, beyond the chance of cases."


def test_every_code_has_a_sentence_that_names_both_sides():
    for code in SENTENCES:
        said = sentence(code, a="first", b="second", metric="score", estimate=0.1, run_level_applies=True)
        assert "first" in said
        assert "second" in said
