"""Pictures of the worst misses: which lesions, what the arrays hold, and what is refused."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from matplotlib.image import imread
from refusals import refused_with

from contract.errors import OncoduetError
from contract.files.atomic import write_json
from contract.images.grid import Grid
from contract.images.volume import read_volume, write_volume
from evaluation.__main__ import main
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.report.figures.missed_lesions import draw_misses, find_misses
from evaluation.score import score

SMALL = (slice(5, 7), slice(8, 11), slice(9, 12))
QUICK = 'name = "x"\nmetrics = ["ap"]\nreplicates = 100\nswaps = 100\n'


@pytest.fixture
def campaign(workshop):
    """Four runs: p1's small lesion is missed by all, p1's large one by one, p2's by two; p3 is healthy."""
    large, archive = workshop.box, workshop.root / "archive"
    labels = {
        "p1_1": workshop.image({1: large, 2: SMALL}),
        "p2_1": workshop.image({1: large}),
        "p3_1": workshop.image(),
    }
    workshop.truth(labels, name="archive/labels")
    for number, case_id in enumerate(labels):
        image = np.arange(np.prod(workshop.grid.shape_zyx), dtype=np.float32).reshape(workshop.grid.shape_zyx) + number
        workshop.write(archive / case_id.split("_")[0] / f"{case_id}_t2w.mha", image)
    found = {"ce": [(0.8, 0.6), (0.4, None)], "focal": [(0.6, 0.2), (None, None)]}
    for configuration, runs in found.items():
        for restart, confidences in enumerate(runs):
            maps = {
                case_id: workshop.image({value: large} if value else None)
                for case_id, value in zip(labels, (*confidences, None), strict=True)
            }
            likelihoods = {case_id: float(array.max()) for case_id, array in maps.items()}
            name = f"predictions/{configuration}{restart}"
            folder = workshop.batch(maps, likelihoods, name=name)
            source = workshop.source(folder, configuration).model_dump(mode="json")
            write_json(
                folder / "source.json",
                {**source, "restart": restart, "runs": [f"{configuration}{restart}".ljust(64, "0")]},
            )
    score(predictions=workshop.root / "predictions", truth=archive, output=workshop.root / "scores")
    return archive, workshop.root / "predictions", read_scored_runs([workshop.root / "scores"])


def test_lesions_that_most_runs_missed_come_first(campaign):
    archive, predictions, runs = campaign
    found = find_misses(runs, archive, [predictions])
    assert [(each.case_id, each.lesion, each.missed, each.runs) for each in found] == [
        ("p1_1", 2, 4, 4),
        ("p2_1", 1, 2, 4),
        ("p1_1", 1, 1, 4),
    ]


def test_images_of_an_archive_may_be_nifti(campaign):
    archive, predictions, runs = campaign
    expected = find_misses(runs, archive, [predictions])
    for path in list(archive.glob("*/*_t2w.mha")):
        write_volume(path.with_name(path.name.replace(".mha", ".nii.gz")), read_volume(path))
        path.unlink()
    found = find_misses(runs, archive, [predictions])
    assert [(each.case_id, each.lesion) for each in found] == [(each.case_id, each.lesion) for each in expected]


def test_predictions_that_changed_since_they_were_scored_are_refused(campaign):
    archive, predictions, runs = campaign
    path = predictions / "ce0" / "p1_1" / "output" / "cspca-case-level-likelihood.json"
    path.write_text("0.5")
    with pytest.raises(OncoduetError) as caught:
        find_misses(runs, archive, [predictions])
    assert caught.value.where == str(predictions / "ce0")
    assert caught.value.expected.startswith("the predictions that were scored")


def test_runs_without_predictions_are_named(campaign, caplog):
    archive, predictions, runs = campaign
    assert {each.runs for each in find_misses(runs, archive, [predictions / "ce0"])} == {1}
    assert "misses are those of 1 of 4 scored runs, without ce_fold1_restart1, focal_fold1_restart0, " in caplog.text


def test_picture_shows_the_slice_of_the_lesion_with_truth_and_mean_map(campaign, workshop):
    archive, predictions, runs = campaign
    found = find_misses(runs, archive, [predictions])[1]
    assert found.slice_number == 2  # of the slices 1, 2 and 3, counted from 0, all of equal area
    # 36 voxels of 0.5 × 0.75 × 3 mm
    assert found.volume_ml == pytest.approx(36 * 0.5 * 0.75 * 3 / 1000)
    assert found.spacing_mm_yx == (0.75, 0.5)
    assert (found.truth == (workshop.image({1: workshop.box})[1] > 0)).all()
    assert found.detection[found.truth] == pytest.approx((0.6 + 0.2) / 4)
    assert not found.detection[~found.truth].any()
    plane = np.prod(workshop.grid.shape_zyx[1:])
    assert found.image.ravel() == pytest.approx(np.arange(plane) + plane + 1)


def test_picture_is_cut_around_the_lesion_and_stays_within_the_image(campaign, monkeypatch):
    monkeypatch.setattr("evaluation.report.figures.missed_lesions._SIDE_MM", 3.0)
    archive, predictions, runs = campaign
    found = find_misses(runs, archive, [predictions])[0]
    # twice the lesion, 3 × 3 voxels; it ends at the image's edges, so the window is moved
    assert found.image.shape == (6, 6)
    assert np.argwhere(found.truth).tolist() == [[y, x] for y in (3, 4, 5) for x in (2, 3, 4)]


