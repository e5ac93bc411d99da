"""A model bundle: finished runs packed for inference, used only after every byte of it was checked.

``SHA256SUMS`` names every other file, so one flipped byte anywhere (in the sums too) is noticed; the card's and the
weights' own hashes then have to agree with ``bundle.json``. Weights are safetensors; a pickle is never loaded.
"""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.card import Card, load_card
from contract.errors import OncoduetError
from contract.files.checksums import SUMS, differing, parse_sums
from contract.files.reading import below, kind_of, read_text, sha256_file
from contract.names import duplicates
from contract.records import BundleRecord, Member, StageRecord, read_record
from network.machine.device import Precision

if TYPE_CHECKING:
    import torch

    from network.inference.sliding_window import Streamed


@dataclass(frozen=True)
class Bundle:
    """A bundle without the weights."""

    folder: Path
    record: BundleRecord
    card: Card
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    sha256: str
    """Hash of ``SHA256SUMS``, and so of the whole bundle."""
    localisation: "Bundle | None" = None
    """Stage 1 of a card that first locates an organ: its card, networks and plans, seen as a bundle of their own."""


def read_bundle(folder: Path) -> Bundle:
    """Read an extracted bundle and verify all of it.

    Raises ``OncoduetError``: there is no bundle; a file is missing, unlisted or changed, the bundle has no member, its
    parts disagree, or the networks of stage 1 are missing.
    """
    if not (folder / "bundle.json").is_file():
        found = (
            "no folder" if not folder.exists() else "no bundle.json" if folder.is_dir() else "a file: extract it first"
        )
        raise OncoduetError(folder, expected="an extracted model bundle", found=found)
    listed = _verify_sums(folder)
    record = read_record(folder / "bundle.json", BundleRecord)
    if not record.members:
        raise OncoduetError(folder / "bundle.json", "names no member")
    stages: list[BundleRecord | StageRecord] = [record, *([record.localisation] if record.localisation else [])]
    members = [member for stage in stages for member in stage.members]
    files = [file for stage in stages for file in (stage.plans_file, stage.dataset_file)]
    files += [
        file
        for member in members
        for file in (member.file, member.anchors_file, member.box_rule_file, member.training_studies_file)
        if file
    ]
    for file in ("card.toml", *files):
        if file not in listed:
            raise OncoduetError(folder, f"file {file!r} not found")
    if twice := duplicates(member.name for member in members):
        raise OncoduetError(folder / "bundle.json", f"duplicate member {', '.join(twice)}")
    card = load_card(folder / "card.toml")
    for what, found in [("bundle.json", record.card_sha256), *((each.name, each.key.card_sha256) for each in members)]:
        if found != card.sha256:
            raise OncoduetError(folder / "card.toml", expected=f"the card of {what} ({found})", found=card.sha256)
    if (card.localisation is None) != (record.localisation is None):
        expected, found = ("none" if each is None else "some" for each in (card.localisation, record.localisation))
        raise OncoduetError(folder / "bundle.json", expected=f"{expected} in localisation", found=found)
    whole = _stage(folder, record, record, card)
    if record.localisation is None:
        return whole
    return replace(whole, localisation=_stage(folder, record, record.localisation, card.localising()))


def _stage(folder: Path, record: BundleRecord, stage: BundleRecord | StageRecord, card: Card) -> Bundle:
    """The part of a bundle that belongs to one stage."""
    from network.model.plans import read_plans  # noqa: PLC0415

    plans, dataset = read_plans(folder / stage.plans_file, folder / stage.dataset_file, card)
    files = stage.model_dump(include={"plans_file", "dataset_file"})
    of_stage = record.model_copy(update={**files, "members": stage.members, "localisation": None})
    return Bundle(folder, of_stage, card, plans, dataset, sha256_file(folder / SUMS))


_SMALLEST_PATCH = 2**16
"""Voxels of a patch from which it pays to take a network apart; below, calls cost more than arithmetic."""
_APART = 1.8
"""Most bytes per byte of the file for a network that is taken apart (:mod:`network.model.channels_last_unet`)."""


