import json
import unicodedata

import numpy as np
import pytest
import SimpleITK as sitk
from picai_eval import evaluate_folder
from refusals import refused_with

from contract.card import CARDS, load_card
from contract.files.reading import below, sha256_file
from contract.images.volume import Volume, to_image
from contract.outputs import Manifest, Written
from contract.records import StudyRecord, write_record
from contract.sockets import Entry, Job
from evaluation.inputs.predictions import card_of_outputs, case_of_job, find_prediction_sets, predictions_of_jobs
from evaluation.inputs.truth import find_truth


@pytest.fixture
def maps(workshop):
    return {"p1_s1": workshop.image({0.75: workshop.box}), "p2_s1": workshop.image({0.25: workshop.elsewhere})}


@pytest.fixture
def likelihoods():
    return {"p1_s1": 0.8, "p2_s1": 0.1}


@pytest.fixture
def truth(workshop):
    return workshop.truth({"p1_s1": workshop.image({1: workshop.box}), "p2_s1": workshop.image()})


def runs(folder, truth, **options):
    return find_prediction_sets(folder, find_truth(truth), **{"card": None, "on_missing": "error", **options})


def relist(folder, change):
    """Rewrite predictions.json."""
    path = folder / "predictions.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))), encoding="utf-8")
    return folder


def test_plain_maps_are_found_with_their_likelihoods(workshop, maps, truth):
    folder = workshop.plain(maps)
    [without] = runs(folder, truth)
    assert [each.likelihood for each in without.predictions.values()] == [None, None]
    for case_id in maps:
        (folder / f"{case_id}.json").write_text("0.8")
    [run] = runs(folder, truth)
    assert {case_id: each.detection_map.name for case_id, each in run.predictions.items()} == {
        "p1_s1": "p1_s1.mha",
        "p2_s1": "p2_s1.mha",
    }
    assert {each.likelihood.name for each in run.predictions.values()} == {"p1_s1.json", "p2_s1.json"}
    assert (run.name, run.title, run.source, run.card) == ("", "predictions", None, None)


def test_names_that_end_in_detection_map_are_meant_and_lose_their_ending(workshop, maps, truth):
    folder = workshop.plain({f"{case_id}_detection_map": array for case_id, array in maps.items()})
    workshop.truth({f"{case_id}_label": workshop.image() for case_id in maps}, name="predictions")
    [run] = runs(folder, folder)
    assert list(run.predictions) == ["p1_s1", "p2_s1"]


def test_a_batch_output_is_found_with_its_source_and_card(workshop, maps, likelihoods, truth):
    folder = workshop.batch(maps, likelihoods)
    source = workshop.source(folder)
    [run] = runs(folder, truth)
    output = folder / "p1_s1" / "output"
    assert run.predictions["p1_s1"].detection_map == output / "images" / "cspca-detection-map" / "p1_s1.mha"
    assert run.predictions["p1_s1"].likelihood == output / "cspca-case-level-likelihood.json"
    assert run.source == source
    assert run.card is None


JOB = "p1_s1/output/cspca-case-level-likelihood.json"


@pytest.mark.parametrize("kept_in", ["study.json", ".oncoduet"])
@pytest.mark.parametrize("name", [JOB, "p1_s1/output/images/cspca-detection-map/p1_s1.mha", "predictions.json"])
def test_predictions_that_were_edited_are_refused(workshop, maps, likelihoods, truth, name, kept_in):
    folder = workshop.batch(maps, likelihoods)
    files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in below(folder) if path.is_file()}
    if kept_in == "study.json":
        outputs = {each.removeprefix("p1_s1/"): of for each, of in files.items() if each.startswith("p1_s1/output")}
        write_record(folder / "p1_s1" / kept_in, StudyRecord(case_id="p1_s1", images=(), outputs=outputs))
    else:
        written = Written(identity={}, files={each: (of,) for each, of in files.items()})
        write_record(folder / kept_in, Manifest(commands={"algorithm baseline": written}))
    assert len(runs(folder, truth)) == 1
    if kept_in == "study.json" and name == "predictions.json":
        return
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with refused_with(f"^{folder / name}$", "^edited since it was written$"):
        runs(folder, truth)


