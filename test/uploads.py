"""Archives of the three kinds that are uploaded, made by formula: saved images and model bundles."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from contract.records import BundleRecord


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


def standin(path: Path) -> Path:
    return image(path, Labels={"oncoduet.standin-base": "true"})
