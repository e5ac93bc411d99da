"""The scripts' command lines: errors in one line, with the exit codes of the programs."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO

import pytest

from contract.card import CARDS, load_card
from contract.files.atomic import remove_partial_files
from contract.files.checksums import format_sums
from contract.records import BundleRecord

SCRIPTS = ["build.sh", "demo.sh", "export.sh", "test.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option(run, project, script):
    ended = run(project / script, "--help")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: ./{script}")
    text = (project / script).read_text()
    options = {word for line in text.splitlines() if line.strip().endswith(";;") for word in line.split(")")[0].split()}
    for option in (word for word in options - {"--help"} if word.startswith("--")):
        assert option in ended.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_word_ends_with_2_and_the_usage(run, project, script):
    ended = run(project / script, "--frobnicate")
    assert ended.status == 2
    assert ended.stderr.startswith(f"usage: ./{script}")


@pytest.mark.parametrize(
    ("command", "status", "where", "found"),
    [
        (["demo.sh", "--card"], 2, "--card", ""),
        (["demo.sh", "--card", "cspca"], 2, "--card", "found cspca"),
        (["demo.sh", "--seed", "one"], 2, "--seed", ""),
        (["demo.sh", "--device", "gpu"], 2, "--device", ""),
        (["build.sh", "--api"], 2, "--api", "found ''"),
        (["build.sh", "--api", "grpc"], 2, "--api", "found 'grpc'"),
        (["build.sh", "train", "--api", "invoke"], 2, "--api invoke", "found train"),
        (["build.sh", "train", "nndet"], 3, "nndet", "NNDET_IMAGE"),
        (["export.sh", "--model"], 2, "--model", ""),
        (["export.sh", "--model", ""], 2, "--model", ""),
        (["export.sh", "--card"], 2, "--card", ""),
        (["export.sh", "--api", "grpc"], 2, "--api", "found 'grpc'"),
        (["export.sh", "--model", "/no/model.tar.gz"], 3, "/no/model.tar.gz", ""),
        (["export.sh", "--truth", "/no/truth"], 3, "/no/truth", ""),
    ],
)
def test_impossible_requests_are_one_line(run, bare, command, status, where, found):
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/python").symlink_to("/bin/true")  # there is one; it is not reached
    ended = run(bare / command[0], *command[1:])
    (line,) = ended.stderr.splitlines()
    assert ended.status == status
    assert line.startswith(f"{command[0]}: {where}: ")
    assert found in line


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["export.sh"], ".venv not found; ./demo.sh --install-only makes it"),
        (["test.sh", "conformance", "oncoduet-algorithm"], ".venv not found; ./demo.sh --install-only makes it"),
        (["demo.sh", "--install-only"], "expected Python 3.11, found no /no/python3.11; PYTHON names another"),
    ],
)
def test_without_packages_or_python_3_11_they_are_named(run, bare, command, said):
    ended = run(bare / command[0], *command[1:], environment={"PYTHON": "/no/python3.11"})
    assert (ended.status, ended.stderr) == (3, f"{command[0]}: {said}\n")
    assert not (bare / ".venv").exists()


def test_demo_does_not_take_a_failed_installation_for_a_finished_one(run, bare):
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    ended = run(bare / "demo.sh", "--install-only", environment=offline)
    assert ended.status != 0
    assert ended.stderr.splitlines()[-1].endswith("failed")
    assert (bare / ".venv").is_dir()
    assert (bare / ".venv/installed").read_text() == "unfinished\n"


def test_demo_leaves_an_environment_of_the_user_unchanged(run, bare):
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/mine").write_text("mine")
    ended = run(bare / "demo.sh", "--install-only")
    assert ended.status == 3
    assert ended.stderr == "demo.sh: .venv: expected nothing or what this script made, found another; move it away\n"
    assert (bare / ".venv/bin/mine").read_text() == "mine"


@pytest.fixture
def installed(bare):
    """A clone that seems to be installed, whose python agrees to everything but runs what it reads from stdin."""
    (bare / ".venv/bin").mkdir(parents=True)
    python = bare / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\n[ "$1" != - ] || exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    parts = [bare / "requirements" / name for name in ("install.sh", "torch.txt", "torch-cuda.lock", "dev.lock")]
    content = b"".join(path.read_bytes() for path in parts) + os.environ.get("TORCH_REQUIREMENT", "").encode() + b"\n"
    (bare / ".venv/installed").write_text(f"{hashlib.sha256(content).hexdigest()}  -\n")
    return bare


def test_demo_deletes_nothing_of_an_earlier_demo(run, installed):
    (installed / "build/demo").mkdir(parents=True)
    (installed / "build/demo/notes.txt").write_text("mine")
    ended = run(installed / "demo.sh")
    (kept,) = installed.glob("build/demo-*/notes.txt")
    assert kept.read_text() == "mine"
    assert f"The earlier demo lies in build/{kept.parent.name} now." in ended.stdout
    assert "unpack the bundle: failed" in ended.stderr  # which a python that does nothing cannot have written


def test_a_second_demo_leaves_the_first_one_unchanged(run, installed):
    (installed / "build/demo").mkdir(parents=True)
    with (installed / "build/.demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = run(installed / "demo.sh")
    assert (ended.status, ended.stdout) == (3, "")
    assert ended.stderr.startswith("demo.sh: build/demo: expected no other demo at work there, found one; wait for it")
    assert [path.name for path in (installed / "build").iterdir() if path.is_dir()] == ["demo"]


def test_build_without_an_engine_names_the_engines_tried(run, bare, without_engine):
    ended = run(bare / "build.sh", "--engine", environment=without_engine)
    assert (ended.status, ended.stdout) == (3, "")
    docker = without_engine["DOCKER"]
    assert ended.stderr == (f"build.sh: expected a container engine, found that neither {docker} nor podman answers\n")


def test_a_required_container_test_fails_at_once_without_an_engine(run, bare, without_engine):
    ended = run(bare / "test.sh", "--require-container", environment=without_engine)
    assert ended.status == 1
    assert "FAILED: NOT A CONTAINER TEST" in ended.stdout
    assert not (bare / ".venv").exists()


def test_conformance_without_an_engine_names_the_engines_tried(run, bare, without_engine):
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/python").symlink_to("/bin/true")  # there is one; it is not reached
    command = [bare / "test.sh", "conformance", "oncoduet-algorithm", "--kind", "algorithm", "--card", "cspca-picai"]
    ended = run(*command, environment=without_engine)
    assert (ended.status, ended.stdout) == (3, "")
    (line,) = ended.stderr.splitlines()
    assert "expected a container engine, found that neither" in line


def test_build_for_cpu_does_not_take_another_build_of_torch(run, bare, tmp_path, make_wheel):
    make_wheel(tmp_path / "index", "torch", "2.13.0")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_CONFIG_FILE": "/dev/null"}
    ended = run(bare / "build.sh", "--cpu", environment=offline)
    assert ended.status == 3
    assert ended.stderr.splitlines()[-1] == (
        "build.sh: expected a CPU build of torch==2.13.0 in wheels/ or where pip looks "
        "(PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), found none"
    )


def test_export_refuses_a_truth_without_label_maps_and_leaves_no_file(run, project, tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "notes.txt").write_text("nothing here")
    ended = run(project / "export.sh", "--truth", tmp_path / "truth", "--output", tmp_path / "export")
    assert ended.status == 3
    (line,) = ended.stderr.splitlines()
    assert "no label maps" in line
    assert not any((tmp_path / "export").iterdir())


def bundled(path, prefix):
    """A model bundle whose files are called with a prefix, as a folder that was packed whole has it."""
    card = (CARDS / "cspca-picai.toml").read_bytes()
    record = BundleRecord(
        card="cspca-picai",
        card_sha256=load_card("cspca-picai").sha256,
        data_licence="CC0-1.0",
        plans_file="plans.json",
        dataset_file="dataset.json",
        members=(),
    )
    files = {"card.toml": card, "bundle.json": record.model_dump_json().encode()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["SHA256SUMS"] = format_sums(sums).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{prefix}{name}")
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_the_models_card_makes_the_sheet(run, project, tmp_path, prefix):
    model = bundled(tmp_path / "model.tar.gz", prefix)
    ended = run(project / "export.sh", "--model", model, "--output", tmp_path / "export")
    assert (ended.status, ended.stderr) == (0, "")
    assert "Card `cspca-picai`" in (tmp_path / "export" / "UPLOAD.md").read_text()


@pytest.mark.parametrize(
    ("card", "said"),
    [("no-such-card", "card 'no-such-card': expected"), ("cspca-rsna2022", "found one of cspca-picai")],
)
def test_a_wrong_card_is_found_before_anything_is_exported(run, project, tmp_path, card, said):
    model = bundled(tmp_path / "model.tar.gz", "")
    ended = run(project / "export.sh", "--model", model, "--card", card, "--output", tmp_path / "export")
    assert ended.status == 3
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "export").exists() or not any((tmp_path / "export").iterdir())


def test_export_sweeps_only_the_remains_of_a_killed_one(run, project, tmp_path):
    truth, output = tmp_path / "truth", tmp_path / "export"
    truth.mkdir()
    (truth / "1_1.mha").write_text("a label map")
    left, at_work, users = (output / f".partial-{name}" for name in ("a" * 32, "b" * 32, "notes"))
    for folder in (left, at_work, users):
        folder.mkdir(parents=True)
        (folder / "ground_truth.tar.gz").touch()
    hold = os.open(at_work, os.O_RDONLY)
    fcntl.flock(hold, fcntl.LOCK_EX)
    ended = run(project / "export.sh", "--truth", truth, "--output", output)
    os.close(hold)
    assert (ended.status, ended.stderr) == (0, ""), ended
    assert sorted(output.glob(".partial-*")) == [at_work, users]
    assert (output / "ground_truth.tar.gz").is_file()


def test_a_living_export_holds_its_folder_and_a_killed_ones_is_swept(run, project, tmp_path):
    truth, output, stuck = tmp_path / "truth", tmp_path / "export", tmp_path / "bin"
    for folder in (truth, stuck):
        folder.mkdir()
    (truth / "1_1.mha").write_text("a label map")
    (stuck / "tar").write_text("#!/bin/bash\nexec sleep 600\n")
    (stuck / "tar").chmod(0o755)
    words = [project / "export.sh", "--truth", truth, "--output", output]
    environment = {**os.environ, "PATH": f"{stuck}:{os.environ['PATH']}"}
    with subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as working:
        while not (begun := sorted(output.glob(".partial-*/ground_truth.tar.gz"))):
            time.sleep(0.05)
        remove_partial_files(output)
        assert begun[0].is_file()
        os.killpg(working.pid, signal.SIGKILL)
    assert begun[0].is_file()
    assert run(*words).status == 0
    assert not list(output.glob(".partial-*"))


def test_the_same_truth_gives_the_same_bytes_for_any_owner_and_time(run, project, tmp_path):
    packed = []
    for number, names in enumerate([("1_1.mha", "2_2.mha"), ("2_2.mha", "1_1.mha")]):
        truth, output = tmp_path / f"truth{number}", tmp_path / f"export{number}"
        truth.mkdir(mode=0o755 - number * 0o055)  # others may not look into the second folder
        for seconds, name in enumerate(names):
            (truth / name).write_text(f"the label map of {name}")
            os.utime(truth / name, (seconds, 10**9 + seconds))
        ended = run(project / "export.sh", "--truth", truth, "--output", output)
        assert (ended.status, ended.stderr) == (0, ""), ended
        packed.append((output / "ground_truth.tar.gz").read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(tmp_path / "export0" / "ground_truth.tar.gz") as tar:
        members = [(each.name, each.mtime, each.uid, each.mode & 0o044) for each in tar]
    assert members == [(name, 0, 0, 0o044) for name in (".", "./1_1.mha", "./2_2.mha")]
