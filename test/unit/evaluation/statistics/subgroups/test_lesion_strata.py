"""Sensitivity by strata of lesions."""

import math

import numpy as np
import pytest
from refusals import refused_with
from scipy.special import expit, logit
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from contract.records import read_record
from evaluation.__main__ import main
from evaluation.compare import compare
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.statistics.analysis_file import Analysis, LesionPlan
from evaluation.statistics.subgroups.lesion_strata import compare_strata, read_strata, threshold_of_rate
from evaluation.statistics.variance.arms import arms_of
from evaluation.statistics.verdict_records import Verdict


def volume(case_id, number):
    """Of small lesions and large ones, in turn by case; the second of a case is small."""
    return 0.5 if int(case_id.split("_")[1]) % 2 or number > 1 else 2.0


@pytest.fixture
def sized(scores):
    """Scored runs of two configurations with sizes."""

    def make(runs=3, qualities=(1.5, 0.5), cases=150):
        scores.cases = cases
        scores.arms(*qualities, runs=runs)
        for folder in scores.root.iterdir():
            scores.sizes(folder, volume)
        return read_scored_runs([scores.root])

    return make


def judged(runs, plan=None, table=None, validation=None, **analysis):
    settings = Analysis(name="x", lesions=plan, **analysis)
    strata = read_strata(runs, plan, table, "analysis.toml")
    return compare_strata(strata, arms_of(runs), [("ce", "focal")], settings, validation or {})


def found_by_case(run, threshold, member):
    """Hits and lesions of each case in a stratum, counted one by one; a case is a patient."""
    hits, lesions = (dict.fromkeys(run.truth.case_ids, 0) for _ in range(2))
    for lesion in run.lesions:
        if member(lesion):
            lesions[lesion.case_id] += 1
            hits[lesion.case_id] += lesion.confidence >= threshold
    return np.array(list(hits.values())), np.array(list(lesions.values()))


def is_small(lesion):
    return lesion.volume_ml <= 1


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_threshold_is_the_lowest_within_the_false_positive_rate(sized, rate):
    run = sized()[0]
    outcome = run.outcome
    threshold = threshold_of_rate(run.truth, outcome.confidence, outcome.hit, rate)
    false = outcome.confidence[~outcome.hit]
    most = rate * len(run.truth.case_ids)
    assert (false >= threshold).sum() <= most
    assert (false >= np.nextafter(threshold, 0)).sum() > most


@pytest.mark.parametrize(
    "plan", [LesionPlan(cuts={"volume_ml": [1.0]}, threshold=0.6), LesionPlan(cuts={"volume_ml": [1.0]})]
)
def test_sensitivity_is_the_share_of_a_stratums_lesions_that_are_found(sized, plan):
    runs = sized()
    found = judged(runs, plan)
    small, large = found.strata[:2]
    assert [(each.column, each.value) for each in found.strata[:2]] == [("volume_ml", "≤ 1"), ("volume_ml", "> 1")]
    assert small.lesions + large.lesions == runs[0].truth.lesion_count
    for stratum, member in ((small, is_small), (large, lambda lesion: not is_small(lesion))):
        shares = {"ce": [], "focal": []}
        for run in runs:
            hits, lesions = found_by_case(run, found.thresholds[run.name], member)
            shares[run.source.configuration].append(hits.sum() / lesions.sum())
        assert stratum.patients == (lesions > 0).sum()
        for each in stratum.configurations:
            assert each.sensitivity == pytest.approx(np.mean(shares[each.configuration]))
            assert each.interval[0] < each.sensitivity < each.interval[1]
        (pair,) = stratum.pairs
        assert pair.difference == pytest.approx(np.mean(shares["ce"]) - np.mean(shares["focal"]))
    assert found.thresholds_from == ("declared" if plan.threshold else "test set")


