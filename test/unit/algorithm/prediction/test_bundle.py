import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithm.prediction.bundle import MemberNetworks, read_bundle
from contract.errors import OncoduetError

BundleMaker = Callable[..., Path]
Seal = Callable[[Path], None]
CPU = torch.device("cpu")


def change_json(path: Path, change: Callable[[dict], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_bundle_is_read_and_its_networks_predict(make_bundle: BundleMaker) -> None:
    bundle = read_bundle(make_bundle([("ce", 0, 1), ("focal", 0, 1)]))
    assert [member.name for member in bundle.record.members] == ["ce_fold0_restart1", "focal_fold0_restart1"]
    assert bundle.card.name == "cspca-picai"
    networks = MemberNetworks(bundle, bundle.record.members, CPU)
    first, second = (network(torch.ones(1, 3, 8, 16, 16)) for network in networks)
    assert first.shape == (1, 2, 8, 16, 16)
    assert not torch.equal(first, second)
    assert not any(network.training for network in networks)


def test_streamed_networks_have_the_same_weights_and_are_not_kept(make_bundle: BundleMaker) -> None:
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
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_byte_anywhere_is_noticed(make_bundle: BundleMaker, name: str, place: str) -> None:
    folder = make_bundle()
    content = bytearray((folder / name).read_bytes())
    position = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[place]
    content[position] ^= 0x20
    (folder / name).write_bytes(content)
    with pytest.raises(OncoduetError, match=r"model"):
        read_bundle(folder)


def test_every_byte_of_the_sums_matters(make_bundle: BundleMaker) -> None:
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


def test_the_file_of_a_flipped_byte_is_named(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    content = bytearray((folder / "plans.json").read_bytes())
    content[10] ^= 1
    (folder / "plans.json").write_bytes(content)
    with pytest.raises(OncoduetError, match=r"plans\.json: expected the SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        read_bundle(folder)


def test_no_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OncoduetError, match=r"expected an extracted model bundle, found no bundle\.json"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["card.toml", "plans.json", "members/000.safetensors"])
def test_a_missing_file_is_an_error(make_bundle: BundleMaker, name: str) -> None:
    folder = make_bundle()
    (folder / name).unlink()
    with pytest.raises(OncoduetError, match=rf"expected the file '{name}' that SHA256SUMS names, found none"):
        read_bundle(folder)


def test_missing_sums_are_an_error(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(OncoduetError, match="expected the file SHA256SUMS, found none"):
        read_bundle(folder)


def test_an_unlisted_file_is_an_error(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "members" / "extra.pkl").write_bytes(b"x")
    with pytest.raises(OncoduetError, match=r"expected only files that SHA256SUMS names, found 'members/extra\.pkl'"):
        read_bundle(folder)


def test_a_link_is_no_file_of_a_bundle(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "more").symlink_to(folder / "members", target_is_directory=True)
    with pytest.raises(OncoduetError, match="found 'more'"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\n", "expected text, found other bytes"),
        (b"0123  plans.json\n", "expected lines of a hash, two spaces and a name, found '0123  plans.json'"),
        (b"", "last line has no newline"),
    ],
)
def test_malformed_sums_are_an_error(make_bundle: BundleMaker, content: bytes, message: str) -> None:
    folder = make_bundle()
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(OncoduetError, match=message):
        read_bundle(folder)


def test_an_empty_bundle_is_an_error(make_bundle: BundleMaker) -> None:
    with pytest.raises(OncoduetError, match=r"bundle\.json: expected at least one member, found none"):
        read_bundle(make_bundle([]))


def test_a_member_that_stands_twice_is_an_error(make_bundle: BundleMaker) -> None:
    with pytest.raises(OncoduetError, match="expected each member once, found ce_fold0_restart1, ce_fold0_restart1"):
        read_bundle(make_bundle([("ce", 0, 1), ("ce", 0, 1)]))


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", ".", "batch.json", "p0_s0"])
def test_a_member_is_called_as_its_key_says_and_not_as_a_folder_elsewhere(
    make_bundle: BundleMaker, seal: Seal, name: str
) -> None:
    folder = make_bundle()
    change_json(folder / "bundle.json", lambda values: values["members"][0].update(name=name))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"members\.0: expected the name ce_fold0_restart1$"):
        read_bundle(folder)


@pytest.mark.parametrize("change", [{"configuration": "../ce"}, {"profile": "a/b"}, {"fold": -1}, {"restart": -1}])
def test_a_run_s_key_leads_nowhere(make_bundle: BundleMaker, seal: Seal, change: dict[str, Any]) -> None:
    folder = make_bundle()
    change_json(folder / "bundle.json", lambda values: values["members"][0]["key"].update(change))
    seal(folder)
    with pytest.raises(OncoduetError, match=rf"1 fault: members\.0\.key\.{next(iter(change))}: (String|Input) should"):
        read_bundle(folder)


def test_a_file_that_only_the_record_names_is_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()
    change_json(folder / "bundle.json", lambda values: values.update(plans_file="../plans.json"))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"expected the file '\.\./plans\.json', found none"):
        read_bundle(folder)


def test_an_unknown_key_in_the_record_is_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()
    change_json(folder / "bundle.json", lambda values: values.update(surprise=1))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"bundle\.json: 1 fault: surprise"):
        read_bundle(folder)


