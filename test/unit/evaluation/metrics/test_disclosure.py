"""What the platform's figures tell of hidden labels."""

import itertools
import json

import numpy as np
import pytest

from contract.records import AgainstBaseline, Metrics, MetricsRecord
from evaluation.__main__ import main
from evaluation.metrics.disclosure import HIDDEN, disclosed, rounding_for
from evaluation.metrics.run_metrics import auroc


def record(area, *, positive, negative, ap=0.5, **more):
    values = {"cases": positive + negative, "positive_cases": positive, "lesions": positive, "missing": 0}
    answer = Metrics(auroc=area, ap=ap, score=(area + ap) / 2, lesion_sensitivity_at_fp={"fp_1": 0.123}, **values)
    return MetricsRecord(strict=answer, picai=answer, **more)


@pytest.mark.parametrize(
    ("positive", "negative", "grid"),
    [(4, 60, None), (5, 60, (0.2, 0.2)), (10, 60, (0.2, 0.2)), (11, 60, (0.1, 0.2)), (60, 24, (0.05, 0.1)),
     (60, 20, (0.1, 0.1)), (400, 600, (0.005, 0.02)), (5000, 5000, (0.001, 0.002))],
)  # fmt: skip
def test_the_grid_is_coarser_than_what_one_case_can_move(positive, negative, grid):
    assert rounding_for(record(0.5, positive=positive, negative=negative).strict) == grid


@pytest.mark.parametrize("lesions", [18, 20, 50, 80, 350])
def test_the_label_of_the_first_candidate_moves_ap_by_less_than_a_step(lesions):
    """Of all others every hit is above every false alarm, where one candidate moves the AP most."""
    counts = {"positive": lesions, "negative": lesions}
    step = rounding_for(record(0.5, **counts).strict).ap
    others = [True] * (lesions - 1)

    def ap(candidates):
        return sum(np.mean(candidates[:rank]) for rank, hit in enumerate(candidates, start=1) if hit) / lesions

    moved = ap([True, *others]) - ap([False, *others])
    assert 1 / lesions < moved < step


def test_values_are_on_the_grid_and_second_answers_are_left_out():
    shown = disclosed(record(0.8374, positive=24, negative=36, ap=0.5249))
    assert (shown.strict.auroc, shown.strict.ap, shown.strict.score) == (0.85, 0.6, 0.725)
    assert (shown.strict.cases, shown.strict.positive_cases, shown.strict.lesions) == (60, 24, 24)
    assert shown.strict.lesion_sensitivity_at_fp == shown.picai.lesion_sensitivity_at_fp == {}
    assert (shown.picai.auroc, shown.picai.ap, shown.picai.score) == (None, None, None)
    assert (shown.picai.cases, shown.picai.reason) == (60, HIDDEN)


def test_differences_from_a_baseline_are_those_of_rounded_figures():
    exact = AgainstBaseline(difference=0.0374, interval=(-0.011, 0.0851), p=0.0312)
    shown = disclosed(record(0.8374, positive=24, negative=36, baselines={"ours": {"auroc": exact}}))
    found = shown.baselines["ours"]["auroc"]
    assert found.difference == pytest.approx(0.85 - 0.8)  # both on the grid
    assert (found.interval, found.p) == (pytest.approx((-0.05, 0.15)), 1.0)  # holds 0: p stays untold


def test_a_clear_difference_keeps_its_p_upwards():
    exact = AgainstBaseline(difference=0.2374, interval=(0.101, 0.3351), p=0.0012)
    found = disclosed(record(0.8374, positive=24, negative=36, baselines={"a": {"auroc": exact}})).baselines["a"]
    assert (found["auroc"].interval, found["auroc"].p) == (pytest.approx((0.1, 0.4)), 0.01)


def test_raising_one_case_of_a_known_baseline_reveals_no_label():
    """The difference is the raised cases' alone: above 0 where they are positive, below where not, p 1 where unlike."""
    shown = set()
    for difference, interval, p in [(0.01, (0.0, 0.03), 1.0), (-0.01, (-0.03, 0.0), 1.0), (0.02, (0.0, 0.05), 0.5)]:
        each = AgainstBaseline(difference=difference, interval=interval, p=p)
        answer = disclosed(record(0.8 + difference, positive=24, negative=36, baselines={"a": {"auroc": each}}))
        shown.add(answer.baselines["a"]["auroc"].model_dump_json())
    assert len(shown) == 1


