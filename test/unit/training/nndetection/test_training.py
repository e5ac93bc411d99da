"""The configuration ``nndet`` against a stand-in for nnDetection's programs (``fake_nndet``)."""

import ast
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
from programs import fork, is_at_work, wait_until
from refusals import refused_with

from contract.files.reading import read_json, sha256_file
from contract.records import RunRecord, read_record
from training.bundle import bundle
from training.dataset.prepared import load_prepared
from training.make_run import execute
from training.nndetection.model import UpstreamRecord
from training.nndetection.run_files import model_record
from training.run_folder.folder import RunFolder
from training.verify import require_sound, verify

RUNS = ("ce_fold0_restart1", "nndet_fold0_restart1")


def calls(folder):
    """What the stand-in was started with, in order."""
    log = folder / "training.log"
    return [line for line in log.read_text().splitlines() if " says " in line] if log.is_file() else []


def test_a_run_calls_the_programs_in_order_with_its_fold(trained):
    said = [line.split(" says ") for line in calls(trained)]
    assert [program for program, _ in said] == [
        "nndet_prep", "nndet_unpack", "nndet_train", "nndet_sweep", "nndet_consolidate",
    ]  # fmt: skip
    words = [ast.literal_eval(each) for _, each in said]
    assert words[0] == ["Task001_cspca_picai"]
    assert words[1][0].endswith("det_data/Task001_cspca_picai/preprocessed/D3V001_3d/imagesTr")
    assert words[1][1:] == ["1"]
    assert words[2] == ["Task001_cspca_picai", "-o", "exp.fold=0"]
    assert words[3] == ["Task001_cspca_picai", "RetinaUNetV001_D3V001_3d", "0"]
    assert words[4] == ["Task001_cspca_picai", "RetinaUNetV001_D3V001_3d", "--num_folds", "1", "--sweep_boxes"]


def test_a_finished_run_keeps_the_model_and_says_what_made_it(trained, fake_programs):
    folder = RunFolder(trained)
    record = read_record(folder.record, RunRecord)
    assert (record.state, record.key.configuration, record.key.fold) == ("finished", "nndet", 1)
    assert (record.weights_sha256, record.epochs, record.checkpoint) == (None, (), "final")
    assert record.parents["nndetection"] == sha256_file(model_record(folder))
    assert record.versions["nndetection_targeted"] == "97a58f3"
    assert record.versions["nndetection"].startswith("97a58f3")
    assert record.versions["nndetection_torch"] == "1.11.0"
    assert record.wall_s > 0
    assert record.cpu_s > 0.5  # of five programs that import NumPy and SimpleITK
    made = read_record(model_record(folder), UpstreamRecord)
    assert made.key == record.key
    assert made.programs["nndet_train"] == str(fake_programs / "nndet_train")
    assert sorted(made.files) == [
        "config.yaml", "meta.json", "model_fold0.ckpt", "plan_inference.pkl", "requirements.txt",
    ]  # fmt: skip
    assert not folder.work.exists()


def test_the_same_run_again_does_nothing(planned, finished, fake_nndet):
    before = (finished / "run.json").read_bytes()
    fake_nndet("fail:nndet_prep")
    execute(planned(fold=1), finished, device="cpu")
    assert (finished / "run.json").read_bytes() == before


def test_settings_of_a_configuration_reach_the_training(planned, fake_nndet, tmp_path):
    path = tmp_path / "short.toml"
    text = 'schema_version = 1\nname = "short"\ntitle = "Short"\nengine = "nndet"\n[overwrites]\n'
    path.write_text(text + '"trainer_cfg.max_num_epochs" = 2\n"augment_cfg.multiprocessing" = false\n')
    execute(planned(str(path)), tmp_path / "run", device="cpu")
    assert "'trainer_cfg.max_num_epochs=2', 'augment_cfg.multiprocessing=False'" in calls(tmp_path / "run")[2]
    assert read_json(tmp_path / "run" / "nndetection" / "model_fold0.ckpt")["epoch"] == 2


