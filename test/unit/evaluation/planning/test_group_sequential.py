import math

import pytest
from refusals import refused_with

from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.planning.group_sequential import interim_analysis, looks_that_cannot_stop, simulate_looks
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.resampling.run_permutation import order_test

LOOKS = (5, 10, 20)


def test_looks_spend_alpha_and_no_more():
    plan = Analysis(name="x", looks=LOOKS)
    levels = [plan.level_at([runs, runs]) for runs in LOOKS]
    # 4 − 4 Φ(2.241403/√(1/4)), from tables of the normal distribution
    assert levels[0] == pytest.approx(1.473e-5, abs=1e-8)
    assert levels == sorted(levels)
    assert 0.045 < levels[-1] < 0.05
    assert plan.level_at([7, 7]) == plan.level_at([5, 10]) == plan.level_at([20, 21]) == 0  # between looks
    assert Analysis(name="x").level_at([3, 5]) == 0.05


def test_a_look_at_which_no_runs_suffice_is_named():
    assert looks_that_cannot_stop((5, 10, 15, 20), 0.05) == (5,)  # 5 v 5: 2/252 against 0.00001
    assert looks_that_cannot_stop((10, 20), 0.05) == ()


def test_looks_keep_the_level_and_repeated_tests_do_not():
    found = simulate_looks((5, 10, 15, 20), alpha=0.05, studies=800, seed=0)
    assert found.shown <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)
    assert found.shown_without_spending > 0.1


def test_looking_spares_runs_where_there_is_a_difference():
    found = simulate_looks((5, 10, 20), alpha=0.05, studies=300, seed=0, difference=0.03, run_sd=0.01)
    assert found.shown > 0.95
    assert found.mean_runs < 13


def test_one_look_has_the_power_that_planning_expects():
    # one-sided 5 %, spread of runs 1 %, difference 1 %: 67 % at 10 against 10 runs (simulated independently)
    found = simulate_looks((10,), alpha=0.1, studies=2000, seed=0, difference=0.01, run_sd=0.01)
    assert found.shown == pytest.approx(0.67, abs=0.04)


def campaign(scores, counts, apart=None):
    """Scored runs with AUROCs by quality; ``apart`` lifts the second configuration."""
    for number, (name, count) in enumerate(counts.items()):
        for restart in range(count):
            quality = 0.5 if apart is None or not number else apart
            scores.run(
                f"{name}{restart}", name, restart=restart, quality=quality, seed=100 * number + restart, runs=None
            )
    return read_scored_runs([scores.root])


def looked(scores, counts, looks, apart=None, metrics=("auroc",), pairs=(("a", "b"),), primary=None):
    plan = Analysis(name="declared", looks=looks, metrics=metrics, comparisons=pairs, primary=primary)
    return interim_analysis(campaign(scores, counts, apart), plan, list(pairs), analysis="f" * 64)


def test_plain_difference_stops_the_campaign_at_a_look(scores):
    found = looked(scores, {"a": 8, "b": 8}, (8, 10), apart=4.0)
    assert (found.look, found.next_look, found.stop) == (8, 10, True)
    assert found.comparisons[0].state == "shown"
    assert found.comparisons[0].p <= found.alpha_here < found.alpha
    assert found.sentence.startswith(
        "Stop at 8 runs per configuration: the ranking of the runs on this test set shows a difference between a and b"
    )


def test_open_comparison_continues(scores):
    found = looked(scores, {"a": 4, "b": 4}, (4, 20))
    assert (found.stop, found.comparisons[0].state) == (False, "open")
    assert found.sentence == (
        "Continue: at 4 runs per configuration the ranking of the runs on this test set shows no difference; "
        "1 of 1 comparisons are open."
    )


def test_comparisons_by_the_primary_metric_alone_keep_a_campaign_going(scores):
    found = looked(scores, {"a": 4, "b": 4}, (4, 20), metrics=("auroc", "ap"), primary="auroc")
    assert [each.metric for each in found.comparisons] == ["auroc", "ap"]
    assert found.sentence.endswith("; 1 of 1 comparisons are open.")


def test_comparison_that_no_run_to_come_could_decide_is_out_of_reach(scores):
    found = looked(scores, {"a": 3, "b": 3}, (3, 4))  # 4 against 4, once mixed, can hardly reach 5 %
    each = found.comparisons[0]
    values = [
        [run.strict.auroc for run in read_scored_runs([scores.root]) if run.source.configuration == name]
        for name in "ab"
    ]
    expected = min(
        order_test([*values[0], 2.0], [*values[1], -1.0]).p, order_test([*values[0], -1.0], [*values[1], 2.0]).p
    )
    assert each.best_p_at_the_end == pytest.approx(expected)
    assert each.state == ("out of reach" if expected > found.alpha_at_the_end else "open")
    assert found.stop == (each.state == "out of reach")


def test_pair_without_run_level_does_not_keep_a_campaign_going(scores):
    campaign(scores, {"a": 4, "b": 4}, apart=9.0)
    scores.run("four", "ensemble-four", runs=tuple("xyz"), restart=0)
    scores.run("five", "ensemble-four", runs=tuple("xuv"), restart=1)
    plan = Analysis(name="declared", looks=(2, 4), metrics=("auroc",))
    runs = [run for run in read_scored_runs([scores.root]) if run.source.restart in (0, 1)]
    found = interim_analysis(runs, plan, [("a", "ensemble-four")], analysis="f" * 64)
    assert (found.look, found.comparisons[0].state, found.stop) == (2, "out of reach", True)


def test_between_looks_nothing_is_decided(scores):
    found = looked(scores, {"a": 5, "b": 4}, (4, 8), apart=4.0)
    assert (found.look, found.alpha_here, found.stop) == (None, 0, False)
    assert found.sentence == "No look is due (a 5, b 4); the next one is at 8 runs per configuration."


def test_last_look_always_stops(scores):
    found = looked(scores, {"a": 4, "b": 4}, (2, 4))
    assert (found.stop, found.next_look) == (True, None)
    assert found.sentence.startswith("Stop: all 4 planned runs are done; ")


def test_folds_are_kept_apart_and_continue_in_turn(scores):
    for fold in (0, 1):
        for restart in (0, 1):
            for number, name in enumerate("ab"):
                scores.run(
                    f"{name}{fold}{restart}", name, fold=fold, restart=restart, seed=10 * fold + restart + number
                )
    plan = Analysis(name="declared", looks=(4, 8), metrics=("auroc",))
    found = interim_analysis(read_scored_runs([scores.root]), plan, [("a", "b")], analysis="f" * 64)
    assert found.comparisons[0].best_p_at_the_end >= 2 / math.comb(8, 4) ** 2


def test_analysis_without_looks_and_more_runs_than_planned_are_refused(scores):
    with refused_with("declared", problem="no looks are declared"):
        looked(scores, {"a": 2, "b": 2}, ())
    plan = Analysis(name="declared", looks=(1 + 1,), metrics=("auroc",))
    scores.run("a2", "a", restart=2, seed=7)
    with refused_with("declared", expected=r"at most 2 runs of a \(looks\)", found="3"):
        interim_analysis(read_scored_runs([scores.root]), plan, [("a", "b")], analysis="f" * 64)
