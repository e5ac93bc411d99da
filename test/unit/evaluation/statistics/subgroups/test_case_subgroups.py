import csv

import numpy as np
import pytest
from refusals import refused_with
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from contract.records import read_record
from evaluation.compare import compare
from evaluation.metrics.outcomes import TestSet
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.statistics.analysis_file import Analysis
from evaluation.statistics.subgroups.case_subgroups import (
    _groups,
    compare_between_groups,
    compare_subgroups,
    read_groups,
)
from evaluation.statistics.variance.arms import arms_of
from evaluation.statistics.verdict_records import Verdict

DECLARED = 'name = "x"\nmetrics = ["auroc"]\nreplicates = 100\nswaps = 100\nsubgroups = ["center", "isup", "volume"]\n'
BY_CENTER = DECLARED.replace(', "isup", "volume"', "")


def marksheet(scores, tmp_path, **changes):
    """Two centres in turn; a grade and volumes of positive cases alone, the volumes of several lesions in one field."""
    ids, lesions = scores.truth()
    rows = []
    for number, (case_id, count) in enumerate(zip(ids, lesions, strict=True)):
        patient, study = case_id.split("_")
        volumes = ";".join(f"{1 + number + k:.2f}" for k in range(count))
        grade = str(2 + number % 3) if count else ""
        center = ("north", "south")[number // 3 % 2]
        rows.append({"patient_id": patient, "study_id": study, "center": center, "isup": grade, "volume": volumes})
    path = tmp_path / "marksheet.csv"
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(changes.get("rows", rows))
    return path, rows


def two_configurations(scores):
    scores.cases = 60
    scores.arms(2.0, 0.5)


def compared(scores, tmp_path, path, declared=DECLARED):
    (tmp_path / "a.toml").write_text(declared)
    compare([scores.root], tmp_path / "out", analysis=tmp_path / "a.toml", marksheet=path)
    return read_record(tmp_path / "out" / "verdict.json", Verdict)


def test_subgroups_have_the_auroc_of_their_cases_and_adjusted_p(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    found = compared(scores, tmp_path, path).subgroups
    assert [(each.column, each.value) for each in found if each.column != "volume"] == [
        ("center", "north"), ("center", "south"), ("isup", "2"), ("isup", "3"), ("isup", "4"),
    ]  # fmt: skip
    runs = [run for run in read_scored_runs([scores.root]) if run.source.configuration == "ce"]
    by_case = {f"{row['patient_id']}_{row['study_id']}": row for row in rows}
    positive, ids = runs[0].truth.positive, runs[0].truth.case_ids
    north = np.array([by_case[case_id]["center"] == "north" for case_id in ids])
    grade = np.array([by_case[case_id]["isup"] == "3" for case_id in ids])
    for group, member in ((found[0], north), (found[3], grade | ~positive)):
        expected = np.mean([roc_auc_score(positive[member], run.outcome.likelihood[member]) for run in runs])
        assert group.configurations[0].auroc == pytest.approx(expected)
        assert (group.positive_cases, group.negative_cases) == ((member & positive).sum(), (member & ~positive).sum())
    raw = [pair.p for group in found for pair in group.pairs]
    adjusted = [pair.p_holm for group in found for pair in group.pairs]
    assert adjusted == pytest.approx(multipletests(raw, method="holm")[1])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "center: north" in page
    lines = (tmp_path / "out" / "tables" / "subgroups.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(found)


def test_numbers_with_many_values_are_cut_at_their_median(scores, tmp_path):
    path, rows = marksheet(scores, tmp_path)
    ids, lesions = scores.truth()
    truth = TestSet(tuple(ids), lesions > 0, lesions)
    groups = read_groups(path, ["volume"], truth)["volume"]
    largest = [max(map(float, row["volume"].split(";"))) if row["volume"] else np.nan for row in rows]
    middle = np.nanmedian(largest)
    assert list(groups) == [f"> {middle:g}", f"≤ {middle:g}"]
    assert (groups[f"> {middle:g}"] == ((np.array(largest) > middle) | (lesions == 0))).all()


def test_of_several_words_each_counts_once():
    ids = ("1_1", "2_1", "3_1", "4_1")
    truth = TestSet(ids, np.array([True, True, True, False]), np.array([2, 1, 2, 0]))
    found = _groups(["peripheral;peripheral", "peripheral", "transition; peripheral", ""], truth)
    assert {name: member.tolist() for name, member in found.items()} == {
        "peripheral": [True, True, False, True],
        "peripheral and transition": [False, False, True, True],
    }


def test_groups_with_few_cases_are_left_out(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    for row in rows[4:]:
        row["center"] = "north"
    marksheet(scores, tmp_path, rows=rows)
    verdict = compared(scores, tmp_path, path, BY_CENTER)
    assert [each.value for each in verdict.subgroups] == ["north"]
    [left_out] = verdict.subgroups_left_out
    assert left_out.startswith("center: south (")
    assert left_out in (tmp_path / "out" / "report.html").read_text()


def test_cases_without_a_value_are_counted(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    for row, value in zip(rows, ["NA", "", "?"], strict=False):
        row["center"] = value
    marksheet(scores, tmp_path, rows=rows)
    verdict = compared(scores, tmp_path, path, BY_CENTER)
    assert verdict.subgroups_left_out[0] == "center: 3 of 60 cases without a value"
    assert verdict.subgroups_left_out[0] in (tmp_path / "out" / "report.html").read_text()


def test_groups_of_few_patients_are_shown_and_not_judged(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    for number, row in enumerate(rows):
        row["center"] = "south" if number < 15 else "north"
    marksheet(scores, tmp_path, rows=rows)
    verdict = compared(scores, tmp_path, path, BY_CENTER)
    north, south = verdict.subgroups
    assert (south.value, south.positive_cases + south.negative_cases) == ("south", 15)
    assert south.pairs == ()
    assert [each.interval for each in south.configurations] == [None, None]
    assert len(north.pairs) == 1
    assert None not in [each.interval for each in north.configurations]
    [left_out] = verdict.subgroups_left_out
    assert left_out.startswith("center: south (") and "of 15 patients" in left_out
    compare([scores.root], tmp_path / "told", analysis=tmp_path / "a.toml", marksheet=path, few_patients=True)
    told = read_record(tmp_path / "told" / "verdict.json", Verdict)
    assert [len(group.pairs) for group in told.subgroups] == [1, 1]


def test_marksheet_without_a_column_or_a_case_is_refused(scores, tmp_path):
    path, rows = marksheet(scores, tmp_path)
    ids, lesions = scores.truth()
    truth = TestSet(tuple(ids), lesions > 0, lesions)
    with refused_with(r"marksheet\.csv", expected="the column zone", found="patient_id, study_id, "):
        read_groups(path, ["zone"], truth)
    marksheet(scores, tmp_path, rows=rows[1:])
    with refused_with(r"marksheet\.csv", problem="no row for 1.* of 30 cases"):
        read_groups(path, ["center"], truth)
    path.write_text("")
    with refused_with(r"marksheet\.csv", "empty file"):
        read_groups(path, ["center"], truth)
    with refused_with(r"none\.csv", "table not found"):
        read_groups(tmp_path / "none.csv", ["center"], truth)


def numbers_of(scores, tmp_path, volumes, *, delimiter=",", column="volume"):
    """The groups of a column of numbers, one for each case."""
    ids, lesions = scores.truth()
    truth = TestSet(tuple(ids), lesions > 0, lesions)
    path = tmp_path / "marksheet.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        table = csv.writer(stream, delimiter=delimiter)
        table.writerow(["patient_id", " study_id", column])
        table.writerows([*case_id.split("_"), volume] for case_id, volume in zip(ids, volumes, strict=True))
    return read_groups(path, [column], truth)[column]


def test_ambiguous_decimal_commas_are_refused(scores, tmp_path):
    numbers = [f"{1 + k / 7:.2f}" for k in range(30)]
    right = numbers_of(scores, tmp_path, numbers)
    commas = [number.replace(".", ",") for number in numbers]
    german = numbers_of(scores, tmp_path, commas, delimiter=";")
    assert {name: member.tolist() for name, member in german.items()} == {
        name: member.tolist() for name, member in right.items()
    }
    for mixed in (commas, [*numbers[:-1], "1,99"]):
        with refused_with("column volume", expected="a decimal point, .", found=r"'\d,\d\d', which may be"):
            numbers_of(scores, tmp_path, mixed)


@pytest.mark.parametrize("several", ["2,3", "0,1,5", "3.5,7.25", "2.5,N/A,3"])
def test_lists_in_one_cell_are_still_read_as_lists(scores, tmp_path, several):
    values = [str(k % 9) for k in range(29)] + [several]
    groups = numbers_of(scores, tmp_path, values)
    largest = max(float(part) for part in several.split(",") if part != "N/A")
    middle = np.median([*(k % 9 for k in range(29)), largest])
    assert list(groups) == [f"> {middle:g}", f"≤ {middle:g}"]


@pytest.mark.parametrize("unknown", ["NA", "nan", "", "N/A", "-"])
def test_unknown_value_forms_no_group(scores, tmp_path, unknown):
    groups = numbers_of(scores, tmp_path, [unknown, *(str(k) for k in range(29))])
    assert list(groups) == ["> 14", "≤ 14"]


def test_a_word_among_numbers_is_refused(scores, tmp_path):
    with refused_with("column volume", expected="numbers as in its other rows", found="'large'"):
        numbers_of(scores, tmp_path, ["large", *(str(k) for k in range(29))])


def test_rows_that_contradict_each_other_are_refused(scores, tmp_path):
    path, rows = marksheet(scores, tmp_path)
    ids, lesions = scores.truth()
    marksheet(scores, tmp_path, rows=[*rows, {**rows[0], "center": "east"}])
    with refused_with(r"marksheet\.csv: line 32", expected="the center of", found="'east'"):
        read_groups(path, ["center"], TestSet(tuple(ids), lesions > 0, lesions))


def test_panoramas_names_of_patient_and_study_are_read(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("PANORAMA_patient_id,PANORAMA_study_id,scanner\n102002,102002_00001,Philips\n")
    truth = TestSet(("102002_00001",), np.array([True]), np.array([1]))
    assert {name: member.tolist() for name, member in read_groups(path, ["scanner"], truth)["scanner"].items()} == {
        "Philips": [True]
    }


def test_subgroups_and_marksheet_come_together(scores, tmp_path):
    scores.run("a", "ce")
    scores.run("b", "focal")
    path, _ = marksheet(scores, tmp_path)
    (tmp_path / "a.toml").write_text(DECLARED)
    with refused_with(problem="subgroups center, isup, volume need --marksheet"):
        compare([scores.root], tmp_path / "out", analysis=tmp_path / "a.toml")
    with refused_with(problem="the analysis file declares no subgroups"):
        compare([scores.root], tmp_path / "out", analysis=None, marksheet=path)


def test_configurations_without_a_common_fold_have_no_subgroup_tests(scores, tmp_path):
    scores.cases = 60
    for restart in (0, 1):
        scores.run(f"a{restart}", "ce", fold=0, restart=restart, seed=restart, quality=2.0)
        scores.run(f"b{restart}", "focal", fold=1, restart=restart, seed=5 + restart, quality=0.5)
    path, _ = marksheet(scores, tmp_path)
    verdict = compared(scores, tmp_path, path)
    assert verdict.subgroups
    assert [group.pairs for group in verdict.subgroups] == [()] * len(verdict.subgroups)
    assert [len(group.configurations) for group in verdict.subgroups] == [2] * len(verdict.subgroups)


def difference_of_differences(truth, a, b, first, second, weights=None):
    """AUROC of a minus b in the first group minus that in the second, by scikit-learn."""
    weights = np.ones(len(truth.case_ids)) if weights is None else weights

    def area(run, member):
        outcome = run.outcome.likelihood[member]
        return roc_auc_score(truth.positive[member], outcome, sample_weight=weights[member])

    return sum(
        sign * (np.mean([area(run, member) for run in a]) - np.mean([area(run, member) for run in b]))
        for sign, member in ((1, first), (-1, second))
    )


def test_interactions_are_adjusted_differences_of_differences(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    found = compared(scores, tmp_path, path).interactions
    assert [(each.column, each.value, each.against) for each in found if each.column != "volume"] == [
        ("center", "north", "south"), ("isup", "2", "others"), ("isup", "3", "others"), ("isup", "4", "others"),
    ]  # fmt: skip
    runs = read_scored_runs([scores.root])
    a, b = ([run for run in runs if run.source.configuration == name] for name in ("ce", "focal"))
    truth = runs[0].truth
    by_case = {f"{row['patient_id']}_{row['study_id']}": row for row in rows}
    north = np.array([by_case[case_id]["center"] == "north" for case_id in truth.case_ids])
    three = np.array([by_case[case_id]["isup"] == "3" for case_id in truth.case_ids])
    assert found[0].difference == pytest.approx(difference_of_differences(truth, a, b, north, ~north))
    expected = difference_of_differences(truth, a, b, three | ~truth.positive, ~three)
    assert found[2].difference == pytest.approx(expected)
    for each in found:
        assert each.interval.low < each.difference < each.interval.high
        assert (each.p < 0.05) == (not each.interval.low < 0 < each.interval.high)
    raw, adjusted = [each.p for each in found], [each.p_holm for each in found]
    assert adjusted == pytest.approx(multipletests(raw, method="holm")[1])
    with (tmp_path / "out" / "tables" / "interactions.csv").open() as stream:
        assert [float(row["difference"]) for row in csv.DictReader(stream)] == [each.difference for each in found]
    assert {file.name for file in (tmp_path / "out" / "figures").glob("forest.*")} == {
        "forest.png", "forest.svg", "forest.pdf",
    }  # fmt: skip


def test_variance_of_an_interaction_is_that_over_left_out_patients(scores, tmp_path):
    """Of single networks, for new cases: the jackknife, also where groups of lesions share their negative cases."""
    scores.cases = 120
    scores.arms(2.0, 0.5, runs=1)
    path, _ = marksheet(scores, tmp_path)
    plan = Analysis(name="x", subgroups=("center", "isup"))
    runs = read_scored_runs([scores.root])
    truth, arms = runs[0].truth, arms_of(runs)
    groups = read_groups(path, plan.subgroups, truth)
    judged, _ = compare_subgroups(groups, arms, [("ce", "focal")], plan)
    found = compare_between_groups(groups, arms, [("ce", "focal")], judged, plan)
    masks = [
        (groups["center"]["north"], groups["center"]["south"]),
        *((groups["isup"][own], groups["isup"][x] | groups["isup"][y]) for own, x, y in ("234", "324", "423")),
    ]
    assert len(found) == len(masks)
    for each, (member, rest) in zip(found, masks, strict=True):
        left_out = [
            difference_of_differences(truth, runs[:1], runs[1:], member, rest, 1.0 - (np.arange(120) == case))
            for case in range(120)
        ]
        deviation = np.sqrt(119 / 120 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
        standard_error = (each.interval.high - each.difference) / student.ppf(0.975, 60)
        assert standard_error == pytest.approx(deviation, rel=0.1)


def test_one_group_has_no_interaction(scores, tmp_path):
    two_configurations(scores)
    path, _ = marksheet(scores, tmp_path)
    plan = Analysis(name="x", subgroups=("isup",))
    runs = read_scored_runs([scores.root])
    groups = {"isup": {"2": read_groups(path, plan.subgroups, runs[0].truth)["isup"]["2"]}}
    judged, _ = compare_subgroups(groups, arms_of(runs), [("ce", "focal")], plan)
    assert judged[0].pairs
    assert compare_between_groups(groups, arms_of(runs), [("ce", "focal")], judged, plan) == ()


def test_centre_without_negative_cases_is_left_out(scores, tmp_path):
    two_configurations(scores)
    path, rows = marksheet(scores, tmp_path)
    ids, lesions = scores.truth()
    for row, count in zip(rows, lesions, strict=True):
        row["center"] = "east" if row["center"] == "north" and count else row["center"]
    path, _ = marksheet(scores, tmp_path, rows=rows)
    truth = TestSet(tuple(ids), lesions > 0, lesions)
    groups = read_groups(path, ["center", "isup"], truth)
    by_case = np.array([row["center"] for row in rows])
    assert {name: member.tolist() for name, member in groups["center"].items()} == {
        name: (by_case == name).tolist() for name in ("east", "north", "south")
    }
    assert all(member[~truth.positive].all() for member in groups["isup"].values())
    arms = arms_of(read_scored_runs([scores.root]))
    judged, left_out = compare_subgroups({"center": groups["center"]}, arms, [("ce", "focal")], Analysis(name="x"))
    assert [group.value for group in judged] == ["south"]
    assert [each.split(" (")[0] for each in left_out] == ["center: east", "center: north"]


def test_p_in_a_group_of_few_positive_patients_is_approximate(scores, tmp_path):
    two_configurations(scores)
    path, _ = marksheet(scores, tmp_path)
    ids, lesions = scores.truth()
    groups = read_groups(path, ["center"], TestSet(tuple(ids), lesions > 0, lesions))
    arms = arms_of(read_scored_runs([scores.root]))
    judged, _ = compare_subgroups(groups, arms, [("ce", "focal")], Analysis(name="x"))
    between = compare_between_groups(groups, arms, [("ce", "focal")], judged, Analysis(name="x"))
    found = [pair.approximate for group in judged for pair in group.pairs] + [each.approximate for each in between]
    assert found == ["there are fewer than 20 positive patients"] * 3