@pytest.mark.parametrize("name", ["exp.fold", "train.mode", "host.parent_data", "trainer_cfg"])
def test_a_configuration_cannot_change_what_the_adapter_decides(planned, name, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(f'schema_version = 1\nname = "x"\ntitle = "X"\nengine = "nndet"\noverwrites = {{ "{name}" = 1 }}\n')
    with refused_with(r"wrong\.toml", "overwrites"):
        planned(str(path))


def test_a_missing_program_is_named_before_anything_is_written(planned, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused_with("nndet_prep", "program of nnDetection not found on PATH; docs/nn"):
        execute(planned(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "work" / "nndetection").exists()


def test_a_failing_program_is_reported_with_its_last_line_and_the_log(planned, tmp_path, fake_nndet):
    fake_nndet("fail:nndet_sweep")
    log = tmp_path / "run" / "training.log"
    found = rf"^exit code 1: ValueError: nndet_sweep found no GPU \({log}\)$"
    with refused_with("^nndet_sweep$", expected="^nnDetection's program to succeed$", found=found):
        execute(planned(), tmp_path / "run", device="cpu")
    assert "Traceback" in log.read_text()  # the program's own
    assert read_record(tmp_path / "run" / "run.json", RunRecord).state == "failed"


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("nndet_prep", r"D3V001_3d\.pkl"),
        ("nndet_train", r"model_last\.ckpt"),
        ("nndet_sweep", "sweep_predictions"),
        ("nndet_consolidate", r"model_fold0\.ckpt"),
    ],
)
def test_a_program_that_succeeds_without_output_is_refused(planned, tmp_path, fake_nndet, program, what):
    fake_nndet(f"nothing:{program}")
    with refused_with(what, f"not found, although {program} reported success"):
        execute(planned(), tmp_path / "run", device="cpu")


def test_an_invalid_number_of_loaders_is_refused(planned, tmp_path, fake_nndet, monkeypatch):
    monkeypatch.setenv("det_num_threads", "many")
    with refused_with("det_num_threads", expected="a number of processes above 0", found="'many'"):
        execute(planned(), tmp_path / "run", device="cpu")


def test_a_path_with_a_dot_is_refused_since_nndetection_refuses_it(planned, tmp_path, fake_nndet):
    with refused_with(r"runs\.1/run/work/nndetection", "path has a dot"):
        execute(planned(), tmp_path / "runs.1" / "run", device="cpu")


def test_an_archive_that_cannot_be_reached_is_refused(planned, tmp_path, fake_nndet, prepared_folder):
    run = planned()
    sources = tmp_path / "prepared"
    shutil.copytree(prepared_folder, sources)
    text = (sources / "sources.json").read_text()
    (sources / "sources.json").write_text(text.replace(str(prepared_folder.parent), str(tmp_path / "gone")))
    moved = replace(run, prepared=load_prepared(sources))
    with refused_with("gone/archive", "archive of .*, from which nnDetection gets its images, not found"):
        execute(moved, tmp_path / "run", device="cpu")


def test_resume_without_a_step_is_refused(planned, tmp_path, fake_nndet):
    with refused_with(r"steps\.json", "no step of nnDetection to resume from"):
        execute(planned(), tmp_path / "run", device="cpu", resume=True)


def killed_while_it_hangs(run, output):
    """Make the run in another process and kill that without warning while a program hangs; returns its processes."""
    process = fork(lambda: execute(run, output, device="cpu"))
    hanging = output / "work" / "nndetection" / "hanging"
    wait_until(hanging.is_file)
    processes = [int(pid) for pid in hanging.read_text().split()]
    assert all(map(is_at_work, processes))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return processes


def test_a_killed_training_ends_its_programs_and_resumes(planned, tmp_path, fake_nndet):
    fake_nndet("hang:nndet_train")
    run, output = planned(), tmp_path / "run"
    processes = killed_while_it_hangs(run, output)
    wait_until(lambda: not any(map(is_at_work, processes)))
    record = execute(run, output, device="cpu", resume=True)
    assert record.state == "finished"
    model = read_json(output / "nndetection" / "model_fold0.ckpt")
    assert model == {"epoch": 50, "resumed_at": 1}
    names = [line.split(" says ")[0] for line in calls(output)]
    assert names == [
        *("nndet_prep", "nndet_unpack", "nndet_train"),
        *("nndet_train", "nndet_sweep", "nndet_consolidate"),  # what was done is not done again
    ]
    assert "train.mode=resume" in calls(output)[3]


def test_a_file_that_is_put_there_after_a_kill_is_refused_and_stays(planned, tmp_path, fake_nndet):
    fake_nndet("hang:nndet_train")
    run, output = planned(), tmp_path / "run"
    killed_while_it_hangs(run, output)
    mine = output / "work" / "nndetection" / "det_models" / "mine.txt"
    mine.write_text("mine")
    later = time.time() + 60
    os.utime(mine, (later, later))
    with refused_with("mine.txt", expected="only files of the programs", found="one not written by them"):
        execute(run, output, device="cpu", resume=True)
    assert mine.read_text() == "mine"
    mine.unlink()
    assert execute(run, output, device="cpu", resume=True).state == "finished"
    assert not (output / "work").exists()


def test_an_interrupted_unpacking_leaves_no_half_written_study(planned, tmp_path, fake_nndet):
    fake_nndet("hang:nndet_unpack")
    run, output = planned(), tmp_path / "run"
    packed = "work/nndetection/det_data/Task001_cspca_picai/preprocessed/D3V001_3d/imagesTr"
    killed_while_it_hangs(run, output)
    (half,) = [path.with_suffix(".npy") for path in (output / packed).glob("100_1.npz")]
    half.write_bytes(b"half")
    fake_nndet("")
    assert execute(run, output, device="cpu").state == "finished"


def test_verify_takes_the_models_hashes_again(finished):
    require_sound(verify([finished]))
    what = {check.what: check.found for check in verify([finished])}
    assert what["nndetection"] == "as recorded"
    assert "weights" not in what
    (finished / "nndetection" / "model_fold0.ckpt").write_text("another")
    with refused_with(r"model_fold0\.ckpt: expected the hash"):
        require_sound(verify([finished]))


def test_no_bundle_takes_nndetections_pickles(finished, tmp_path, refusal):
    message = refusal("bundle", "--runs", finished, "--output", tmp_path / "model.tar.gz")
    assert "run.json: expected a run with weights for a bundle, found one of nnDetection, whose models are" in message
    assert not (tmp_path / "model.tar.gz").exists()
    with refused_with(problem="python -m training predict predicts with it"):
        bundle(runs=[finished], output=tmp_path / "model.tar.gz")


def test_a_campaign_makes_it_with_other_runs(tmp_path, fake_nndet, campaign_file, outcome):
    path = campaign_file(configurations=["ce", "nndet"], folds=[0], resources={"packed": 2})
    assert outcome("campaign", path, "--device", "cpu") == (0, "")
    states = [read_record(tmp_path / "runs" / name / "run.json", RunRecord).state for name in RUNS]
    assert states == ["finished", "finished"]
