"""Scoring with an index of predictions: the same output, and nothing from an entry that is of something else."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from refusals import refused_with

from contract.card import load_card
from contract.images.volume import Volume, read_volume, write_volume
from evaluation import score as scoring
from evaluation.__main__ import main
from evaluation.inputs import prediction_index
from evaluation.inputs.prediction_index import open_prediction_index
from evaluation.score import score


@pytest.fixture
def index(tmp_path):
    return tmp_path / "kept" / "predictions.sqlite"


@pytest.fixture
def scored_again(workshop, maps, likelihoods, truth, tmp_path, index, monkeypatch):
    """Score with the index; gives the run's cases that were taken from it, and those that were read."""
    folder = workshop.batch(maps, likelihoods)
    read = []
    here = scoring._scored
    monkeypatch.setattr(scoring, "_scored", lambda case_id, *a, **k: read.append(case_id) or here(case_id, *a, **k))

    def again(name, **options):
        read.clear()
        options = {"predictions": folder, "truth": truth, "index": index} | options
        [result] = score(output=tmp_path / name, **options)
        return result.from_index, list(read)

    again.folder = folder
    return again


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(index):
    with sqlite3.connect(index) as connection:
        return connection.execute("SELECT name, entry, sha256 FROM cases ORDER BY rowid").fetchall()


@pytest.mark.parametrize("options", [{}, {"picai_only": True}, {"sweep_hits": True}, {"workers": 2}])
def test_the_output_is_the_same_from_the_index(scored_again, tmp_path, options):
    assert scored_again("without", index=None, **options)[0] == 0
    assert scored_again("first", **options)[0] == 0
    assert scored_again("second", **options) == (3, ["a"])  # one is scored again, and compared
    assert everything(tmp_path / "first") == everything(tmp_path / "without") == everything(tmp_path / "second")


def test_an_edited_prediction_alone_is_scored_again(scored_again, workshop, maps, tmp_path):
    folder = workshop.plain(maps, name="plain")
    scored_again("first", predictions=folder)
    path = folder / "b.mha"
    volume = read_volume(path)
    write_volume(path, Volume(np.where(volume.array > 0, np.float32(0.125), volume.array), volume.grid))
    assert scored_again("second", predictions=folder) == (2, ["a", "b"])
    assert "b,0,0.125\n" in (tmp_path / "second" / "cases.csv").read_text()
    scored_again("without", predictions=folder, index=None)
    assert everything(tmp_path / "second") == everything(tmp_path / "without")


def test_another_card_option_or_version_is_scored_again(scored_again, monkeypatch):
    scored_again("first")
    assert scored_again("card", card=load_card("cspca-picai"))[0] == 0
    assert scored_again("picai", picai_only=True)[0] == 0
    assert scored_again("hits", sweep_hits=True)[0] == 0
    monkeypatch.setattr(scoring, "FORMAT", "of another version")
    assert scored_again("version")[0] == 0


def test_an_edited_label_map_is_scored_again(scored_again, truth):
    scored_again("first")
    path = next(path for path in truth.iterdir() if path.name.startswith("c."))
    volume = read_volume(path)
    write_volume(path, Volume(np.zeros_like(volume.array), volume.grid))
    assert scored_again("second") == (2, ["a", "c"])


@pytest.mark.parametrize(
    ("edit", "from_index"),
    [
        ("UPDATE cases SET entry = replace(entry, '0.75', '0.95')", 1),  # the two others hold no 0.75
        ("UPDATE cases SET sha256 = 'x' WHERE rowid = 2", 2),
        ("UPDATE cases SET entry = NULL", 0),
        ("DELETE FROM cases", 0),
    ],
)
def test_an_edited_entry_is_not_believed(scored_again, tmp_path, index, edit, from_index):
    scored_again("first")
    before = entries(index)
    if from_index == 1:
        from_index = sum("0.75" not in entry for _, entry, _ in before)
    with sqlite3.connect(index) as connection:
        connection.execute(edit)
    assert scored_again("second")[0] == from_index
    assert everything(tmp_path / "second") == everything(tmp_path / "first")
    assert sorted(entries(index)) == sorted(before)


