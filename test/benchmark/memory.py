"""Peak memory of one large CT: a phantom brought to 512 × 512 × 600 voxels, through ``python -m algorithm``.

There is no peer: the figure stands beside the need that the algorithm estimates from the image's header. The model is a
bundle for CT, such as ``./demo.sh --card pdac-panorama`` leaves in ``build/demo/model``.

    python test/benchmark/memory.py --model build/demo/model --archive build/demo/external
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np

from algorithm.prediction.bundle import read_bundle
from contract.archive.studies import find_studies
from contract.images.grid import Grid
from contract.images.volume import Volume, read_volume, resample, write_volume

SPACING_MM_XYZ = (0.75, 0.75, 1.0)
NOISE_HU = 5.0


def main(options: argparse.Namespace) -> None:
    """Measure and print the table and the line of JSON."""
    card = read_bundle(options.model).card
    study = find_studies(options.archive, card, labels_required=False)[0]
    size_xyz = (256, 256, 300) if options.quick else (512, 512, 600)
    with tempfile.TemporaryDirectory() as folder:
        (channel,) = card.channels
        image = Path(folder) / "input" / channel.socket.relative_path / "large.mha"
        write_volume(image, large_ct(study.channels[channel.name], size_xyz))
        command = [sys.executable, "-m", "algorithm", "--input", f"{folder}/input", "--output", f"{folder}/output"]
        ours = measure.run([*command, "--model", str(options.model.resolve()), "--threads", "1", "--no-mirroring"])
    print(f"{ours.cpu_s:.1f} CPU s, {ours.wall_s:.1f} s, peak {ours.peak_mb:.0f} MB")
    conditions = {**measure.machine("torch"), "size_xyz": size_xyz}
    result = {"benchmark": "memory", "ratio_cpu": None, "ratio_wall": None, "identical": None}
    print(json.dumps(result | {"peak_mb": round(ours.peak_mb, 1), "conditions": conditions}))


def large_ct(path: Path, size_xyz: tuple[int, int, int]) -> Volume:
    """A phantom's CT with air around it, on a fine grid about the same middle, with noise anew; int16."""
    phantom = read_volume(path)
    direction = np.array(phantom.grid.direction).reshape(3, 3)
    corner = phantom.grid.corners_mm().mean(axis=0) - direction @ (
        (np.array(size_xyz) - 1) / 2 * np.array(SPACING_MM_XYZ)
    )
    x, y, z = corner.tolist()
    grid = Grid(size_xyz, SPACING_MM_XYZ, (x, y, z), phantom.grid.direction)
    fine = resample(phantom, grid, interpolation="linear", outside=-1000.0)
    noise = np.random.default_rng(0).normal(0, NOISE_HU, fine.array.shape).astype(np.float32)
    return Volume(np.round(fine.array + noise).astype(np.int16), grid)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="extracted bundle for CT")
    parser.add_argument("--archive", type=Path, required=True, help="archive of CT phantoms")
    sys.exit(measure.main(main, parser=parser))