def test_cases_of_one_image_are_named(workshop, maps, likelihoods, truth, caplog):
    folder = workshop.batch(maps, likelihoods)
    for case_id in maps:
        write_record(folder / case_id / "study.json", StudyRecord(case_id=case_id, images=(), content_sha256="0" * 64))
    runs(folder, truth)
    assert caplog.messages == [f"{folder}: cases p1_s1 and p2_s1 are the same image"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"case_id": "p2_s1"}, {"expected": "the record of p1_s1", "found": "p2_s1"}),
        (
            {"outputs": {"output/other.mha": "0" * 64}},
            {"where": r"p1_s1\.mha", "problem": r"not among the outputs that study\.json lists"},
        ),
    ],
)
def test_predictions_that_contradict_their_record_are_refused(workshop, maps, likelihoods, truth, change, fields):
    folder = workshop.batch(maps, likelihoods)
    record = StudyRecord(**{"case_id": "p1_s1", "images": (), **change})
    write_record(folder / "p1_s1" / "study.json", record)
    with refused_with(**fields):
        runs(folder, truth)


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("other", ["b" * 64, None])
def test_a_study_of_another_batch_is_refused(workshop, maps, likelihoods, truth, other, with_source):
    folder = workshop.batch(maps, likelihoods)
    if with_source:
        source = workshop.source(folder)
        write_record(folder / "source.json", source.model_copy(update={"method_sha256": "a" * 64}))

    def records(**methods):
        for case_id, method in methods.items():
            record = StudyRecord(case_id=case_id, images=(), method_sha256=method)
            write_record(folder / case_id / "study.json", record)

    records(**dict.fromkeys(maps, "a" * 64))
    assert len(runs(folder, truth)) == 1
    records(p2_s1=other)
    with refused_with("p2_s1/study.json", expected="a prediction by the networks and settings of this run"):
        runs(folder, truth)


def test_studies_of_an_older_program_are_read(workshop, maps, likelihoods, truth):
    folder = workshop.batch(maps, likelihoods)
    workshop.source(folder)
    for case_id in maps:
        write_record(folder / case_id / "study.json", StudyRecord(case_id=case_id, images=()))
    assert len(runs(folder, truth)) == 1


def test_sub_folders_with_a_listing_or_a_source_are_runs_of_their_own(workshop, maps, likelihoods, truth):
    workshop.source(workshop.batch(maps, likelihoods, name="all/ce_fold0_restart1"))
    workshop.source(workshop.plain(maps, name="all/baseline-maximum-hbv"), "baseline-maximum-hbv")
    (workshop.root / "all" / "logs").mkdir()
    found = runs(workshop.root / "all", truth)
    assert [run.name for run in found] == ["baseline-maximum-hbv", "ce_fold0_restart1"]


def test_maps_mixed_with_runs_are_refused(workshop, maps, likelihoods, truth):
    workshop.batch(maps, likelihoods, name="all/ce_fold0_restart1")
    folder = workshop.plain(maps, name="all")
    with refused_with(problem="both detection maps and folders of detection maps"):
        runs(folder, truth)


def test_the_given_card_scores_before_the_truths(workshop, maps, likelihoods, truth):
    folder = workshop.batch(maps, likelihoods)
    workshop.source(folder)
    (truth / "settings.json").write_text('{"card": "cspca-rsna2022"}')
    assert runs(folder, truth)[0].card.name == "cspca-rsna2022"
    assert runs(folder, truth, card=load_card("cspca-picai"))[0].card.name == "cspca-picai"


def own_card(folder, *changes):
    text = (CARDS / "cspca-picai.toml").read_text().replace('name = "cspca-picai"', 'name = "hospital"')
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "card.toml").write_text(text)


def test_card_of_the_predictions_locates_outputs_but_does_not_score(workshop, maps, likelihoods, truth):
    folder = workshop.batch(maps, likelihoods)
    own_card(folder, ('slug = "cspca-detection-map"', 'slug = "our-map"'))
    (folder / "predictions.json").write_text(
        (folder / "predictions.json").read_text().replace('"cspca-detection-map"', '"our-map"')
    )
    [run] = runs(folder, truth)
    assert (run.card, list(run.predictions)) == (None, ["p1_s1", "p2_s1"])


@pytest.mark.parametrize(
    "change",
    [
        ("minimum_overlap = 0.1", "minimum_overlap = 1e-6"),
        ('overlap = "iou"', 'overlap = "dice"'),
        ("most_candidates = 2000", "most_candidates = 1000000"),
        ("narrowest_link_voxels = 3", "narrowest_link_voxels = 1"),
        ("values = [1, 2, 3, 4, 5]", "values = [2, 3, 4, 5]"),
        ("values = [1, 2, 3, 4, 5]", "values = [2]"),
    ],
)
def test_predictions_with_a_card_of_another_rule_need_a_decision(workshop, maps, likelihoods, truth, change):
    workshop.source(folder := workshop.batch(maps, likelihoods))
    own_card(folder, change)
    with refused_with("batch", "name card hospital, which would give other scores"):
        runs(folder, truth)
    assert runs(folder, truth, card=workshop.card)[0].card == workshop.card
    (truth / "card.toml").write_text((CARDS / "cspca-picai.toml").read_text())
    assert runs(folder, truth)[0].card == workshop.card


