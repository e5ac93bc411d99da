"""Bundles of untrained networks, laid out as the trainer packs them."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from contract.card import CARDS, Card
from contract.files.atomic import write_json
from contract.files.checksums import SUMS
from contract.records import BundleRecord, Member, RunKey, Stage, StageRecord, write_record
from network.model.weights import save_weights, tensors_sha256

Json = dict[str, Any]


def seal(folder: Path) -> None:
    """Write SHA256SUMS over every other file, as ``sha256sum`` does."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != SUMS}
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in named.items()]
    (folder / SUMS).write_bytes(os.fsencode("".join(lines)))


def dataset_of(card: Card) -> Json:
    """nnU-Net's ``dataset.json`` for a card."""
    return {
        "channel_names": {str(index): channel.name for index, channel in enumerate(card.channels)},
        "labels": {"background": 0, **{each.name: index for index, each in enumerate(card.classes, start=1)}},
        "numTraining": 1,
        "file_ending": ".mha",
    }


def write_member(
    folder: Path,
    card: Card,
    weights: Mapping[str, torch.Tensor],
    number: int,
    *,
    configuration: str,
    fold: int = 0,
    restart: int = 1,
    profile: str = "demo",
    stage: Stage = "detection",
    **more: Any,
) -> Member:
    """Write a network's weights; ``more`` are further fields of the record."""
    file = f"{'' if stage == 'detection' else f'{stage}/'}members/{number:03d}.safetensors"
    save_weights(folder / file, weights)
    key = RunKey(
        card=card.name,
        card_sha256=card.sha256,
        profile=profile,
        configuration=configuration,
        fold=fold,
        restart=restart,
        seed=number,
        stage=stage,
    )
    sha256 = tensors_sha256(weights)
    return Member(name=key.name, file=file, weights_sha256=sha256, run_sha256=f"{number:064x}", key=key, **more)


def write_bundle(
    folder: Path,
    card: Card,
    plans: Json,
    dataset: Json,
    members: Sequence[Member],
    localisation: StageRecord | None = None,
) -> Path:
    """Write everything but the weights."""
    record = BundleRecord(
        card=card.name,
        card_sha256=card.sha256,
        data_licence="Apache-2.0",
        plans_file="plans.json",
        dataset_file="dataset.json",
        members=tuple(members),
        localisation=localisation,
    )
    write_record(folder / "bundle.json", record)
    (folder / "card.toml").write_text((CARDS / f"{card.name}.toml").read_text(encoding="utf-8"), encoding="utf-8")
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", dataset)
    seal(folder)
    return folder
