"""The index of the truth may be missing, old, foreign, damaged or wrong: the answer is the same."""

import io
import logging
import zipfile

import numpy as np
import pytest
from evaluation_makers import read_lesions
from refusals import refused_with

from contract.files.reading import sha256_file
from evaluation.__main__ import main
from evaluation.inputs import truth_index
from evaluation.inputs.truth import find_truth
from evaluation.inputs.truth_index import INDEX, TruthIndex, encoded, open_index
from evaluation.matching.cases import MatchingRule

RULE = MatchingRule(lesion_values=(2, 3), label_values=(0, 1, 2, 3))


@pytest.fixture
def folder(workshop):
    organs = workshop.image({1: (slice(0, 7), slice(0, 1), slice(0, 13)), 2: workshop.box, 3: workshop.elsewhere})
    return workshop.truth({"a": organs, "b": workshop.image(), "c": workshop.image({2: workshop.box})})


@pytest.fixture
def read(monkeypatch):
    """Names of the label maps that were read, in order."""
    names = []
    original = truth_index.read_label_map
    monkeypatch.setattr(truth_index, "read_label_map", lambda path: names.append(path.name) or original(path))
    return names


def lesions(folder):
    truth = find_truth(folder)
    return {case_id: facts(truth.case(case_id, RULE)) for case_id in truth.label_maps}


def facts(truth):
    lesions = truth.lesions
    return truth.path.name, truth.grid, lesions.shape_zyx, lesions.voxels.tolist(), lesions.owners.tolist()


def without_index(folder):
    return {path.name.split(".")[0]: facts(read_lesions(path, RULE)) for path in sorted(folder.glob("*.nii.gz"))}


def rewrite(path, change):
    """Write an index again, with each entry's bytes changed, or left out where None."""
    with zipfile.ZipFile(path) as old:
        comment, entries = old.comment, {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        new.comment = comment
        for number, (name, entry) in enumerate(entries.items()):
            changed = change(number, entry)
            if changed is not None:
                new.writestr(name, changed)


def test_an_index_is_built_with_the_truth_and_read_instead(folder, read):
    expected = without_index(folder)
    assert lesions(folder) == expected
    assert sorted(read) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert (folder / INDEX).is_file()
    read.clear()
    assert lesions(folder) == expected
    assert len(read) == 1  # the one that the index is checked by


def test_the_same_truth_has_the_same_index_to_the_byte(folder):
    lesions(folder)
    first = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    lesions(folder)
    assert (folder / INDEX).read_bytes() == first


def test_a_read_only_folder_is_left_as_it_is(folder, read):
    expected = without_index(folder)
    folder.chmod(0o555)
    truth = find_truth(folder)
    for _ in range(2):
        assert {case_id: facts(truth.case(case_id, RULE)) for case_id in truth.label_maps} == expected
    assert not (folder / INDEX).exists()
    assert sorted(read) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    folder.chmod(0o755)


def test_only_new_or_changed_label_maps_are_read(workshop, folder, read):
    lesions(folder)
    workshop.truth({"b": workshop.image({3: workshop.elsewhere}), "d": workshop.image({2: workshop.elsewhere})})
    expected = without_index(folder)
    read.clear()
    assert lesions(folder) == expected
    assert set(read[1:]) == {"b.nii.gz", "d.nii.gz"}
    read.clear()
    assert lesions(folder) == expected
    assert len(read) == 1


def test_entries_of_label_maps_that_are_gone_are_left_out(folder):
    lesions(folder)
    (folder / "a.nii.gz").unlink()
    (folder / "b.nii.gz").write_bytes((folder / "c.nii.gz").read_bytes())
    (folder / "c.nii.gz").unlink()
    lesions(folder)
    assert TruthIndex(folder / INDEX).known >= {sha256_file(folder / "b.nii.gz")}
    assert main(["index", "--truth", str(folder)]) == 0
    assert TruthIndex(folder / INDEX).known == {sha256_file(folder / "b.nii.gz")}


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18)])
def test_an_empty_index_is_rebuilt(folder, content, caplog):
    expected = without_index(folder)
    (folder / INDEX).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert lesions(folder) == expected
    assert "rebuilt" in caplog.text
    assert len(TruthIndex(folder / INDEX).known) == 3


def test_what_is_no_index_is_kept_and_changes_no_answer(folder, refusal):
    expected = without_index(folder)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("mine.txt", "mine")
    for content in (b"not a zip", archive.getvalue()):
        (folder / INDEX).write_bytes(content)
        assert lesions(folder) == expected
        assert "truth-index.zip: not an index" in refusal("index", "--truth", folder)
        assert (folder / INDEX).read_bytes() == content


def test_a_truncated_index_is_rebuilt(folder):
    expected = lesions(folder)
    whole = (folder / INDEX).read_bytes()
    for end in range(0, len(whole), 37):
        (folder / INDEX).write_bytes(whole[:end])
        assert lesions(folder) == expected
        assert (folder / INDEX).read_bytes() == whole


