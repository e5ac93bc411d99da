"""The platform's interface: ``inputs.json``, the folders of images behind sockets, ``predictions.json``.

The platform has called the same thing ``interface`` and ``socket``; either key is read, and the paths are those of the
platform's entry, not guessed from the slug. Where ``inputs.json`` is absent the card's own paths count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.card import Card, Socket
from contract.errors import OncoduetError
from contract.files.case_folders import visible
from contract.files.reading import read_json
from contract.images.volume import is_image
from contract.names import duplicates
from contract.schema import is_relative
from contract.text import first_few


@dataclass(frozen=True)
class Entry:
    """One input or output as the platform lists it."""

    slug: str
    relative_path: str
    image_name: str | None  # the name that the uploader gave the image
    value: Any


@dataclass(frozen=True)
class Job:
    """One prediction: an algorithm's run on one study."""

    pk: str
    inputs: tuple[Entry, ...]
    outputs: tuple[Entry, ...]
    succeeded: bool = True

    def output(self, slug: str, where: Path) -> Path:
        """Path of one output below the evaluation's ``/input``."""
        for entry in self.outputs:
            if entry.slug == slug:
                return where / self.pk / "output" / entry.relative_path
        slugs = ", ".join(entry.slug for entry in self.outputs) or "none"
        raise OncoduetError(
            f"{where / 'predictions.json'}: job {self.pk}", expected=f"the output {slug!r}", found=slugs
        )


def find_channels(input_folder: Path, card: Card) -> dict[str, Path]:
    """Find the image of every channel in an algorithm's ``/input``.

    Raises ``OncoduetError``: ``inputs.json`` is malformed, lists a socket twice or lacks one of the card's; a channel
    is missing; a socket holds two images.
    """
    paths = {channel.socket.slug: channel.socket.relative_path for channel in card.channels}
    listing = input_folder / "inputs.json"
    if listing.is_file():
        entries = _entries(read_json(listing), str(listing))
        listed = {entry.slug: entry.relative_path for entry in entries}
        if len(listed) != len(entries):
            slugs = ", ".join(entry.slug for entry in entries)
            raise OncoduetError(listing, expected="each socket once", found=slugs)
        if not set(paths) <= set(listed):
            found = ", ".join(sorted(listed)) or "none"
            raise OncoduetError(listing, expected=f"the sockets {', '.join(sorted(paths))}", found=found)
        paths = {slug: listed[slug] for slug in paths}
    return {
        channel.name: single_image(input_folder / paths[channel.socket.slug], channel.socket)
        for channel in card.channels
    }


def single_image(folder: Path, socket: Socket) -> Path:
    """The one image in a socket's folder.

    Raises ``OncoduetError``: there is no folder, no image in it, or more than one.
    """
    there = visible(folder) if folder.is_dir() else []
    images = [path for path in there if is_image(path)]
    if len(images) == 1:
        return images[0]
    if images:
        names = f" ({first_few([path.name for path in images])})"
    elif there:
        names = f" that ends in .mha or .nii.gz; there is {first_few([path.name for path in there])}"
    else:
        names = ""
    raise OncoduetError(folder, f"{socket.slug!r} has {len(images)} images, expected 1{names}")


def read_jobs(predictions: Path) -> list[Job]:
    """Read ``predictions.json``; fields beyond pk, inputs, outputs and status are ignored.

    A job whose status is missing, null or "Succeeded" has succeeded; any other did not.

    Raises ``OncoduetError``: the file is malformed, lists no job, or lists one twice.
    """
    values = read_json(predictions)
    if not isinstance(values, list) or not values:
        raise OncoduetError(predictions, expected="a list of jobs", found=_kind(values))
    jobs = []
    for number, value in enumerate(values):
        where = f"{predictions}: job {number}"
        if not isinstance(value, dict) or not isinstance(value.get("pk"), str):
            raise OncoduetError(where, expected="an object with a text pk", found=_kind(value))
        jobs.append(
            Job(
                pk=_safe(value["pk"], where),
                inputs=tuple(_entries(value.get("inputs"), f"{where}, inputs")),
                outputs=tuple(_entries(value.get("outputs"), f"{where}, outputs")),
                succeeded=value.get("status") in (None, "Succeeded"),
            )
        )
    if doubled := duplicates(job.pk for job in jobs):
        raise OncoduetError(predictions, f"duplicate job {doubled[0]}")
    return jobs


def job_listing(case_id: str, card: Card) -> dict[str, Any]:
    """One entry of ``predictions.json`` for a study that was predicted here, with both key names."""

    def entry(socket: Socket, image: str | None) -> dict[str, Any]:
        described = {"slug": socket.slug, "relative_path": socket.relative_path}
        return {"socket": described, "interface": described, "value": None, "image": image and {"name": image}}

    inputs = [entry(channel.socket, f"{case_id}_{channel.name}.mha") for channel in card.channels]
    outputs = [entry(card.detection_map, f"{case_id}.mha"), entry(card.likelihood, None)]
    return {"pk": case_id, "status": "Succeeded", "inputs": inputs, "outputs": outputs}


def _entries(values: Any, where: str) -> Sequence[Entry]:
    if not isinstance(values, list):
        raise OncoduetError(where, expected="a list", found=_kind(values))
    return [_entry(value, where) for value in values]


def _entry(value: Any, where: str) -> Entry:
    socket = (value.get("socket") or value.get("interface")) if isinstance(value, dict) else None
    if not isinstance(socket, dict) or not all(isinstance(socket.get(key), str) for key in ("slug", "relative_path")):
        raise OncoduetError(where, expected="a socket (or interface) with slug and relative_path", found=_kind(value))
    image = value.get("image")
    name = image.get("name") if isinstance(image, Mapping) else None
    if name is not None and not isinstance(name, str):
        raise OncoduetError(where, expected="a text as the image's name", found=_kind(name))
    return Entry(socket["slug"], _safe(socket["relative_path"], where), name, value.get("value"))


def _safe(relative: str, where: str) -> str:
    if not is_relative(relative):
        raise OncoduetError(where, expected="a relative path", found=f"{relative!r}")
    return relative


def _kind(value: Any) -> str:
    return "an empty list" if value == [] else f"{type(value).__name__} {str(value)[:60]!r}"
