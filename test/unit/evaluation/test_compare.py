import csv
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from programs import python
from refusals import refused_with
from report_makers import analysis_file, judged, pair_of, table_of_runs
from statsmodels.stats.multitest import multipletests

from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file
from contract.records import read_record
from evaluation.__main__ import main
from evaluation.compare import compare, warn_of_alike_outcomes
from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.report.text.limitations import notes
from evaluation.statistics.analysis_file import METRICS, read_analysis
from evaluation.statistics.verdict_records import Verdict

QUICK = "replicates = 200\nswaps = 300\n"


def compared(scores, tmp_path, text=QUICK):
    """The verdict, without its report."""
    return judged(scores, read_analysis(analysis_file(tmp_path, text)))


def keys_of(value):
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def test_demo_gives_verdict_report_and_figures(scores, tmp_path):
    compare([scores.demo()], tmp_path / "out", analysis=None)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert verdict.analysis == "exploratory"
    assert {each.name: each.runs for each in verdict.configurations} == {
        "ce": 2, "ce-dice": 2, "ce-focal": 2, "focal": 2, "ensemble-four": 2,
        "baseline-maximum-hbv": 1, "baseline-minimum-adc": 1,
    }  # fmt: skip
    assert len(verdict.pairs) == 3 * 21
    figures = ["roc", "pr", "froc", "afroc", "calibration", "decision-curve"]
    figures += [f"{kind}-{m}" for kind in ("runs", "p") for m in METRICS]
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        f"{name}.{suffix}" for suffix in ("png", "svg", "pdf") for name in figures
    }
    assert (tmp_path / "out" / "report.html").stat().st_size < 2_000_000
    assert not any("." in key for key in keys_of(read_json(tmp_path / "out" / "verdict.json")))


