import re

import numpy as np
import pytest
from refusals import refused_with

from contract.files.atomic import write_json
from contract.files.reading import read_json
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.score import score


def refuse(paths, *where_and_problem, **compared):
    with refused_with(*where_and_problem, **compared):
        read_scored_runs(paths)


def test_runs_are_read_with_truth_candidates_and_lesions(scores):
    folder = scores.run("a", "ce", fold=3, restart=1)
    (run,) = read_scored_runs([folder])
    ids, lesions = scores.truth()
    assert run.name == "ce_fold3_restart1"
    assert dict(zip(run.truth.case_ids, run.truth.lesions, strict=True)) == dict(zip(ids, lesions, strict=True))
    rows = [line.split(",") for line in (folder / "lesions.csv").read_text().splitlines()[1:]]
    assert run.outcome.hit.sum() == sum(row[1] == "tp" for row in rows)
    assert (~run.outcome.hit).sum() == sum(row[1] == "fp" for row in rows)
    assert run.candidate_free_cases == len(ids) - len({row[0] for row in rows if row[1] != "fn"})


def test_ignored_candidates_are_neither_hits_nor_false_positives(scores):
    ids, _ = scores.truth()
    folder = scores.run("a", "ce")
    (before,) = read_scored_runs([folder])
    with_candidate = {before.truth.case_ids[case] for case in before.outcome.candidate_case}
    free = next(case_id for case_id in ids if case_id not in with_candidate)
    with (folder / "lesions.csv").open("a") as stream:
        stream.write(f"{free},ignored,0.9,0.2\n")
    (after,) = read_scored_runs([folder])
    assert np.array_equal(after.outcome.confidence, before.outcome.confidence)
    assert after.candidate_free_cases == before.candidate_free_cases - 1


def test_sizes_of_lesions_are_read_where_they_are_recorded(scores):
    folder = scores.run("a", "ce")
    assert read_scored_runs([folder])[0].lesions is None
    rows = scores.sizes(folder)
    (run,) = read_scored_runs([folder])
    assert len(run.lesions) == len(rows) - 1 == run.truth.lesion_count
    assert sorted(each.confidence for each in run.lesions if each.confidence) == sorted(
        run.outcome.confidence[run.outcome.hit]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, "999_9,1,0.0,1.0,10.0"],
        lambda rows: [*rows[:-1], ",".join([*rows[-1].split(",")[:2], "0.987", "1.0", "10.0"])],
    ],
    ids=["one lesion less", "a case that is not there", "another confidence"],
)
def test_sizes_that_contradict_the_lesions_are_refused(scores, change):
    folder = scores.run("a", "ce")
    rows = scores.sizes(folder)
    (folder / "sizes.csv").write_text("\n".join(change(rows)) + "\n")
    refuse([folder], "sizes.csv: case .*", expected=r"\d lesions, hit as in lesions.csv", found=r"\d")


def test_folders_of_runs_are_searched_and_hidden_ones_are_not(scores):
    scores.run("deep/er/a", "ce")
    scores.run("deep/b", "focal")
    scores.run(".partial-x/c", "ce-dice")
    assert [run.source.configuration for run in read_scored_runs([scores.root])] == ["ce", "focal"]


def test_runs_behind_links_are_found_once(scores, tmp_path):
    scores.run("a", "ce")
    scores.run("b", "focal").rename(tmp_path / "moved")
    (scores.root / "b").symlink_to(tmp_path / "moved")
    (scores.root / "latest").symlink_to(scores.root / "a")
    (scores.root / "circle").symlink_to(scores.root)
    assert [run.source.configuration for run in read_scored_runs([scores.root])] == ["ce", "focal"]


@pytest.mark.parametrize("left", ["metrics.json", "cases.csv", "lesions.csv"])
def test_incomplete_run_is_refused(scores, left):
    scores.run("a", "ce")
    for path in scores.run("b", "focal").iterdir():
        if path.name != left:
            path.unlink()
    refuse([scores.root], "b$", "source.json not found")


def test_order_of_runs_does_not_depend_on_their_folders(scores):
    a = scores.run("z", "ce", restart=1)
    b = scores.run("y", "ce", restart=0)
    c = scores.run("a", "ensemble-four", runs=("x", "y"))
    d = scores.run("b", "baseline-maximum-hbv", fold=None, restart=None, runs=())
    names = [run.name for run in read_scored_runs([d, c, a, b])]
    assert names == ["ce_fold0_restart0", "ce_fold0_restart1", "ensemble-four_fold0_restart0", "baseline-maximum-hbv"]