class MemberNetworks:
    """The members' networks, loaded on first use; kept, or loaded again for each turn where memory is short."""

    def __init__(
        self, bundle: Bundle, members: Sequence[Member], device: "torch.device", precision: Precision = "fp32"
    ) -> None:
        self._bundle = bundle
        self._members = tuple(members)
        self._device = device
        self._precision: Precision = precision
        self._kept: list[torch.nn.Module] = []
        self._verified: set[str] = set()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> "Iterator[torch.nn.Module]":
        return iter(self.resident())

    def __getitem__(self, index: int) -> "torch.nn.Module":
        return self.resident()[index]

    @property
    def member_bytes(self) -> int:
        """Most that a member's weights take in memory."""
        largest = max(((self._bundle.folder / member.file).stat().st_size for member in self._members), default=0)
        return math.ceil(largest * (_APART if (self._device.type, self._precision) == ("cpu", "fp32") else 1))

    @property
    def kept_bytes(self) -> int:
        """Size of the weights that are kept."""
        return len(self._kept) * self.member_bytes

    def resident(self) -> "list[torch.nn.Module]":
        """All networks, which stay loaded. Raises ``OncoduetError`` as :func:`load_network`."""
        if not self._kept:
            self._kept = [self._load(index) for index in range(len(self._members))]
        return self._kept

    def streamed(self) -> "Streamed":
        """Networks that are loaded for their turn and dropped after it; what was kept is dropped too."""
        from network.inference.sliding_window import Streamed  # noqa: PLC0415

        self._kept = []
        return Streamed(len(self._members), self._load)

    def _load(self, index: int) -> "torch.nn.Module":
        member = self._members[index]
        network = load_network(
            self._bundle,
            member,
            self._device,
            verify=member.name not in self._verified,
            precision=self._precision,
        )
        self._verified.add(member.name)
        return network


def load_network(
    bundle: Bundle, member: Member, device: "torch.device", *, verify: bool = True, precision: Precision = "fp32"
) -> "torch.nn.Module":
    """Build a member's network and load its weights, ready to predict.

    Raises ``OncoduetError``: the weights are not those that the bundle names, or do not fit the plans' network.

    Parameters
    ----------
    verify
        Whether to compare the weights' hash with the bundle's.
    precision
        What it is going to compute in; :mod:`network.model.channels_last_unet` computes in float32 alone.
    """
    import torch  # noqa: PLC0415

    from network.model.architecture import build_network, normalise_by_groups  # noqa: PLC0415
    from network.model.channels_last_unet import quick_on_cpu  # noqa: PLC0415
    from network.model.plans import full_resolution  # noqa: PLC0415
    from network.model.weights import fill, load_weights, tensors_sha256  # noqa: PLC0415

    path = bundle.folder / member.file
    weights = load_weights(path)
    if verify and (found := tensors_sha256(weights)) != member.weights_sha256:
        raise OncoduetError(path, expected=f"weights with the hash {member.weights_sha256}", found=found)
    with torch.device("meta"):  # without memory, until the weights are known to be this network's
        if member.anchors_file is None:
            network = build_network(bundle.plans, bundle.dataset, deep_supervision=False)
        else:
            from network.detection.anchors import AnchorPlan  # noqa: PLC0415
            from network.detection.retina_unet import build_retina_unet  # noqa: PLC0415

            anchors = read_record(bundle.folder / member.anchors_file, AnchorPlan)
            network = build_retina_unet(bundle.plans, bundle.dataset, anchors)
    fill(network, weights, path)
    network.requires_grad_(False).eval()
    if device.type != "cpu":
        return network.to(device)
    large = math.prod(full_resolution(bundle.plans).patch_size) >= _SMALLEST_PATCH
    return normalise_by_groups(quick_on_cpu(network) if precision == "fp32" and large else network)


def _verify_sums(folder: Path) -> set[str]:
    """Compare every file with ``SHA256SUMS``; return their names."""
    sums = folder / SUMS
    present = _files_below(folder) - {SUMS}
    if not sums.is_file():
        raise OncoduetError(folder, f"file {SUMS} not found")
    try:
        text = read_text(sums)
    except UnicodeDecodeError:
        raise OncoduetError(sums, "not valid UTF-8") from None
    except (OSError, ValueError) as error:
        raise OncoduetError(sums, expected="a hash for each file", found=error) from None
    expected = parse_sums(text, sums)
    for name, stated, found in differing(expected, {name: sha256_file(folder / name) for name in present}):
        if found is None:
            raise OncoduetError(folder, f"file {name!r} not found, which {SUMS} names")
        if stated is None:
            raise OncoduetError(folder, f"file {name!r} is not named by {SUMS}")
        raise OncoduetError(folder / name, expected=f"the SHA-256 {stated}", found=found)
    return present


def _files_below(folder: Path) -> set[str]:
    """Names of all files; links, pipes and the like are refused."""
    files = set()
    for path in below(folder):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            continue
        name = path.relative_to(folder).as_posix()
        if not stat.S_ISREG(found.st_mode):
            raise OncoduetError(folder, expected="files and folders only", found=f"{name!r}, {kind_of(found)}")
        files.add(name)
    return files
