"""A table of runs on one test set: the comparison of its runs, and what is refused."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from report_makers import analysis_file, pair_of, table_of_runs
from scipy.stats import rankdata

from contract.records import read_record
from evaluation.__main__ import main
from evaluation.statistics.analysis_file import METRICS
from evaluation.statistics.verdict_records import Verdict


def words_of(path, output):
    return ["compare", "--runs", str(path), "--output", str(output)]


def test_a_table_of_runs_is_compared_on_its_test_set(tmp_path):
    better, worse = [0.90, 0.91, 0.92, 0.93, 0.94], [0.80, 0.81, 0.82, 0.83, 0.905]
    rows = [
        f"{name},0,{k},{value},{value / 2}"
        for name, arm in (("a", better), ("b", worse))
        for k, value in enumerate(arm)
    ]
    assert main(words_of(table_of_runs(tmp_path, rows), tmp_path / "out")) == 0
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert [each.name for each in verdict.configurations] == ["a", "b"]
    assert {(pair.metric, pair.code) for pair in verdict.pairs} == {(metric, "undecided") for metric in METRICS}
    pair = pair_of(verdict, "a", "b")
    found = picai_permutation_test(better, worse)
    assert pair.run_level.p_one_sided["a"] == pytest.approx(found)
    assert pair.run_level.p == pytest.approx(2 * found)
    assert pair.run_level.sentence == "On this test set the runs of a rank above those of b."
    assert pair.sentence.endswith("is not asked: a table of runs holds no cases.")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "One-sided p, all runs pooled as in Bosma 2022" in page
    assert "Precision–recall" not in page
    assert sorted(path.name for path in (tmp_path / "out" / "figures").glob("*.png")) == [
        f"{kind}-{metric}.png" for kind in ("p", "runs") for metric in ("ap", "auroc", "score")
    ]


def test_one_sided_p_pools_folds_and_is_also_given_within_folds(tmp_path):
    a, b = {0: [0.9, 0.8], 1: [0.7, 0.6]}, {0: [0.75, 0.73], 1: [0.55, 0.5]}
    rows = [
        f"{name},{fold},{k},{value},0.5"
        for name, arm in (("a", a), ("b", b))
        for fold, values in arm.items()
        for k, value in enumerate(values)
    ]
    assert main(words_of(table_of_runs(tmp_path, rows), tmp_path / "out")) == 0
    level = pair_of(read_record(tmp_path / "out" / "verdict.json", Verdict), "a", "b").run_level
    assert level.p_one_sided["a"] == pytest.approx(picai_permutation_test(a[0] + a[1], b[0] + b[1]))
    assert level.p_one_sided_within_folds["a"] == pytest.approx(1 / 36)  # first of 6 × 6 arrangements
    assert level.p == pytest.approx(2 / 36)


def test_runs_of_folds_that_the_other_lacks_are_left_out_on_this_test_set(tmp_path):
    """Fold 1 is hard, and a alone has runs of it."""
    shared = {"a": [0.90, 0.91, 0.92, 0.93], "b": [0.80, 0.81, 0.82, 0.83]}
    rows = [f"{name},0,{k},{value},0.5" for name, arm in shared.items() for k, value in enumerate(arm)]
    rows += [f"a,1,{k},0.{k}1,0.5" for k in range(1, 7)]
    assert main(words_of(table_of_runs(tmp_path, rows), tmp_path / "out")) == 0
    pair = pair_of(read_record(tmp_path / "out" / "verdict.json", Verdict), "a", "b")
    assert pair.estimate == pytest.approx(0.1)
    assert pair.run_level.p == pytest.approx(2 * picai_permutation_test(*shared.values()))
    assert pair.run_level.probability_above == 1
    assert pair.run_level.sentence == "On this test set the runs of a rank above those of b."


def picai_permutation_test(alternative, base):
    """One-sided, by all arrangements: how often are the alternative's runs ranked as high or higher?"""
    ranks = rankdata([*alternative, *base])
    sums = [sum(chosen) for chosen in combinations(ranks, len(alternative))]
    return np.mean(np.array(sums) >= ranks[: len(alternative)].sum() - 1e-9)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,0,0.9,0.5", "a,0,0,0.8,0.5", "b,0,0,0.7,0.5"], "line 3: duplicate run of line 2"),
        (["a,0,1,0.9,0.5", "a,00,01,0.8,0.5", "b,0,0,0.7,0.5"], "line 3: duplicate run of line 2"),
        (["a,0,0,90,0.5", "a,0,1,0.8,0.5"], "line 2: expected auroc from 0 to 1, found '90'"),
        (["a,0,0,0.9,0.5", "a,0,1,,0.5"], "line 3: expected a value of auroc, as in other rows, found a missing value"),
        (["a,0,0,0.9,0.5", "b,0,0,0.9,0.5"], "expected at least 2 runs of a, found 1"),
        (["a,x,0,0.9,0.5", "a,0,1,0.8,0.5"], "line 2: expected the number of a fold, of at most 6 digits, found 'x'"),
        (["a,1234567,0,0.9,0.5", "a,0,1,0.8,0.5"], "line 2: expected the number of a fold, of at most 6 digits"),
        ([f"a,0,{'9' * 5000},0.9,0.5", "a,0,1,0.8,0.5"], "line 2: expected a printable restart of 1 to 200 characters"),
        (
            ["a,0,,0.9,0.5", "a,0,,0.8,0.5"],
            "line 3: expected a restart that tells this run from that of line 2, found an empty cell",
        ),
        (["caf\u00e9,0,0,0.9,0.5", "cafe\u0301,0,0,0.8,0.5"], "line 3: duplicate run of line 2"),
        (
            ["\x1b[31ma,0,0,0.9,0.5", "a,0,1,0.8,0.5"],
            "line 2: expected a printable configuration of 1 to 200 characters",
        ),
        ([f"{'a' * 20000},0,0,0.9,0.5"], "line 2: expected a printable configuration of 1 to 200 characters"),
        ([",0,0,0.9,0.5", "a,0,1,0.8,0.5"], "line 2: expected the name of a configuration, found an empty cell"),
        (["a,0,0,0.9,0.5", "a,0,1,0.8,0.5"], "expected 2 to 12 configurations to compare, found 1 (a)"),
    ],
)
def test_a_faulty_table_of_runs_is_refused(tmp_path, refusal, rows, message):
    path = table_of_runs(tmp_path, rows)
    assert f"{path}: {message}" in refusal(*words_of(path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_markup_in_names_stays_text_in_every_output(tmp_path):
    names = ["<script>alert(1)</script>", "[click](javascript:alert(1))", "前立腺"]
    path = table_of_runs(tmp_path, [f"{name},0,{k},0.{9 - k},0.5" for name in names for k in range(3)])
    assert main(words_of(path, tmp_path / "out")) == 0
    methods = (tmp_path / "out" / "tables" / "methods.md").read_text()
    assert r"\<script>" in methods and r"[click\](" in methods and "<script>" not in methods.replace(r"\<", "")
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text()
    figures = list((tmp_path / "out" / "figures").glob("*.svg"))
    assert figures
    for figure in figures:
        ElementTree.parse(figure)


def test_table_of_runs_lacking_a_column_or_with_case_options_is_refused(tmp_path, capsys, refusal):
    path = table_of_runs(tmp_path, ["a,0,0,0.9"], header="configuration,fold,restart,auroc")
    assert "expected the column ap" in refusal(*words_of(path, tmp_path / "out"))
    assert main([*words_of(path, tmp_path / "out"), "--marksheet", str(path)]) == 2
    assert "--marksheet" in capsys.readouterr().err


def test_a_table_of_runs_without_the_primary_metric_is_refused(tmp_path, refusal):
    path = table_of_runs(tmp_path, [f"{name},0,{k},0.{9 - k}," for name in "ab" for k in range(3)])
    words = [*words_of(path, tmp_path / "out"), "--analysis", analysis_file(tmp_path, 'primary = "ap"\n')]
    assert f"{path}: lacks AP, the primary metric" in refusal(*words)