def test_ensembles_without_fold_and_restart_are_named_by_their_runs(scores):
    for name in ("a", "b"):
        scores.run(name, "ensemble-four", fold=None, restart=None, runs=(name, "shared"))
    names = [run.name for run in read_scored_runs([scores.root])]
    assert len(set(names)) == 2
    assert all(re.fullmatch("ensemble-four_[0-9a-f]{8}", name) for name in names)


def test_nothing_to_compare_is_refused(scores, tmp_path):
    refuse([], "--scores", "no scored runs given")
    refuse([tmp_path], problem=r"no scored run \(metrics.json\)")
    refuse([scores.run("a", "ce", with_source=False)], "a$", "source.json not found")
    refuse([scores.run("b", "ce", picai_only=True)], "metrics.json", r"no strict answer .*\(not computed: --picai-only")


def test_a_file_that_was_edited_since_it_was_scored_is_refused(workshop, tmp_path):
    truth = workshop.truth({"1_1": workshop.image({1: workshop.box}), "2_1": workshop.image()})
    maps = workshop.batch(
        {"1_1": workshop.image({0.5: workshop.box}), "2_1": workshop.image()}, {"1_1": 0.5, "2_1": 0.1}
    )
    workshop.source(maps)
    score(predictions=maps, truth=truth, output=tmp_path / "scores")
    read_scored_runs([tmp_path / "scores"])
    table = tmp_path / "scores" / "cases.csv"
    table.write_text(table.read_text().replace("0.5", "0.9"))  # gives the same AUROC
    refuse([tmp_path / "scores"], f"^{table}$", "^edited since it was written$")


def test_record_with_faults_is_refused_with_all_of_them(scores):
    folder = scores.run("a", "ce")
    values = read_json(folder / "source.json")
    write_json(folder / "source.json", {**values, "fold": "first", "colour": "red"})
    refuse([folder], "source.json", "2 faults: .*(fold.*colour|colour.*fold)")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("metrics.json", "not found"), ("cases.csv", "table not found"), ("lesions.csv", "table not found")],
)
def test_missing_file_of_a_run_is_refused(scores, name, problem):
    scores.run("a", "ce")
    (scores.run("b", "focal") / name).unlink()
    refuse([scores.root], f"b/{name}$", problem)


CASES = "case_id,label,likelihood\n"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (f"{CASES}\udcff\udcfe,1,0.5\n", {"problem": "not a readable table: 'utf-8' codec"}),
        ("id,label\n", {"expected": "the columns case_id,label,likelihood", "found": "id,label"}),
        ("", {"expected": "the columns case_id,label,likelihood", "found": "an empty file"}),
        (f"{CASES}100_0,0,0.5\n104_4,0\n", {"where": "line 3", "expected": "3 values", "found": "2"}),
        (CASES, {"problem": "no cases"}),
        (f"{CASES}100_0,0,0.5\n100_0,0,0.5\n", {"problem": "duplicate case 100_0"}),
        (f"{CASES}\x1b[31m,0,0.5\n", {"problem": "invalid case id '.x1b.*unprintable"}),
        (f"{CASES}{'x' * 201},0,0.5\n", {"expected": "a printable case id of 1 to 200 characters"}),
        (f"{CASES}100_0,2,0.5\n", {"where": "case 100_0", "expected": "the label 0 or 1", "found": "'2'"}),
        *(
            (
                f"{CASES}100_0,0,{value}\n",
                {"where": "case 100_0", "expected": "a likelihood of at least 0", "found": f"'{value}'"},
            )
            for value in ("1e300", "nan", "inf", "-0.1", "high")
        ),
    ],
)
def test_faulty_table_of_cases_is_refused(scores, text, fields):
    folder = scores.run("a", "ce")
    (folder / "cases.csv").write_bytes(text.encode(errors="surrogateescape"))
    refuse([folder], **{"where": "cases.csv"} | fields)


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("999_9,fp,0.5,0.0", {"problem": "'999_9' is not in cases.csv"}),
        ("100_0,maybe,0.5,0.0", {"expected": "the kind tp, fp, fn, ignored", "found": "'maybe'"}),
    ],
)
def test_faulty_row_of_lesions_is_refused(scores, row, fields):
    folder = scores.run("a", "ce")
    lines = (folder / "lesions.csv").read_text().splitlines()
    (folder / "lesions.csv").write_text("\n".join([lines[0], row, *lines[2:]]) + "\n")
    refuse([folder], "lesions.csv", **fields)