def test_report_holds_the_pictures_and_names_no_more_than_the_case(campaign, tmp_path):
    archive, predictions, _ = campaign
    (tmp_path / "a.toml").write_text(QUICK)
    files = ["--scores", str(archive.parent / "scores"), "--analysis", str(tmp_path / "a.toml")]
    words = ["compare", *files, "--few-patients"]
    assert main([*words, "--output", str(tmp_path / "plain")]) == 0
    images = ["--archive", str(archive), "--predictions", str(predictions)]
    assert main([*words, *images, "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "plain" / "figures" / "misses.png").exists()
    assert "<img" not in (tmp_path / "plain" / "report.html").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    embedded = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1])
    assert embedded == (tmp_path / "out" / "figures" / "misses.png").read_bytes()
    assert b"tEXt" not in embedded
    assert 'alt="Lesions that the fewest runs found: p1_1 lesion 2, missed by 4 of 4 runs; p2_1 lesion 1,' in page
    assert str(archive) not in page
    verdicts = [(tmp_path / name / "verdict.json").read_bytes() for name in ("plain", "out")]
    assert verdicts[0] == verdicts[1]


def test_drawing_has_the_images_greys_the_outline_and_the_map(campaign):
    archive, predictions, runs = campaign
    seen = imread(io.BytesIO(draw_misses(find_misses(runs, archive, [predictions]))))[..., :3]
    yellow = (seen[..., 0] > 0.9) & (seen[..., 1] > 0.7) & (seen[..., 2] < 0.3)
    reddish = (seen[..., 0] > seen[..., 2] + 0.05) & ~yellow
    third = seen.shape[1] // 3
    for place in range(3):
        columns = slice(place * third, (place + 1) * third)
        assert yellow[:, columns].sum() > 100, place
    assert reddish[:, 2 * third :].sum() > reddish[:, third : 2 * third].sum() / 2 > 50


def test_no_misses_give_no_pictures(campaign, workshop):
    archive, _, _ = campaign
    both, large = workshop.image({0.5: workshop.box, 0.25: SMALL}), workshop.image({0.5: workshop.box})
    maps = {"p1_1": both, "p2_1": large}
    maps["p3_1"] = workshop.image()
    folder = workshop.batch(maps, dict.fromkeys(maps, 0.5), name="perfect")
    workshop.source(folder)
    score(predictions=folder, truth=archive, output=workshop.root / "perfect_scores")
    assert find_misses(read_scored_runs([workshop.root / "perfect_scores"]), archive, [folder]) == []


def test_images_and_predictions_come_together(campaign, capsys, tmp_path):
    archive, _, _ = campaign
    words = ["compare", "--scores", str(archive.parent / "scores"), "--output", str(tmp_path / "out")]
    assert main([*words, "--archive", str(archive)]) == 2
    assert capsys.readouterr().err == "error: compare: --archive and --predictions must be given together\n"


def other_grid(archive, predictions, workshop):
    grid = Grid(workshop.grid.size_xyz, (0.6, 0.75, 3.0), workshop.grid.origin_mm_xyz, workshop.grid.direction)
    workshop.write(archive / "p1" / "p1_1_t2w.mha", workshop.image(), grid)


def no_card(archive, predictions, workshop):
    plain = workshop.plain(dict.fromkeys(("p1_1", "p2_1", "p3_1"), workshop.image()), name="plain")
    shutil.copy(predictions / "ce0" / "source.json", plain)
    text = (plain / "source.json").read_text()
    (plain / "source.json").write_text(text.replace('"card": "cspca-picai"', '"card": "own"'))
    shutil.rmtree(predictions)
    plain.rename(predictions)


def other_cases(archive, predictions, workshop):
    (archive / "labels" / "p3_1.nii.gz").rename(archive / "labels" / "p4_1.nii.gz")
    for folder in predictions.iterdir():
        listing = (folder / "predictions.json").read_text()
        (folder / "predictions.json").write_text(listing.replace("p3_1", "p4_1"))
        (folder / "p3_1").rename(folder / "p4_1")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (other_grid, {"where": r"p1_1_t2w\.mha", "expected": r"the grid of .*p1_1\.nii\.gz"}),
        (
            lambda archive, *_: (archive / "p1" / "p1_1_t2w.mha").unlink(),
            {"where": r"p1_1_t2w\.mha", "problem": "image not found"},
        ),
        (
            lambda _, predictions, shop: [shop.source(f, "another") for f in predictions.iterdir()],
            {"where": "predictions$", "problem": r"no predictions of the scored runs \(by source\.json\)"},
        ),
        (no_card, {"where": "predictions$", "problem": "the predictions name no card"}),
        (other_cases, {"where": "archive$", "problem": "its 3 label maps are not those of the 3 scored cases"}),
    ],
)
def test_archive_or_predictions_of_another_comparison_are_refused(campaign, workshop, change, fields):
    archive, predictions, runs = campaign
    change(archive, predictions, workshop)
    with refused_with(**fields):
        find_misses(runs, archive, [predictions])
