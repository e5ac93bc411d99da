"""Box shapes and case scores of real detectors, evaluated by our own programs."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from refusals import refused_with

from contract.files.atomic import write_json
from contract.files.reading import read_json, sha256_file
from contract.records import BatchRecord, MetricsRecord, RunRecord, read_record, write_record
from network.detection.clustering import BoxPostprocessing
from training.__main__ import main
from training.bundle import bundle
from training.dataset.prepared import load_prepared
from training.retina_unet.engine import box_rule_file
from training.run_folder.folder import RunFolder
from training.run_folder.lock import work_lock
from training.sweep import (
    COMBINATIONS,
    MEAN,
    OPTIMISM,
    MapSweepRecord,
    ScoredMaps,
    best_of,
    difference,
    means,
    store_in,
    verdict,
)
from training.verify import verify

NAME = "retina-unet_fold0_restart1"


@pytest.fixture(scope="module")
def trained(make_runs):
    """Detectors of two folds, and a segmentation."""
    return make_runs(("retina-unet", 0), ("retina-unet", 1), ("ce", 0))


@pytest.fixture
def runs(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def maps(auroc_of, *, ap_of=lambda fill, case_score: 0.5, run="a"):
    """Scores of all combinations by formula."""
    found = []
    for fill, case_score in COMBINATIONS:
        auroc, ap = auroc_of(fill, case_score), ap_of(fill, case_score)
        values = {"auroc": auroc, "ap": ap, "score": (auroc + ap) / 2}
        found.append(ScoredMaps(run=run, fill=fill, case_score=case_score, **values))
    return found


def record_of(scored, **more):
    best = best_of(scored)
    values = {"validation": {"a": ("1",)}, "mirroring": False, "stored": False, "optimism": OPTIMISM} | more
    return MapSweepRecord(maps=tuple(scored), fill=best.fill, case_score=best.case_score, **values)


# By hand


def test_nndetections_combination_is_kept_unless_another_is_better():
    assert COMBINATIONS[0] == ("cuboid", "maximum") and len(set(COMBINATIONS)) == 9
    equal = maps(lambda fill, case_score: 0.75)
    best = best_of([*equal, *means(equal)])
    assert (best.run, best.fill, best.case_score) == (MEAN, "cuboid", "maximum")
    better = maps(lambda fill, case_score: 0.75 + 0.125 * (fill == "ellipsoid" and case_score == "noisy-or"))
    best = best_of([*better, *means(better)])
    assert (best.fill, best.case_score) == ("ellipsoid", "noisy-or")


def test_the_mean_over_the_runs_decides():
    """Run a gains 0.2 by noisy-or, run b loses 0.3 by it and gains 0.1 by the mean of the highest."""
    gains_a = {"maximum": 0.0, "noisy-or": 0.2, "top-k-mean": 0.0}
    gains_b = {"maximum": 0.0, "noisy-or": -0.3, "top-k-mean": 0.1}
    a = maps(lambda fill, case_score: 0.5 + gains_a[case_score], run="a")
    b = maps(lambda fill, case_score: 0.5 + gains_b[case_score], run="b")
    scored = [*a, *b, *means([*a, *b])]
    mean = {each.case_score: each for each in scored if each.run == MEAN and each.fill == "cuboid"}
    assert mean["noisy-or"].auroc == pytest.approx(0.45)
    assert mean["top-k-mean"].score == pytest.approx((0.55 + 0.5) / 2)
    assert best_of(scored).case_score == "top-k-mean"


def test_the_verdict_names_the_combinations_that_differ():
    own = maps(
        lambda fill, case_score: 0.625 if case_score == "noisy-or" else 0.5,
        ap_of=lambda fill, case_score: 0.25 if fill == "segmentation" else 0.5,
    )
    scored = [*own, *means(own)]
    assert difference(scored, ("ellipsoid", "maximum")) == "the same"
    assert difference(scored, ("cuboid", "noisy-or")) == "AUROC +0.1250, AP +0.0000"
    assert difference(scored, ("segmentation", "top-k-mean")) == "AUROC +0.0000, AP -0.2500"
    assert verdict(record_of(scored)) == [
        "differ from cuboid, maximum: cuboid, noisy-or; ellipsoid, noisy-or; segmentation, maximum; "
        "segmentation, noisy-or; segmentation, top-k-mean",
        "the same in every run: cuboid, top-k-mean; ellipsoid, maximum; ellipsoid, top-k-mean",
        "best: cuboid, noisy-or (score 0.5625; cuboid, maximum 0.5000); not stored; --store gives it to the runs",
    ]
    assert verdict(record_of(scored, stored=True))[-1].endswith("; stored in the runs")


def test_runs_that_differ_against_each_other_are_not_called_the_same():
    """One run gains what the other loses: the means are equal, the runs are not."""
    a = maps(lambda fill, case_score: 0.5 + 0.25 * (fill == "ellipsoid"), run="a")
    b = maps(lambda fill, case_score: 0.5 - 0.25 * (fill == "ellipsoid"), run="b")
    scored = [*a, *b, *means([*a, *b])]
    assert difference(scored, ("ellipsoid", "maximum")) == "AUROC +0.0000, AP +0.0000"
    assert difference(scored, ("ellipsoid", "maximum"), "b") == "AUROC -0.2500, AP +0.0000"
    assert difference(scored, ("cuboid", "noisy-or")) == difference(scored, ("cuboid", "noisy-or"), "a") == "the same"


# By real runs


@pytest.fixture(scope="module")
def swept(trained):
    """Both detectors, evaluated; and what their folders held before."""
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    detectors, output = [trained / NAME, trained / NAME.replace("fold0", "fold1")], trained / "sweep"
    words = ["sweep", "--runs", *detectors, "--output", output, "--no-mirroring"]
    assert main([str(word) for word in words]) == 0
    return detectors, output, before


def test_every_combination_is_scored_on_each_runs_own_validation_studies(swept, prepared_folder):
    detectors, output, before = swept
    record = read_record(output / "map_sweep.json", MapSweepRecord)
    prepared = load_prepared(prepared_folder)
    assert record.validation == {run.name: prepared.fold(fold).validation for fold, run in enumerate(detectors)}
    assert record.parents == {run.name: sha256_file(run / "run.json") for run in detectors}
    assert (record.mirroring, record.stored, record.optimism) == (False, False, OPTIMISM)
    assert {path: path.read_bytes() for path in before} == before
    assert [(each.run, each.fill, each.case_score) for each in record.maps] == [
        (run, *combination) for run in (*(run.name for run in detectors), MEAN) for combination in COMBINATIONS
    ]
    for each in record.maps[:18]:
        metrics = output / each.run / "scores" / f"{each.fill}_{each.case_score}" / "metrics.json"
        strict = read_record(metrics, MetricsRecord).strict
        assert (strict.auroc, strict.ap, strict.score) == (each.auroc, each.ap, each.score)
        assert strict.cases == len(record.validation[each.run])
    with (output / "map_sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], row["fill"], float(row["auroc"]), float(row["score"])) for row in rows] == [
        (each.run, each.fill, each.auroc, each.score) for each in record.maps
    ]
    settings = read_record(output / NAME / "predictions" / "batch.json", BatchRecord).settings
    assert settings["--fill"] == "cuboid ellipsoid segmentation"
    assert not list(output.glob("*/model*")) and not list(output.glob("*/archive"))


def test_a_sweep_of_fewer_runs_or_with_other_options_is_not_replaced(swept, capsys):
    detectors, output, _ = swept
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for words, what in [((detectors[0], "--no-mirroring"), "runs (2)"), (detectors, "mirroring False")]:
        assert main([str(word) for word in ["sweep", "--runs", *words, "--output", output]]) == 3
        assert f"found some of {what};" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_sweep_resumes_and_stores_the_best_combination(swept, runs, tmp_path, capsys):
    _, before, _ = swept
    run, output = RunFolder(runs / NAME), tmp_path / "sweep"
    shutil.copytree(before / NAME / "predictions", output / NAME / "predictions")
    images = {path: path.stat().st_mtime_ns for path in output.rglob("*.mha")}
    assert len(images) == 9 * 2  # of two validation studies
    rule = read_record(box_rule_file(run), BoxPostprocessing)
    assert main(["sweep", "--runs", str(run.path), "--output", str(output), "--no-mirroring", "--store"]) == 0
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.mha")} == images
    record = read_record(output / "map_sweep.json", MapSweepRecord)
    assert record.maps[:9] == read_record(before / "map_sweep.json", MapSweepRecord).maps[:9]
    assert record.stored
    stored = read_record(box_rule_file(run), BoxPostprocessing)
    assert stored == rule.model_copy(update={"fill": record.fill, "case_score": record.case_score})
    assert main(["sweep", "--runs", str(run.path), "--output", str(output), "--no-mirroring", "--store"]) == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.mha")} == images
    assert read_record(output / "map_sweep.json", MapSweepRecord).maps == record.maps
    for line in verdict(record):
        assert line in printed
    for each in record.maps[:9]:
        numbers = rf"{each.auroc:.4f} +{each.ap:.4f} +{each.score:.4f}"
        assert re.search(rf"^{each.fill} +{each.case_score} +{numbers} +(the same|AUROC )", printed, re.MULTILINE)


def test_a_run_that_was_given_a_combination_stays_sound(runs, tmp_path):
    run = RunFolder(runs / NAME)
    rule, before = read_record(box_rule_file(run), BoxPostprocessing), read_record(run.record, RunRecord)
    store_in(run, "ellipsoid", "top-k-mean")
    stored, record = read_record(box_rule_file(run), BoxPostprocessing), read_record(run.record, RunRecord)
    assert stored == rule.model_copy(update={"fill": "ellipsoid", "case_score": "top-k-mean"}) != rule
    assert record == before.model_copy(
        update={"parents": {**before.parents, "box_rule": sha256_file(box_rule_file(run))}}
    )
    found = {check.what: check.found for check in verify([run.path])}
    assert found["box_rule"] == found["weights"] == "as recorded"
    packed = bundle(runs=[run.path], output=tmp_path / "model.tar.gz")
    assert packed.members[0].box_rule_file is not None
    written = run.record.stat().st_mtime_ns
    store_in(run, "ellipsoid", "top-k-mean")
    assert run.record.stat().st_mtime_ns == written


def test_a_box_rule_that_was_edited_is_not_replaced(runs):
    run = RunFolder(runs / NAME)
    box_rule_file(run).write_text(box_rule_file(run).read_text() + " ")
    before = box_rule_file(run).read_bytes()
    with refused_with("box_rule.json", "does not match the hash in run.json"):
        store_in(run, "ellipsoid", "top-k-mean")
    assert box_rule_file(run).read_bytes() == before


def test_a_run_that_another_process_holds_is_not_changed(runs):
    run = RunFolder(runs / NAME)
    before = box_rule_file(run).read_bytes()
    with work_lock(run.lock), refused_with(expected="no other process at work on this run", found="process"):
        store_in(run, "ellipsoid", "top-k-mean")
    assert box_rule_file(run).read_bytes() == before


# Wrong input


@pytest.fixture
def refusal(refusal, tmp_path):
    def run(*words):
        message = refusal("sweep", "--output", tmp_path / "sweep", "--no-mirroring", *words)
        assert not (tmp_path / "sweep" / "map_sweep.json").exists()
        return message

    return run


def test_a_run_that_finds_no_boxes_is_refused(runs, refusal):
    message = refusal("--runs", runs)
    assert message == (f"error: {runs / 'ce_fold0_restart1'}: run of the configuration ce, which does not find boxes\n")


def test_a_run_that_is_not_finished_is_refused(runs, refusal):
    path = runs / NAME / "run.json"
    write_record(path, read_record(path, RunRecord).model_copy(update={"state": "running"}))
    assert f"{path}: expected a finished run, found state running" in refusal("--runs", runs / NAME)


def test_a_run_of_another_card_is_refused(runs, refusal):
    folder = RunFolder(runs / NAME.replace("fold0", "fold1"))
    folder.card.write_text(folder.card.read_text().replace('rule = "dynamic-v2"', 'rule = "dynamic"'))
    from contract.card import load_card  # noqa: PLC0415

    record = read_record(folder.record, RunRecord)
    key = record.key.model_copy(update={"card_sha256": load_card(folder.card).sha256})
    write_record(folder.record, record.model_copy(update={"key": key}))
    message = refusal("--runs", runs / NAME, folder.path)
    assert f"{folder.path}: differs from {runs / NAME} in its card" in message


def test_a_dataset_that_is_gone_or_another_is_refused(runs, prepared_folder, tmp_path, sealed, refusal):
    path = runs / NAME / "run.json"
    gone = read_record(path, RunRecord).model_copy(update={"prepared_folder": str(tmp_path / "gone")})
    write_record(path, gone)
    message = refusal("--runs", runs / NAME)
    assert f"{tmp_path / 'gone'}: the prepared dataset of {runs / NAME} not found" in message
    other = Path(shutil.copytree(prepared_folder, tmp_path / "other"))
    plans = read_json(other / "plans.json")
    (other / "plans.json").write_text((other / "plans.json").read_text().replace(plans["dataset_name"], "Another"))
    sealed(other)
    message = refusal("--runs", runs / NAME, "--prepared", other)
    assert f"{other}: not the prepared dataset that {runs / NAME} was trained on" in message


def test_an_archive_that_was_moved_is_asked_for(runs, prepared_folder, tmp_path, refusal, own_prepared):
    sources = own_prepared / "sources.json"
    sources.write_text(sources.read_text().replace(str(prepared_folder.parent / "archive"), str(tmp_path / "moved")))
    message = refusal("--runs", runs / NAME, "--prepared", own_prepared)
    assert f"{tmp_path / 'moved'}: the archive of {own_prepared} not found; --archive" in message


def test_studies_without_both_kinds_of_cases_cannot_be_ranked(runs, sealed, refusal, own_prepared):
    """The evaluation gives no AUROC for them, and that is passed on."""
    positive = {study.case_id for study in load_prepared(own_prepared).record.studies if study.lesions}
    splits = read_json(own_prepared / "splits.json")
    fold = splits["folds"][0]
    fold["train"] += [case_id for case_id in fold["validation"] if case_id not in positive]
    fold["validation"] = [case_id for case_id in fold["validation"] if case_id in positive]
    write_json(own_prepared / "splits.json", splits)
    sealed(own_prepared)
    path = runs / NAME / "run.json"
    record = read_record(path, RunRecord)
    parents = {**record.parents, "prepared": load_prepared(own_prepared).sha256}
    write_record(path, record.model_copy(update={"parents": parents}))
    message = refusal("--runs", runs / NAME, "--prepared", own_prepared)
    assert "metrics.json: no ranking score (" in message


def test_an_output_of_another_network_is_refused_by_the_algorithm(runs, tmp_path, refusal):
    predictions = tmp_path / "sweep" / NAME / "predictions"
    write_record(predictions / "batch.json", BatchRecord(parents={"bundle": "0"}, members=("all",), settings={}))
    message = refusal("--runs", runs / NAME)
    assert "python -m algorithm batch, called to compare box shapes, failed:" in message
    assert "expected a folder that was begun with the same bundle" in message
