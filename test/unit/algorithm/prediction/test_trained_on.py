"""Which studies of a batch the networks were trained on, as it says and writes down."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from algorithm.__main__ import main
from contract.card import load_card
from contract.images.volume import Volume, read_volume, write_volume
from contract.records import Source, StudyRecord, TrainingStudiesRecord, read_record, write_record
from network.study.scan import content_sha256

RUNS = (("ce", 0, 1), ("ce", 1, 1), ("focal", 0, 1))
REFERENCE = load_card("cspca-picai").geometry.reference


def image(archive, patient, channel=REFERENCE):
    return archive / f"p{patient}" / f"p{patient}_s0_{channel}.mha"


@pytest.fixture
def knowing(make_bundle, seal):
    """A bundle whose members were trained on the studies of these patients; None: an older program's."""

    def make(archive, known, *, chosen_by=()):
        model = make_bundle(RUNS[: len(known)])
        record = json.loads((model / "bundle.json").read_text())
        for number, patients in enumerate(known):
            if patients is None:
                continue
            file = f"training_studies/{number:03d}.json"
            trained, chosen = (
                tuple(sorted(content_sha256(read_volume(image(archive, patient))) for patient in each))
                for each in (patients, chosen_by)
            )
            write_record(model / file, TrainingStudiesRecord(trained_on=trained, chosen_by=chosen))
            record["members"][number]["training_studies_file"] = file
        (model / "bundle.json").write_text(json.dumps(record))
        seal(model)
        return model

    return make


def predict(archive, model, output, *members):
    paths = [str(each) for each in ("--archive", archive, "--model", model, "--output", output)]
    assert main(["batch", *paths, "--threads", "1", "--no-mirroring", "--members", *(members or ["all"])]) == 0


def trained_on(folder):
    return read_record(folder / "source.json", Source).trained_on


def test_an_ensemble_was_trained_on_what_any_of_its_members_was(make_archive, knowing, tmp_path, capsys):
    archive = make_archive(4)
    model = knowing(archive, [[0, 1], [1, 3], []], chosen_by=[2])
    predict(archive, model, tmp_path / "out", "all", "each")
    said = capsys.readouterr().out
    assert trained_on(tmp_path / "out") == ("p0_s0", "p1_s0", "p3_s0")
    assert trained_on(tmp_path / "out" / "ce_fold0_restart1") == ("p0_s0", "p1_s0")
    assert trained_on(tmp_path / "out" / "ce_fold1_restart1") == ("p1_s0", "p3_s0")
    assert trained_on(tmp_path / "out" / "focal_fold0_restart1") == ()
    assert "ensemble-all: 3 of 4 studies were trained on: scores on them say nothing" in said
    assert "focal_fold0_restart1: by 1 of 4 studies its weights or rules were chosen" in said
    assert "focal_fold0_restart1: 0 of 4" not in said


def test_a_study_is_recognised_by_any_name_format_and_compression(make_archive, knowing, tmp_path):
    archive = make_archive(3)
    model = knowing(archive, [[0, 1]])
    for channel in ("t2w", "adc", "hbv"):
        path = image(archive, 1, channel)
        renamed = archive / "p9" / f"p9_new_{channel}.nii.gz"
        renamed.parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.ReadImage(str(path)), str(renamed))
        path.unlink()
    (archive / "p1").rmdir()
    sitk.WriteImage(sitk.ReadImage(str(image(archive, 0))), str(image(archive, 0)), False)
    predict(archive, model, tmp_path / "out")
    assert trained_on(tmp_path / "out") == ("p0_s0", "p9_new")


def test_one_voxel_makes_another_study(make_archive, knowing, tmp_path):
    archive = make_archive(2)
    model = knowing(archive, [[0, 1]])
    volume = read_volume(image(archive, 0))
    array = np.array(volume.array)
    array[3, 4, 5] += 1
    write_volume(image(archive, 0), Volume(array, volume.grid))
    predict(archive, model, tmp_path / "out")
    assert trained_on(tmp_path / "out") == ("p1_s0",)


def test_unknown_training_studies_are_null_and_logged_once(make_archive, knowing, tmp_path, capsys):
    archive = make_archive(2)
    model = knowing(archive, [[0], None])
    predict(archive, model, tmp_path / "out", "all", "each")
    assert trained_on(tmp_path / "out") is None
    assert trained_on(tmp_path / "out" / "ce_fold0_restart1") == ("p0_s0",)
    assert trained_on(tmp_path / "out" / "ce_fold1_restart1") is None
    assert capsys.readouterr().out.count("it is not known which studies 2 of 3 predictions were trained on") == 1


def test_a_resumed_batch_knows_the_studies_finished_before(make_archive, knowing, tmp_path):
    archive, output = make_archive(3), tmp_path / "out"
    model = knowing(archive, [[0, 1, 2]])
    predict(archive, model, output)
    shutil.rmtree(output / "p1_s0")
    older = read_record(output / "p2_s0" / "study.json", StudyRecord)
    assert older.content_sha256 == content_sha256(read_volume(image(archive, 2)))
    write_record(output / "p2_s0" / "study.json", older.model_copy(update={"content_sha256": None}))
    (output / "source.json").unlink()
    predict(archive, model, output)
    assert trained_on(output) == ("p0_s0", "p1_s0", "p2_s0")


def test_a_list_holds_hashes_and_no_name(make_archive, knowing):
    archive = make_archive(2)
    text = (knowing(archive, [[0, 1]]) / "training_studies" / "000.json").read_text()
    assert "p0" not in text
    assert str(archive) not in text