def test_a_source_that_names_a_card_of_ours_chooses_no_lesion_values(workshop, maps):
    truth = workshop.truth({"p1_s1": workshop.image({4: workshop.box}), "p2_s1": workshop.image({1: workshop.box})})
    folder = workshop.plain(maps)
    workshop.source(folder)
    assert runs(folder, truth)[0].card is None  # 1 and 4 are lesions with cspca-picai as without a card
    text = (folder / "source.json").read_text()
    (folder / "source.json").write_text(text.replace('"cspca-picai"', '"pdac-panorama"'))  # 4 is the pancreas there
    with refused_with("predictions", "name card pdac-panorama, which would give other scores"):
        runs(folder, truth)


@pytest.mark.parametrize(
    ("rename", "fields"),
    [
        ("p2_s1_likelihood.json", {"problem": "likelihoods.*: p2_s1_likelihood.json"}),
        ("p2_s1.JSON", {"problem": "likelihoods.*: p2_s1.JSON"}),
        ("p3_s1.json", {"problem": "likelihoods.*: p3_s1.json"}),
        ("notes.txt", {"expected": "a likelihood", "found": "p1_s1.json; none for p2_s1"}),
    ],
)
def test_a_missing_likelihood_is_never_replaced_by_the_maximum(workshop, maps, truth, rename, fields):
    folder = workshop.plain(maps)
    for case_id in maps:
        (folder / f"{case_id}.json").write_text("0.1")
    (folder / "p2_s1.json").rename(folder / rename)
    with refused_with(**fields):
        runs(folder, truth)


def test_json_that_is_no_likelihood_is_named_and_not_read(workshop, maps, truth, caplog):
    folder = workshop.plain(maps)
    (folder / "plans.json").write_text('{"a": 1}')
    (folder / "._p1_s1.json").write_text("macOS")
    assert len(runs(folder, truth)[0].predictions) == 2
    assert "not read: plans.json" in caplog.text


@pytest.mark.parametrize("name", ["p2_s1.MHA", "p2_s1.nrrd", "p2_s1.NII.GZ", "p2_s1.mhd"])
def test_a_map_with_another_ending_is_refused_by_name(workshop, maps, truth, name):
    folder = workshop.plain(maps)
    (folder / "p2_s1.mha").rename(folder / name)
    for on_missing in ("error", "worst"):
        with refused_with(problem=f"unsupported image format: {name}"):
            runs(folder, truth, on_missing=on_missing)


def test_a_map_one_folder_deeper_is_refused_by_name(workshop, maps, truth):
    folder = workshop.plain(maps)
    (folder / "more").mkdir()
    (folder / "p2_s1.mha").rename(folder / "more" / "p2_s1_detection_map.mha")
    with refused_with(r"more/p2_s1_detection_map\.mha", "image in a sub-folder"):
        runs(folder, truth, on_missing="worst")
    (folder / "more" / "p2_s1_detection_map.mha").rename(folder / "more" / "p1_s1.mha")  # of a case that is there
    assert list(runs(folder, truth, on_missing="worst")[0].predictions) == ["p1_s1"]


def test_folders_of_several_runs_without_records_are_refused(workshop, maps, truth):
    for name in ("first", "second"):
        workshop.plain(maps, name=f"runs/{name}")
    with refused_with("runs", expected="--configuration, --fold and --restart", found="folders of maps: first, second"):
        runs(workshop.root / "runs", truth)


def test_names_in_two_unicode_forms_are_one_case(workshop, maps):
    maps = {unicodedata.normalize("NFD", f"ü{case_id}"): array for case_id, array in maps.items()}
    truth = workshop.truth({unicodedata.normalize("NFC", case_id): workshop.image() for case_id in maps}, name="nfc")
    assert list(runs(workshop.plain(maps), truth)[0].predictions) == ["üp1_s1", "üp2_s1"]


def test_folders_among_runs_that_are_none_are_named(workshop, maps, likelihoods, truth, caplog):
    workshop.source(workshop.batch(maps, likelihoods, name="all/ce_fold0_restart1"))
    workshop.plain(maps, name="all/unfinished")
    assert len(runs(workshop.root / "all", truth)) == 1
    assert "all: not scored, without predictions.json or source.json: unfinished" in caplog.text