def of_another_truth(folder, workshop):
    other = workshop.truth({"x": workshop.image({2: workshop.elsewhere})}, name="other")
    lesions(other)
    (folder / INDEX).write_bytes((other / INDEX).read_bytes())


def of_another_version(folder, workshop):
    with zipfile.ZipFile(folder / INDEX, "a") as archive:
        archive.comment = b"oncoduet truth index 0"


def of_other_voxels(folder, workshop):
    nothing = encoded(truth_index.read_label_map(folder / "b.nii.gz"))
    index = TruthIndex(folder / INDEX)
    is_empty = len(index.entry(min(index.known))) == len(nothing)
    rewrite(folder / INDEX, lambda number, entry: entry + entry[-20:] if is_empty else nothing)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (of_another_truth, "an index of other label maps, or of another version; rebuilt"),
        (of_another_version, "an index of other label maps, or of another version; rebuilt"),
        (of_other_voxels, "differs from"),
    ],
)
def test_an_index_of_something_else_is_rebuilt(folder, workshop, caplog, change, warning):
    expected = lesions(folder)
    change(folder, workshop)
    with caplog.at_level(logging.WARNING):
        assert lesions(folder) == expected
    assert warning in caplog.text
    assert TruthIndex(folder / INDEX).format == b"oncoduet truth index 1"


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry[:100],
        lambda entry: entry[:-1],
        lambda entry: np.int64(0).tobytes() + entry[8:],  # no columns
        lambda entry: np.int64(3).tobytes() + entry[8:],  # runs beyond the image
        lambda entry: entry[:24] + np.float64(np.nan).tobytes() + entry[32:],  # spacing
        lambda entry: entry[:144] + entry[164:184] + entry[144:164] + entry[184:],  # runs out of order
        lambda entry: entry[:152] + np.int64(0).tobytes() + entry[160:],  # a run of no voxel
        lambda entry: entry[:160] + np.int32(0).tobytes() + entry[164:],  # a run of zeros
    ],
)
def test_an_impossible_entry_is_passed_over_and_its_label_map_read(folder, change):
    expected = lesions(folder)
    checked = sorted(TruthIndex(folder / INDEX).known)[0]
    victim = next(name for name in ("a", "c") if sha256_file(folder / f"{name}.nii.gz") != checked)
    sha256 = sha256_file(folder / f"{victim}.nii.gz")
    with zipfile.ZipFile(folder / INDEX) as archive:
        number = archive.namelist().index(sha256)
    rewrite(folder / INDEX, lambda place, entry: change(entry) if place == number else entry)
    assert TruthIndex(folder / INDEX).read(sha256) is None
    assert lesions(folder) == expected


def test_an_entry_whose_checksum_is_wrong_is_passed_over(folder):
    expected = lesions(folder)
    path = folder / INDEX
    checked = sorted(TruthIndex(path).known)[0]
    name = next(each for each in sorted(TruthIndex(path).known) if each != checked)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(name) + 4] ^= 0xFF
    path.write_bytes(data)
    assert TruthIndex(path).entry(name) is None
    assert lesions(folder) == expected


def test_an_index_over_random_label_maps_gives_back_every_voxel(workshop):
    random = np.random.default_rng(2)
    labels = {
        f"{n:02}": np.where(random.random(workshop.grid.shape_zyx) < n / 20, random.integers(1, 6, (7, 11, 13)), 0)
        for n in range(21)
    }
    folder = workshop.truth(labels)
    paths = {sha256_file(path): path for path in folder.glob("*.nii.gz")}
    index = open_index(folder, paths)
    for sha256, path in paths.items():
        found = index.read(sha256)
        array = np.zeros(found.grid.shape_zyx, np.int32)
        array.ravel()[found.labels.voxels] = found.labels.values
        assert np.array_equal(array, labels[path.name.split(".")[0]])
        assert encoded(found) == index.entry(sha256)


def test_the_command_rebuilds_the_index(folder, capsys):
    (folder / INDEX).write_bytes(b"")
    assert main(["index", "--truth", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == f"{folder / INDEX}: 3 label maps\n"
    assert len(TruthIndex(folder / INDEX).known) == 3


def test_the_command_names_the_label_map_that_it_cannot_read(folder, refusal):
    data = (folder / "c.nii.gz").read_bytes()
    (folder / "c.nii.gz").write_bytes(data[:-20])
    assert refusal("index", "--truth", folder).startswith(f"error: {folder / 'c.nii.gz'}: file is truncated")
    assert not (folder / INDEX).exists()


def test_a_folder_that_cannot_hold_an_index_is_refused_by_the_command(folder, monkeypatch):
    monkeypatch.setattr(truth_index, "INDEX", "a.nii.gz/truth-index.zip")
    with refused_with(problem="cannot be written to: "):
        find_truth(folder).write_index()
