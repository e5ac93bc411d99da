import pytest
from report_makers import judged

from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.conclusions import SENTENCES, decide, leading_metric, sentence

SURE = {"estimate": 0.05, "p_holm": 0.01, "alpha": 0.05, "equivalent": False}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "better"),
        ({"estimate": -0.05}, "worse"),
        ({"p_holm": 0.06}, "undecided"),
        ({"p_holm": None}, "undecided"),
        ({"alpha": 0.001}, "undecided"),
        ({"alpha": 0.0}, "undecided"),
        ({"p_holm": 0.3, "equivalent": True}, "on-par"),
        ({"equivalent": True}, "better"),
        ({"estimate": None}, "undecided"),
    ],
)
def test_code_follows_from_the_test_and_from_equivalence(changes, code):
    assert decide(**{**SURE, **changes}) == code


@pytest.mark.parametrize(
    ("code", "margin", "equivalent", "said"),
    [
        ("better", None, False, "By AP, ce is better than focal for new runs and new cases."),
        ("better", 0.02, False, "By AP, ce is better than focal for new runs and new cases."),
        (
            "worse",
            0.02,
            True,
            "By AP, ce is worse than focal for new runs and new cases, but by less than the margin of 0.02.",
        ),
        (
            "on-par",
            0.02,
            True,
            "By AP, ce and focal are on par for new runs and new cases: they differ by less than 0.02.",
        ),
        ("undecided", None, False, "By AP, no difference between ce and focal is shown for new runs and new cases."),
        (
            "undecided",
            0.02,
            False,
            "By AP, no difference between ce and focal is shown for new runs and new cases, nor that they differ by "
            "less than 0.02.",
        ),
    ],
)
def test_sentences_name_the_margin_where_one_was_declared(code, margin, equivalent, said):
    assert sentence(code, a="ce", b="focal", metric="ap", margin=margin, equivalent=equivalent) == said


def test_every_code_has_a_sentence():
    assert set(SENTENCES) == {"better", "worse", "on-par", "undecided"}


@pytest.mark.parametrize(
    ("declared", "leading"),
    [
        ({}, "score"),
        ({"primary": "ap"}, "ap"),
        ({"margin": {"auroc": 0.1}}, "auroc"),
        ({"margin": {"auroc": 0.1}, "primary": "ap"}, "ap"),
        ({"margin": {"auroc": 0.1, "ap": 0.1}}, "score"),
        ({"metrics": ("ap", "auroc")}, "ap"),
    ],
)
def test_the_leading_metric_is_primary_or_has_the_only_margin(scores, declared, leading):
    scores.arms()
    assert leading_metric(judged(scores, Analysis(name="x", **declared))) == leading