@pytest.mark.parametrize("entry", ['["nothing"]', "no JSON", "[null, null]", None])
def test_entries_of_right_hashes_are_compared_with_the_files(scored_again, tmp_path, index, caplog, entry):
    scored_again("first")
    before = entries(index)
    with sqlite3.connect(index) as connection:
        for name, old, _ in before:
            new = old.replace("0.75", "0.95") if entry is None else entry
            connection.execute(
                "UPDATE cases SET entry = ?, sha256 = ? WHERE name = ?",
                [new, prediction_index._sha256(name, new), name],
            )
    assert scored_again("second")[0] == 0
    assert ("differs from a, scored again" in caplog.text) == (entry is None)
    assert everything(tmp_path / "second") == everything(tmp_path / "first")
    assert sorted(entries(index)) == sorted(before)


def test_what_is_logged_about_a_case_is_logged_every_time(scored_again, workshop, maps, caplog):
    folder = workshop.plain(maps, name="plain")
    path = folder / "b.mha"
    volume = read_volume(path)
    beyond = np.where(volume.array > 0, np.float32(1 + 1e-7), volume.array)
    write_volume(path, Volume(beyond, volume.grid))
    for name in ("first", "second"):
        caplog.clear()
        found = scored_again(name, predictions=folder)
        assert "count as 0 or 1" in caplog.text
    assert found == (2, ["a", "b"])


def test_the_oldest_entries_go_first(scored_again, index, monkeypatch):
    monkeypatch.setattr(prediction_index, "MOST_ENTRIES", 2)
    scored_again("first")
    assert len(entries(index)) == 2
    assert scored_again("second")[0] == 2


def test_two_at_once_use_one_index(index):
    def fill(first):
        with open_prediction_index(index) as opened:
            for number in range(first, first + 20):
                opened.add({f"{number}": case})

    case = prediction_index.CaseScores(None, prediction_index.ScoredCase("a", True, 0.5, ()), ())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(0, 80, 20)))
    with open_prediction_index(index) as opened:
        assert opened.read([f"{number}" for number in range(1000)]) == {f"{number}": case for number in range(80)}


@pytest.mark.parametrize("what", ["text", "another database", "damaged", "folder"])
def test_another_file_is_refused_and_stays(scored_again, tmp_path, index, what):
    scored_again("first")
    if what == "folder":
        index.unlink()
        index.mkdir()
    elif what == "text":
        index.write_text("mine")
    elif what == "another database":
        index.unlink()
        with sqlite3.connect(index) as connection:
            connection.execute("CREATE TABLE cases (mine)")
    else:
        content = bytearray(index.read_bytes())
        content[100:] = b"\xff" * (len(content) - 100)
        index.write_bytes(content)
    before = index.read_bytes() if index.is_file() else None
    expected = {"problem": "cannot be used"} if what == "damaged" else {"expected": "nothing or an index"}
    with refused_with(str(index), **expected):
        scored_again("second")
    assert not (tmp_path / "second").exists()
    assert before is None or index.read_bytes() == before


@pytest.mark.parametrize("inside", ["predictions", "truth"])
def test_the_index_lies_neither_with_predictions_nor_with_the_truth(scored_again, truth, inside):
    folder = scored_again.folder if inside == "predictions" else truth
    with refused_with(str(folder / "x.sqlite"), found=f"inside the {inside}"):
        scored_again("out", index=folder / "x.sqlite")
    assert not (folder / "x.sqlite").exists()


def test_the_command_says_how_many_cases_come_from_the_index(scored_again, truth, tmp_path, index, capsys):
    words = ["score", "--predictions", str(scored_again.folder), "--truth", str(truth), "--index", str(index)]
    for name, count in (("first", 0), ("second", 3)):
        assert main([*words, "--output", str(tmp_path / name)]) == 0
        assert f"{count} of 3 cases from {index}" in capsys.readouterr().out
