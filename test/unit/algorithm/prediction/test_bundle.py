"""Bundles are read whole or refused, whichever byte, file or record is wrong."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from refusals import refused_with

from algorithm.prediction.bundle import MemberNetworks, load_network, read_bundle
from contract.errors import OncoduetError
from network.model.channels_last_unet import ChannelsLastUnet

CPU = torch.device("cpu")


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def bundle_json(**changes):
    return lambda folder: change_json(folder / "bundle.json", lambda values: values.update(changes))


def first_member(**changes):
    return lambda folder: change_json(folder / "bundle.json", lambda values: values["members"][0].update(changes))


def first_key(**changes):
    return lambda folder: change_json(
        folder / "bundle.json", lambda values: values["members"][0]["key"].update(changes)
    )


def flip(folder, name, position, bit):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= bit
    (folder / name).write_bytes(content)


def test_a_bundle_is_read_and_its_networks_predict(make_bundle):
    bundle = read_bundle(make_bundle([("ce", 0, 1), ("focal", 0, 1)]))
    assert [member.name for member in bundle.record.members] == ["ce_fold0_restart1", "focal_fold0_restart1"]
    assert bundle.card.name == "cspca-picai"
    networks = MemberNetworks(bundle, bundle.record.members, CPU)
    first, second = (network(torch.ones(1, 3, 8, 16, 16)) for network in networks)
    assert first.shape == (1, 2, 8, 16, 16)
    assert not torch.equal(first, second)
    assert not any(network.training for network in networks)


@pytest.mark.parametrize(
    ("precision", "smallest", "kind"),
    [("fp32", 1, ChannelsLastUnet), ("bf16", 1, PlainConvUNet), ("fp32", 8 * 16 * 16 + 1, PlainConvUNet)],
)
def test_networks_are_taken_apart_for_large_patches_in_single_precision(
    make_bundle, monkeypatch, precision, smallest, kind
):
    monkeypatch.setattr("algorithm.prediction.bundle._SMALLEST_PATCH", smallest)
    bundle = read_bundle(make_bundle())
    network = load_network(bundle, bundle.record.members[0], CPU, precision=precision)
    assert type(network) is kind
    assert not network.training


def test_what_the_system_leaves_in_a_bundle_is_ignored(make_bundle):
    folder = make_bundle()
    (folder / "members" / "Thumbs.db").touch()
    (folder / ".DS_Store").touch()
    assert read_bundle(folder).sha256


def test_streamed_networks_have_the_same_weights_and_are_not_kept(make_bundle):
    bundle = read_bundle(make_bundle([("ce", 0, 1), ("focal", 0, 1)]))
    networks = MemberNetworks(bundle, bundle.record.members, CPU)
    kept = list(networks)
    assert networks.kept_bytes == 2 * networks.member_bytes > 0
    streamed = networks.streamed()
    assert len(streamed) == len(networks) == 2
    assert networks.kept_bytes == 0
    for index, network in enumerate(kept):
        for again in (streamed.load(index), streamed.load(index)):
            assert again is not network
            assert not again.training
            for name, tensor in again.state_dict().items():
                assert torch.equal(tensor, network.state_dict()[name])


@pytest.mark.parametrize(
    "name", ["bundle.json", "card.toml", "plans.json", "dataset.json", "members/000.safetensors", "SHA256SUMS"]
)
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_one_flipped_byte_anywhere_is_noticed(make_bundle, name, share):
    folder = make_bundle()
    flip(folder, name, int(share * ((folder / name).stat().st_size - 1)), 0x20)
    with refused_with("model"):
        read_bundle(folder)


def test_every_byte_of_the_sums_matters(make_bundle):
    folder = make_bundle()
    sums = folder / "SHA256SUMS"
    content = sums.read_bytes()
    for position in range(len(content)):
        for bit in (0x01, 0x20, 0x80):
            flipped = bytearray(content)
            flipped[position] ^= bit
            sums.write_bytes(flipped)
            with pytest.raises(OncoduetError):
                read_bundle(folder)
    sums.write_bytes(content)
    read_bundle(folder)


def test_the_file_of_a_flipped_byte_is_named(make_bundle):
    folder = make_bundle()
    flip(folder, "plans.json", 10, 1)
    with pytest.raises(OncoduetError) as caught:
        read_bundle(folder)
    assert caught.value.where == str(folder / "plans.json")
    assert caught.value.expected.startswith("the SHA-256 ")


@pytest.mark.parametrize(
    ("name", "found"),
    [("nowhere", "no folder"), ("empty", "no bundle.json"), ("model.tar.gz", "a file: extract it first")],
)
def test_no_bundle_is_an_error(tmp_path, name, found):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.tar.gz").touch()
    with pytest.raises(OncoduetError) as caught:
        read_bundle(tmp_path / name)
    assert (caught.value.expected, caught.value.found) == ("an extracted model bundle", found)


@pytest.mark.parametrize(
    ("spoil", "fields"),
    [
        *(
            (
                lambda folder, name=name: (folder / name).unlink(),
                {"problem": f"file '{name}' not found, which SHA256SUMS names"},
            )
            for name in ("card.toml", "plans.json", "members/000.safetensors")
        ),
        (lambda folder: (folder / "SHA256SUMS").unlink(), {"problem": "file SHA256SUMS not found"}),
        (
            lambda folder: ((folder / "SHA256SUMS").unlink(), (folder / "SHA256SUMS").mkdir()),
            {"problem": "file SHA256SUMS not found"},
        ),
        (
            lambda folder: (folder / "members" / "extra.pkl").write_bytes(b"x"),
            {"problem": "file 'members/extra.pkl' is not named by SHA256SUMS"},
        ),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe\n"), {"problem": "not valid UTF-8"}),
        (
            lambda folder: (folder / "SHA256SUMS").write_bytes(b"0123  plans.json\n"),
            {"expected": "a hash, two spaces and a name", "found": "'0123  plans.json'"},
        ),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b""), {"problem": "last line"}),
    ],
)
def test_a_missing_unlisted_or_malformed_file_is_an_error(make_bundle, spoil, fields):
    folder = make_bundle()
    spoil(folder)
    with refused_with(**fields):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("runs", "problem"), [([], "names no member"), ([("ce", 0, 1)] * 2, "duplicate member ce_fold0_restart1")]
)
def test_a_bundle_names_each_of_its_members_once(make_bundle, runs, problem):
    with pytest.raises(OncoduetError) as caught:
        read_bundle(make_bundle(runs))
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        # A member is called as its key says, and not as a folder elsewhere.
        *(
            (first_member(name=name), {"problem": r"members\.0: expected the name ce_fold0_restart1$"})
            for name in ("../../elsewhere", "/tmp/elsewhere", ".", "batch.json", "p0_s0")
        ),
        *(
            (first_key(**{key: value}), {"problem": rf"1 fault: members\.0\.key\.{key}: (String|Input) should"})
            for key, value in {"configuration": "../ce", "profile": "a/b", "fold": -1, "restart": -1}.items()
        ),
        (bundle_json(plans_file="../plans.json"), {"problem": r"file '\.\./plans\.json' not found"}),
        (bundle_json(surprise=1), {"where": r"bundle\.json", "problem": "1 fault: surprise"}),
        (
            first_key(card_sha256="0" * 64),
            {"where": r"card\.toml", "expected": r"the card of ce_fold0_restart1 \(0{64}\)"},
        ),
        (
            lambda folder: (folder / "card.toml").write_text(
                (folder / "card.toml").read_text().replace("minimum_overlap = 0.1", "minimum_overlap = 0.2")
            ),
            {"where": r"card\.toml", "expected": r"the card of bundle\.json"},
        ),
        (
            lambda folder: change_json(folder / "dataset.json", lambda values: values["channel_names"].pop("2")),
            {"where": r"dataset\.json", "expected": "3 channels and 2 labels .*", "found": "2 and 2"},
        ),
        *(
            (lambda folder, file=file, spoil=spoil: change_json(folder / file, spoil), fields)
            for file, spoil, fields in [
                (
                    "plans.json",
                    dict.clear,
                    {"where": r"plans\.json", "problem": r"\d+ faults: .*configurations: Field required"},
                ),
                (
                    "plans.json",
                    lambda plans: plans.update(configurations=3),
                    {"where": r"plans\.json", "problem": ".*configurations: Input"},
                ),
                ("dataset.json", dict.clear, {"where": r"dataset\.json", "problem": ".*channel_names: Field required"}),
                (
                    "dataset.json",
                    lambda dataset: dataset.update(labels=[1]),
                    {"where": r"dataset\.json", "problem": ".*labels: Input"},
                ),
            ]
        ),
    ],
)
def test_a_wrong_record_is_an_error_though_the_sums_are_right(make_bundle, seal, change, fields):
    folder = make_bundle()
    change(folder)
    seal(folder)
    with refused_with(**fields):
        read_bundle(folder)


def features_per_stage(*features):
    return lambda folder: change_json(
        folder / "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            features_per_stage=list(features)
        ),
    )


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (
            lambda folder: (folder / "members/000.safetensors").write_bytes(
                (folder / "members/001.safetensors").read_bytes()
            ),
            {"where": r"000\.safetensors", "expected": "weights with the hash [0-9a-f]{64}"},
        ),
        (
            features_per_stage(4, 16),
            {"where": r"000\.safetensors", "problem": r"\d+ tensors differ from those of the plans' network"},
        ),
        # 10 TB, refused before the plans' network takes memory
        (
            features_per_stage(64, 2**20),
            {"problem": r"\d+ tensors differ .*: expected float32 \[64\], found float32 \[4\]"},
        ),
    ],
)
def test_other_weights_than_record_or_plans_say_are_an_error(make_bundle, seal, change, fields):
    folder = make_bundle([("ce", 0, 1), ("focal", 0, 1)])
    change(folder)
    seal(folder)
    bundle = read_bundle(folder)
    with refused_with(**fields):
        MemberNetworks(bundle, bundle.record.members, CPU).resident()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a link"),
        (lambda path: path.symlink_to("nowhere"), "a link"),
        (lambda path: path.symlink_to(".", target_is_directory=True), "a link"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
    ],
    ids=["pipe", "link to a device", "link to nothing", "link to a folder", "socket"],
)
def test_a_link_pipe_or_socket_is_no_file_of_a_bundle(make_bundle, monkeypatch, make, kind):
    folder = make_bundle()
    monkeypatch.chdir(folder / "members")
    make(Path("more"))  # the address of a socket is short
    with pytest.raises(OncoduetError) as caught:
        read_bundle(folder)
    assert caught.value.found == f"'members/more', {kind}"


def test_a_bundle_s_folder_itself_may_be_a_link(make_bundle, tmp_path):
    (tmp_path / "link").symlink_to(make_bundle())
    assert len(read_bundle(tmp_path / "link").record.members) == 1