def test_the_hash_of_predictions_does_not_depend_on_the_order_of_jobs(workshop, maps, likelihoods, truth):
    folder = workshop.batch(maps, likelihoods)
    before = runs(folder, truth)[0].sha256()
    assert runs(relist(folder, lambda jobs: jobs[::-1]), truth)[0].sha256() == before
    (folder / "p1_s1" / "output" / "cspca-case-level-likelihood.json").write_text("0.81")
    assert runs(folder, truth)[0].sha256() != before


def test_quirk_1_picai_eval_shifts_maps_after_two_of_one_case(workshop, truth):
    # picai-eval takes the second file of a for the map of b, and b's for nobody's
    folder = workshop.plain({"a_detection_map": workshop.image({0.5: workshop.box})})
    workshop.plain({"b_detection_map": workshop.image({0.9: workshop.elsewhere})})
    second = to_image(Volume(workshop.image({0.5: workshop.box}), workshop.grid))
    sitk.WriteImage(second, str(folder / "a_detection_map.nii"))
    labels = {"a_label": workshop.image({1: workshop.box}), "b_label": workshop.image({1: workshop.elsewhere})}
    workshop.truth(labels, name="predictions")
    reference = evaluate_folder(folder, verbose=0, num_parallel_calls=1)
    assert reference.lesion_results["b"] == [(1, 0.0, 0.0), (0, 0.5, 0.0)]  # a perfect map of b counts as a miss
    with refused_with(expected="one image of a", found=r"a_detection_map\.mha and a_detection_map\.nii$"):
        runs(folder, folder)


def test_quirk_2_picai_eval_skips_a_missing_prediction(workshop, maps, truth):
    del maps["p1_s1"]
    folder = workshop.plain(maps)
    assert list(evaluate_folder(folder, truth, verbose=0, num_parallel_calls=1).case_target) == ["p2_s1"]
    with refused_with(problem=r"no prediction for p1_s1 of 2 cases in .*truth$"):
        runs(folder, truth)
    assert list(runs(folder, truth, on_missing="worst")[0].predictions) == ["p2_s1"]


def test_missing_predictions_are_named_by_the_first_and_their_number(workshop, truth):
    workshop.truth({f"p{n}_s1": workshop.image() for n in range(3, 7)})
    folder = workshop.plain({"p2_s1": workshop.image()})
    with refused_with(problem="no prediction for p1_s1 and 4 more of 6 cases in "):
        runs(folder, truth)


def test_predictions_without_truth_are_always_refused(workshop, maps, truth):
    folder = workshop.plain({**maps, "p8_s1": workshop.image(), "p9_s1": workshop.image()})
    for on_missing in ("error", "worst"):
        with refused_with(problem="predictions of cases that are not in .*: p8_s1 and 1 more"):
            runs(folder, truth, on_missing=on_missing)


def test_label_maps_given_as_predictions_are_refused(truth):
    with refused_with(r"p1_s1\.nii\.gz", "this is the truth"):
        runs(truth, truth)


def test_a_folder_that_is_absent_or_holds_no_predictions_is_refused(tmp_path, truth):
    with refused_with(problem="folder of predictions not found"):
        runs(tmp_path / "none", truth)
    (tmp_path / "empty").mkdir()
    with refused_with("empty", r"no predictions \(predictions\.json, or CASE\.mha"):
        runs(tmp_path / "empty", truth)


def test_a_malformed_listing_is_refused(workshop, maps, likelihoods):
    folder = workshop.batch(maps, likelihoods)
    (folder / "predictions.json").write_text("{}")
    with refused_with(r"predictions\.json$", expected="a list of jobs", found="dict"):
        predictions_of_jobs(folder, workshop.card, ["p1_s1"])
    (folder / "predictions.json").write_text('[{"pk": "a", "inputs": [], "outputs": []}]')
    with refused_with(r"predictions\.json: job a", "no input image with a name"):
        predictions_of_jobs(folder, workshop.card, ["p1_s1"])


def test_a_job_without_one_of_the_outputs_is_refused(workshop, maps, likelihoods):
    folder = relist(
        workshop.batch(maps, likelihoods), lambda jobs: [{**job, "outputs": job["outputs"][:1]} for job in jobs]
    )
    with refused_with("job p1_s1", expected="the output 'prostate-cancer-likelihood'", found="cspca-det"):
        predictions_of_jobs(folder, workshop.card, maps)


def test_two_maps_in_an_output_folder_are_refused(workshop, maps, likelihoods):
    folder = workshop.batch(maps, likelihoods)
    images = folder / "p1_s1" / "output" / "images" / "cspca-detection-map"
    workshop.write(images / "second.mha", workshop.image())
    with refused_with(problem=r"has 2 images, expected 1 \(p1_s1\.mha, second\.mha\)"):
        predictions_of_jobs(folder, workshop.card, maps)


