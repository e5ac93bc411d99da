"""What may be uploaded: archives made here by formula, one fault at a time."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from places import PROJECT

from contract.errors import OncoduetError
from contract.records import BundleRecord
from contract.upload import check_image, check_model, check_truth


def pack(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def image(path: Path, *, links: dict[str, str] | None = None, config_name: str | None = None, **changes) -> Path:
    """A saved image as Docker 20 lays it out: config named by its hash, one folder per layer, manifest last."""
    settings = {"User": "1000:1000", "Entrypoint": ["python", "-m", "algorithm"], "Labels": {"a": "b"}}
    settings |= {key: value for key, value in changes.items() if key in ("User", "Entrypoint", "Labels")}
    config = {"os": changes.get("os", "linux"), "architecture": changes.get("architecture", "amd64")}
    content = json.dumps({**config, "config": settings}).encode()
    name = config_name or f"{hashlib.sha256(content).hexdigest()}.json"
    one = {
        "Config": name,
        "RepoTags": ["oncoduet-algorithm:latest"],
        "Layers": ["layer-a/layer.tar", "layer-b/layer.tar"],
    }
    files = {name: content, "layer-a/layer.tar": bytes(5000)}
    if not links:
        files["layer-b/layer.tar"] = bytes(range(256)) * 20
    manifest = changes.get("manifest", [one])
    return pack(path, {**files, "manifest.json": json.dumps(manifest).encode()}, links)


def model(path: Path, *, licence: str = "CC0-1.0", without: str = "", **replaced: bytes) -> Path:
    record = BundleRecord(
        card="cspca-picai",
        card_sha256="0" * 64,
        data_licence=licence,
        plans_file="plans.json",
        dataset_file="dataset.json",
        members=(),
    )
    files = {"bundle.json": record.model_dump_json().encode(), "members/000.safetensors": bytes(range(200))}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    files |= {name.replace("__", "."): content for name, content in replaced.items()}
    files["SHA256SUMS"] = sums.encode()
    files.pop(without, None)
    return pack(path, files)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


def test_a_saved_image_passes(archive):
    check_image(image(archive))


def test_a_layer_that_occurs_twice_may_be_a_link(archive):
    check_image(image(archive, links={"layer-b/layer.tar": "../layer-a/layer.tar"}))


@pytest.mark.parametrize("user", ["", "0", "0:0", "root", "root:1000", "00", "0000:7", ":1000", "0x0"])
def test_an_image_that_runs_as_root_is_refused(archive, user):
    with pytest.raises(OncoduetError, match=f"whose user is not root, found '{user}'"):
        check_image(image(archive, User=user))


def test_an_image_for_another_processor_is_refused(archive):
    with pytest.raises(OncoduetError, match="expected an image for linux/amd64, found linux/arm64"):
        check_image(image(archive, architecture="arm64"))


def test_an_image_that_starts_nothing_is_refused(archive):
    with pytest.raises(OncoduetError, match="image has no entry point"):
        check_image(image(archive, Entrypoint=None))


@pytest.mark.parametrize(("manifest", "found"), [([], "0"), ([{}, {}], "2"), ({}, "dict")])
def test_an_archive_of_no_or_several_images_is_refused(archive, manifest, found):
    with pytest.raises(OncoduetError, match=f"expected one image in manifest.json, found {found}"):
        check_image(image(archive, manifest=manifest))


def test_an_image_that_lacks_a_layer_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"expected all layers of the image, found no layer-b/layer\.tar"):
        check_image(image(archive, links={"other": "layer-a/layer.tar"}))


def test_an_image_whose_configuration_was_changed_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"expected the sha256 of 0{64}\.json in its name, found [0-9a-f]{64}"):
        check_image(image(archive, config_name="0" * 64 + ".json"))


def test_an_image_on_a_stand_in_base_is_refused_unless_the_export_is_only_tried(archive):
    built = image(archive, Labels={"oncoduet.standin-base": "true"})
    with pytest.raises(OncoduetError, match=r"stand-in \(label oncoduet.standin-base\).*--allow-standin"):
        check_image(built)
    check_image(built, allow_standin=True)


def test_an_archive_that_is_no_image_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"expected manifest\.json, found other\.txt"):
        check_image(pack(archive, {"other.txt": b"x"}))


def test_a_manifest_that_is_no_json_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"manifest\.json is not valid JSON: "):
        check_image(pack(archive, {"manifest.json": b"[,"}))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, -1])
def test_a_truncated_archive_is_refused_wherever_it_ends(archive, kept):
    content = image(archive).read_bytes()
    archive.write_bytes(content[: int(len(content) * kept) if kept >= 0 else -1])
    with pytest.raises(OncoduetError, match=r"not a whole \.tar\.gz: "):
        check_image(archive)


def test_an_archive_of_a_failed_save_is_refused(archive):
    """What ``docker save MISSING | gzip`` leaves without pipefail: 20 bytes, valid gzip of nothing."""
    archive.write_bytes(gzip.compress(b""))
    with pytest.raises(OncoduetError, match=r"not a whole \.tar\.gz: "):
        check_image(archive)


@pytest.mark.parametrize("check", [check_image, check_model, check_truth])
def test_a_pipe_is_refused_and_not_waited_for(archive, check):
    os.mkfifo(archive)
    with pytest.raises(OncoduetError, match=r"archive\.tar\.gz: expected a regular file, found a pipe"):
        check(archive)


def test_a_missing_archive_is_named(archive):
    with pytest.raises(OncoduetError, match=r"archive\.tar\.gz: archive not found"):
        check_model(archive)


def test_a_model_of_free_data_passes(archive):
    check_model(model(archive))


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "CC0-1.0 AND CC-BY-NC-SA-4.0", "LicenseRef-noncommercial"])
def test_a_model_of_non_commercial_data_is_refused_unless_accepted(archive, licence):
    packed = model(archive, licence=licence)
    with pytest.raises(OncoduetError, match=f"data for any use, found {licence}; --accept-non-commercial"):
        check_model(packed)
    check_model(packed, accept_non_commercial=True)


@pytest.mark.parametrize("licence", ["Apache-2.0", "LicenseRef-INCA", "CC-BY-4.0"])
def test_letters_inside_a_word_do_not_make_a_licence_non_commercial(archive, licence):
    check_model(model(archive, licence=licence))


def test_a_model_of_data_of_unknown_licence_is_refused_unless_accepted(archive):
    packed = model(archive, licence="unknown")
    with pytest.raises(OncoduetError, match="data of known licence, found 'unknown'; --accept-non-commercial"):
        check_model(packed)
    check_model(packed, accept_non_commercial=True)


def test_a_model_with_another_files_bytes_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"bundle\.json: expected the sha256 in SHA256SUMS \([0-9a-f]{64}\), found"):
        check_model(model(archive, bundle__json=b"{}"))


def test_a_model_that_lacks_a_member_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"members/000\.safetensors: .*found no such file"):
        check_model(model(archive, without="members/000.safetensors"))


def test_a_model_with_a_file_beyond_its_sums_is_refused(archive):
    with pytest.raises(OncoduetError, match=r"extra\.txt: expected the sha256 in SHA256SUMS \(none\)"):
        check_model(model(archive, extra__txt=b"x"))


def test_a_model_without_sums_is_refused(archive):
    with pytest.raises(OncoduetError, match="bundle has no SHA256SUMS"):
        check_model(model(archive, without="SHA256SUMS"))


def test_a_model_whose_record_is_faulty_is_refused(archive):
    content = b'{"schema_version": 1}'
    sums = f"{hashlib.sha256(content).hexdigest()}  bundle.json\n".encode()
    with pytest.raises(OncoduetError, match=r"archive\.tar\.gz: bundle\.json: \d+ faults"):
        check_model(pack(archive, {"bundle.json": content, "SHA256SUMS": sums}))


@pytest.mark.parametrize(("name", "target"), [("weights", "/etc/passwd"), ("a/weights", "../../outside")])
def test_links_out_of_the_archive_are_refused(archive, name, target):
    with pytest.raises(OncoduetError, match="not plain files below one folder: "):
        check_model(pack(archive, {}, {name: target}))


def test_a_truth_with_label_maps_passes_and_one_without_is_refused(archive):
    check_truth(pack(archive, {"./a.nii.gz": b"x", "./card.toml": b""}))
    with pytest.raises(OncoduetError, match=r"no label maps \(CASE\.nii\.gz or CASE\.mha\)"):
        check_truth(pack(archive, {"./card.toml": b""}))


@pytest.mark.parametrize(
    ("kind", "option", "make"),
    [
        ("image", "--allow-standin", lambda path: image(path, Labels={"oncoduet.standin-base": "true"})),
        ("model", "--accept-non-commercial", lambda path: model(path, licence="CC-BY-NC-4.0")),
        ("truth", None, lambda path: pack(path, {"notes.txt": b""})),
    ],
)
def test_the_command_line_ends_with_3_and_one_line_unless_told_otherwise(archive, kind, option, make):
    make(archive)
    command = [sys.executable, "-m", "contract.upload", kind, str(archive)]
    refused = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (3, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: {archive}: ")
    if option:
        accepted = subprocess.run([*command, option], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert (accepted.returncode, accepted.stderr) == (0, "")


@pytest.mark.parametrize(
    "manifest", [[{}], [{"Config": 3, "Layers": 4}], [{"Config": {}, "Layers": None}], [3], {"a": 1}, None, [[]]]
)
def test_a_manifest_of_another_kind_is_refused(archive, manifest):
    with pytest.raises(OncoduetError, match="expected"):
        check_image(image(archive, manifest=manifest))


@pytest.mark.parametrize(
    "changes", [{"User": ["0"]}, {"User": {}}, {"User": 0}, {"Entrypoint": {}}, {"Entrypoint": ""}]
)
def test_settings_of_another_kind_are_refused(archive, changes):
    with pytest.raises(OncoduetError, match=r"expected an image|no entry point"):
        check_image(image(archive, **changes))


def test_small_files_that_nobody_asked_for_take_no_memory(archive, monkeypatch):
    monkeypatch.setattr("contract.upload._MOST_JSON_BYTES", 3000)
    check_truth(pack(archive, {"a.mha": bytes(2000), "b.mha": bytes(2000)}))
    with pytest.raises(OncoduetError, match="more than 3000 bytes in small files"):
        check_image(pack(archive, {"a.json": bytes(2000), "b.json": bytes(2000)}))


def test_a_truth_whose_tar_was_cut_before_it_was_compressed_is_refused(archive):
    whole = gzip.decompress(pack(archive, {"a.mha": bytes(512), "b.mha": bytes(512)}).read_bytes())
    archive.write_bytes(gzip.compress(whole[:1024]))
    with pytest.raises(OncoduetError, match=r"not a whole \.tar\.gz: empty header"):
        check_truth(archive)
