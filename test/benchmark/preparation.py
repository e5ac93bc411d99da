"""``python -m training prepare``: one process against several, on the same archive.

Studies of the size of PI-CAI's (T2W of 20 × 384 × 384 voxels of 3 × 0.5 × 0.5 mm, ADC and HBV of 20 × 84 × 128 of
3 × 2 × 2 mm), by a formula with noise. Whole commands, with imports, each in turns with the other so that other work on
the machine slows both; ``ratio_wall`` is the figure, and ``identical`` says that all files but the log are the same.

    python test/benchmark/preparation.py --studies 40 --workers 2
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np

from contract.card import load_card
from contract.files.reading import below, sha256_file
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume

CARD = "cspca-picai"
AXES = (1, 0, 0, 0, 1, 0, 0, 0, 1)
GRIDS = {
    "t2w": Grid((384, 384, 20), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0), AXES),
    "adc": Grid((84, 128, 20), (2.0, 1.5, 3.0), (12.0, 0.0, 0.0), AXES),
    "hbv": Grid((84, 128, 20), (2.0, 1.5, 3.0), (12.0, 0.0, 0.0), AXES),
}
LEVELS = {"t2w": 300.0, "adc": 1200.0, "hbv": 100.0}


def main(options: argparse.Namespace) -> None:
    """Measure both and report."""
    studies, pairs = (4, 1) if options.quick else (options.studies, options.pairs)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_archive(root / "archive", studies)
        costs: dict[int, list[measure.Measured]] = {1: [], options.workers: []}
        found = set()
        for pair in range(pairs):
            for workers, measured in costs.items():
                output = root / f"prepared-{pair}-{workers}"
                measured.append(prepare(root / "archive", output, workers))
                found.add(content(output))
        ours, one = (measure.total(costs[workers]) for workers in (options.workers, 1))
    measure.report(
        "preparation",
        ours=ours,
        peer=one,
        peer_name="one process",
        identical=len(found) == 1,
        conditions={
            **measure.machine("torch", "nnunetv2", "SimpleITK"),
            "studies": studies,
            "workers": options.workers,
            "pairs": pairs,
        },
    )


def prepare(archive: Path, output: Path, workers: int) -> measure.Measured:
    """Run the command."""
    words = ["--card", CARD, "--archive", archive, "--output", output, "--folds", "2", "--workers", str(workers)]
    return measure.run([sys.executable, "-m", "training", "prepare", *words])


def content(folder: Path) -> frozenset[tuple[str, str]]:
    """Names and hashes of a dataset's files, but for the log with its times and the list of hashes with that."""
    files = {path.relative_to(folder).as_posix(): path for path in below(folder) if path.is_file()}
    return frozenset(
        (name, sha256_file(path)) for name, path in files.items() if name not in ("prepare.log", ".oncoduet")
    )


def write_archive(archive: Path, studies: int) -> None:
    """Studies with a lesion each, no two of them alike."""
    assert list(load_card(CARD).channel_names) == list(GRIDS)
    for number in range(studies):
        chance = np.random.default_rng(number)
        case_id = f"{1000 + number}_1"
        for name, grid in GRIDS.items():
            z, y, x = (each * step for each, step in zip(np.indices(grid.shape_zyx), grid.spacing_mm_zyx, strict=True))
            wave = 1 + 0.2 * np.sin(x / 9 + number) * np.cos(y / 11) + 0.05 * np.sin(z / 7)
            noise = chance.normal(scale=0.03, size=wave.shape)
            array = np.round(LEVELS[name] * (wave + noise)).clip(1).astype(np.float32)
            write_volume(archive / str(1000 + number) / f"{case_id}_{name}.mha", Volume(array, grid))
        grid = GRIDS["t2w"]
        z, y, x = np.indices(grid.shape_zyx)
        inside = ((z - 9) / 3) ** 2 + ((y - 180 - number % 50) / 14) ** 2 + ((x - 200) / (10 + number // 50)) ** 2 <= 1
        write_volume(archive / "labels" / f"{case_id}.nii.gz", Volume(inside.astype(np.uint8), grid))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1, help="how often both are measured in turns")
    sys.exit(measure.main(main, parser=parser))