def test_another_card_than_the_records_is_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()
    card = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(card.replace("minimum_overlap = 0.1", "minimum_overlap = 0.2"))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"card\.toml: expected the card of bundle\.json"):
        read_bundle(folder)


def test_a_member_trained_with_another_card_is_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()
    change_json(folder / "bundle.json", lambda values: values["members"][0]["key"].update(card_sha256="0" * 64))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"card\.toml: expected the card of ce_fold0_restart1 \(0{64}\)"):
        read_bundle(folder)


def test_a_dataset_with_other_channels_than_the_card_is_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()
    change_json(folder / "dataset.json", lambda values: values["channel_names"].pop("2"))
    seal(folder)
    with pytest.raises(OncoduetError, match=r"dataset\.json: expected 3 channels and 2 labels .* found 2 and 2"):
        read_bundle(folder)


def test_weights_other_than_the_records_are_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle([("ce", 0, 1), ("focal", 0, 1)])
    (folder / "members/000.safetensors").write_bytes((folder / "members/001.safetensors").read_bytes())
    seal(folder)
    bundle = read_bundle(folder)
    with pytest.raises(OncoduetError, match=r"000\.safetensors: expected weights with the hash [0-9a-f]{64}, found"):
        MemberNetworks(bundle, bundle.record.members, CPU).resident()


def test_weights_of_another_network_than_the_plans_are_an_error(make_bundle: BundleMaker, seal: Seal) -> None:
    folder = make_bundle()

    def widen(values: dict) -> None:
        values["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 16]

    change_json(folder / "plans.json", widen)
    seal(folder)
    bundle = read_bundle(folder)
    with pytest.raises(OncoduetError, match=r"000\.safetensors: expected weights of the plans' network, found"):
        MemberNetworks(bundle, bundle.record.members, CPU).resident()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a link"),
        (lambda path: path.symlink_to("nowhere"), "a link"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
    ],
    ids=["pipe", "link to a device", "link to nothing", "socket"],
)
def test_what_has_no_end_or_lies_elsewhere_is_no_file_of_a_bundle(
    make_bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str
) -> None:
    folder = make_bundle()
    monkeypatch.chdir(folder / "members")
    make(Path("more"))  # the address of a socket is short
    with pytest.raises(OncoduetError, match=f"expected files and folders alone, found 'members/more', {kind}"):
        read_bundle(folder)


def test_a_bundle_s_folder_itself_may_be_a_link(make_bundle: BundleMaker, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_bundle())
    assert len(read_bundle(tmp_path / "link").record.members) == 1


def test_sums_that_are_no_file_are_an_error(make_bundle: BundleMaker) -> None:
    folder = make_bundle()
    (folder / "SHA256SUMS").unlink()
    (folder / "SHA256SUMS").mkdir()
    with pytest.raises(OncoduetError, match="expected the file SHA256SUMS, found none"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("plans.json", lambda plans: plans.clear(), r"plans\.json: \d+ faults: .*configurations: Field required"),
        ("plans.json", lambda plans: plans.update(configurations=3), r"plans\.json: .*configurations: Input should be"),
        ("dataset.json", lambda dataset: dataset.clear(), r"dataset\.json: .*channel_names: Field required"),
        ("dataset.json", lambda dataset: dataset.update(labels=[1]), r"dataset\.json: .*labels: Input should be"),
    ],
)
def test_a_bundle_with_right_sums_and_wrong_plans_is_refused(
    make_bundle: BundleMaker, seal: Seal, file: str, change: Callable[[dict], None], message: str
) -> None:
    folder = make_bundle()
    change_json(folder / file, change)
    seal(folder)
    with pytest.raises(OncoduetError, match=message):
        read_bundle(folder)


def test_weights_of_another_network_are_refused_before_the_plan_s_network_takes_memory(
    make_bundle: BundleMaker, seal: Seal
) -> None:
    folder = make_bundle()
    wide = [64, 2**20]  # 10 TB
    change_json(
        folder / "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            features_per_stage=wide
        ),
    )
    seal(folder)
    bundle = read_bundle(folder)
    with pytest.raises(OncoduetError, match=r"found that \d+ differ; .*: expected float32 \[64\], found float32 \[4\]"):
        MemberNetworks(bundle, bundle.record.members, CPU).resident()
