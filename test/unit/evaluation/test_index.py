"""Frozen baselines in the truth folder, from the side of the organiser and of a participant."""

import json
import math
import shutil

import numpy as np
import pytest
from evaluation_makers import random_outcome, random_truth
from programs import python
from refusals import refused_with
from scipy.stats import t as student

from contract.card import CARDS
from contract.outputs import MANIFEST
from evaluation.__main__ import main
from evaluation.index import MOST_BASELINES, against_baseline, freeze_baselines, outcome_of
from evaluation.inputs.truth import find_truth
from evaluation.metrics.outcomes import TestSet
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.score import score
from evaluation.statistics.variance.influence import by_patient


def make(workshop, cases=8):
    """Truth, a submission and a scored baseline: every second case is positive, the baseline misses more."""
    ids = [f"p{k}_s{k}" for k in range(cases)]
    labels = {case: workshop.image({1: workshop.box} if k % 2 else None) for k, case in enumerate(ids)}
    truth = workshop.truth(labels)
    (truth / "settings.json").write_text('{"exact": true, "few_patients": true}')
    maps, likelihoods = {}, {}
    for name, found in (("input", lambda k: k % 2 or k == 2), ("other", lambda k: k % 4 == 1 or k % 4 == 2)):
        for k, case in enumerate(ids):
            place = workshop.box if k % 2 else workshop.elsewhere
            maps[case] = workshop.image({0.25 + k / 32: place} if found(k) else None)
            likelihoods[case] = 0.25 + k / 32 if found(k) else 0.05
        folder = workshop.batch(maps, likelihoods, name=name)
    workshop.source(folder, configuration="baseline-frozen")
    score(predictions=folder, truth=truth, output=workshop.root / "scores" / "frozen")
    return workshop.root / "input", truth, workshop.root / "scores" / "frozen"


@pytest.fixture
def platform(workshop):
    submission, truth, frozen = make(workshop)
    assert main(["index", "--truth", str(truth), "--baseline", str(frozen)]) == 0

    def run(output="output"):
        folder = workshop.root / output
        status = main(["--input", str(submission), "--truth", str(truth), "--output", str(folder)])
        metrics = folder / "metrics.json"
        return status, json.loads(metrics.read_text()) if metrics.is_file() else None

    return run, submission, truth, frozen


def test_submission_is_compared_by_delongs_test_with_welchs_df(platform, workshop):
    run, submission, truth, frozen = platform
    status, metrics = run()
    assert status == 0
    found = metrics["baselines"]["frozen"]
    assert list(found) == ["auroc", "ap", "score"]
    [own] = score(predictions=submission, truth=truth, output=workshop.root / "own")
    (baseline,) = read_scored_runs([frozen])
    ours, theirs = (by_patient(baseline.truth, [each]) for each in (outcome_of(own.cases)[1], baseline.outcome))
    for metric, values in found.items():
        difference = metrics["strict"][metric] - getattr(baseline.strict, metric)
        assert values["difference"] == pytest.approx(difference)
        influence = ours[metric].influence[0] - theirs[metric].influence[0]
        positive = baseline.truth.positive_patients
        parts = [(influence[kind] ** 2).sum() for kind in (positive, ~positive)]
        counts = (positive.sum(), (~positive).sum())
        freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
        assert values["p"] == pytest.approx(2 * student.sf(abs(difference) / math.sqrt(sum(parts)), freedom))
        assert values["interval"][0] <= difference <= values["interval"][1]
    assert found["auroc"]["difference"] > 0


def test_cases_in_memory_equal_those_of_the_tables(platform, workshop):
    _, submission, truth, _ = platform
    workshop.source(submission, configuration="ce")
    [own] = score(predictions=submission, truth=truth, output=workshop.root / "own")
    (again,) = read_scored_runs([workshop.root / "own"])
    known, outcome = outcome_of(own.cases[::-1])
    assert known.case_ids == again.truth.case_ids
    for mine, theirs in ((known, again.truth), (outcome, again.outcome)):
        for name, value in vars(mine).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, getattr(theirs, name)), name


def test_the_baseline_itself_as_a_submission_differs_by_nothing(platform, workshop):
    run, submission, _, _ = platform
    shutil.rmtree(submission)
    shutil.copytree(workshop.root / "other", submission)
    _, metrics = run()
    assert all(
        (each["difference"], each["p"], each["interval"]) == (0, 1, [0, 0])
        for each in metrics["baselines"]["frozen"].values()
    )


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))
    else:
        yield path, value


