"""The report of a campaign of five configurations with ten runs each, on simulated predictions.

    python test/benchmark/campaign_report.py --output build/campaign-report

Nothing is trained. Studies with known truth come from ``python -m phantom``; every run's detection maps are made from
the label maps by a rule, then scored and compared by the very commands of a real campaign, with an analysis file that
declares comparisons, margins and subgroups, and with pictures of the worst misses. So the numbers say nothing about
losses; the report is that of a campaign of this size.

How plain a lesion is follows from its size and from chance: shared by all, of a configuration, of a run. What is plain
enough has a candidate: the lesion, moved a little. Beside it lie places that look like lesions to some. Configurations
differ by a lift of their lesions, and runs by chance around it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, label

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from contract.card import load_card
from contract.files.atomic import write_json, write_text
from contract.files.reading import sha256_json
from contract.images.grid import Grid
from contract.images.volume import Volume, read_label, write_volume
from contract.records import Source, write_record
from evaluation.inputs.truth import find_truth

PROJECT = Path(__file__).resolve().parents[2]
CARD = "cspca-picai"
LIFTS = {"ce": 0.0, "focal": -0.1, "ce-focal": 0.5, "ce-dice": 0.9, "tversky": 0.85, "topk": 0.2, "dice": 0.4,
         "hinge": -0.4, "boundary": 0.6, "ce-topk": 0.3, "lovasz": -0.2, "unified-focal": 0.7}  # fmt: skip
"""How much plainer lesions are to a configuration."""

SPREAD_OF_RUNS = 0.15
SHARED, OF_METHOD, OF_RUN = 0.9, 0.5, 0.5  # standard deviations of chance
PLAIN_ENOUGH = -0.9
PLACES = 3  # per case, that may look like lesions
RADIUS_MM = 5.0


def main(options: argparse.Namespace) -> None:
    """Make studies and predictions, score and compare them."""
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.output / "archive"
    studies = ["--card", CARD, "--cases", options.cases, "--positive-fraction", 0.4, "--seed", 2]
    command("phantom", *studies, "--population", "external", "--output", archive)
    predict(archive, options.output / "predictions", configurations(options.configurations), options.runs)
    places = ["--predictions", options.output / "predictions"]
    command("evaluation", "score", *places, "--truth", archive, "--output", options.output / "scores")
    write_text(options.output / "analysis.toml", analysis(configurations(options.configurations)))
    declared = ["--analysis", options.output / "analysis.toml", "--marksheet", archive / "marksheet.csv"]
    images = ["--archive", archive, *places]
    out = ["--workers", options.workers, "--output", options.output / "comparison"]
    command("evaluation", "compare", "--scores", options.output / "scores", *declared, *images, *out)


def configurations(count: int) -> list[str]:
    """The first so many."""
    return list(LIFTS)[:count]


def analysis(names: list[str]) -> str:
    """What would be declared before scoring."""
    return (
        f'name = "A simulated campaign of {len(names)} losses"\n'
        'comparisons = "all"\nsubgroups = ["lesion_zones", "lesion_volumes_ml"]\n'
        "[margin]\nauroc = 0.03\nap = 0.06\nscore = 0.045\n"
    )


def command(package: str, *words: object) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", package, *map(str, words)], cwd=PROJECT, check=True)


def predict(archive: Path, output: Path, names: list[str], runs: int) -> None:
    """Write plain detection maps, likelihoods and ``source.json`` of every run: folds 0 to 4 in turn."""
    card = load_card(CARD)
    for number, (case_id, path) in enumerate(find_truth(archive).label_maps.items()):
        volume = read_label(path)
        shared = np.random.default_rng([number])
        lesions, count = label(volume.array > 0, structure=np.ones((3, 3, 3)))
        shapes = [lesions == k for k in range(1, count + 1)]
        sizes = [float(np.log(shape.sum() * volume.grid.voxel_volume_ml)) for shape in shapes]
        places = _places(volume.grid, volume.array > 0, shared)
        plain = np.concatenate([0.8 + 0.5 * np.array(sizes), np.full(len(places), -1.6)])
        plain += shared.normal(0, SHARED, plain.size)
        for method, name in enumerate(names):
            of_method = np.random.default_rng([number, method]).normal(0, OF_METHOD, plain.size)
            for run in range(runs):
                chance = np.random.default_rng([number, method, run])
                lift = LIFTS[name] + np.random.default_rng([method, run]).normal(0, SPREAD_OF_RUNS)
                seen = plain + of_method + chance.normal(0, OF_RUN, plain.size)
                seen[:count] += lift
                array = _detection_map([*shapes, *places], seen, chance)
                folder = output / f"{name}_fold{run % 5}_restart{run // 5}"
                write_volume(folder / f"{case_id}.mha", Volume(array, volume.grid))
                write_json(folder / f"{case_id}.json", float(array.max()))
    for name in names:
        for run in range(runs):
            source = Source(
                card=CARD,
                card_sha256=card.sha256,
                configuration=name,
                fold=run % 5,
                restart=run // 5,
                profile="simulated",
                runs=(sha256_json([name, run]),),
                bundle_sha256=None,
                data_licence="CC0-1.0",
            )
            write_record(output / f"{name}_fold{run % 5}_restart{run // 5}" / "source.json", source)


def _places(grid: Grid, lesion: npt.NDArray[np.bool_], chance: np.random.Generator) -> list[npt.NDArray[np.bool_]]:
    """Balls in the middle of the image that touch neither lesions nor one another."""
    taken, found = binary_dilation(lesion, iterations=3), []
    spacing, shape = np.array(grid.spacing_mm_zyx), np.array(grid.shape_zyx)
    axes = np.indices(grid.shape_zyx)
    for _ in range(PLACES):
        centre = shape * chance.uniform(0.3, 0.7, 3)
        away = ((axes - centre[:, None, None, None]) * spacing[:, None, None, None]) ** 2
        ball = away.sum(axis=0) < RADIUS_MM**2
        if ball.any() and not (ball & taken).any():
            found.append(ball)
            taken |= binary_dilation(ball, iterations=3)
    return found


def _detection_map(
    shapes: list[npt.NDArray[np.bool_]], seen: npt.NDArray[np.float64], chance: np.random.Generator
) -> npt.NDArray[np.float32]:
    array = np.zeros(shapes[0].shape if shapes else (1, 1, 1), dtype=np.float32)
    for shape, value in zip(shapes, seen, strict=True):
        moved = np.roll(shape, tuple(chance.integers(-1, 2, 2)), axis=(1, 2))
        if value > PLAIN_ENOUGH and not (binary_dilation(moved, np.ones((3, 3, 3))) & (array > 0)).any():
            array[moved] = 1 / (1 + np.exp(-value))
    return array


def _options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="gets archive, predictions, scores and comparison")
    parser.add_argument("--cases", type=int, default=150, help="(%(default)s)")
    parser.add_argument("--configurations", type=int, default=5, choices=range(2, 13), help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=10, choices=range(1, 21), help="of each (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes of compare (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(_options())