def test_an_undefined_figure_stays_so():
    values = {"cases": 40, "positive_cases": 20, "lesions": 0, "missing": 0, "reason": "no lesion"}
    answer = Metrics(auroc=0.7, ap=None, score=None, **values)
    shown = disclosed(MetricsRecord(strict=answer, picai=answer)).strict
    assert (shown.ap, shown.score, shown.reason) == (None, None, "no lesion")


def told(hidden, *, asked, show):
    """Share of labels that an attacker gets right who ranks ``asked`` cases above all others and fits what is shown."""
    cases, positive = hidden.size, int(hidden.sum())
    levels = np.linspace(0.9, 0.3, asked)
    right = 0
    for first in range(0, cases, asked):
        likelihood = np.zeros(cases)
        likelihood[first : first + asked] = levels
        answer = show(auroc(hidden.tolist(), likelihood))
        fitting = []
        for guess in itertools.product((False, True), repeat=asked):
            others = positive - sum(guess)
            labels = [*guess, *[True] * others, *[False] * (cases - asked - others)]
            if (
                0 <= others <= cases - asked
                and abs(show(auroc(labels, np.append(levels, np.zeros(cases - asked)))) - answer) < 1e-9
            ):
                fitting.append((sum(guess) * np.log(positive / (cases - positive)), guess))
        right += int((np.array(max(fitting)[1]) == hidden[first : first + asked]).sum())
    return right / cases


@pytest.mark.parametrize("asked", [1, 3])
def test_rounded_figures_hide_labels_that_exact_ones_reveal(asked):
    right, blind = [], []
    for seed in range(3):
        hidden = np.random.default_rng(seed).random(60) < 0.4
        counts = {"positive": int(hidden.sum()), "negative": int((~hidden).sum())}
        assert told(hidden, asked=asked, show=lambda area: area) == 1
        right.append(
            told(hidden, asked=asked, show=lambda area, counts=counts: disclosed(record(area, **counts)).strict.auroc)
        )
        blind.append(max(hidden.mean(), 1 - hidden.mean()))  # the commoner label for everybody
    assert np.mean(right) <= np.mean(blind) + 0.06


@pytest.fixture
def platform(workshop):
    """Ten positive and ten negative cases; a submission that finds every lesion but one."""
    ids = [f"{100 + k}_{k}" for k in range(20)]
    truth = workshop.truth({c: workshop.image({1: workshop.box} if k % 2 else None) for k, c in enumerate(ids)})
    maps = {c: workshop.image({0.5 + k / 64: workshop.box} if k % 2 and k > 1 else None) for k, c in enumerate(ids)}
    submission = workshop.batch(maps, {c: 0.5 + k / 64 if k % 2 and k > 1 else 0.0 for k, c in enumerate(ids)})

    def run(settings=None):
        if settings is not None:
            (truth / "settings.json").write_text(json.dumps(settings))
        words = ["--input", submission, "--truth", truth, "--output", workshop.root / "out"]
        assert main([str(word) for word in words]) == 0
        return json.loads((workshop.root / "out" / "metrics.json").read_text())

    return run


def test_the_platform_rounds_unless_the_settings_say_otherwise(platform, capsys):
    rounded = platform()
    assert (rounded["strict"]["auroc"], rounded["strict"]["ap"], rounded["strict"]["score"]) == (1.0, 0.8, 0.9)
    assert rounded["picai"]["auroc"] is None
    assert "0.9500" not in capsys.readouterr().out  # nor does the log tell
    for settings in ({"exact": True}, {"per_case": True}):
        exact = platform(settings)
        # one of ten lesions missed, no false positive; its case ties with ten negatives: (9 · 10 + 10 / 2) / 100
        assert exact["strict"]["auroc"] == exact["picai"]["auroc"] == pytest.approx(0.95)
        assert exact["strict"]["ap"] == pytest.approx(0.9)
