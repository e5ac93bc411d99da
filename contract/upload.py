"""Checks of what is uploaded to the platform: an image, a model and a truth, each a ``.tar.gz``.

``export.sh`` has these archives checked before it gives them their names; ``training bundle`` checks its model. An
archive is read to its last byte, so that a truncated one is never taken for whole.

Sources: the platform's own checks of an upload (comic/grand-challenge.org): one image for amd64 with a user that is not
root; model and truth are unpacked with Python's tar filter ``data``.
"""

import gzip
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.archive.studies import UNKNOWN_LICENCE
from contract.card import Card
from contract.errors import OncoduetError
from contract.files.checksums import SUMS, differing, parse_sums
from contract.files.reading import open_regular
from contract.files.tarballs import members
from contract.records import BundleRecord
from contract.schema import parse
from contract.text import short_hash

STANDIN_LABEL = "oncoduet.standin-base"
"""Label of images that were built on a local stand-in for the public base; they are for tests only."""

RECORD = "bundle.json"
"""The file that marks an archive as a model."""

_NAME = r"(0|[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?)"
_USER = re.compile(rf"{_NAME}(?::{_NAME})?")

_LARGEST_JSON_BYTES = 1 << 20
_MOST_JSON_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Contents:
    """Contents of an archive."""

    names: list[str]
    """All members, links included: older engines save a repeated layer as a link to itself."""
    sha256: dict[str, str]
    """Hash of each regular file, by name."""
    json_bytes: dict[str, bytes]
    """Contents of the requested files of at most 1 MiB."""


def check_image(archive: Path, *, allow_standin: bool = False) -> None:
    """Check what ``docker save IMAGE | gzip`` wrote.

    Raises ``OncoduetError``: the archive is damaged or truncated, or no saved image; it holds several images; the image
    is for another platform than linux/amd64, runs as root, starts nothing, or was built on a stand-in base.

    Parameters
    ----------
    archive
        The image's ``.tar.gz``.
    allow_standin
        Accept an image that was built on a stand-in base, to try the export.
    """
    contents = _read(archive, keep=None)
    manifest = _json(archive, contents, "manifest.json")
    if not isinstance(manifest, list) or len(manifest) != 1 or not isinstance(manifest[0], dict):
        found = len(manifest) if isinstance(manifest, list) else type(manifest).__name__
        raise OncoduetError(archive, expected="one image in manifest.json", found=found)
    name = str(manifest[0].get("Config"))
    image = _object(_json(archive, contents, name))
    stated = re.search(r"[0-9a-f]{64}", name)
    if stated and stated[0] != contents.sha256[name]:
        raise OncoduetError(archive, expected=f"the sha256 of {name} in its name", found=contents.sha256[name])
    layers = manifest[0].get("Layers")
    missing = [layer for layer in layers if layer not in contents.names] if isinstance(layers, list) else ["layers"]
    if missing:
        raise OncoduetError(archive, f"layer {missing[0]} of the image is missing")
    platform = f"{image.get('os')}/{image.get('architecture')}"
    if platform != "linux/amd64":
        raise OncoduetError(archive, expected="an image for linux/amd64", found=platform)
    settings = _object(image.get("config"))
    user = str(settings.get("User") or "")
    if not user_and_group(user)[0]:
        raise OncoduetError(archive, expected="an image whose user is not root", found=f"{user!r}")
    if not (settings.get("Entrypoint") or settings.get("Cmd")):
        raise OncoduetError(archive, "image has no entry point")
    labels = _object(settings.get("Labels"))
    if labels.get(STANDIN_LABEL) == "true" and not allow_standin:
        raise OncoduetError(
            archive,
            f"image was built on a stand-in base (label {STANDIN_LABEL}) and must not be published; "
            "--allow-standin is for tests of the export",
        )


def user_and_group(user: str) -> tuple[str, str]:
    """The user and the group that an image's settings name, each a number or a name; empty where none is given.

    The user is empty, too, where it is root, or written as no engine's documents write it (``00`` and ``+0`` are root).
    """
    match = _USER.fullmatch(user)
    if match is None or match[1] in ("0", "root"):
        return "", ""
    return match[1], match[2] or ""


