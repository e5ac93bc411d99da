"""Scoring from folder to folder, and the command line."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
from picai_eval import evaluate_folder
from programs import python
from refusals import refused_with
from report_guided_annotation import extract_lesion_candidates

from contract.card import load_card
from contract.errors import OncoduetError
from contract.images.volume import from_image, write_volume
from contract.records import MetricsRecord, Source, read_record, write_record
from evaluation.__main__ import main
from evaluation.inputs import truth_index
from evaluation.matching.cases import MatchingRule
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.score import RunName, score


def table(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.reader(stream))


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_marksheet_that_denies_a_lesion_is_named(workshop, tmp_path, caplog):
    truth = workshop.truth({"p1_1": workshop.image({1: workshop.box}), "p2_1": workshop.image()}, name="said")
    (truth / "marksheet.csv").write_text("patient_id,study_id,case_csPCa\np1,1,NO\np2,1,NO\n")
    maps = workshop.plain({case_id: workshop.image({0.5: workshop.box}) for case_id in ("p1_1", "p2_1")}, name="maps")
    score(predictions=maps, truth=truth, output=tmp_path / "out")
    assert "by case_csPCa 1 cases have no lesion, and a label map with one: p1_1" in caplog.text


def test_batch_output_gives_both_answers_rows_and_a_source(workshop, maps, likelihoods, truth, tmp_path):
    folder = workshop.batch(maps, likelihoods)
    given = workshop.source(folder)
    [result] = score(predictions=folder, truth=truth, output=tmp_path / "out")
    record = read_record(tmp_path / "out" / "metrics.json", MetricsRecord)
    assert record == result.metrics
    # strict ranks by .8 and .5 against .6, picai by the maps' .75 and .5 against .25
    assert (record.strict.auroc, record.picai.auroc) == (0.5, 1.0)
    # .75 hits; .5 lies elsewhere, its lesion is missed: one of two lesions, without a false positive above it
    assert record.strict.ap == record.picai.ap == 0.5
    assert (record.strict.cases, record.strict.positive_cases, record.strict.lesions) == (3, 2, 2)
    assert table(tmp_path / "out" / "cases.csv") == [
        ["case_id", "label", "likelihood"],
        ["a", "1", "0.8"],
        ["b", "0", "0.6"],
        ["c", "1", "0.5"],
    ]
    assert table(tmp_path / "out" / "lesions.csv") == [
        ["case_id", "kind", "confidence", "overlap"],
        ["a", "tp", "0.75", "1.0"],
        ["b", "fp", "0.25", "0.0"],
        ["c", "fn", "0.0", "0.0"],
        ["c", "fp", "0.5", "0.0"],
    ]
    header, *rows = table(tmp_path / "out" / "sizes.csv")
    assert header == ["case_id", "lesion", "confidence", "volume_ml", "diameter_mm"]
    assert [row[:3] for row in rows] == [["a", "1", "0.75"], ["c", "1", "0.0"]]
    # 3 × 3 × 4 voxels of 3 × 0.75 × 0.5 mm: from the middle of one corner voxel to that of the opposite, less one axis
    assert [float(value) for value in rows[0][3:]] == pytest.approx(
        [0.0405, np.linalg.norm([3 * 3, 2 * 0.75, 3 * 0.5])]
    )
    source = read_record(tmp_path / "out" / "source.json", Source)
    assert source.parents == {
        "bundle": "b" * 64,
        "predictions": record.parents["predictions"],
        "truth": record.parents["truth"],
        "scoring_rule": MatchingRule().sha256,
    }
    assert source.model_copy(update={"parents": given.parents, "written_by": given.written_by}) == given
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".oncoduet", "cases.csv", "lesions.csv", "metrics.json", "sizes.csv", "source.json",
    ]  # fmt: skip


def test_several_runs_are_scored_into_folders_of_their_names(workshop, maps, likelihoods, truth, tmp_path):
    for name in ("ce_fold0_restart0", "ce_fold0_restart1"):
        workshop.source(workshop.batch(maps, likelihoods, name=f"all/{name}"))
    score(predictions=tmp_path / "all", truth=truth, output=tmp_path / "out")
    score(predictions=tmp_path / "all" / "ce_fold0_restart1", truth=truth, output=tmp_path / "alone")
    written = everything(tmp_path / "out")
    assert {name.split("/")[0] for name in written} == {"ce_fold0_restart0", "ce_fold0_restart1"}
    alone = everything(tmp_path / "alone")
    assert {name: written[f"ce_fold0_restart1/{name}"] for name in alone} == alone


@pytest.mark.parametrize("index", ["written", "in memory"])
def test_two_processes_give_the_same_bytes_and_warn_once(
    workshop, maps, likelihoods, tmp_path, monkeypatch, caplog, index
):
    """Also what a process warns of: here a lesion map that is mostly lesion, once per run that is scored."""
    labels = {"a": workshop.image({3: workshop.box}), "b": workshop.image({1: (slice(None),) * 3})}
    truth = workshop.truth(labels | {"c": workshop.image()})
    for name in ("ce_fold0_restart0", "ce_fold0_restart1"):
        workshop.source(workshop.batch(maps, likelihoods, name=f"all/{name}"))
    if index == "in memory":
        monkeypatch.setattr(truth_index, "_may_write", lambda _: False)
    warned = []
    for workers in (1, 2):
        caplog.clear()
        (truth / "truth-index.zip").unlink(missing_ok=True)
        score(
            predictions=tmp_path / "all", truth=truth, output=tmp_path / str(workers), sweep_hits=True, workers=workers
        )
        assert (truth / "truth-index.zip").exists() == (index == "written")
        warned.append([(each.name, each.getMessage()) for each in caplog.records])
    assert everything(tmp_path / "1") == everything(tmp_path / "2")
    assert warned[0] == warned[1] != []


def test_a_fault_that_another_process_finds_is_one_line(workshop, maps, likelihoods, truth, tmp_path):
    folder = workshop.plain({**maps, "b": workshop.image({7.5: workshop.elsewhere})})
    said = []
    for workers in (1, 2):
        with pytest.raises(OncoduetError) as caught:
            score(predictions=folder, truth=truth, output=tmp_path / str(workers), workers=workers)
        said.append((caught.value.where, caught.value.expected, caught.value.found))
    assert said[0] == said[1]


def test_a_faulty_run_among_several_leaves_nothing_written(workshop, maps, likelihoods, truth, tmp_path):
    workshop.batch(maps, likelihoods, name="all/a")
    workshop.batch({**maps, "c": workshop.image({1.5: workshop.box})}, likelihoods, name="all/b")
    with refused_with(r"c\.mha", expected=r"confidences in \[0, 1\]"):
        score(predictions=tmp_path / "all", truth=truth, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_of_other_origin_is_not_replaced(workshop, maps, truth, tmp_path):
    [result] = score(predictions=workshop.plain(maps), truth=truth, output=tmp_path / "out")
    assert result.source is None
    assert not (tmp_path / "out" / "source.json").exists()
    workshop.source(tmp_path / "mine")
    with refused_with("source.json", expected="nothing or what evaluation score wrote there"):
        score(predictions=workshop.plain(maps), truth=truth, output=tmp_path / "mine")


def test_scores_of_another_run_are_not_replaced(workshop, maps, truth, tmp_path):
    folder = workshop.plain(maps)
    workshop.source(folder)
    score(predictions=folder, truth=truth, output=tmp_path / "out")
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    score(predictions=folder, truth=truth, output=tmp_path / "out")
    workshop.source(folder, configuration="focal")
    with refused_with(expected="results of run focal fold 1 .* or none", found="some of run ce fold"):
        score(predictions=folder, truth=truth, output=tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [{"picai_only": True}, {"card": load_card("cspca-rsna2022")}, {"card": None}, {"on_missing": "worst"}],
    ids=["answer", "card", "no card", "missing"],
)
def test_scores_with_other_options_are_not_replaced(workshop, maps, truth, tmp_path, options):
    usual = {"predictions": workshop.plain(maps), "truth": truth, "output": tmp_path / "out"}
    usual["card"] = load_card("cspca-picai")
    score(**usual)
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    with refused_with(str(tmp_path / "out"), expected="results of ", found="some of "):
        score(**usual | options)
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before


def test_scores_of_an_older_program_are_replaced_by_those_of_the_same_run(workshop, maps, truth, tmp_path):
    usual = {"predictions": workshop.plain(maps), "truth": truth, "output": tmp_path / "out"}
    score(**usual)
    manifest = tmp_path / "out" / ".oncoduet"
    known = json.loads(manifest.read_text())
    identity = known["commands"]["evaluation score"]["identity"]
    known["commands"]["evaluation score"]["identity"] = {name: identity[name] for name in ("predictions", "truth")}
    manifest.write_text(json.dumps(known))
    score(**usual)


def test_a_missing_prediction_may_count_as_worst(workshop, maps, truth, tmp_path):
    del maps["a"]
    [result] = score(predictions=workshop.plain(maps), truth=truth, output=tmp_path / "out", on_missing="worst")
    for metrics in (result.metrics.strict, result.metrics.picai):
        assert (metrics.missing, metrics.cases, metrics.lesions, metrics.ap) == (1, 3, 2, 0.0)
        assert metrics.auroc == 0.5  # positive 0 and .5 against .25
    assert table(tmp_path / "out" / "cases.csv")[1] == ["a", "1", "0.0"]
    assert table(tmp_path / "out" / "lesions.csv")[1] == ["a", "fn", "0.0", "0.0"]


def test_picai_only_leaves_strict_null_and_accepts_what_picai_eval_does(workshop, maps, truth, tmp_path):
    maps["a"] *= 2  # 1.5
    folder = workshop.plain(maps)
    with refused_with(r"a\.mha", expected=r"confidences in \[0, 1\]", found=r"0 to 1\.5"):
        score(predictions=folder, truth=truth, output=tmp_path / "strict")
    [result] = score(predictions=folder, truth=truth, output=tmp_path / "out", picai_only=True)
    reference = evaluate_folder(folder, truth, verbose=0, num_parallel_calls=1)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (written["strict"], written["strict_reason"]) == (None, "not computed: --picai-only")
    assert (written["picai"]["auroc"], written["picai"]["ap"]) == (reference.auroc, reference.AP)
    assert table(tmp_path / "out" / "cases.csv")[1] == ["a", "1", "1.5"]
    assert table(tmp_path / "out" / "lesions.csv")[1] == ["a", "tp", "1.5", "1.0"]
    assert result.cases[0].likelihood == 1.5


def table_of(tmp_path, lines):
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join(["case_id,likelihood", *lines]) + "\n")
    return path


def test_a_table_of_likelihoods_has_a_case_level_alone(truth, tmp_path):
    predictions = table_of(tmp_path, ["a,0.9", "b,0.2", "c,0.1"])
    score(predictions=predictions, truth=truth, output=tmp_path / "out", named=RunName("readers", None, None))
    metrics = read_record(tmp_path / "out" / "metrics.json", MetricsRecord)
    assert metrics.strict.auroc == metrics.picai.auroc == 0.5
    assert (metrics.strict.ap, metrics.strict.score, metrics.strict.lesion_sensitivity_at_fp) == (None, None, {})
    assert metrics.strict.reason == "AP and lesion sensitivity are undefined: the predictions have no detection maps"
    assert table(tmp_path / "out" / "cases.csv")[1:] == [["a", "1", "0.9"], ["b", "0", "0.2"], ["c", "1", "0.1"]]
    (again,) = read_scored_runs([tmp_path / "out"])
    assert (again.source.configuration, again.source.profile) == ("readers", "external")


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (
            ["a,0.9", "b,2", "c,0.1"],
            {"where": "line 3", "expected": r"a likelihood, a number in \[0, 1\]", "found": "'2'"},
        ),
        (["a,0.9", "a,0.2", "b,0.1"], {"where": "line 3", "problem": "duplicate case a"}),
        (["a,0.9", "b,0.2"], {"problem": "no prediction for c of 3 cases"}),
        (["a,0.9", "b,0.2", "c,0.1", "d,0.1"], {"problem": "predictions of cases that are not in"}),
    ],
)
def test_a_faulty_table_of_likelihoods_is_refused(truth, tmp_path, lines, fields):
    with refused_with(**fields):
        score(predictions=table_of(tmp_path, lines), truth=truth, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_that_equal_the_truth_are_warned_of(workshop, likelihoods, truth, tmp_path, caplog):
    lesion = workshop.image({1: workshop.box})
    copies = workshop.batch({"a": lesion, "b": workshop.image(), "c": lesion}, likelihoods)
    score(predictions=copies, truth=truth, output=tmp_path / "out")
    assert f"{copies}: equals the truth in every voxel: are these the label maps themselves?" in caplog.text


def test_no_warning_for_maps_that_differ_from_the_truth(workshop, maps, likelihoods, truth, tmp_path, caplog):
    score(predictions=workshop.batch(maps, likelihoods), truth=truth, output=tmp_path / "out")
    assert "label maps themselves" not in caplog.text


def test_the_output_may_be_neither_predictions_nor_truth(workshop, maps, truth, tmp_path):
    folder = workshop.plain(maps)
    before = everything(tmp_path)
    for output, name in ((folder / ".." / "predictions", "predictions"), (truth, "truth")):
        with refused_with(expected="an output folder of its own", found=f"the {name}"):
            score(predictions=folder, truth=truth, output=output)
    assert everything(tmp_path) == before


def test_every_truth_map_is_read_once_for_all_runs(workshop, maps, likelihoods, truth, tmp_path, monkeypatch):
    for name in ("x", "y", "z"):
        workshop.batch(maps, likelihoods, name=f"all/{name}")
    read = []
    original = truth_index.read_label_map
    monkeypatch.setattr(truth_index, "read_label_map", lambda path: read.append(path.name) or original(path))
    assert len(score(predictions=tmp_path / "all", truth=truth, output=tmp_path / "out")) == 3
    assert sorted(read) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


@pytest.mark.data
@pytest.mark.slow
def test_the_six_real_maps_give_the_published_auroc_and_ap(real_data, tmp_path):
    """Expected: reference_results.json beside the maps, made with RGA 0.3.4 and picai-eval 1.4.13."""
    for path in sorted((real_data / "rga" / "softmax").glob("*.nii.gz")):
        softmax = sitk.ReadImage(str(path))
        array = np.clip(sitk.GetArrayFromImage(softmax), 0, 1)
        volume = from_image(softmax)
        candidates = extract_lesion_candidates(array, threshold="dynamic")[0].astype(np.float32)
        write_volume(tmp_path / "maps" / path.name, type(volume)(candidates, volume.grid))
    labels = real_data / "rga" / "labels"
    [result] = score(predictions=tmp_path / "maps", truth=labels, output=tmp_path / "out")
    reference = evaluate_folder(tmp_path / "maps", labels, verbose=0, num_parallel_calls=1)
    metrics = result.metrics.picai
    assert (metrics.auroc, metrics.ap, metrics.score) == (reference.auroc, reference.AP, reference.score)
    assert metrics.auroc == 0.875
    assert metrics.ap == pytest.approx(5 / 6, abs=1e-15)
    assert (result.metrics.strict.auroc, result.metrics.strict.ap) == (metrics.auroc, metrics.ap)


def test_a_missing_prediction_is_refused_and_nothing_written(workshop, maps, truth, tmp_path, refusal):
    del maps["b"]
    folder = workshop.plain(maps)
    arguments = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    expected = f"error: {folder}: no prediction for b of 3 cases in {truth}\n"
    assert refusal(*arguments) == expected
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--on-missing", "worst"]) == 0


def test_scoring_imports_neither_torch_nor_picai_eval():
    modules = ("__main__", "challenge", "score", "index")
    code = (
        f"import sys\nfor name in {modules}: __import__('evaluation.' + name)\n"
        "print([name for name in ('torch', 'picai_eval', 'nnunetv2', 'matplotlib') if name in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"


def test_training_studies_are_refused_unless_allowed(workshop, maps, likelihoods, truth, tmp_path, capsys, refusal):
    folder = workshop.batch(maps, likelihoods)
    words = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    given = workshop.source(folder)
    for trained_on, count in ((None, None), ((), 0), (("elsewhere",), 0)):
        write_record(folder / "source.json", given.model_copy(update={"trained_on": trained_on}))
        assert main(words) == 0
        assert read_record(tmp_path / "out" / "metrics.json", MetricsRecord).trained_on == count
    write_record(folder / "source.json", given.model_copy(update={"trained_on": ("c", "b", "elsewhere")}))
    said = refusal(*words)
    assert said.startswith(f"error: {folder}: its networks were trained on 2 of 3 studies: ")
    assert said.endswith(": b and 1 more; --training-studies-too scores them\n")
    assert main([*words, "--training-studies-too"]) == 0
    assert "2 of 3 studies were used for training" in " ".join(capsys.readouterr().out.split())
    assert read_record(tmp_path / "out" / "metrics.json", MetricsRecord).trained_on == 2
    assert read_record(tmp_path / "out" / "source.json", Source).trained_on == ("c", "b", "elsewhere")


def test_patients_of_other_cases_are_refused(workshop, tmp_path, refusal):
    truth = workshop.truth({case_id: workshop.image() for case_id in ("7_1", "8_1")})
    folder = workshop.plain({case_id: workshop.image() for case_id in ("7_1", "8_1")})
    (truth / "patients.csv").write_text("case_id,patient_id\n7_01,7\n8_01,7\n")
    command = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    assert "names 2 cases that do not exist (such as 7_01)" in refusal(*command)
    assert main([*command, "--patients", "by-case"]) == 0


def test_table_with_only_some_studies_of_a_patient_is_refused(workshop, tmp_path, capsys):
    truth = workshop.truth({case_id: workshop.image() for case_id in ("7_1", "7_2")})
    folder = workshop.plain({case_id: workshop.image() for case_id in ("7_1", "7_2")})
    (truth / "patients.csv").write_text("case_id,patient_id\n7_1,P7\n")
    assert main(["score", "--predictions", f"{folder}", "--truth", f"{truth}", "--output", f"{tmp_path / 'out'}"]) == 3
    assert "the patients of all cases of 7, or of none" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_patients_are_recorded_where_ids_are_ambiguous(workshop, tmp_path, capsys):
    ids = ["scan_1", "scan_2"]
    truth = workshop.truth({case_id: workshop.image() for case_id in ids})
    folder = workshop.plain({case_id: workshop.image() for case_id in ids})
    recorded = tmp_path / "out" / "patients.csv"

    def scored(*words, output="out", code=0):
        command = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / output)]
        assert main([*command, *words]) == code
        return " ".join(capsys.readouterr().out.split())

    assert "name their patients" in scored()
    assert not recorded.exists()
    assert "name their patients" not in scored("--patients", "by-case")
    assert table(recorded) == [["case_id", "patient_id"], ["scan_1", "scan_1"], ["scan_2", "scan_2"]]
    (truth / "patients.csv").write_text("case_id,patient_id\nscan_1,7\nscan_2,7\n")
    scored(code=3)  # other patients
    scored(output="other")
    assert table(tmp_path / "other" / "patients.csv")[1:] == [["scan_1", "7"], ["scan_2", "7"]]
    (truth / "patients.csv").unlink()
    scored(code=3)
    assert table(recorded)[1:] == [["scan_1", "scan_1"], ["scan_2", "scan_2"]]


def test_sweep_of_hit_criteria_changes_no_other_file(workshop, maps, likelihoods, truth, tmp_path):
    batch = workshop.batch(maps, likelihoods)
    score(predictions=batch, truth=truth, output=tmp_path / "plain")
    (scored,) = score(predictions=batch, truth=truth, output=tmp_path / "swept", sweep_hits=True)
    for name in ("cases.csv", "lesions.csv"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "swept" / name).read_bytes()
    plain, swept = (read_record(tmp_path / name / "metrics.json", MetricsRecord) for name in ("plain", "swept"))
    assert (plain.strict, plain.picai, plain.parents) == (swept.strict, swept.picai, swept.parents)
    header, *rows = table(tmp_path / "swept" / "hits.csv")
    assert header == ["criterion", "minimum", "ap", "fp_0_125", "fp_0_25", "fp_0_5", "fp_1", "fp_2"]
    assert [row[:2] for row in rows] == [
        ["iou", "0.05"], ["iou", "0.1"], ["iou", "0.2"], ["iou", "0.5"],
        ["dice", "0.1"], ["dice", "0.2"], ["dice", "0.5"], ["centre", ""],
    ]  # fmt: skip
    strict = scored.metrics.strict
    assert [float(value) for value in rows[1][2:]] == [strict.ap, *strict.lesion_sensitivity_at_fp.values()]
    with refused_with("swept", found="some of tables"):
        score(predictions=batch, truth=truth, output=tmp_path / "swept")
    score(predictions=batch, truth=truth, output=tmp_path / "plain", sweep_hits=True)
    assert table(tmp_path / "plain" / "hits.csv") == [header, *rows]


def test_sweep_needs_detection_maps_and_strict_matching(workshop, maps, truth, tmp_path, refusal):
    (tmp_path / "p.csv").write_text("case_id,likelihood\na,0.1\nb,0.2\nc,0.3\n")
    words = ["--truth", str(truth), "--output", str(tmp_path / "out"), "--sweep-hits"]
    assert "no detection maps" in refusal("score", "--predictions", tmp_path / "p.csv", *words)
    assert main(["score", "--predictions", str(workshop.plain(maps)), *words, "--picai-only"]) == 2
    assert not (tmp_path / "out").exists()