@pytest.mark.parametrize("key", ["auroc", "ap", "cases", "positive_cases", "lesions"])
def test_metrics_that_the_tables_contradict_are_refused(scores, key):
    folder = scores.run("a", "ce")
    values = read_json(folder / "metrics.json")
    values["strict"][key] += 1 if isinstance(values["strict"][key], int) else -0.01
    write_json(folder / "metrics.json", values)
    refuse([folder], "metrics.json", expected=f"strict {key} .* as cases.csv and lesions.csv give it", found=".")


def test_undefined_metric_that_the_tables_define_is_refused(scores):
    folder = scores.run("a", "ce")
    values = read_json(folder / "metrics.json")
    values["strict"]["auroc"] = None
    write_json(folder / "metrics.json", values)
    refuse([folder], expected="strict auroc", found="undefined")


def test_another_card_is_refused(scores):
    scores.run("a", "ce")
    scores.run("b", "focal", card="other", card_sha256="0" * 64)
    refuse([scores.root], "b$", expected=r"the card of .*a \(cspca-picai, ", found="other, 000000000000")


def test_another_case_list_is_refused(scores):
    ids, lesions = scores.truth()
    scores.run("a", "ce")
    scores.run("b", "focal", truth=(ids[:-1], lesions[:-1]))
    refuse(
        [scores.root], "b$", expected="the 30 cases of .*a$", found="29; 1 are in only one of the two, such as 129_29"
    )


@pytest.mark.parametrize(("lesions_before", "what"), [(0, "label"), (1, "number of lesions")])
def test_another_truth_is_refused(scores, lesions_before, what):
    ids, lesions = scores.truth()
    other = lesions.copy()
    case = int(np.flatnonzero(lesions == lesions_before)[0])
    other[case] += 1
    scores.run("a", "ce")
    scores.run("b", "focal", truth=(ids, other))
    expected, found = lesions_before, lesions_before + 1
    refuse([scores.root], f"b: case {ids[case]}", expected=f"the {what} {expected} as in .*a$", found=f"^{found}$")


def test_folder_given_twice_is_refused(scores):
    folder = scores.run("a", "ce")
    refuse([folder, scores.root], "a$", "scored run given 2 times")


NO_RUN = {"fold": None, "restart": None, "runs": ()}


@pytest.mark.parametrize(
    ("configuration", "first", "second", "name"),
    [
        ("ce", {"runs": ("one",)}, {"runs": ("two",)}, "ce_fold0_restart0"),
        ("ce", {"restart": 0, "runs": ("one",)}, {"restart": 1, "runs": ("one",)}, "ce_fold0_restart1"),
        ("baseline-maximum-hbv", NO_RUN, NO_RUN, "baseline-maximum-hbv"),
    ],
)
def test_run_twice_is_refused(scores, configuration, first, second, name):
    scores.run("a", configuration, **first)
    scores.run("b", configuration, **second)
    refuse([scores.root], "b$", f"duplicate run {name}, also in .*a")


def test_a_run_under_two_configurations_names_is_refused(scores):
    first = scores.run("a", "ce", parents={"predictions": "same"})
    second = scores.run("b", "focal", parents={"predictions": "same"})
    refuse([scores.root], f"^{second}$", f"^has the same predictions as {first}$")


def test_ensemble_of_one_run_is_accepted_with_that_run(scores):
    scores.run("a", "ce", runs=("one",), parents={"predictions": "same"})
    scores.run("b", "ensemble-ce", fold=None, restart=None, runs=("one",), parents={"predictions": "same"})
    assert len(read_scored_runs([scores.root])) == 2


def test_two_profiles_in_one_configuration_are_refused(scores):
    scores.run("a", "ce", restart=0)
    scores.run("b", "ce", restart=1, profile="modern")
    refuse([scores.root], "configuration ce", expected="one profile for all its runs", found="demo, modern")


def test_two_datasets_in_one_configuration_are_refused(scores):
    scores.run("a", "ce", restart=0, prepared_sha256="1" * 64)
    scores.run("b", "ce", restart=1)  # of an older program
    assert len(read_scored_runs([scores.root])) == 2
    scores.run("c", "ce", restart=2, prepared_sha256="2" * 64)
    refuse([scores.root], "configuration ce", expected="one dataset for all its runs", found="1{64}, 2{64}")


