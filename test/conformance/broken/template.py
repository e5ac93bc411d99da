"""A participant's algorithm, as the platform's own template begins one: a handler for exactly the declared sockets.

None of our code, no model, no word about what it cannot take. ``KEY`` says what the template of its day calls a socket.
"""

import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

INPUT, OUTPUT = Path("/input"), Path("/output")


def handle_bpmri() -> None:
    """Find what is bright on the high-b-value image."""
    bright, reference = read("transverse-hbv-prostate-mri"), read("transverse-t2-prostate-mri")
    values = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(bright, sitk.sitkFloat32), reference))
    found = sitk.GetImageFromArray(np.where(values > 300, np.float32(0.75), np.float32(0)))
    found.CopyInformation(reference)
    (OUTPUT / "images" / "cspca-detection-map").mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(found, str(OUTPUT / "images" / "cspca-detection-map" / "output.mha"), useCompression=True)
    likelihood = float(sitk.GetArrayViewFromImage(found).max())
    (OUTPUT / "cspca-case-level-likelihood.json").write_text(json.dumps(likelihood))


def read(slug: str) -> sitk.Image:
    """The one image of a socket."""
    (file,) = (INPUT / "images" / slug).glob("*.mha")
    return sitk.ReadImage(str(file))


HANDLERS = {("transverse-adc-prostate-mri", "transverse-hbv-prostate-mri", "transverse-t2-prostate-mri"): handle_bpmri}


if __name__ == "__main__":
    inputs = json.loads((INPUT / "inputs.json").read_text())
    HANDLERS[tuple(sorted(value[os.environ["KEY"]]["slug"] for value in inputs))]()
