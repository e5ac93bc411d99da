"""Files to upload: a saved image read to its last byte, and the tarballs of a model and of a truth.

Sources: the platform's importer takes one image per archive; model and truth are unpacked with Python's tar filter
``data``, which refuses links out of the folder.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

from conformance.engine.container_engine import ContainerEngine, Files, Kept
from conformance.results.verdicts import Broken
from contract.errors import OncoduetError
from contract.files.checksums import SUMS, differing, parse_sums
from contract.files.reading import below, open_regular
from contract.files.tarballs import members
from contract.text import one_line
from contract.upload import check_image

LARGEST_BYTES = 10 * 10**9
"""The platform's budget for a compressed image."""

_MOST_SMALL_FILES, _MOST_NAMED = 2000, 100
"""How many files of at most 1 MiB, and how many names of unwanted files, are kept of an archive."""
_MOST_IN_A_LAYER = 10_000_000

_PACKED: Mapping[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""Decompressor by the archive's first bytes."""
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)

_SECRET = re.compile(
    r"(^|/)(\.git/|\.git$|id_(rsa|dsa|ecdsa|ed25519)$|\.netrc$|\.env$|\.aws/credentials$|\.pypirc$|\.docker/config\.json$)"
)
_DATA = re.compile(r"\.(mha|mhd|nii|nii\.gz|dcm|nrrd)$")
_PACKAGES = re.compile(r"(^|/)(site|dist)-packages/")


@dataclass
class Saved:
    """Contents of a saved image, as far as the checks need them."""

    layers: int = 0
    size_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)
    """Files in layers that look like secrets, histories or patients' data."""


class Reading:
    """An image that is read in the background; errors are raised by :meth:`result`."""

    def __init__(self, read: Callable[[], Saved]) -> None:
        self._found: Future[Saved] = Future()
        # A daemon: after Ctrl-C the rest of an image is not waited for, and the engine's client ends with its pipe.
        Thread(target=self._read, args=[read], daemon=True).start()

    def result(self) -> Saved:
        """Wait for the end; raises any error of the reading."""
        return self._found.result()

    def _read(self, read: Callable[[], Saved]) -> None:
        try:
            self._found.set_result(read())
        except Exception as error:
            self._found.set_exception(error)


def read_saved(engine: ContainerEngine, image: str) -> Saved:
    """Save an image, as for an upload, and read it to its end without keeping it."""
    process = engine.start("save", image)
    assert process.stdout is not None and process.stderr is not None
    Kept(process.stderr)
    try:
        return _read_members(process.stdout)
    except tarfile.TarError as error:
        raise Broken(f"{engine.command} save wrote no archive ({one_line(str(error))})") from None
    finally:
        process.stdout.close()
        process.wait()


def read_archive(archive: Path) -> Saved:
    """Read an existing archive to its end, with gzip's checksum, by the rules of ``export.sh``."""
    if archive.name.endswith(".tar.gz"):
        try:
            check_image(archive, allow_standin=True)
        except OncoduetError as error:
            return Saved(faults=[str(error).removeprefix(f"{archive}: ")])
    with open_regular(archive) as stream:
        begins = stream.read(6)
    unpack = next((unpack for magic, unpack in _PACKED.items() if begins.startswith(magic)), open)
    try:
        with unpack(archive, "rb") as stream:
            saved = _read_members(stream)
    except _DAMAGED as error:
        return Saved(faults=[f"a damaged archive ({one_line(str(error))})"])
    saved.size_bytes = archive.stat().st_size
    return saved


def tarball_files(tarball: Path) -> Files:
    """The files of a model's or truth's tarball, as the platform unpacks them.

    Raises
    ------
    Broken
        The platform would refuse it; or ``SHA256SUMS`` in it names other contents.
    """
    files: dict[str, bytes] = {}
    size_bytes = 0
    try:
        with open_regular(tarball) as packed, gzip.open(packed) as stream:
            for member, content in members(stream):
                tarfile.data_filter(member, "/nowhere")
                size_bytes += member.size
                if size_bytes > LARGEST_BYTES:
                    raise Broken(f"more than {LARGEST_BYTES} bytes")
                if member.isfile():
                    files[member.name.removeprefix("./")] = content.read()
    except tarfile.FilterError as error:
        raise Broken(f"refused by the filter data: {error}") from None
    except _DAMAGED as error:
        raise Broken(f"a damaged tarball ({one_line(str(error))})") from None
    if not files:
        raise Broken("no file")
    require_sums(files)
    return files


def require_sums(files: Files) -> None:
    """Raise ``Broken`` if the files include a ``SHA256SUMS`` that does not match them."""
    if SUMS not in files:
        return
    try:
        stated = parse_sums(files[SUMS].decode(errors="replace"), SUMS)
    except OncoduetError as error:
        raise Broken(str(error)) from None
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != SUMS}
    for name, _, _ in differing(stated, found):
        raise Broken(f"{name} is not the file that {SUMS} names")


def folder_files(folder: Path) -> Files:
    """The files of a folder that was unpacked already."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(below(folder)) if path.is_file()}


def _read_members(stream: IO[bytes]) -> Saved:
    saved = Saved()
    small: dict[str, bytes] = {}
    names: set[str] = set()
    for member, content in members(stream):
        names.add(member.name)
        saved.size_bytes += member.size
        if not member.isfile():
            continue
        if member.size <= 1 << 20:
            text = content.read()
            if len(small) < _MOST_SMALL_FILES:
                small[member.name] = text
            layer: IO[bytes] = io.BytesIO(text)
        else:
            layer = content
        if member.name.endswith(".tar") or member.size > 1 << 20 or "/blobs/" in f"/{member.name}":
            _look_into(layer, saved)
    manifest = _json(small, "manifest.json")
    if not isinstance(manifest, list) or len(manifest) != 1:
        saved.faults.append(f"{len(manifest) if isinstance(manifest, list) else 'no'} images in manifest.json")
        return saved
    entry = manifest[0] if isinstance(manifest[0], dict) else {}
    config, layers = str(entry.get("Config", "")), entry.get("Layers")
    if config not in small:
        saved.faults.append(f"no {config} that manifest.json names")
    elif (stated := re.search(r"[0-9a-f]{64}", config)) and stated[0] != hashlib.sha256(small[config]).hexdigest():
        saved.faults.append(f"{config} has another sha256")
    layers = [str(layer) for layer in layers] if isinstance(layers, list) else []
    saved.layers = len(layers)
    saved.faults += [f"no layer {layer}" for layer in layers if layer not in names]
    return saved


def _look_into(layer: IO[bytes], saved: Saved) -> None:
    try:
        for member, _ in members(layer, most=_MOST_IN_A_LAYER):
            name = member.name
            unwanted = _SECRET.search(name) or (_DATA.search(name) and not _PACKAGES.search(name))
            if unwanted and len(saved.unwanted) < _MOST_NAMED:
                saved.unwanted.append(name)
    except tarfile.TarError:
        return  # a small file of another kind


def _json(small: dict[str, bytes], name: str) -> Any:
    try:
        return json.loads(small.get(name, b""))
    except (ValueError, RecursionError):
        return None
