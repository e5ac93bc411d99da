"""Tarballs of models and truths as the platform unpacks them, and saved images by hand."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest

from conformance.engine.container_engine import ContainerEngine
from conformance.results.verdicts import Broken
from conformance.uploads.archives import folder_files, read_archive, read_saved, tarball_files


@pytest.fixture
def pack(tmp_path):
    def pack(*entries: tuple[str, bytes] | tarfile.TarInfo):
        path = tmp_path / "model.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for entry in entries:
                if isinstance(entry, tarfile.TarInfo):
                    tar.addfile(entry)
                else:
                    info = tarfile.TarInfo(entry[0])
                    info.size = len(entry[1])
                    tar.addfile(info, io.BytesIO(entry[1]))
        return path

    return pack


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def broken(path) -> str:
    with pytest.raises(Broken) as caught:
        tarball_files(path)
    return str(caught.value)


def test_a_whole_tarball_gives_its_files(pack):
    sums = f"{hashlib.sha256(b'w').hexdigest()}  members/0\n".encode()
    assert tarball_files(pack(("./members/0", b"w"), ("SHA256SUMS", sums))) == {"members/0": b"w", "SHA256SUMS": sums}


@pytest.mark.parametrize("entry", [link("w", "/data/w"), link("w", "../../w")], ids=["absolute", "escaping"])
def test_a_link_out_of_the_folder_is_refused(pack, entry):
    assert broken(pack(("a", b""), entry)).startswith("refused by the filter data: ")


def test_file_that_differs_from_its_sum_is_refused(pack):
    sums = f"{'0' * 64}  w\n".encode()
    assert broken(pack(("w", b"w"), ("SHA256SUMS", sums))) == "w is not the file that SHA256SUMS names"
    assert broken(pack(("SHA256SUMS", sums))) == "w is not the file that SHA256SUMS names"


def test_what_is_no_tarball_or_empty_is_refused(pack, tmp_path):
    assert broken(pack()) == "no file"
    (tmp_path / "model.tar.gz").write_bytes(b"nothing")
    assert broken(tmp_path / "model.tar.gz").startswith("a damaged tarball")


def test_a_folder_gives_the_same_files(tmp_path):
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "0").write_bytes(b"w")
    assert folder_files(tmp_path) == {"members/0": b"w"}


def layer(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def saved(pack, content: bytes, **config):
    settings = {"os": "linux", "architecture": "amd64", "config": {"User": "1000", "Cmd": ["a"], **config}}
    text = json.dumps(settings).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["a:b"], "Layers": ["0/layer.tar"]}]
    return pack((name, text), ("0/layer.tar", content), ("manifest.json", json.dumps(manifest).encode()))


def test_a_saved_image_is_read_to_its_end(pack):
    found = read_archive(saved(pack, layer("opt/a.py", "usr/lib/python3/site-packages/nibabel/tests/a.nii.gz")))
    assert (found.faults, found.unwanted, found.layers) == ([], [], 1)
    assert found.size_bytes > 0


def test_a_saved_image_without_compression_is_read_too(pack, tmp_path):
    plain = tmp_path / "image.tar"
    plain.write_bytes(gzip.decompress(saved(pack, layer("opt/.env")).read_bytes()))
    found = read_archive(plain)
    assert (found.faults, found.unwanted, found.layers) == ([], ["opt/.env"], 1)


def test_archive_that_the_platform_would_refuse_fails_with_the_cause(pack):
    assert read_archive(saved(pack, layer(), User="root")).faults == [
        "expected an image whose user is not root, found 'root'"
    ]


def test_secrets_histories_and_patients_in_layers_are_named(pack):
    names = ["opt/app/.git/HEAD", "home/a/.ssh/id_rsa", "opt/app/.env", "data/patient_0001_t2w.mha", "root/.netrc"]
    assert read_archive(saved(pack, layer(*names, "opt/app/environment.py"))).unwanted == names


def test_an_engine_that_saves_half_an_image_is_a_failure_in_words(tmp_path):
    for lines in ("exit 1", "head -c 700 /dev/zero | tr '\\0' x"):
        client = tmp_path / "docker"
        client.write_text(f"#!/bin/sh\n{lines}\n")
        client.chmod(0o755)
        with pytest.raises(Broken, match=f"{client} save wrote no archive"):
            read_saved(ContainerEngine(str(client)), "a:1")


@pytest.mark.parametrize(
    "text",
    [
        "[3]",
        '[{"Config": [], "Layers": {}}]',
        '[{"Config": "a"}]',
        '[{"Layers": [{}, 3]}]',
        "[" * 100_000,
        "{}",
        "\x00",
    ],
)
def test_a_manifest_of_another_kind_is_a_fault_in_words(pack, tmp_path, text):
    packed = pack(("manifest.json", text.encode()))
    (tmp_path / "image.tar").write_bytes(gzip.decompress(packed.read_bytes()))
    assert read_archive(tmp_path / "image.tar").faults


def test_tarball_that_unpacks_above_the_limit_is_refused(pack, monkeypatch):
    monkeypatch.setattr("conformance.uploads.archives.LARGEST_BYTES", 3000)
    assert broken(pack(("a", bytes(2000)), ("b", bytes(2000)))) == "more than 3000 bytes"


@pytest.mark.parametrize("name", ["image.tar", "image.tar.xz"])
def test_damaged_archive_fails_the_check(tmp_path, name):
    (tmp_path / name).write_bytes((b"\xfd7zXZ\0" if name.endswith(".xz") else b"") + b"nothing")
    (fault,) = read_archive(tmp_path / name).faults
    assert fault.startswith("a damaged archive (")