def test_of_single_networks_variances_are_those_of_a_ratio_over_clusters(sized):
    # Rao and Scott (Biometrics 1992): residuals hits − p × lesions of each patient, n/(n − 1)
    runs = sized(runs=1)
    found = judged(runs, LesionPlan(cuts={"volume_ml": [1.0]}, threshold=0.5, strata=["volume_ml"]))
    residuals, shares = {}, {}
    for run in runs:
        for name, member in (("small", is_small), ("large", lambda lesion: not is_small(lesion))):
            hits, lesions = found_by_case(run, 0.5, member)
            share, n = hits.sum() / lesions.sum(), (lesions > 0).sum()
            key = (run.source.configuration, name)
            shares[key] = share
            residuals[key] = (hits - share * lesions) / lesions.sum() * math.sqrt(n / (n - 1))
    small = found.strata[0]
    error = math.sqrt((residuals["ce", "small"] ** 2).sum())
    share, freedom = shares["ce", "small"], small.patients - 1
    reach = student.isf(0.025, freedom) * error / (share * (1 - share))
    assert small.configurations[0].interval == pytest.approx(tuple(expit(logit(share) + np.array([-reach, reach]))))
    difference = residuals["ce", "small"] - residuals["focal", "small"]
    (pair,) = small.pairs
    t = pair.difference / math.sqrt((difference**2).sum())
    assert pair.p == pytest.approx(2 * student.sf(abs(t), freedom))
    (interaction,) = found.interactions
    assert (interaction.value, interaction.against) == ("≤ 1", "> 1")
    expected = sum(sign * shares[a, s] for a, s, sign in [
        ("ce", "small", 1), ("focal", "small", -1), ("ce", "large", -1), ("focal", "large", 1),
    ])  # fmt: skip
    assert interaction.difference == pytest.approx(expected)
    contrast = difference - (residuals["ce", "large"] - residuals["focal", "large"])
    width = (interaction.interval.high - interaction.interval.low) / 2
    assert width == pytest.approx(math.sqrt((contrast**2).sum()) * 2.0, rel=0.05)  # t of dozens of patients


def test_declared_cuts_make_the_strata_and_p_is_adjusted(sized):
    found = judged(sized(), LesionPlan(strata=["volume_ml"], cuts={"volume_ml": [0.2, 1.0]}), alpha=0.1)
    assert [each.value for each in found.strata] == ["> 0.2 to 1", "> 1"]  # nothing is smaller
    pairs = [pair for stratum in found.strata for pair in stratum.pairs]
    assert [each.p_holm for each in pairs] == pytest.approx(multipletests([each.p for each in pairs], method="holm")[1])
    assert all(pair.interval.level == 0.9 for pair in pairs)


def test_difference_in_small_lesions_only_is_an_interaction(scores):
    scores.cases = 200
    scores.arms(2.0, 2.0, runs=4)
    for folder in scores.root.iterdir():
        scores.sizes(folder, volume)
        if folder.name.startswith("focal"):  # which misses small lesions
            rows = (folder / "sizes.csv").read_text().splitlines()
            _lose(folder, {tuple(row.split(",")[:3]) for row in rows[1:] if float(row.split(",")[3]) < 1})
            scores.sizes(folder, volume)
    runs = _unchecked(scores)
    found = judged(runs, LesionPlan(strata=["volume_ml"], cuts={"volume_ml": [1.0]}, threshold=0.01))
    (interaction,) = found.interactions
    assert interaction.difference > 0.5
    assert interaction.p_holm < 1e-6
    assert found.strata[1].pairs[0].p_holm > 0.05


def test_equal_sensitivity_of_two_runs_does_not_narrow_the_interval(scores):
    scores.cases = 100
    scores.arms(1.5, 1.0, runs=2)
    for folder in scores.root.iterdir():
        scores.sizes(folder, volume)
    runs = read_scored_runs([scores.root])
    found = judged(runs, LesionPlan(strata=["volume_ml"], cuts={"volume_ml": [1.0]}, threshold=0.6))
    for stratum, member in zip(found.strata, (is_small, lambda lesion: not is_small(lesion)), strict=True):
        for each in stratum.configurations:
            arm = [run for run in runs if run.source.configuration == each.configuration]
            hits, lesions = np.mean([found_by_case(run, 0.6, member) for run in arm], axis=0)
            share = hits.sum() / lesions.sum()
            error = math.sqrt((((hits - share * lesions) / lesions.sum()) ** 2).sum()) / (share * (1 - share))
            low, high = expit(logit(share) + 1.96 * error * np.array([-1, 1]))
            assert each.interval[0] <= low < high <= each.interval[1]


def _lose(folder, lesions):
    """Turn the hits of these lesions into misses."""
    lost = {(case, confidence) for case, _, confidence in lesions}
    lines = (folder / "lesions.csv").read_text().splitlines()
    for number, line in enumerate(lines):
        case, kind, confidence, _ = line.split(",")
        if kind == "tp" and (case, confidence) in lost:
            lines[number] = f"{case},fn,0.0,0.0"
    (folder / "lesions.csv").write_text("\n".join(lines) + "\n")