def test_order_of_the_folders_changes_no_byte(scores, tmp_path):
    folders = sorted(path.parent for path in scores.demo().rglob("metrics.json"))
    plan = analysis_file(tmp_path, f"metrics = ['score']\n{QUICK}")
    compare(folders, tmp_path / "one", analysis=plan)
    compare(folders[::-1], tmp_path / "two", analysis=plan)
    names = sorted(str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*.*"))
    assert names == sorted(str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").rglob("*.*"))
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_number_of_workers_changes_no_byte(scores, tmp_path):
    root = scores.demo()
    plan = analysis_file(tmp_path, f"metrics = ['ap']\ncomparisons = [['ce', 'focal'], ['ce', 'ce-dice']]\n{QUICK}")
    for workers in (1, 3):
        compare([root], tmp_path / str(workers), analysis=plan, workers=workers)
    one, three = ((tmp_path / str(workers) / "verdict.json").read_bytes() for workers in (1, 3))
    assert one == three


def test_estimates_summaries_and_parents_are_those_of_the_runs(scores, tmp_path):
    root = scores.demo()
    verdict = compared(scores, tmp_path)
    values = [read_json(root / f"ce_{restart}" / "metrics.json")["strict"] for restart in (0, 1)]
    summary = verdict.configurations[0]
    for metric in ("auroc", "ap", "score"):
        assert summary.metrics[metric].mean == pytest.approx(np.mean([value[metric] for value in values]))
        assert summary.metrics[metric].sd == pytest.approx(np.std([value[metric] for value in values], ddof=1))
    assert summary.metrics["ap"].picai_mean == pytest.approx(summary.metrics["ap"].mean - 0.01)
    assert (summary.cases, summary.lesions, summary.missing) == (values[0]["cases"], values[0]["lesions"], 0)
    other = verdict.configurations[3].metrics["ap"].mean
    assert pair_of(verdict, "ce", "focal", "ap").estimate == pytest.approx(summary.metrics["ap"].mean - other)
    assert verdict.parents["ce_fold0_restart1"] == sha256_file(root / "ce_1" / "metrics.json")
    assert len(verdict.parents) == 12


def test_run_level_of_two_against_two_says_what_it_can_reach(scores, tmp_path):
    scores.demo()
    pair = pair_of(compared(scores, tmp_path), "ce", "focal")
    assert pair.run_level.smallest_attainable_p == pytest.approx(1 / 3)
    assert pair.run_level.p is not None
    assert pair.run_level.p >= 1 / 3 - 1e-12
    assert not pair.run_level.blocked_by_fold


def test_ensemble_is_paired_with_its_members_but_not_exchangeable(scores, tmp_path):
    scores.demo()
    pair = pair_of(compared(scores, tmp_path), "ce", "ensemble-four")
    assert pair.run_level.p is None
    assert pair.run_level.reason == "both contain the same runs: an ensemble is not exchangeable with its members"
    assert (pair.runs_and_cases.design, pair.runs_and_cases.runs) == ("paired by network", (2, 2))
    assert pair.p is not None


def test_control_is_not_exchangeable_with_what_shares_its_runs(scores, tmp_path):
    for fold in (0, 1):
        for restart in (1, 2, 3, 4):
            four = (f"ce{fold}{restart}", f"focal{fold}{restart}")
            seed = 10 * fold + restart
            scores.run(f"four{fold}{restart}", "ensemble-four", fold=fold, restart=restart, runs=four, seed=seed)
        for name in ("ce", "focal"):
            own = tuple(f"{name}{fold}{restart}" for restart in (1, 2, 3, 4))
            scores.run(
                f"{name}{fold}", f"control-{name}", fold=fold, restart=None, runs=own, seed=30 + 7 * len(name) + fold
            )
        scores.run(f"single{fold}", "ce", fold=fold, restart=1, runs=(f"ce{fold}1",), seed=40 + fold)
    verdict = compared(scores, tmp_path)
    assert {each.name: each.kind for each in verdict.configurations} == {
        "ce": "configuration",
        "control-ce": "ensemble",
        "control-focal": "ensemble",
        "ensemble-four": "ensemble",
    }
    reasons = {(pair.a, pair.b): pair.run_level.reason for pair in verdict.pairs if pair.metric == "auroc"}
    shared = "both contain the same runs: an ensemble is not exchangeable with its members"
    assert reasons == {
        ("ce", "control-ce"): shared,
        ("ce", "control-focal"): None,
        ("ce", "ensemble-four"): shared,
        ("control-ce", "control-focal"): None,
        ("control-ce", "ensemble-four"): shared,
        ("control-focal", "ensemble-four"): shared,
    }
    designs = {
        (pair.a, pair.b): pair.runs_and_cases and pair.runs_and_cases.design
        for pair in verdict.pairs
        if pair.metric == "auroc"
    }
    assert designs["ce", "control-ce"] == designs["control-focal", "ensemble-four"] == "paired by network"
    assert designs["ce", "control-focal"] == designs["control-ce", "control-focal"] == "paired by fold"
    pair = pair_of(verdict, "ce", "ensemble-four")
    assert pair.ensemble == "ensemble-four"
    # the ensembles of this test hold two runs and the controls four: none is size-matched
    assert pair.controls == ()
    assert pair_of(verdict, "control-ce", "ensemble-four").ensemble is None


def test_size_matched_control_of_a_claim_has_its_own_verdict(scores, tmp_path):
    for restart in (0, 1):
        scores.run(f"four{restart}", "ensemble-four", restart=restart, runs=(f"a{restart}", f"b{restart}"), quality=2.0)
        scores.run(f"own{restart}", "control-ce", restart=restart, runs=(f"c{restart}", f"d{restart}"), seed=restart)
        scores.run(f"big{restart}", "control-focal", restart=restart, runs=tuple(f"{k}{restart}" for k in "wxyz"))
        scores.run(f"ce{restart}", "ce", restart=restart, seed=9 + restart, runs=(f"e{restart}",))
    verdict = compared(scores, tmp_path)
    (control,) = pair_of(verdict, "ce", "ensemble-four").controls
    between = pair_of(verdict, "control-ce", "ensemble-four")
    turned = {"better": "worse", "worse": "better"}
    assert control.control == "control-ce"
    assert control.estimate == pytest.approx(-between.estimate)
    assert (control.interval.low, control.interval.high) == pytest.approx(
        (-between.interval.high, -between.interval.low)
    )
    assert control.code == turned.get(between.code, between.code)
    only = compared(scores, tmp_path, f"comparisons = [['ce', 'ensemble-four']]\n{QUICK}")
    assert pair_of(only, "ce", "ensemble-four").controls[0].code is None
    assert pair_of(only, "ce", "ensemble-four").controls[0].estimate == pytest.approx(control.estimate)


def test_non_inferiority_is_one_side_of_the_interval_of_equivalence(scores, tmp_path):
    scores.arms(2.0, -0.5, runs=6)
    pair = pair_of(compared(scores, tmp_path, f"{QUICK}[margin]\nauroc = 0.05"), "ce", "focal")
    found, interval = pair.non_inferiority, pair.equivalence.interval
    assert found.interval == interval
    assert interval.level == pytest.approx(0.9)
    assert (
        (found.a_not_inferior, found.b_not_inferior) == (interval.low > -0.05, -interval.high > -0.05) == (True, False)
    )
    assert pair_of(compared(scores, tmp_path), "ce", "focal").non_inferiority is None


def test_p_is_compared_with_the_level_of_the_interim_analysis(scores, tmp_path):
    scores.arms(5.0, -1.0, runs=4, seeds=(0, 20))
    whole = pair_of(compared(scores, tmp_path), "ce", "focal")
    early = pair_of(compared(scores, tmp_path, f"looks = [4, 8]\n{QUICK}"), "ce", "focal")
    assert whole.run_level.p == early.run_level.p == pytest.approx(2 / 70)
    assert (whole.run_level.alpha, whole.code) == (0.05, "better")
    assert early.alpha == early.run_level.alpha == pytest.approx(0.00305, abs=1e-5)
    assert early.code == ("better" if early.p <= early.alpha else "undecided")
    assert early.run_level.smallest_attainable_p == pytest.approx(2 / 70)
    assert (
        early.run_level.sentence == "On this test set the ranking of so few runs cannot show a difference at this look."
    )
    assert whole.run_level.sentence == "On this test set the runs of ce rank above those of focal."
    between = compared(scores, tmp_path, f"looks = [3, 8]\n{QUICK}")
    assert {(pair.alpha, pair.code) for pair in between.pairs} == {(0.0, "undecided")}
    assert any("None is due with the runs scored so far" in note for note in notes(between))


def test_tables_for_a_paper_hold_the_verdicts_numbers(scores, tmp_path):
    scores.run("a", "ce_1", restart=0)
    scores.run("b", "ce_1", restart=1, seed=1)
    scores.run("c", "focal", restart=0, seed=2)
    scores.run("d", "focal", restart=1, seed=3)
    plan = analysis_file(tmp_path, f"metrics = ['auroc']\n{QUICK}[margin]\nauroc = 0.1")
    compare([scores.root], tmp_path / "out", analysis=plan)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    tables = tmp_path / "out" / "tables"
    assert sorted(path.name for path in tables.iterdir()) == [
        "calibration.csv", "claim.csv", "claim.md", "comparisons.csv", "comparisons.tex", "configurations.csv",
        "configurations.tex", "flips.csv", "flow.csv", "methods.md", "net_benefit.csv", "operating_points.csv",
        "stard-ai.csv", "stard-ai.md",
    ]  # fmt: skip
    with (tables / "comparisons.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["difference"]) == verdict.pairs[0].estimate
    assert (row["code"], row["margin"], row["on_par"]) == (verdict.pairs[0].code, "0.1", "False")
    summary = verdict.configurations[0].metrics["auroc"]
    tex = (tables / "configurations.tex").read_text()
    assert rf"ce\_1 & 2 & {summary.mean:.3f} $\pm$ {summary.sd:.3f} [" in tex
    assert tex.count(r"\\") == 3
    assert r"ce\_1 -- focal & AUROC & $" in (tables / "comparisons.tex").read_text()


def test_a_baseline_has_no_run_level_and_is_compared_all_the_same(scores, tmp_path):
    scores.cases = 60
    scores.demo()
    names = "ensemble-four", "baseline-minimum-adc"
    pair = pair_of(compared(scores, tmp_path, f"comparisons = [{list(names)}]"), *names)
    assert pair.run_level.reason == "a baseline is a fixed rule without runs"
    assert pair.code == "better"
    assert pair.sentence.endswith("is better than baseline-minimum-adc for new runs and new cases.")


def test_single_networks_are_compared_as_such_and_decide_nothing(scores, tmp_path):
    scores.cases = 60
    scores.run("a", "ce", quality=4.0)
    scores.run("b", "focal", quality=-1.0)
    pair = pair_of(compared(scores, tmp_path, f"{QUICK}[margin]\nauroc = 0.99"), "ce", "focal")
    assert pair.run_level.reason == "with one run per configuration there is nothing to permute"
    assert (pair.p, pair.interval, pair.equivalence, pair.code) == (None, None, None, "undecided")
    assert pair.reason == "of ce a single run was scored: how much runs vary is not known"
    assert max(pair.networks.p, pair.networks.p_of_swaps) < 0.05
    assert pair.networks.interval.low > 0
    assert pair.sentence == (
        "By AUROC, of ce and focal single networks were scored, which decide nothing about new runs; these two differ "
        "on new cases."
    )


def test_a_single_network_is_not_compared_with_many_runs(scores, tmp_path):
    scores.cases = 60
    scores.run("a", "ce", quality=4.0)
    for restart in range(4):
        scores.run(f"b{restart}", "focal", restart=restart, quality=-1.0, seed=restart)
    pair = pair_of(compared(scores, tmp_path), "ce", "focal")
    assert (pair.p, pair.networks, pair.code) == (None, None, "undecided")
    assert pair.sentence.endswith("not compared: of ce a single run was scored: how much runs vary is not known.")


def test_ensembles_with_shared_or_unknown_runs_are_not_exchangeable(scores, tmp_path):
    for restart in (0, 1):
        scores.run(f"a{restart}", "ensemble-a", restart=restart, runs=(f"a{restart}", "common"))
        scores.run(f"b{restart}", "ensemble-b", restart=restart, runs=(f"b{restart}", f"other{restart}"))
        scores.run(f"c{restart}", "ensemble-c", restart=restart, runs=())
    verdict = compared(scores, tmp_path)
    assert pair_of(verdict, "ensemble-a", "ensemble-b").run_level.reason == (
        "the ensembles of ensemble-a share runs with one another"
    )
    assert pair_of(verdict, "ensemble-b", "ensemble-c").run_level.reason == ("the runs of the ensemble are not known")


def test_runs_with_known_folds_are_permuted_within_fold(scores, tmp_path):
    for fold in range(3):
        for restart in range(2):
            seed = 10 * fold + restart
            scores.run(f"a{fold}{restart}", "ce", fold=fold, restart=restart, seed=seed)
            scores.run(f"b{fold}{restart}", "focal", fold=fold, restart=restart, seed=100 + seed)
    pair = pair_of(compared(scores, tmp_path), "ce", "focal")
    assert pair.run_level.blocked_by_fold
    assert pair.run_level.smallest_attainable_p == pytest.approx(2 / 6**3)


def test_identical_configurations_differ_by_nothing(scores, tmp_path):
    scores.arms(seeds=(0, 0))
    for pair in compared(scores, tmp_path).pairs:
        assert (pair.estimate, pair.run_level.p, pair.code) == (0, 1, "undecided")
        assert pair.p == pytest.approx(1)


def test_equivalence_within_the_declared_margin_is_on_par(scores, tmp_path):
    scores.arms(seeds=(0, 0))
    verdict = compared(scores, tmp_path, f"{QUICK}[margin]\nauroc = 0.5\nap = 0.0001")
    wide, narrow = pair_of(verdict, "ce", "focal"), pair_of(verdict, "ce", "focal", "ap")
    assert wide.equivalence is not None
    assert (wide.equivalence.shown, wide.code) == (True, "on-par")
    assert wide.equivalence.interval.level == pytest.approx(0.9)
    assert narrow.equivalence is not None
    assert (narrow.equivalence.shown, narrow.code) == (False, "undecided")
    assert pair_of(verdict, "ce", "focal", "score").equivalence is None


def test_holm_adjusts_over_the_declared_family(scores, tmp_path):
    scores.demo()
    verdict = compared(scores, tmp_path, f"comparisons = [['ce', 'focal'], ['ce-dice', 'ce']]\n{QUICK}")
    assert verdict.family == 2
    assert [(pair.a, pair.b) for pair in verdict.pairs][:2] == [("ce", "focal"), ("ce-dice", "ce")]
    for metric in ("auroc", "ap", "score"):
        pairs = [pair for pair in verdict.pairs if pair.metric == metric]
        for raw in (pairs, [pair.run_level for pair in pairs]):
            assert [each.p_holm for each in raw] == pytest.approx(multipletests([e.p for e in raw], method="holm")[1])


@pytest.mark.parametrize(
    ("configurations", "runs", "message"),
    [
        (1, 2, "scores: expected 2 to 12 configurations to compare, found 1 (loss-0)"),
        (13, 1, "scores: expected 2 to 12 configurations to compare, found 13 (loss-0, loss-1, loss-10, "),
        (2, 21, "scores: expected at most 20 runs of loss-0, found 21"),
    ],
)
def test_too_few_or_too_many_configurations_or_runs_are_refused(
    scores, tmp_path, refusal, configurations, runs, message
):
    campaign(scores, configurations, runs)
    assert message in refusal("compare", "--scores", scores.root, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("configurations", "runs"), [(2, 1), (12, 1), (2, 20)])
def test_the_largest_allowed_comparison_is_made(scores, tmp_path, configurations, runs):
    campaign(scores, configurations, runs)
    plan = analysis_file(tmp_path, f"metrics = ['auroc']\n{QUICK.replace('200', '100').replace('300', '100')}")
    compare([scores.root], tmp_path / "out", analysis=plan)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert [each.runs for each in verdict.configurations] == [runs] * configurations
    assert len(verdict.pairs) == configurations * (configurations - 1) // 2


def campaign(scores, configurations, runs):
    for number in range(configurations):
        for restart in range(runs):
            scores.run(f"{number}_{restart}", f"loss-{number}", restart=restart, seed=100 * number + restart)


def test_undefined_metric_stays_undefined_with_its_reason(scores, tmp_path):
    ids, _ = scores.truth()
    scores.arms(truth=(ids, np.ones(30, dtype=int)))
    verdict = compared(scores, tmp_path)
    pair = pair_of(verdict, "ce", "focal")
    assert (pair.estimate, pair.interval, pair.run_level.p, pair.p) == (None, None, None, None)
    assert pair.run_level.reason == pair.reason == "AUROC is undefined on this test set"
    assert verdict.configurations[0].metrics["auroc"].reason == "AUROC is undefined: all cases are of one kind"
    assert pair_of(verdict, "ce", "focal", "ap").estimate is not None


def test_analysis_file_is_named_by_its_hash(scores, tmp_path):
    campaign(scores, 2, 1)
    plan = analysis_file(tmp_path, QUICK)
    compare([scores.root], tmp_path / "out", analysis=plan)
    assert read_record(tmp_path / "out" / "verdict.json", Verdict).analysis == sha256_file(plan)


def test_declared_configuration_that_was_not_scored_is_refused(scores, tmp_path):
    scores.run("a", "ce")
    scores.run("b", "focal")
    plan = analysis_file(tmp_path, 'comparisons = [["ce", "nndetection"]]')
    with refused_with(r"analysis\.toml", expected="comparisons .* ce, focal", found="nndetection"):
        compare([scores.root], tmp_path / "out", analysis=plan)
    assert not (tmp_path / "out").exists()


def test_comparison_never_imports_torch():
    code = "import sys, evaluation.compare; assert not {'torch', 'nnunetv2'} & set(sys.modules)"
    assert python("-c", code).returncode == 0


@pytest.mark.slow
def test_comparing_the_demo_costs_under_15_cpu_seconds(demo_scores, tmp_path):
    before = os.times()
    words = ("--scores", demo_scores.root, "--output", tmp_path / "out")
    done = python("-m", "evaluation", "compare", *words, OMP_NUM_THREADS="1")
    after = os.times()
    assert done.returncode == 0
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 15, f"{spent:.1f} CPU seconds"


def test_one_collapsed_run_does_not_reverse_the_verdict(scores, tmp_path):
    """Nine of ten runs of alpha are above those of beta, one is at chance: the means favour beta."""
    scores.cases = 60
    for restart in range(10):
        quality = -4.0 if restart == 4 else 2.8
        scores.run(f"a{restart}", "alpha", restart=restart, quality=quality, seed=restart)
        scores.run(f"b{restart}", "beta", restart=restart, quality=1.9, seed=restart + 20)
    verdict = compared(scores, tmp_path, f"metrics = ['score']\n{QUICK}")
    (pair,) = verdict.pairs
    assert pair.run_level.p_holm <= 0.05
    assert pair.run_level.probability_above > 0.5 > 0 > pair.estimate
    assert pair.code == "undecided"
    assert pair.run_level.sentence == (
        "On this test set the runs of alpha rank above those of beta, while their mean is lower: alpha_fold0_restart4 "
        "decides the mean."
    )
    assert pair.run_level.p_one_sided["alpha"] < 0.01 < 0.99 < pair.run_level.p_one_sided["beta"]


def test_arms_that_share_no_fold_are_not_tested(scores, tmp_path):
    scores.cases = 60
    for restart in range(5):
        scores.run(f"a{restart}", "alpha", fold=0, restart=restart, quality=3.0, seed=restart)
        scores.run(f"b{restart}", "beta", fold=1, restart=restart, quality=0.0, seed=restart)
    verdict = compared(scores, tmp_path, f"metrics = ['auroc']\n{QUICK}[margin]\nauroc = 0.9\n")
    (pair,) = verdict.pairs
    assert (pair.run_level.p, pair.p, pair.equivalence, pair.non_inferiority) == (None,) * 4
    assert (pair.code, pair.reason) == ("undecided", pair.run_level.reason)
    assert pair.sentence == (
        "By AUROC, alpha and beta are not compared: they share no fold, so that fold and configuration are confounded."
    )
    assert any(note.startswith("alpha and beta: they share no fold") for note in notes(verdict))


def test_runs_of_other_folds_are_left_out_and_noted(scores, tmp_path):
    for restart in range(2):
        for fold in (0, 1):
            scores.run(f"a{fold}{restart}", "alpha", fold=fold, restart=restart, seed=restart + fold)
        scores.run(f"b{restart}", "beta", fold=0, restart=restart, seed=restart + 5)
    verdict = compared(scores, tmp_path, f"metrics = ['auroc']\n{QUICK}")
    assert verdict.pairs[0].run_level.p is not None
    assert (verdict.pairs[0].runs_and_cases.design, verdict.pairs[0].runs_and_cases.runs) == ("nested", (2, 2))
    left_out = "alpha and beta: 2 of 4 runs of alpha have no partner in the other arm and are left out."
    assert left_out in notes(verdict)


def test_a_comparison_of_other_cases_is_not_replaced(scores, tmp_path):
    for name in ("alpha", "beta"):
        scores.run(name, name)
    (tmp_path / "a.toml").write_text(f'name = "a"\n{QUICK}')
    compare([scores.root], tmp_path / "out", analysis=tmp_path / "a.toml")
    before = (tmp_path / "out" / "verdict.json").read_bytes()
    other = replace(scores, root=tmp_path / "other", cases=35)
    for name in ("alpha", "beta"):
        other.run(name, name)
    with refused_with("out", expected=r"results of cases \w+, ", found="some of cases"):
        compare([other.root], tmp_path / "out", analysis=tmp_path / "a.toml")
    assert (tmp_path / "out" / "verdict.json").read_bytes() == before


def test_only_more_runs_of_the_same_analysis_replace_a_comparison(scores, tmp_path):
    for name in ("alpha", "beta"):
        scores.run(name, name)
    plan = tmp_path / "a.toml"
    plan.write_text(f'name = "a"\n{QUICK}')
    compare([scores.root], tmp_path / "out", analysis=plan)
    first = (tmp_path / "out" / "verdict.json").read_bytes()
    scores.run("gamma", "gamma")
    compare([scores.root], tmp_path / "out", analysis=plan)
    second = (tmp_path / "out" / "verdict.json").read_bytes()
    assert first != second
    (tmp_path / "b.toml").write_text(f'name = "b"\n{QUICK}')
    for folders, analysis, what in [
        ([scores.root / "alpha", scores.root / "beta"], plan, "runs"),
        ([scores.root], tmp_path / "b.toml", "analysis"),
        ([scores.root], None, "analysis"),
    ]:
        with refused_with("out", expected=what, found=f"some of {what}"):
            compare(folders, tmp_path / "out", analysis=analysis)
    shutil.rmtree(scores.root / "gamma")
    scores.run("gamma", "gamma", seed=99)  # scored again, of other predictions
    with refused_with("out", found="some of runs"):
        compare([scores.root], tmp_path / "out", analysis=plan)
    assert (tmp_path / "out" / "verdict.json").read_bytes() == second


def test_unknown_folds_are_noted(scores, tmp_path):
    for restart in range(2):
        scores.run(f"a{restart}", "alpha", fold=0, restart=restart, seed=restart)
        scores.run(f"b{restart}", "beta", fold=1 if restart else None, restart=restart, seed=restart + 5)
    scores.run("c", "baseline-x", fold=None, restart=None, runs=())
    scores.run("d", "ensemble-all", fold=None, restart=None, runs=("1" * 64, "2" * 64))
    verdict = compared(scores, tmp_path, f"metrics = ['auroc']\n{QUICK}")
    (said,) = [note for note in notes(verdict) if "folds" in note]
    assert said.endswith(": the folds of beta are not all known: a difference may be one of folds.")
    assert "alpha and beta" in said


def test_training_studies_come_first_among_the_notes(scores, tmp_path):
    scores.run("a", "alpha", trained_on=10)
    scores.run("b", "beta", trained_on=None)
    scores.run("c", "baseline-x", fold=None, restart=None, runs=(), trained_on=None)
    verdict = compared(scores, tmp_path, f"metrics = ['auroc']\n{QUICK}")
    assert [dict(each.trained_on) for each in verdict.configurations] == [
        {"alpha_fold0_restart0": 10},
        {"beta_fold0_restart0": None},
        {"baseline-x": 0},
    ]
    assert notes(verdict)[:2] == [
        "SCORED ON TRAINING STUDIES. Networks were trained on some of the 30 studies: alpha_fold0_restart0 on 10. "
        "Their figures say nothing about other patients.",
        "Whether networks were trained on these studies is not known for beta_fold0_restart0.",
    ]


def renamed(scores, name, pattern):
    """Two configurations whose case ids follow a pattern."""
    ids, lesions = scores.truth()
    truth = [pattern.format(k) for k in range(len(ids))], lesions
    for configuration, quality in (("alpha", 2.0), ("beta", 1.0)):
        for restart in range(2):
            folder = f"{name}/{configuration}{restart}"
            scores.run(folder, configuration, restart=restart, quality=quality, seed=restart, truth=truth)
    return scores.root / name


def test_ambiguous_patients_are_refused_and_can_be_given(scores, tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("case_id,patient_id\n" + "".join(f"case_{k:03d},{k // 2}\n" for k in range(60)))
    scores.cases = 60
    root, plan = renamed(scores, "open", "case_{:03d}"), analysis_file(tmp_path, f"metrics = ['auroc']\n{QUICK}")

    def patients(*words):
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["compare", "--scores", str(root), "--output", str(output), "--analysis", str(plan), *words]) == 0
        return read_record(output / "verdict.json", Verdict).patients

    with refused_with(found=r"case_000, case_001 \(60 cases begin with case_\); name their patients"):
        compare([root], tmp_path / "out", analysis=plan)
    with refused_with(expected="at least 20 patients", found="1; --few-patients allows it"):
        compare([root], tmp_path / "out", analysis=plan, patients="by-prefix")
    assert patients("--patients", "by-case") == 60
    assert patients("--patients", str(table)) == 30
    for folder in root.iterdir():
        (folder / "patients.csv").write_text(table.read_text())
    assert patients() == 30


def test_fewer_than_20_patients_are_refused_unless_allowed(scores, tmp_path):
    scores.cases = 19
    root, plan = renamed(scores, "few", "{0}_{0}"), analysis_file(tmp_path, f"metrics = ['auroc']\n{QUICK}")
    with refused_with(expected="at least 20 patients", found="19; --few-patients allows it"):
        compare([root], tmp_path / "out", analysis=plan)
    words = ["--scores", str(root), "--output", str(tmp_path / "out"), "--analysis", str(plan), "--few-patients"]
    assert main(["compare", *words]) == 0


PLAN = ["plan", "power", "--runs", "2", "--cases", "30", "--studies", "20", "--difference", "0.1"]


def test_sample_size_of_a_plan_is_reported_with_its_hash(scores, tmp_path):
    scores.arms()
    assert main([*PLAN, "--output", str(tmp_path / "plan")]) == 0
    record = tmp_path / "plan" / "plan.json"
    command = ["compare", "--scores", str(scores.root), "--output", str(tmp_path / "out"), "--plan", str(record)]
    assert main(command) == 0
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert verdict.parents["plan"] == sha256_file(record)
    share = read_json(record)["designs"][0]["shown"]["better"]["share"]
    assert f"With 2 runs per configuration and 30 cases, as scored, the power was {100 * share:.0f} %" in (
        verdict.sample_size
    )
    assert verdict.sample_size in (tmp_path / "out" / "tables" / "methods.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 scored runs" in page
    assert sha256_file(record)[:12] in page


def test_command_refuses_a_wrong_plan_with_3_and_one_line(scores, tmp_path, refusal):
    scores.arms()
    (tmp_path / "plan.json").write_text("{}")
    words = ("--output", tmp_path / "out", "--plan", tmp_path / "plan.json")
    assert "plan.json" in refusal("compare", "--scores", scores.root, *words)
    assert not (tmp_path / "out").exists()


def test_more_runs_than_looks_plan_are_refused(scores, tmp_path, refusal):
    scores.arms(runs=4)
    rows = [f"{name},0,{k},0.{8 + k},0.5" for name in "ab" for k in range(2)] + ["a,0,2,0.5,0.5"]
    looked = analysis_file(tmp_path, "looks = [2]\n")
    for words in (["--scores", scores.root], ["--runs", table_of_runs(tmp_path, rows)]):
        output = tmp_path / "out"
        assert "expected at most 2 runs of" in refusal("compare", *words, "--analysis", looked, "--output", output)
        assert not output.exists()


@pytest.mark.parametrize(
    ("looks", "alpha", "code", "said"),
    [
        ((3, 8), 0.05, "undecided", "no look is due"),
        ((4, 8), 0.05, "on-par", "are on par"),
        ((4, 20), 0.0005, "undecided", "this look is too early to decide anything"),
    ],
)
def test_equivalence_has_the_level_of_the_look(scores, tmp_path, looks, alpha, code, said):
    scores.cases = 60
    scores.arms(1.0, 1.0, runs=4)
    text = f"looks = {list(looks)}\nalpha = {alpha}\nmetrics = ['auroc']\n{QUICK}[margin]\nauroc = 0.5\n"
    (pair,) = compared(scores, tmp_path, text).pairs
    assert (pair.code, pair.equivalence.shown) == (code, code == "on-par")
    assert pair.non_inferiority.a_not_inferior == (code == "on-par")
    assert said in pair.sentence
    if code == "undecided":
        assert said in pair.run_level.sentence


def test_single_networks_are_adjusted_over_all_of_them(scores, tmp_path):
    for place in range(5):
        scores.run(f"n{place}", f"net-{place}", quality=1.0 + 0.6 * (place == 0), seed=place)
    verdict = compared(scores, tmp_path)
    of_auroc = [pair for pair in verdict.pairs if pair.metric == "auroc"]
    adjusted = multipletests([pair.networks.p for pair in of_auroc], method="holm")[1]
    assert [pair.networks.p_holm for pair in of_auroc] == pytest.approx(adjusted)
    for pair in of_auroc:
        assert ("these two differ on new cases" in pair.sentence) == (pair.networks.p_holm <= 0.05)


def test_one_positive_patient_decides_nothing(scores, tmp_path):
    ids, lesions = scores.truth()
    lesions = np.where(np.arange(lesions.size) == np.flatnonzero(lesions)[0], 1, 0)
    for restart in range(3):
        for name, quality in (("ce", 4.0), ("focal", -1.0)):
            scores.run(f"{name}{restart}", name, restart=restart, quality=quality, seed=restart, truth=(ids, lesions))
    for pair in compared(scores, tmp_path).pairs:
        assert (pair.p, pair.interval, pair.code) == (None, None, "undecided")
        assert pair.reason == "there is 1 positive patient, too few to tell how cases vary"


@pytest.mark.parametrize("runs", [1, 3])
def test_one_configuration_under_two_names_is_noticed(scores, tmp_path, runs):
    scores.arms(runs=runs, seeds=(0, 0))
    (pair, *_) = compared(scores, tmp_path).pairs
    assert pair.estimate == 0
    assert (pair.reason or pair.runs_and_cases.note) == "their predictions are the same"


def test_a_single_run_of_a_common_fold_is_the_reason_that_is_given(scores, tmp_path):
    for name, folds in (("ce", (0, 1)), ("focal", (1, 2))):
        for fold in folds:
            scores.run(f"{name}{fold}", name, fold=fold, seed=10 * fold + len(name))
    (pair, *_) = compared(scores, tmp_path).pairs
    assert pair.reason == "of ce a single run is of a common fold: how much runs vary is not known"


def test_notes_name_the_comparisons_that_few_runs_cannot_decide(scores, tmp_path):
    scores.arms(3.0, 0.0, runs=2)
    for restart in range(6):
        scores.run(f"c{restart}", "ce-dice", restart=restart, seed=20 + restart)
    text = " ".join(notes(compared(scores, tmp_path, f"metrics = ['auroc']\n{QUICK}")))
    assert "attainable p being 0.333: ce and focal." in text
    assert "ce-dice" in text.split("ce and focal.")[0]  # 2 v 6: 1/14, after Holm over 3


def test_readers_are_compared_with_every_trained_configuration(scores, tmp_path):
    scores.cases = 60
    scores.arms(4.0, 0.0, runs=4)
    scores.run("base", "baseline-x", fold=None, restart=None, runs=())
    ids, lesions = scores.truth()
    rng = np.random.default_rng(0)
    lines = ["reader,case_id,score"]
    for reader in ("ann", "bob", "eve"):
        lines += [
            f"{reader},{case},{3 * (lesion > 0) + rng.normal():.2f}" for case, lesion in zip(ids, lesions, strict=True)
        ]
    (tmp_path / "readers.csv").write_text("\n".join(lines))
    plan = analysis_file(tmp_path, f"{QUICK}[readers]\nthreshold = 1.5\nmargin = 0.1\n")
    words = ["--scores", scores.root, "--readers", tmp_path / "readers.csv", "--analysis", plan]
    assert main(["compare", "--output", str(tmp_path / "out"), *map(str, words)]) == 0
    study = read_record(tmp_path / "out" / "verdict.json", Verdict).readers
    assert sorted(each.configuration for each in study.comparisons) == ["baseline-x", "ce", "focal"]
    assert {each.configuration for each in study.comparisons if each.single} == {"baseline-x"}
    assert [each.name for each in study.readers] == ["ann", "bob", "eve"]
    assert len(study.operating_points) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(each.sentence in page for each in study.comparisons)
    assert "3 readers, fully crossed" in page


def test_one_configuration_is_compared_with_readers(scores, tmp_path, refusal):
    scores.cases = 60
    for restart in range(4):
        scores.run(f"r{restart}", "ce", restart=restart, quality=3.0, seed=restart)
    ids, lesions = scores.truth()
    rng = np.random.default_rng(0)
    rows = [
        f"{reader},{case},{3 * (lesion > 0) + rng.normal():.2f}"
        for reader in ("ann", "bob", "eve")
        for case, lesion in zip(ids, lesions, strict=True)
    ]
    (tmp_path / "readers.csv").write_text("\n".join(["reader,case_id,score", *rows]))
    words = ["compare", "--scores", str(scores.root), "--output", str(tmp_path / "out")]
    assert "expected 2 to 12 configurations to compare, found 1 (ce)" in refusal(*words)
    assert main([*words, "--readers", str(tmp_path / "readers.csv")]) == 0
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert verdict.pairs == ()
    (found,) = verdict.readers.comparisons
    assert (found.configuration, found.single) == ("ce", False)
    assert found.sentence in (tmp_path / "out" / "report.html").read_text()


def test_predictions_of_another_program_are_named_and_compared(workshop, tmp_path):
    ids = [f"{k}_1" for k in range(24)]
    truth = workshop.truth({case: workshop.image({1: workshop.box} if k % 2 else None) for k, case in enumerate(ids)})
    for shift, configuration in ((0, "theirs"), (5, "ours")):
        for restart in (0, 1):
            maps = {
                case: workshop.image({0.3 + ((7 * k + restart + shift) % 24) / 50: workshop.box} if k % 3 else None)
                for k, case in enumerate(ids)
            }
            folder = workshop.batch(maps, dict.fromkeys(ids, 0.5), name=f"{configuration}{restart}")
            words = ["--configuration", configuration, "--fold", "0", "--restart", str(restart)]
            output = tmp_path / "scores" / f"{configuration}{restart}"
            assert (
                main(["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(output), *words])
                == 0
            )
    assert main(["compare", "--scores", str(tmp_path / "scores"), "--output", str(tmp_path / "out")]) == 0
    assert {each.name for each in read_record(tmp_path / "out" / "verdict.json", Verdict).configurations} == {
        "theirs",
        "ours",
    }


def test_a_model_without_detection_maps_is_compared_by_auroc_alone(scores, tmp_path):
    scores.arms(runs=2)
    for restart in (0, 1):
        folder = scores.run(f"cases{restart}", "case-level", restart=restart, seed=50 + restart)
        (folder / "lesions.csv").write_text("case_id,kind,confidence,overlap\n" + fn_rows(scores))
        values = read_json(folder / "metrics.json")
        values["strict"] |= {"ap": None, "score": None, "lesion_sensitivity_at_fp": {}, "reason": "no detection maps"}
        write_json(folder / "metrics.json", values)
    compare([scores.root], tmp_path / "out", analysis=None)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert pair_of(verdict, "case-level", "ce").p is not None
    pair = pair_of(verdict, "case-level", "ce", "ap")
    assert (pair.estimate, pair.p, pair.code) == (None, None, "undecided")
    assert pair.sentence.endswith("not compared: AP is undefined on this test set.")
    assert pair_of(verdict, "ce", "focal", "ap").p is not None


def fn_rows(scores):
    ids, lesions = scores.truth()
    return "".join(f"{case},fn,0.0,0.0\n" * count for case, count in zip(ids, lesions, strict=True))


@pytest.mark.parametrize(
    ("confidences", "said"),
    [
        ([0.123456, 0.123456, 0.654321], ["a and b"]),
        ([0.123456, 0.123457, 0.654321], []),
        ([0.85, 0.85, 0.85], []),  # of two digits, cases may well be alike
    ],
)
def test_cases_with_identical_outcomes_in_every_run_are_named(confidences, said, caplog):
    truth = TestSet(("a", "b", "c"), np.array([True, True, False]), np.array([1, 1, 0]))
    outcome = Outcome.of(np.array(confidences), [(each, case, case < 2) for case, each in enumerate(confidences)])
    warn_of_alike_outcomes([SimpleNamespace(truth=truth, outcome=outcome)] * 2, "scores")
    assert caplog.messages == [
        f"scores: cases {each} have the same candidates in every run: one study, or two?" for each in said
    ]