def test_two_jobs_about_one_case_are_refused(workshop, maps, likelihoods):
    def twice(jobs):
        return [{**jobs[0], "pk": "second"}, *jobs]

    folder = relist(workshop.batch(maps, likelihoods), twice)
    (folder / "p1_s1").rename(folder / "second")
    workshop.batch({"p1_s1": maps["p1_s1"]}, likelihoods, name="again")
    (workshop.root / "again" / "p1_s1").rename(folder / "p1_s1")
    with refused_with(r"predictions\.json", expected="one job for p1_s1", found="p1_s1 and second"):
        predictions_of_jobs(folder, workshop.card, maps)


def test_a_job_that_failed_counts_as_missing(workshop, maps, likelihoods, truth):
    def fail(jobs):
        return [{**jobs[0], "status": "Failed", "outputs": []}, {**jobs[1], "status": None}]

    folder = relist(workshop.batch(maps, likelihoods), fail)
    with refused_with(problem="no prediction for p1_s1"):
        runs(folder, truth)
    assert list(runs(folder, truth, on_missing="worst")[0].predictions) == ["p2_s1"]


@pytest.mark.parametrize(
    "name",
    [
        "p1_s1.mha",
        "p1_s1_0000.mha",
        "p1_s1_t2w.mha",
        "p1_s1_t2w_0000.nii.gz",
        "p1_s1",
        "p1_s1_0000_t2w.tif",
        "p1_s1_t2w.mhd",
    ],
)
def test_a_job_is_recognised_by_its_reference_image(workshop, name):
    inputs = tuple(
        Entry(channel.socket.slug, channel.socket.relative_path, name if channel.name == "t2w" else "other.mha", None)
        for channel in workshop.card.channels
    )
    for order in (inputs, inputs[::-1]):
        job = Job("uuid", order, ())
        assert case_of_job(job, workshop.card, {"p1_s1", "p1"}, workshop.root / "predictions.json") == "p1_s1"


def test_a_case_whose_own_name_looks_like_an_ending_keeps_it(workshop):
    job = Job("uuid", (Entry("transverse-t2-prostate-mri", "images/t2", "100_2000_0000.mha", None),), ())
    assert case_of_job(job, workshop.card, {"100_2000"}, workshop.root) == "100_2000"


def test_without_a_named_reference_image_another_input_names_the_case(workshop):
    inputs = (
        Entry("transverse-t2-prostate-mri", "images/t2", None, None),
        Entry("transverse-hbv-prostate-mri", "images/hbv", "p1_s1_hbv.mha", None),
    )
    assert case_of_job(Job("uuid", inputs, ()), workshop.card, {"p1_s1"}, workshop.root) == "p1_s1"


def test_outputs_identify_the_card_and_unknown_ones_are_refused(workshop, maps, likelihoods):
    folder = workshop.batch(maps, likelihoods)
    found = card_of_outputs(folder / "predictions.json")
    assert (found.detection_map, found.matching) == (workshop.card.detection_map, workshop.card.matching)
    relist(folder, lambda jobs: [{**job, "outputs": job["inputs"]} for job in jobs])
    with refused_with(expected="the outputs of one of the cards", found="transverse-adc"):
        card_of_outputs(folder / "predictions.json")


def test_outputs_that_fit_cards_which_score_differently_are_refused(workshop, maps, likelihoods, monkeypatch):
    for name in ("cspca-picai", "cspca-rsna2022"):
        text = (CARDS / f"{name}.toml").read_text()
        changed = text.replace("minimum_overlap = 0.1", "minimum_overlap = 0.2") if "rsna" in name else text
        (workshop.root / f"{name}.toml").write_text(changed)
    monkeypatch.setattr("contract.card.CARDS", workshop.root)
    folder = workshop.batch(maps, likelihoods)
    with refused_with(expected=r"outputs that identify the card \(cspca-picai, cspca-rsna2022\)"):
        card_of_outputs(folder / "predictions.json")


def test_predictions_do_not_depend_on_the_order_of_jobs(workshop, maps, likelihoods):
    folder = workshop.batch(maps, likelihoods)
    forwards = predictions_of_jobs(folder, workshop.card, maps)
    backwards = predictions_of_jobs(relist(folder, lambda jobs: jobs[::-1]), workshop.card, maps)
    assert list(forwards.items()) == list(backwards.items())
    assert np.array_equal(list(forwards), sorted(maps))
