import csv

import numpy as np
import pytest

from contract.errors import OncoduetError
from evaluation.__main__ import main
from evaluation.metrics.hit_criterion_means import means_by_criterion
from evaluation.metrics.scored_runs import read_scored_runs

HEADER = "criterion,minimum,ap,fp_0_125,fp_0_25,fp_0_5,fp_1,fp_2"
ROWS = (("iou", 0.05), ("iou", 0.5), ("dice", 0.2), ("centre", ""))


def sweep(folder, seed, rows=ROWS):
    """Write ``hits.csv`` with drawn values, and return these, shape (criteria, values)."""
    values = np.random.default_rng(seed).uniform(size=(len(rows), 6))
    with (folder / "hits.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(HEADER.split(","))
        table.writerows([[*row, *map(repr, map(float, each))] for row, each in zip(rows, values, strict=True)])
    return values


def test_means_are_taken_over_runs_by_criterion(scores):
    values = np.stack([sweep(scores.run(f"r{k}", "ce", restart=k, seed=k), k) for k in range(3)])
    found = means_by_criterion("ce", read_scored_runs([scores.root]))
    assert [(each.criterion.name, each.criterion.minimum or "") for each in found] == list(ROWS)
    assert [each.ap.mean for each in found] == pytest.approx(values[..., 0].mean(axis=0))
    assert [each.ap.sd for each in found] == pytest.approx(values[..., 0].std(axis=0, ddof=1))
    assert found[1].lesion_sensitivity_at_fp["fp_2"].mean == pytest.approx(values[:, 1, 5].mean())


def test_criteria_that_a_run_lacks_have_no_means(scores):
    sweep(scores.run("a", "ce", restart=0), 0)
    sweep(scores.run("b", "ce", restart=1, seed=1), 1, ROWS[:2])
    found = means_by_criterion("ce", read_scored_runs([scores.root]))
    assert [each.criterion.minimum for each in found] == [0.05, 0.5]
    scores.run("c", "ce", restart=2, seed=2)
    assert means_by_criterion("ce", read_scored_runs([scores.root])) == []


def test_an_undefined_value_of_one_run_leaves_no_mean(scores):
    folder = scores.run("a", "ce")
    (folder / "hits.csv").write_text(f"{HEADER}\niou,0.1,,0.5,0.5,0.5,,1\n")
    (found,) = means_by_criterion("ce", read_scored_runs([scores.root]))
    assert (found.ap, found.lesion_sensitivity_at_fp["fp_1"]) == (None, None)
    assert found.lesion_sensitivity_at_fp["fp_2"].mean == 1


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        (f"{HEADER}\niou,0.3,1,1,1,1,1,1\n", "a hit criterion of score", "iou 0.3"),
        (f"{HEADER}\nhull,0.1,1,1,1,1,1,1\n", "a hit criterion of score", "hull 0.1"),
        (f"{HEADER}\niou,0.1,1.5,1,1,1,1,1\n", "AP and sensitivities from 0 to 1", "1.5"),
        (f"{HEADER}\niou,0.1,nan,1,1,1,1,1\n", "AP and sensitivities from 0 to 1", "nan"),
        (f"{HEADER}\niou,0.1,x,1,1,1,1,1\n", "numbers", "iou,0.1,x,1,1,1,1,1"),
        ("criterion,ap\niou,1\n", f"the columns {HEADER}", "criterion,ap"),
    ],
)
def test_faulty_sweep_is_refused(scores, text, expected, found):
    (scores.run("a", "ce") / "hits.csv").write_text(text)
    with pytest.raises(OncoduetError) as caught:
        read_scored_runs([scores.root])
    assert (caught.value.expected, caught.value.found) == (expected, found)


def test_compare_writes_the_means_of_configurations_that_were_swept(scores, tmp_path, capsys):
    values = np.stack([sweep(scores.run(f"r{k}", "ce", restart=k, seed=k), k) for k in range(2)])
    sweep(scores.run("f0", "focal", restart=0, seed=5), 5)
    scores.run("f1", "focal", restart=1, seed=6)
    assert main(["compare", "--scores", str(scores.root), "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "tables" / "hit-criteria.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["configuration"], row["criterion"], row["runs"]) for row in rows] == [
        ("ce", name, "2") for name, _ in ROWS
    ]
    assert [float(row["ap"]) for row in rows] == pytest.approx(values[..., 0].mean(axis=0))
    assert "focal: 1 of 2 runs have hits.csv" in capsys.readouterr().out
    assert "AP by other criteria of a hit" in (tmp_path / "out" / "report.html").read_text()