def test_nothing_per_case_can_be_read_from_the_metrics(platform, workshop, tmp_path_factory):
    run, _, truth, _ = platform
    _, metrics = run()
    assert sorted(path.name for path in (workshop.root / "output").iterdir()) == ["metrics.json"]
    text = (workshop.root / "output" / "metrics.json").read_text()
    case_ids = [case.name.split(".")[0] for case in truth.glob("*.nii.gz")]
    assert case_ids and not any(case_id in text for case_id in case_ids)
    found = dict(leaves(metrics["baselines"]))
    assert found and all(isinstance(value, int | float) for value in found.values())
    # as many numbers for twice the cases: nothing is said case by case
    larger = type(workshop)(tmp_path_factory.mktemp("larger"), workshop.card)
    submission, truth, frozen = make(larger, cases=16)
    assert main(["index", "--truth", str(truth), "--baseline", str(frozen)]) == 0
    output = larger.root / "output"
    assert main(["--input", str(submission), "--truth", str(truth), "--output", str(output)]) == 0
    more = json.loads((output / "metrics.json").read_text())
    assert [path for path, _ in leaves(more)] == [path for path, _ in leaves(metrics)]


def test_order_of_the_jobs_changes_no_byte(platform, workshop):
    run, submission, _, _ = platform
    run("first")
    listing = submission / "predictions.json"
    listing.write_text(json.dumps(json.loads(listing.read_text())[::-1]))
    run("second")
    first, second = ((workshop.root / name / "metrics.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_without_a_baseline_scipy_is_not_imported(workshop):
    submission, truth, _ = make(workshop)
    code = "import sys; from evaluation.__main__ import main; status = main(sys.argv[1:]); "
    code += "assert not {'scipy.stats', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    words = ["--input", submission, "--truth", truth, "--output", workshop.root / "output"]
    assert python("-c", code, *words).returncode == 0
    assert json.loads((workshop.root / "output" / "metrics.json").read_text())["baselines"] == {}


def test_several_are_frozen_at_once_and_none_is_lost(platform, workshop):
    run, _, truth, frozen = platform
    shutil.copytree(frozen, workshop.root / "scores" / "v1.2 final")
    assert main(["index", "--truth", str(truth), "--baseline", str(workshop.root / "scores")]) == 0
    assert list(run()[1]["baselines"]) == ["frozen", "v1-2-final"]
    assert main(["index", "--truth", str(truth), "--baseline", str(truth / "baselines")]) == 3  # they would be lost
    with refused_with("v1-2-final", problem="v1-2-final would be removed"):
        freeze_baselines(find_truth(truth), [frozen])
    assert list(run()[1]["baselines"]) == ["frozen", "v1-2-final"]
    (truth / "baselines" / "v1-2-final").rename(workshop.root / "moved away")
    assert main(["index", "--truth", str(truth), "--baseline", str(frozen)]) == 0
    assert list(run()[1]["baselines"]) == ["frozen"]


def test_baseline_of_the_same_name_but_another_network_is_refused(platform, workshop):
    truth = platform[2]
    workshop.source(workshop.root / "other", configuration="baseline-other")
    score(predictions=workshop.root / "other", truth=truth, output=workshop.root / "others" / "frozen")
    with refused_with("baselines/frozen", problem="frozen would be replaced by another network's"):
        freeze_baselines(find_truth(truth), [workshop.root / "others" / "frozen"])


def rewrite(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def other_truth(folder, truth, workshop):
    workshop.write(truth / "p0_s0.nii.gz", workshop.image({1: workshop.elsewhere}).astype(np.uint8))


def another_card(folder, truth, workshop):
    text = (CARDS / "cspca-picai.toml").read_text()
    (truth / "card.toml").write_text(text.replace("minimum_overlap = 0.1", "minimum_overlap = 0.2"))


def without_parents(folder, truth, workshop):
    for name in ("metrics.json", "source.json"):
        rewrite(folder / name, lambda values: values["parents"].clear())


def other_labels(folder, truth, workshop):
    table = folder / "cases.csv"
    table.write_text(
        table.read_text().replace("p0_s0,0", "p0_s0,x").replace("p1_s1,1", "p1_s1,0").replace(",x,", ",1,")
    )
    rewrite(folder / "metrics.json", lambda values: values["strict"].update(auroc=auroc_of(table)))


def auroc_of(table):
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    ones, zeros = ([float(row[2]) for row in rows if row[1] == kind] for kind in "10")
    return float(np.mean([(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]))


def case_left_out(folder, truth, workshop):
    for name in ("cases.csv", "lesions.csv"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(line for line in lines if not line.startswith("p0_s0")))
    rewrite(
        folder / "metrics.json", lambda values: values["strict"].update(auroc=auroc_of(folder / "cases.csv"), cases=7)
    )


def no_source(folder, truth, workshop):
    (folder / "source.json").unlink()


def not_json(folder, truth, workshop):
    (folder / "metrics.json").write_text("{")


def other_ap(folder, truth, workshop):
    rewrite(folder / "metrics.json", lambda values: values["strict"].update(ap=0.1234))


def too_many(folder, truth, workshop):
    for number in range(MOST_BASELINES):
        shutil.copytree(folder, folder.with_name(f"copy{number}"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_truth, "frozen/metrics.json: expected a baseline scored with this truth ("),
        (another_card, "frozen/metrics.json: expected a baseline scored with this scoring card ("),
        (without_parents, "), found none"),
        (other_labels, "frozen: labels or lesions of its tables differ from the label maps"),
        (case_left_out, "frozen/cases.csv: cases differ from the 8 of "),
        (no_source, "frozen: source.json not found"),
        (lambda folder, *_: (folder / "lesions.csv").unlink(), "frozen/lesions.csv: table not found"),
        (not_json, "frozen/metrics.json: not valid JSON"),
        (other_ap, "frozen/metrics.json: expected strict ap "),
        (lambda folder, *_: folder.rename(folder.with_name("v1.2")), "v1.2: expected a name of letters, "),
        (lambda folder, *_: shutil.rmtree(folder), "baselines: expected 1 to 5 scored runs as baselines, found 0"),
        (too_many, "baselines: expected 1 to 5 scored runs as baselines, found 6"),
    ],
)
def test_malformed_baseline_is_refused_and_nothing_written(platform, workshop, capsys, change, message):
    run, _, truth, _ = platform
    change(truth / "baselines" / "frozen", truth, workshop)
    (truth / "baselines" / MANIFEST).unlink()  # as in a copy made by hand
    capsys.readouterr()
    assert run() == (3, None)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_edited_baseline_is_refused(platform, capsys):
    run, _, truth, _ = platform
    table = truth / "baselines" / "frozen" / "cases.csv"
    table.write_text(table.read_text() + "\n")
    capsys.readouterr()
    assert run() == (3, None)
    assert capsys.readouterr().err.endswith("frozen/cases.csv: edited since it was written\n")


@pytest.mark.parametrize("change", [other_truth, not_json, no_source])
def test_index_freezes_nothing_malformed(workshop, refusal, change):
    _, truth, frozen = make(workshop)
    change(frozen, truth, workshop)
    refusal("index", "--truth", truth, "--baseline", frozen)
    assert not (truth / "baselines").exists()


def test_index_wants_scored_runs_with_names_of_their_own(workshop, refusal):
    _, truth, frozen = make(workshop)
    twin = shutil.copytree(frozen, workshop.root / "elsewhere" / "frozen")
    for given, message in (
        ([frozen, twin], "elsewhere/frozen: duplicate baseline name frozen"),
        ([truth], "truth: no scored run (metrics.json) here or in a sub-folder"),
        ([frozen] * (MOST_BASELINES + 1), "expected 1 to 5 scored runs as baselines, found 6"),
    ):
        assert refusal("index", "--truth", truth, "--baseline", *given).rstrip().endswith(message)


def test_server_refuses_a_malformed_baseline_at_its_start(platform, workshop):
    _, submission, truth, _ = platform
    not_json(truth / "baselines" / "frozen", truth, workshop)
    words = ["serve", "--port", "0", "--input", submission, "--truth", truth, "--output", workshop.root / "output"]
    ended = python("-m", "evaluation", *words)
    assert ended.returncode == 3
    assert "frozen/metrics.json: edited since it was written" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(("positives", "metrics"), [(2, set()), (3, {"auroc", "ap", "score"})])
def test_a_class_of_one_or_two_patients_is_not_tested(positives, metrics):
    truth = random_truth(40)
    positive = np.arange(40) < positives
    truth = TestSet(truth.case_ids, positive, positive.astype(int), truth.patient_names)
    ours, theirs = (random_outcome(truth, seed) for seed in (0, 1))
    assert set(against_baseline(truth, ours, theirs)) == metrics
