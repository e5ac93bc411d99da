"""The platform's exec mode, from the side of a participant and of an organiser."""

import json

import pytest

from contract.card import CARDS
from evaluation.__main__ import main


@pytest.fixture
def submission(workshop):
    maps = {
        "a": workshop.image({0.75: workshop.box}),
        "b": workshop.image({0.25: workshop.elsewhere}),
        "c": workshop.image(),
    }
    return workshop.batch(maps, {"a": 0.8, "b": 0.9, "c": 0.0}, name="input")


@pytest.fixture
def truth(workshop):
    labels = {"a": workshop.image({1: workshop.box}), "b": workshop.image(), "c": workshop.image({2: workshop.box})}
    return workshop.truth(labels)


@pytest.fixture
def run(workshop, submission, truth):
    def run(output="output"):
        folder = workshop.root / output
        return main(["--input", str(submission), "--truth", str(truth), "--output", str(folder)])

    return run


def rewrite(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))), encoding="utf-8")


def refuse_dots(values):
    for key, value in values.items():
        assert "." not in key
        if isinstance(value, dict):
            refuse_dots(value)


def test_only_metrics_are_written_as_strict_json_without_dots_in_keys(workshop, run, capsys):
    assert run() == 0
    assert capsys.readouterr().err == ""
    assert [path.name for path in (workshop.root / "output").iterdir()] == ["metrics.json"]

    def refuse(constant):
        raise AssertionError(constant)

    metrics = json.loads((workshop.root / "output" / "metrics.json").read_text(), parse_constant=refuse)
    refuse_dots(metrics)
    # strict: .8 and 0 against .9; picai: .75 and 0 against .25
    assert (metrics["strict"]["auroc"], metrics["picai"]["auroc"]) == (0.0, 0.5)
    assert (metrics["strict"]["ap"], metrics["strict"]["score"]) == (0.5, 0.25)


def test_per_case_rows_are_written_where_the_settings_ask_for_them(workshop, run, truth):
    (truth / "settings.json").write_text('{"per_case": true}')
    assert run() == 0
    names = sorted(path.name for path in (workshop.root / "output").iterdir())
    assert names == ["cases.csv", "lesions.csv", "metrics.json"]


