"""What may be uploaded: archives made here by formula, one fault at a time."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from refusals import refused_with
from uploads import image, model, pack, standin

from contract.card import load_card
from contract.errors import OncoduetError
from contract.upload import check_image, check_model, check_truth


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


def test_a_saved_image_passes(archive):
    check_image(image(archive))


def test_a_layer_that_occurs_twice_may_be_a_link(archive):
    check_image(image(archive, links={"layer-b/layer.tar": "../layer-a/layer.tar"}))


def cut(path: Path, kept: float) -> Path:
    content = image(path).read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept >= 0 else -1])
    return path


def failed_save(path: Path) -> Path:
    """What ``docker save MISSING | gzip`` leaves without pipefail: 20 bytes, valid gzip of nothing."""
    path.write_bytes(gzip.compress(b""))
    return path


def other_record(path: Path) -> Path:
    content = b'{"schema_version": 1}'
    sums = f"{hashlib.sha256(content).hexdigest()}  bundle.json\n".encode()
    return pack(path, {"bundle.json": content, "SHA256SUMS": sums})


ROOT = ["", "0", "0:0", "root", "root:1000", "00", "0000:7", ":1000", "0x0"]
MANIFESTS = [[{}], [{"Config": 3, "Layers": 4}], [{"Config": {}, "Layers": None}], [3], {"a": 1}, None, [[]]]
IMAGES = [
    *[
        (lambda path, user=user: image(path, User=user), {"expected": "whose user is not root", "found": f"'{user}'"})
        for user in ROOT
    ],
    *[(lambda path, user=user: image(path, User=user), {"expected": "an image"}) for user in (["0"], {}, 0)],
    (lambda path: image(path, architecture="arm64"), {"expected": "an image for linux/amd64", "found": "linux/arm64"}),
    *[
        (lambda path, start=start: image(path, Entrypoint=start), {"problem": "no entry point"})
        for start in (None, {}, "")
    ],
    (lambda path: image(path, manifest=[]), {"expected": "one image in manifest.json", "found": "0"}),
    (lambda path: image(path, manifest=[{}, {}]), {"expected": "one image in manifest.json", "found": "2"}),
    (lambda path: image(path, manifest={}), {"expected": "one image in manifest.json", "found": "dict"}),
    *[(lambda path, manifest=manifest: image(path, manifest=manifest), {"found": "."}) for manifest in MANIFESTS],
    (
        lambda path: image(path, links={"other": "layer-a/layer.tar"}),
        {"problem": "layer layer-b/layer.tar of the image is"},
    ),
    (
        lambda path: image(path, config_name="0" * 64 + ".json"),
        {"expected": r"the sha256 of 0{64}\.json in its name", "found": "[0-9a-f]"},
    ),
    (standin, {"problem": r"stand-in base \(label oncoduet.standin-base\).*--allow-standin"}),
    (lambda path: pack(path, {"other.txt": b"x"}), {"expected": r"manifest\.json", "found": r"other\.txt"}),
    (lambda path: pack(path, {"manifest.json": b"[,"}), {"problem": r"manifest\.json is not valid JSON: "}),
    *[
        (lambda path, kept=kept: cut(path, kept), {"problem": r"not a whole \.tar\.gz: "})
        for kept in (0.0, 0.3, 0.9, -1)
    ],
    (failed_save, {"problem": r"not a whole \.tar\.gz: "}),
]
NON_COMMERCIAL = ["CC-BY-NC-4.0", "CC0-1.0 AND CC-BY-NC-SA-4.0", "LicenseRef-noncommercial"]
MODELS = [
    *[
        (
            lambda path, name=name: model(path, licence=name),
            {"expected": "data for any use", "found": f"{name}; --accept-non-commercial"},
        )
        for name in NON_COMMERCIAL
    ],
    (
        lambda path: model(path, licence="unknown"),
        {"expected": "known licence", "found": "'unknown'; --accept-non-commercial"},
    ),
    (
        lambda path: model(path, bundle__json=b"{}"),
        {"where": r"bundle\.json", "expected": r"the sha256 in SHA256SUMS \([0-9a-f]{64}\)"},
    ),
    (
        lambda path: model(path, without="members/000.safetensors"),
        {"where": r"members/000\.safetensors", "found": "no such file"},
    ),
    (
        lambda path: model(path, extra__txt=b"x"),
        {"where": r"extra\.txt", "expected": r"the sha256 in SHA256SUMS \(none\)"},
    ),
    (lambda path: model(path, without="SHA256SUMS"), {"problem": "bundle has no SHA256SUMS"}),
    (
        lambda path: pack(path, {"card.toml": b"a", "./card.toml": b"b"}),
        {"where": r"archive\.tar\.gz", "problem": r"duplicate file 'card\.toml'$"},
    ),
    (other_record, {"where": r"archive\.tar\.gz: bundle\.json", "problem": r"\d+ faults"}),
    (lambda path: pack(path, {}, {"weights": "/etc/passwd"}), {"problem": "not plain files below one folder: "}),
    (lambda path: pack(path, {}, {"a/weights": "../../outside"}), {"problem": "not plain files below one folder: "}),
    (lambda path: path, {"where": r"archive\.tar\.gz", "problem": "archive not found$"}),
]
TRUTHS = [(lambda path: pack(path, {"./card.toml": b""}), {"problem": r"no label maps \(CASE\.nii\.gz or CASE\.mha\)"})]


@pytest.mark.parametrize(
    ("check", "make", "fields"),
    [(check_image, *row) for row in IMAGES]
    + [(check_model, *row) for row in MODELS]
    + [(check_truth, *row) for row in TRUTHS],
)
def test_what_may_not_be_uploaded_is_refused(archive, check, make, fields):
    with refused_with(**fields):
        check(make(archive))


def test_what_the_user_accepts_passes(archive):
    check_image(standin(archive), allow_standin=True)
    for licence in [*NON_COMMERCIAL, "unknown"]:
        check_model(model(archive, licence=licence), accept_non_commercial=True)
    check_truth(pack(archive, {"./a.nii.gz": b"x", "./card.toml": b""}))


@pytest.mark.parametrize("licence", ["CC0-1.0", "Apache-2.0", "LicenseRef-INCA", "CC-BY-4.0"])
def test_a_model_of_free_data_passes(archive, licence):
    check_model(model(archive, licence=licence))


@pytest.mark.parametrize("check", [check_image, check_model, check_truth])
def test_a_pipe_is_refused_and_not_waited_for(archive, check):
    os.mkfifo(archive)
    with refused_with(r"archive\.tar\.gz", expected="a regular file", found="a pipe"):
        check(archive)


def test_a_model_of_another_card_is_refused(archive):
    with pytest.raises(OncoduetError) as caught:
        check_model(model(archive), card=load_card("cspca-rsna2022"))
    assert caught.value.found == f"one of cspca-picai ({'0' * 12})"


def test_unneeded_small_files_take_no_memory(archive, monkeypatch):
    monkeypatch.setattr("contract.upload._MOST_JSON_BYTES", 3000)
    check_truth(pack(archive, {"a.mha": bytes(2000), "b.mha": bytes(2000)}))
    with refused_with(problem="more than 3000 bytes in small files"):
        check_image(pack(archive, {"a.json": bytes(2000), "b.json": bytes(2000)}))


def test_a_truth_whose_tar_was_cut_before_it_was_compressed_is_refused(archive):
    whole = gzip.decompress(pack(archive, {"a.mha": bytes(512), "b.mha": bytes(512)}).read_bytes())
    archive.write_bytes(gzip.compress(whole[:1024]))
    with refused_with(problem=r"not a whole \.tar\.gz: empty header"):
        check_truth(archive)