def test_folds_of_two_datasets_are_not_comparable_and_warned_of(scores, caplog):
    scores.run("a", "ce", prepared_sha256="1" * 64)
    scores.run("b", "focal", prepared_sha256="1" * 64)
    assert [run.source.fold for run in read_scored_runs([scores.root])] == [0, 0]
    assert not caplog.messages
    scores.run("c", "ce-dice", prepared_sha256="2" * 64)
    folds = {run.source.configuration: run.source.fold for run in read_scored_runs([scores.root])}
    assert folds == {"ce": 0, "focal": 0, "ce-dice": None}
    (said,) = caplog.messages
    assert "2 × 111111111111, 1 × 222222222222" in said


@pytest.mark.parametrize("name", ["mirroring", "precision"])
def test_runs_that_were_predicted_otherwise_are_refused(scores, name):
    settings = {"mirroring": True, "precision": "fp32"}
    scores.run("a", "ce", settings=settings)
    scores.run("b", "baseline-x", fold=None, restart=None, runs=())
    scores.run("c", "nndet", settings={"mirroring": True})
    assert len(read_scored_runs([scores.root])) == 3
    scores.run("d", "focal", settings=settings | {name: "another"})
    refuse([scores.root], "d/source.json", expected=f"{name} {settings[name]} as in .*a", found=f"{name} another")


@pytest.mark.parametrize(
    ("parent", "what"), [("truth", "truth"), ("scoring_card", "scoring card"), ("scoring_rule", "scoring rule")]
)
def test_runs_scored_against_other_truth_or_by_another_card_are_refused(scores, parent, what):
    scores.run("a", "ce", parents={parent: "1" * 64})
    scores.run("b", "focal", parents={parent: "2" * 64})
    scores.run("c", "focal", parents={}, restart=1)
    for other, found in (("b", "222222222222"), ("c", "none")):
        refuse(
            [scores.root / "a", scores.root / other],
            rf"{other}/metrics\.json",
            expected=rf"the {what} of .*a \(111111111111\)",
            found=found,
        )


@pytest.mark.parametrize("parent", ["predictions", "truth", "scoring_card", "scoring_rule"])
def test_metrics_with_the_source_of_another_scoring_are_refused(scores, parent):
    folder = scores.run("a", "ce", parents={parent: "1" * 64})
    text = (folder / "source.json").read_text()
    (folder / "source.json").write_text(text.replace("1" * 64, "2" * 64))
    refuse([folder], r"source\.json", expected=r"of metrics\.json \(111111111111\)", found="2222")


def test_runs_with_other_patients_are_refused(scores):
    ids, _ = scores.truth()
    for name, patients in (("a", range(30)), ("b", [0, *range(29)])):
        folder = scores.run(name, name)
        rows = "".join(f"{case_id},{patient}\n" for case_id, patient in zip(ids, patients, strict=True))
        (folder / "patients.csv").write_text("case_id,patient_id\n" + rows)
    refuse([scores.root], r"b/patients\.csv", "patients differ from those of .*a; name them with --patients")
    assert read_scored_runs([scores.root], patients="by-case")[0].truth.patient_count == 30


def test_table_with_only_some_cases_of_a_patient_is_refused(scores, tmp_path):
    ids, _ = scores.truth()
    folder = scores.run("a", "ce")
    recorded = {case_id: str(number // 2) for number, case_id in enumerate(ids)}
    rows = [f"{case_id},{patient}\n" for case_id, patient in recorded.items()]
    (folder / "patients.csv").write_text("case_id,patient_id\n" + "".join(rows))
    table = tmp_path / "said.csv"
    table.write_text(f"case_id,patient_id\n{ids[0]},new\n")
    with refused_with(expected="the patients of all cases of 0, or of none", found=f"that of {ids[0]}, .*{ids[1]}.*"):
        read_scored_runs([scores.root], patients=str(table))
    table.write_text(f"case_id,patient_id\n{ids[0]},new\n{ids[1]},new\n")
    (run,) = read_scored_runs([scores.root], patients=str(table))
    assert run.truth.patient_names == ("new", "new", *list(recorded.values())[2:])


def test_tables_with_a_byte_order_mark_are_read(scores):
    folder = scores.run("a", "ce")
    table = folder / "cases.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(read_scored_runs([folder])[0].truth.case_ids) == 30