def test_uuids_as_job_names_and_shuffled_jobs_give_identical_metrics(workshop, run, submission):
    assert run("first") == 0
    listing = submission / "predictions.json"
    for number, pk in enumerate("abc"):
        (submission / pk).rename(submission / f"7c3e-{9 - number}")

    def anonymous(jobs):
        renamed = [{**job, "pk": f"7c3e-{9 - number}", "status": "Succeeded"} for number, job in enumerate(jobs)]
        return [renamed[1], renamed[2], renamed[0]]

    rewrite(listing, anonymous)
    assert run("second") == 0
    first, second = ((workshop.root / name / "metrics.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_listing_with_only_sockets_or_interfaces_is_read(workshop, run, submission):
    assert run("first") == 0
    for key in ("socket", "interface"):
        other = {"socket": "interface", "interface": "socket"}[key]
        before = (submission / "predictions.json").read_text()
        rewrite(
            submission / "predictions.json",
            lambda jobs, other=other: [
                {
                    **job,
                    **{
                        side: [{k: v for k, v in entry.items() if k != other} for entry in job[side]]
                        for side in ("inputs", "outputs")
                    },
                }
                for job in jobs
            ],
        )
        assert run(key) == 0
        (submission / "predictions.json").write_text(before)
        assert (workshop.root / key / "metrics.json").read_bytes() == (
            workshop.root / "first" / "metrics.json"
        ).read_bytes()


def test_card_in_the_truth_folder_decides_the_matching(workshop, run, truth, submission):
    shifted = workshop.image()
    shifted[1:4, 2:5, 5:9] = 0.75  # 18 voxels shared of 36 and 36: IoU 1/3
    workshop.write(submission / "a" / "output" / "images" / "cspca-detection-map" / "a.mha", shifted)
    text = (CARDS / "cspca-picai.toml").read_text()
    for minimum, ap in ((0.3, 0.5), (0.4, 0.0)):
        (truth / "card.toml").write_text(text.replace("minimum_overlap = 0.1", f"minimum_overlap = {minimum}"))
        assert run() == 0
        metrics = json.loads((workshop.root / "output" / "metrics.json").read_text())
        assert metrics["strict"]["ap"] == metrics["picai"]["ap"] == ap


@pytest.mark.parametrize("status", ["Failed", "Cancelled"])
def test_a_failed_job_is_refused_unless_the_settings_allow_it(workshop, run, submission, truth, capsys, status):
    rewrite(submission / "predictions.json", lambda jobs: [{**jobs[0], "status": status, "outputs": []}, *jobs[1:]])
    assert run() == 3
    assert capsys.readouterr().err == (f"error: {submission}: no prediction for a of 3 cases in {truth}\n")
    (truth / "settings.json").write_text('{"on_missing": "worst"}')
    assert run() == 0
    assert json.loads((workshop.root / "output" / "metrics.json").read_text())["strict"]["missing"] == 1


def break_likelihood(text):
    def change(submission, truth, workshop):
        (submission / "b" / "output" / "cspca-case-level-likelihood.json").write_text(text)

    return change


def break_map(name):
    def change(submission, truth, workshop):
        images = submission / "b" / "output" / "images" / "cspca-detection-map"
        if name == "two":
            workshop.write(images / "c.mha", workshop.image())
        elif name == "none":
            (images / "b.mha").unlink()
        elif name == "truncated":
            (images / "b.mha").write_bytes((images / "b.mha").read_bytes()[:-20])
        else:
            value = {"negative": -0.5, "large": 2.0, "nan": float("nan")}[name]
            workshop.write(images / "b.mha", workshop.image({value: workshop.box}))

    return change


def break_folder(submission, truth, workshop):
    """The second job's folder is a link to elsewhere."""
    (submission / "b").rename(workshop.root / "elsewhere")
    (submission / "b").symlink_to(workshop.root / "elsewhere")


def break_truth(submission, truth, workshop):
    for path in truth.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda submission, *_: (submission / "predictions.json").unlink(), "predictions.json: "),
        (break_likelihood("1.5"), "cspca-case-level-likelihood.json: expected a likelihood, a number in [0, 1]"),
        (break_likelihood("NaN"), "cspca-case-level-likelihood.json: not valid JSON"),
        (break_likelihood('"0.5"'), "cspca-case-level-likelihood.json: expected a likelihood"),
        (break_likelihood("true"), "cspca-case-level-likelihood.json: expected a likelihood"),
        (break_map("two"), "'cspca-detection-map' has 2 images, expected 1 (b.mha, c.mha)"),
        (break_map("none"), "'cspca-detection-map' has 0 images, expected 1"),
        (break_map("truncated"), "b.mha: expected"),
        (break_map("negative"), "b.mha: expected confidences in [0, 1], found -0.5 to 0"),
        (break_map("large"), "b.mha: expected confidences in [0, 1], found 0 to 2"),
        (break_map("nan"), "b.mha: expected finite voxels, found 36 NaN or infinite"),
        (break_folder, "b.mha: links to a file outside "),
        (break_truth, "no label maps (CASE.nii.gz or CASE.mha)"),
        (
            lambda _, truth, __: (truth / "settings.json").write_text('{"percase": true}'),
            "settings.json: 1 fault: percase",
        ),
        (
            lambda _, truth, shop: shop.write(truth / "a.nii.gz", shop.image({7: shop.box})),
            "a.nii.gz: expected label values [0, 1, 2, 3, 4, 5], found [7]",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_line_and_nothing_written(
    workshop, run, submission, truth, capsys, change, message
):
    change(submission, truth, workshop)
    assert run() == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (workshop.root / "output").exists()
