"""The commands of ``export.sh``: refusals in one line, and files that replace nothing of the user."""

from pathlib import Path

import pytest
from programs import python
from uploads import model, pack, standin

from conformance import export


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


@pytest.mark.parametrize(
    ("kind", "option", "make"),
    [
        ("image", "--allow-standin", standin),
        ("model", "--accept-non-commercial", lambda path: model(path, licence="CC-BY-NC-4.0")),
        ("truth", None, lambda path: pack(path, {"notes.txt": b""})),
    ],
)
def test_archive_is_refused_by_default_with_3_and_one_line(archive, kind, option, make):
    make(archive)
    refused = python("-m", "conformance.export", kind, archive)
    assert (refused.returncode, refused.stdout) == (3, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: {archive}: ")
    if option:
        accepted = python("-m", "conformance.export", kind, archive, option)
        assert (accepted.returncode, accepted.stderr) == (0, "")


def test_a_kept_file_replaces_only_an_earlier_export(tmp_path, capsys):
    folder, file = tmp_path / "export", tmp_path / "export" / ".partial" / "model.tar.gz"
    for content in (b"1", b"2"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        assert export.main(["keep", str(folder), str(file), "a bundle"]) == 0
        assert (folder / "model.tar.gz").read_bytes() == content
    (folder / "UPLOAD.md").write_text("mine")
    assert export.main(["names", str(folder), "model.tar.gz=a bundle", "UPLOAD.md=exports"]) == 3
    assert capsys.readouterr().err.startswith(f"error: {folder / 'UPLOAD.md'}: ")


def test_an_export_into_the_truth_is_refused(tmp_path, capsys):
    words = ["names", str(tmp_path / "truth" / "new"), "SHA256SUMS=exports", "--input", str(tmp_path / "truth")]
    assert export.main(words) == 3
    assert "expected an output folder of its own" in capsys.readouterr().err