def _unchecked(scores):
    """Read runs whose metrics.json is older than their tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.metrics.scored_run._require_reproduced", lambda *_: None)
        return read_scored_runs([scores.root])


def a_table(runs, path, **columns):
    rows = ["case_id,lesion," + ",".join(columns)]
    rows += [
        f"{each.case_id},{each.number}," + ",".join(of(number) for of in columns.values())
        for number, each in enumerate(runs[0].lesions)
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_other_strata_come_from_a_table(sized, tmp_path):
    runs = sized()
    count = runs[0].truth.lesion_count
    table = a_table(
        runs, tmp_path / "lesions.csv",
        zone=lambda k: ("PZ", "TZ", "")[k % 3],
        grade=lambda k: str(2 + k % 4),
        suv=lambda k: f"{k}.5",
    )  # fmt: skip
    found = judged(runs, LesionPlan(strata=["zone", "grade", "suv"]), table)
    assert [(each.column, each.value) for each in found.strata[:6]] == [
        ("zone", "PZ"), ("zone", "TZ"), ("grade", "2"), ("grade", "3"), ("grade", "4"), ("grade", "5"),
    ]  # fmt: skip
    assert found.strata[0].lesions == math.ceil(count / 3)
    middle = (count - 1) / 2 + 0.5
    assert [each.value for each in found.strata[6:]] == [f"≤ {middle:g}", f"> {middle:g}"]
    assert {each.against for each in found.interactions if each.column == "grade"} == {"others"}


def test_table_rows_that_name_no_lesion_are_warned_of(sized, tmp_path, caplog):
    runs = sized()
    table = a_table(runs, tmp_path / "lesions.csv", zone=lambda k: "PZ")
    with table.open("a") as stream:
        stream.write("nope,9,TZ\n" + f"{runs[0].lesions[0].case_id}_label,1,TZ\n")
    found = judged(runs, LesionPlan(strata=["zone"]), table)
    assert [each.value for each in found.strata] == ["PZ"]
    assert "2 rows name no lesion of the test set and are not used:" in caplog.text
    assert "nope, lesion 9" in caplog.text


def test_strata_with_few_patients_are_shown_without_intervals_and_tests(sized, tmp_path):
    runs = sized()
    table = a_table(runs, tmp_path / "lesions.csv", zone=lambda k: "AFS" if k < 3 else "PZ")
    found = judged(runs, LesionPlan(strata=["zone"]), table)
    assert [(each.value, bool(each.pairs)) for each in found.strata] == [("AFS", False), ("PZ", True)]
    assert found.strata[0].configurations[0].interval is None
    assert found.interactions == ()


def test_thresholds_are_chosen_on_validation_cases_where_these_are_given(sized):
    runs = sized()
    validation = {run.name: runs[0] for run in runs}
    found = judged(runs, LesionPlan(), validation=validation)
    assert found.thresholds_from == "validation"
    assert set(found.thresholds.values()) == {judged(runs, LesionPlan()).thresholds[runs[0].name]}


def test_compare_shows_strata_of_size_where_sizes_are_recorded(sized, scores, tmp_path):
    runs = sized(runs=2, cases=60)
    compare([scores.root], tmp_path / "out", analysis=None)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    assert {each.column for each in verdict.lesion_strata.strata} == {"volume_ml", "diameter_mm"}
    assert verdict.lesion_strata.false_positives_per_case == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Lesions by size and kind" in page
    assert "chosen on this test set, which is optimistic" in page
    lines = (tmp_path / "out" / "tables" / "lesion-strata.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(verdict.lesion_strata.strata)
    assert "diameter_mm" in (tmp_path / "out" / "tables" / "methods.md").read_text()
    next(scores.root.iterdir()).joinpath("sizes.csv").unlink()
    compare([scores.root], tmp_path / "without", analysis=None)
    assert read_record(tmp_path / "without" / "verdict.json", Verdict).lesion_strata is None
    assert len(runs) == 4


def test_the_command_takes_a_table_of_lesions(sized, scores, tmp_path):
    table = a_table(sized(runs=2, cases=60), tmp_path / "lesions.csv", zone=lambda k: ("PZ", "TZ")[k % 2])
    (tmp_path / "a.toml").write_text('name = "x"\nmetrics = ["auroc"]\n[lesions]\nstrata = ["zone"]\n')
    words = ["--scores", scores.root, "--analysis", tmp_path / "a.toml", "--output", tmp_path / "out"]
    assert main(["compare", *map(str, words)]) == 3
    assert main(["compare", *map(str, words), "--lesions", str(table)]) == 0
    strata = read_record(tmp_path / "out" / "verdict.json", Verdict).lesion_strata.strata
    assert [each.value for each in strata] == ["PZ", "TZ"]


@pytest.mark.parametrize(
    ("plan", "given", "change", "fields"),
    [
        (LesionPlan(strata=["zone"]), False, None, {"where": "analysis.toml", "problem": "strata zone need --lesions"}),
        (
            LesionPlan(strata=["zone"]),
            True,
            1,
            {"where": "lesions.csv", "problem": r"no row for lesion \d+ of \w+, one of {} lesions"},
        ),
        (
            LesionPlan(strata=["zone"], cuts={"zone": [3]}),
            True,
            None,
            {"problem": "cuts has a value that is not a number: 'PZ'"},
        ),
        (LesionPlan(strata=["other"]), True, None, {"expected": "the column other", "found": "case_id, lesion, zone"}),
        (LesionPlan(), True, None, {"problem": "declares no strata of lesions"}),
        (None, True, None, {"problem": "declares no strata of lesions"}),
    ],
    ids=["no table", "a lesion less", "words to be cut", "no column", "no use", "none declared"],
)
def test_faults_of_strata_and_table_are_named(sized, tmp_path, plan, given, change, fields):
    runs = sized(runs=2, cases=60)
    table = a_table(runs, tmp_path / "lesions.csv", zone=lambda k: "PZ") if given else None
    if change:
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-change]))
    with refused_with(**{field: text.format(runs[0].truth.lesion_count) for field, text in fields.items()}):
        read_strata(runs, plan, table, "analysis.toml")


@pytest.mark.parametrize(
    ("cell", "fields"),
    [
        (lambda k: "NA", {"where": "column suv", "problem": "empty for all "}),
        (lambda k: "high" if k == 3 else f"{k}.5", {"expected": "numbers as in its other rows", "found": "'high'"}),
        (lambda k: "1e400" if k == 3 else f"{k}.5", {"expected": "numbers as in its other rows", "found": "'1e400'"}),
    ],
)
def test_columns_of_lesions_are_read_as_those_of_cases_are(sized, tmp_path, cell, fields):
    runs = sized(runs=2, cases=60)
    table = a_table(runs, tmp_path / "lesions.csv", suv=cell)
    with refused_with(**fields):
        read_strata(runs, LesionPlan(strata=["suv"]), table, "analysis.toml")


def test_lesions_without_a_value_are_counted_and_floats_are_numbers(sized, tmp_path, caplog):
    runs = sized(runs=2, cases=60)
    table = a_table(runs, tmp_path / "lesions.csv", zone=lambda k: "NA" if k == 1 else "PZ")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    table.write_text("".join(f"{case},{number}{'.0' * (number != 'lesion')},{zone}\n" for case, number, zone in lines))
    strata = read_strata(runs, LesionPlan(strata=["zone"]), table, "analysis.toml")
    count = len(runs[0].lesions)
    assert strata["zone"]["PZ"].sum() == count - 1
    assert caplog.messages == [f"{table}: column zone: 1 of {count} lesions without a value are in no stratum"]


def test_declared_strata_need_sizes_that_agree(sized, scores):
    sized(runs=2, cases=60)
    folder = sorted(scores.root.iterdir())[1]
    scores.sizes(folder, lambda *_: 3.0)
    with refused_with(problem="sizes of lesions differ from those of"):
        read_strata(read_scored_runs([scores.root]), LesionPlan(), None, "analysis.toml")
    (folder / "sizes.csv").unlink()
    with refused_with(problem="lacks sizes.csv"):
        read_strata(read_scored_runs([scores.root]), LesionPlan(), None, "analysis.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.5, "false_positives_per_case": 1}, "both a threshold and false_positives_per_case"),
        ({"cuts": {"zone": [1]}}, "cuts of zone, which is no stratum"),
        ({"cuts": {"volume_ml": [2, 1]}}, "cuts of volume_ml do not rise"),
        ({"strata": ["zone", "zone"]}, "duplicate stratum"),
    ],
)
def test_contradictory_strata_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LesionPlan(**values)
