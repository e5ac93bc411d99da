"""A small algorithm that keeps every rule, which each other file here breaks in one place.

Finds what is much brighter than the tissue on the high-b-value image. Knows csPCa's sockets, and needs numpy and
SimpleITK alone. ``python honest.py`` predicts one study, ``python honest.py serve`` as many as are asked for; the file
in ``/opt/ml/model`` gives the threshold. What ``DEFECT`` names is imported first, and replaces functions here.
"""

import http.server
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

INPUT, OUTPUT, MODEL = Path("/input"), Path("/output"), Path("/opt/ml/model")
REFERENCE, BRIGHT = "transverse-t2-prostate-mri", "transverse-hbv-prostate-mri"
SOCKETS = {REFERENCE, BRIGHT, "transverse-adc-prostate-mri"}


class RefusedError(Exception):
    """The input is wrong."""


def predict(threshold: float) -> None:
    """One study, from reading to writing."""
    reference, bright = read(REFERENCE), read(BRIGHT)
    array, likelihood = detect(bright, reference, threshold)
    write_map(array, reference)
    write_likelihood(likelihood)


def load() -> float:
    """The model: a threshold."""
    return json.loads((MODEL / "threshold.json").read_text())["threshold"]


def read(slug: str) -> sitk.Image:
    """The image of a socket, by the platform's list, or at its own path where there is none."""
    path = f"images/{slug}"
    if (INPUT / "inputs.json").is_file():
        entries = json.loads((INPUT / "inputs.json").read_text())
        sockets = [entry.get("socket") or entry["interface"] for entry in entries]
        paths = {socket["slug"]: socket["relative_path"] for socket in sockets}
        if not paths.keys() >= SOCKETS:
            raise RefusedError(f"expected the sockets {', '.join(sorted(SOCKETS))}, found {', '.join(sorted(paths))}")
        path = paths[slug]
    (file,) = (INPUT / path).glob("*.mha")
    return read_image(file)


def read_image(path: Path) -> sitk.Image:
    """An image that is whole; compressed ones bring a checksum of their own."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    header = path.read_bytes()[:4096]
    voxels = np.prod(reader.GetSize()) * (2 if b"MET_SHORT" in header else 4)
    if b"CompressedData = True" not in header and path.stat().st_size < voxels:
        raise RefusedError(f"{path}: expected {voxels} bytes of voxels, found {path.stat().st_size} in all")
    return reader.Execute()


def detect(bright: sitk.Image, reference: sitk.Image, threshold: float) -> tuple[np.ndarray, float]:
    """The detection map (z, y, x) on the reference's grid, and the likelihood."""
    values = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(bright, sitk.sitkFloat32), reference))
    array = np.where(values > threshold, np.float32(0.75), np.float32(0.0))
    return array, float(array.max())


def write_map(array: np.ndarray, reference: sitk.Image) -> None:
    """Write the map with the reference's geometry."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(reference)
    save(image, "images/cspca-detection-map/map.mha")


def save(image: sitk.Image, path: str) -> None:
    """Write an image below ``/output``."""
    (OUTPUT / path).parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(OUTPUT / path), useCompression=True)


def write_likelihood(likelihood: float) -> None:
    """Write the likelihood as JSON."""
    (OUTPUT / "cspca-case-level-likelihood.json").write_text(json.dumps(likelihood))


def once() -> None:
    """One study in a process of its own."""
    try:
        predict(load())
    except (RefusedError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


class Handler(http.server.BaseHTTPRequestHandler):
    """``GET /health`` and ``POST /invoke``."""

    threshold = 0.0
    success = 201

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        try:
            predict(self.threshold)
        except (RefusedError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            self.answer(500)
        else:
            self.answer(self.success)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        print(*arguments, flush=True)


def serve() -> None:
    """Studies in turn; a second that is asked for meanwhile waits."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Handler.threshold = load()
    http.server.HTTPServer(("0.0.0.0", 4743), Handler).serve_forever()


def main() -> None:
    """Run, as the command line says."""
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        once()