def check_model(archive: Path, *, accept_non_commercial: bool = False, card: Card | None = None) -> None:
    """Check a model bundle, as ``training bundle`` writes it.

    Raises ``OncoduetError``: the archive is damaged, truncated or could not be unpacked safely; a file is there twice,
    or not the one that SHA256SUMS names; there is no valid bundle.json; it was trained by another card; the licence of
    its data is non-commercial or unknown.

    Parameters
    ----------
    archive
        The bundle's ``.tar.gz``.
    accept_non_commercial
        Accept a model whose data do not allow commercial use, or have an unknown licence.
    card
        Card that the model must have been trained with; None: any.
    """
    contents = _read(archive, keep=(SUMS, RECORD))
    _require_sums(archive, contents)
    record = parse(_json(archive, contents, RECORD), BundleRecord, f"{archive}: {RECORD}")
    if card is not None and record.card_sha256 != card.sha256:
        raise OncoduetError(
            archive,
            expected=f"a model of the card {card.name} ({short_hash(card.sha256)})",
            found=f"one of {record.card} ({short_hash(record.card_sha256)})",
        )
    if accept_non_commercial:
        return
    if record.data_licence == UNKNOWN_LICENCE:
        raise OncoduetError(
            archive,
            expected="a model made from data of known licence",
            found=f"{UNKNOWN_LICENCE!r}; --accept-non-commercial exports it all the same",
        )
    if re.search(r"\bNC\b|non-?commercial", record.data_licence, re.IGNORECASE):
        raise OncoduetError(
            archive,
            expected="a model made from data for any use",
            found=f"{record.data_licence}; --accept-non-commercial exports it all the same",
        )


def check_truth(archive: Path) -> None:
    """Check an archive of a truth folder.

    Raises ``OncoduetError``: the archive is damaged, truncated or could not be unpacked safely, or holds no label map.
    """
    contents = _read(archive, keep=())
    if not any(name.endswith((".nii.gz", ".mha")) for name in contents.sha256):
        raise OncoduetError(archive, "no label maps (CASE.nii.gz or CASE.mha)")


def _read(archive: Path, *, keep: Collection[str] | None) -> Contents:
    """Read an archive to its last byte; ``keep`` names the files whose content is wanted, None: any may be."""
    contents = Contents([], {}, {})
    kept_bytes = 0
    with _whole_stream(archive) as stream:
        for member, content in members(stream):
            try:
                tarfile.data_filter(member, "/nowhere")
            except tarfile.FilterError as error:
                raise OncoduetError(archive, f"not plain files below one folder: {error}") from None
            name = member.name.removeprefix("./")
            contents.names.append(name)
            if not member.isfile():
                continue
            if keep is not None and name in contents.sha256:
                raise OncoduetError(archive, f"duplicate file {name!r}")
            if (keep is None or name in keep) and member.size <= _LARGEST_JSON_BYTES:
                kept_bytes += member.size
                if kept_bytes > _MOST_JSON_BYTES:
                    raise OncoduetError(archive, f"more than {_MOST_JSON_BYTES} bytes in small files")
                contents.json_bytes[name] = content.read()
                contents.sha256[name] = hashlib.sha256(contents.json_bytes[name]).hexdigest()
                continue
            digest = hashlib.sha256()
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
            contents.sha256[name] = digest.hexdigest()
    return contents


@contextmanager
def _whole_stream(archive: Path) -> Iterator[gzip.GzipFile]:
    """Open for one pass; at the end the rest of the stream is read too, where gzip keeps its checksum."""
    try:
        with open_regular(archive) as packed, gzip.open(packed) as stream:
            yield stream
            while stream.read(_CHUNK_BYTES):
                pass
    except FileNotFoundError:
        raise OncoduetError(archive, "archive not found") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise OncoduetError(archive, f"not a whole .tar.gz: {error}") from None


def _json(archive: Path, contents: Contents, name: str) -> Any:
    if name not in contents.json_bytes:
        raise OncoduetError(archive, expected=name, found=", ".join(sorted(contents.sha256)[:5]) or "nothing")
    try:
        return json.loads(contents.json_bytes[name])
    except (ValueError, RecursionError) as error:
        raise OncoduetError(archive, f"{name} is not valid JSON: {error}") from None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _require_sums(archive: Path, contents: Contents) -> None:
    if SUMS not in contents.json_bytes:
        raise OncoduetError(archive, f"bundle has no {SUMS}")
    stated = parse_sums(contents.json_bytes[SUMS].decode(errors="replace"), f"{archive}: {SUMS}")
    found = {file: digest for file, digest in contents.sha256.items() if file != SUMS}
    for file, expected, sha256 in differing(stated, found):
        raise OncoduetError(
            f"{archive}: {file}",
            expected=f"the sha256 in {SUMS} ({expected or 'none'})",
            found=sha256 or "no such file",
        )
