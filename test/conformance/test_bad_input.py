"""The suite is given something wrong, or is stopped: one line, the exit code, nothing of the engine's left over."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid

import pytest
from paths import PROJECT
from programs import run

from conformance.engine.container_engine import LABEL
from conformance.studies.submissions import made_truth, truth_files
from conformance.studies.synthetic_studies import make_study
from contract.card import load_card

CARD = load_card("cspca-picai")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "conformance", *map(str, arguments), "--card", CARD.name]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{PROJECT}"}


@pytest.fixture
def name() -> str:
    """Of the session: other tests make containers meanwhile."""
    return uuid.uuid4().hex


@pytest.fixture
def leftovers(engine, name):
    """Everything of the engine's that the session has made."""

    def count() -> list[str]:
        found = []
        for listing in (["ps", "--all"], ["volume", "ls"], ["images"]):
            named = [engine, *listing, "--quiet", "--filter", f"label={LABEL}={name}"]
            found += subprocess.run(named, capture_output=True, text=True, check=True).stdout.split()
        return sorted(found)

    return count


@pytest.fixture
def refuse(engine, leftovers, name, tmp_path):
    def refuse(*arguments: object) -> str:
        words = (*arguments, "--engine", engine, "--session", name, "--output", tmp_path / "report")
        ended = run(*command(*words))
        assert ended.returncode == 3, ended
        (line,) = ended.stderr.splitlines()
        assert not (tmp_path / "report").exists()
        assert leftovers() == []
        return line

    return refuse


def test_an_image_that_does_not_exist(refuse):
    assert refuse("no-such-image:1", "--kind", "algorithm") == (
        "error: no-such-image:1: neither an image known to the engine nor an archive of one"
    )


def test_file_that_is_not_an_archive(refuse, tmp_path):
    (tmp_path / "image.tar.gz").write_bytes(b"nothing")
    line = refuse(tmp_path / "image.tar.gz", "--kind", "algorithm")
    assert line.startswith("error: ") and " load: " in line


def test_a_model_that_does_not_exist(refuse):
    line = refuse("oncoduet-algorithm", "--kind", "algorithm", "--model", "/no/model.tar.gz")
    assert line == "error: /no/model.tar.gz: folder or .tar.gz not found"


@pytest.fixture
def archive(tmp_path):
    study = make_study(CARD)
    folder = tmp_path / "archive" / "10000"
    folder.mkdir(parents=True)
    for channel in CARD.channels:
        (content,) = [c for path, c in study.files.items() if path.startswith(channel.socket.relative_path)]
        (folder / f"10000_1000000_{channel.name}.mha").write_bytes(content)
    return folder.parent


def test_a_study_that_does_not_fit_the_card(refuse, archive):
    (archive / "10000" / "10000_1000000_adc.mha").unlink()
    line = refuse("oncoduet-algorithm", "--kind", "algorithm", "--study", archive)
    assert "10000_1000000" in line and "adc" in line


def test_a_truth_folder_that_misses_a_study(refuse, archive, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    for name, content in truth_files(CARD, dict(list(made_truth(CARD).items())[1:])).items():
        (truth / name).write_bytes(content)
    line = refuse("oncoduet-evaluation", "--kind", "evaluation", "--study", archive, "--truth", truth)
    assert line == f"error: {truth}: no label map for 10000_1000000"


def test_a_truth_folder_without_label_maps(refuse, tmp_path):
    (tmp_path / "truth").mkdir()
    line = refuse("oncoduet-evaluation", "--kind", "evaluation", "--truth", tmp_path / "truth")
    assert line == f"error: {tmp_path / 'truth'}: no label maps (CASE.nii.gz or CASE.mha)"


def test_a_check_that_does_not_exist_is_wrong_usage(engine, leftovers, name):
    words = ("oncoduet-evaluation", "--kind", "evaluation", "--engine", engine, "--session", name, "--only", "Z9")
    ended = run(*command(*words))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --only: expected ids of checks (A1, ") and "found Z9" in ended.stderr
    assert leftovers() == []


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_after_ctrl_c_nothing_is_left(engine, leftovers, name, number, code, word, tmp_path):
    options = ["--engine", engine, "--session", name, "--output", tmp_path / "report"]
    process = subprocess.Popen(
        command("oncoduet-evaluation", "--kind", "evaluation", *options),
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    while len(leftovers()) < 8:  # an image, five volumes, the helper, and the case under way
        assert process.poll() is None and time.monotonic() - begun < 200
        time.sleep(0.5)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (code, f"error: stopped by {word}\n")
    assert leftovers() == []


def test_a_loaded_image_is_removed_and_its_name_is_restored(engine, tmp_path):
    def ask(*arguments: str, given: bytes | None = None) -> bytes:
        return subprocess.run([engine, *arguments], input=given, capture_output=True, check=True).stdout

    name, ids = f"oncoduet-loaded:{time.time_ns()}", []
    try:
        for user in ("1000:1000", "0:0"):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.addfile(tarfile.TarInfo(f"program-of-{user}"))
            ask("import", "--change", f"USER {user}", "--change", 'CMD ["/x"]', "-", name, given=archive.getvalue())
            ids.append(ask("image", "inspect", "--format", "{{.Id}}", name).decode().strip())
            if len(ids) == 1:
                (tmp_path / "image.tar").write_bytes(ask("save", name))
        ask("rmi", ids[0])
        options = ["--kind", "algorithm", "--engine", engine, "--only", "A1", "--output", tmp_path / "report"]
        ended = run(*command(tmp_path / "image.tar", *options))
        assert (ended.returncode, ended.stderr) == (0, ""), ended  # it was the other user's that was checked
        assert ask("image", "inspect", "--format", "{{.Id}}", name).decode().strip() == ids[1]
        assert ids[0] not in ask("images", "--all", "--no-trunc", "--format", "{{.ID}}").decode().split()
    finally:
        subprocess.run([engine, "rmi", "--force", name, *ids], capture_output=True, check=False)
