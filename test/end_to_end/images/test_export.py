"""``export.sh`` on the images that were built: what it writes is whole, and it refuses what must not be published."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from paths import PROJECT

from contract.card import CARDS
from contract.outputs import MANIFEST

EXPORT = PROJECT / "export.sh"


@pytest.fixture
def output(tmp_path):
    yield tmp_path / "export"
    shutil.rmtree(tmp_path / "export", ignore_errors=True)  # hundreds of megabytes


def export(containers, *arguments, environment=()):
    return subprocess.run(
        [EXPORT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER": containers.engine, **dict(environment)},
    )


def stated(folder):
    return dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())


@pytest.fixture(scope="module")
def upload_set(containers, model, phantoms, tmp_path_factory):
    """Both images, a model and a truth, exported once: saving an image takes half a minute."""
    work = tmp_path_factory.mktemp("upload")
    shutil.copytree(phantoms / "labels", work / "truth")
    exported = export(
        containers,
        *["algorithm", "evaluation", "--allow-standin", "--output", work / "export"],
        *["--model", model.archive, "--truth", work / "truth", "--no-conformance"],
    )
    assert (exported.returncode, exported.stderr) == (0, ""), exported
    yield work / "export"
    shutil.rmtree(work, ignore_errors=True)


def test_the_upload_set_is_whole(upload_set, model, phantoms):
    names = ["ground_truth.tar.gz", "model.tar.gz"]
    names += [f"oncoduet-{image}.{kind}" for image in ("algorithm", "evaluation") for kind in ("cdx.json", "tar.gz")]
    assert sorted(path.name for path in upload_set.iterdir()) == [MANIFEST, "SHA256SUMS", "UPLOAD.md", *names]
    assert "The conformance has not run on these files" in (upload_set / "UPLOAD.md").read_text()
    assert stated(upload_set) == {name: hashlib.sha256((upload_set / name).read_bytes()).hexdigest() for name in names}
    for image in ("oncoduet-algorithm", "oncoduet-evaluation"):
        with tarfile.open(upload_set / f"{image}.tar.gz") as tar:
            (saved,) = json.load(tar.extractfile("manifest.json"))
            assert saved["RepoTags"] == [f"{image}:latest"]
    assert (upload_set / "model.tar.gz").read_bytes() == model.archive.read_bytes()
    with tarfile.open(upload_set / "ground_truth.tar.gz") as tar:
        found = sorted(Path(member.name).name for member in tar if member.isfile())
    assert found == sorted(path.name for path in (phantoms / "labels").iterdir())


def test_what_is_written_a_second_time_is_the_same_and_conforms(containers, upload_set, output, tmp_path):
    """The truth's own bytes are compared in the tests of the scripts, where no image is needed."""
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(3):
        array = np.zeros((9, 32, 30), np.uint8)
        if number < 2:
            array[3:6, 4 + number : 12, 5:11] = 1
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.8, 0.9, 3.0))
        sitk.WriteImage(image, str(truth / f"{number}_{number}.mha"))
    shutil.copy(CARDS / "cspca-picai.toml", truth / "card.toml")
    exported = export(containers, "evaluation", "--allow-standin", "--truth", truth, "--output", output)
    assert (exported.returncode, exported.stderr) == (0, ""), exported
    assert " 0 errors" in exported.stdout
    sheet = (output / "UPLOAD.md").read_text()
    assert "| memory | 8 GB |" in sheet and "| GPU | none |" in sheet
    first, second = stated(upload_set), stated(output)
    images = {"oncoduet-evaluation.tar.gz", "oncoduet-evaluation.cdx.json"}
    assert {name: second[name] for name in images} == {name: first[name] for name in images}


def test_an_image_on_a_stand_in_base_is_refused_and_leaves_nothing(containers, output):
    label = containers.inspect("oncoduet-evaluation", '{{index .Config.Labels "oncoduet.standin-base"}}')
    exported = export(containers, "evaluation", "--output", output)
    if label == "true":
        assert exported.returncode == 3
        assert "stand-in" in exported.stderr.splitlines()[-1]
        assert not any(output.iterdir())
    else:  # built on the public base
        assert (exported.returncode, exported.stderr) == (0, ""), exported
        names = [MANIFEST, "SHA256SUMS", "oncoduet-evaluation.cdx.json", "oncoduet-evaluation.tar.gz"]
        assert sorted(path.name for path in output.iterdir()) == names


def test_model_of_non_commercial_data_is_refused_by_default(containers, model, output, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model.folder, folder)
    record = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(record | {"data_licence": "CC-BY-NC-4.0"}))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for path in [*files, folder / "SHA256SUMS"]:
            tar.add(path, str(path.relative_to(folder)))
    refused = export(containers, "--model", tmp_path / "model.tar.gz", "--output", output)
    assert refused.returncode == 3
    assert "CC-BY-NC-4.0" in refused.stderr
    assert not any(output.iterdir())
    accepted = export(containers, "--model", tmp_path / "model.tar.gz", "--output", output, "--accept-non-commercial")
    assert (accepted.returncode, accepted.stderr) == (0, ""), accepted
    assert sorted(path.name for path in output.iterdir()) == [MANIFEST, "SHA256SUMS", "UPLOAD.md", "model.tar.gz"]
