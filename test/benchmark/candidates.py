"""Candidates of ours and of the reference, report_guided_annotation: CPU seconds for the same probability maps.

    python test/benchmark/candidates.py [--quick] [--generated]

Both sides get the same float32 maps, clipped at 0, and give the component map, the confidences and the detection map.
For each rule each side is a child process of its own. CPU and wall seconds are taken inside it, around each extraction,
so that imports and the reading of files do not count; peak memory is that of the whole child. Figures are those of one
pass over all maps. The table has all rules; the JSON line is about ``dynamic``, and ``identical`` about all of them.

Maps are the real ones of Report-Guided Annotation where the data (``ONCODUET_DATA``, by default ``../shared/data``) is
there, otherwise or with ``--generated`` four of 19 x 384 x 384 voxels from a formula.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
from scipy import ndimage

from algorithm.outputs.candidates import Rule, extract_candidates, paint_candidates
from contract.images.volume import read_volume

RULES: tuple[Rule, ...] = ("dynamic", "dynamic-v2", "dynamic-fast", 0.1)
PEER = "report_guided_annotation"
Result = tuple[np.ndarray, list[tuple[int, float]], np.ndarray]


def compare(options: argparse.Namespace) -> None:
    """Run both sides on all rules and report."""
    if options.side:
        extract(options.side, rule=options.rule, folder=options.folder, passes=options.passes)
        return
    conditions = measure.machine("numpy", "scipy", "report-guided-annotation")
    passes = {measure.US: 10, PEER: 1} if options.quick else {measure.US: 60, PEER: 3}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, maps = probability_maps(generated=options.generated)
        for number, array in enumerate(maps):
            np.save(folder / f"{number:03d}.npy", array)
        costs: dict[Rule, list[measure.Measured]] = {}
        identical = True
        for rule in RULES:
            ours, peer = (child(side, rule=rule, folder=folder, passes=passes[side]) for side in passes)
            costs[rule] = [ours[0], peer[0]]
            identical &= ours[1] == peer[1]
    conditions |= {
        "maps": source,
        "shapes_zyx": [list(array.shape) for array in maps],
        "foreground": [round(float((array >= 0.004).mean()), 6) for array in maps],
        "passes": passes,
        "quick": options.quick,
    }
    measure.report(
        "candidates",
        ours=costs["dynamic"][0],
        peer=costs["dynamic"][1],
        peer_name=PEER,
        identical=identical,
        conditions=conditions,
        details=[(str(rule), *both) for rule, both in costs.items() if rule != "dynamic"],
    )


def child(side: str, *, rule: Rule, folder: Path, passes: int) -> tuple[measure.Measured, list[str]]:
    """Run one side in a process of its own; its cost per pass, and a digest of the results of each map."""
    command = [sys.executable, __file__, "--side", side, "--rule", rule, "--folder", folder, "--passes", passes]
    whole = measure.run([str(word) for word in command])
    found = json.loads((folder / "found.json").read_text())
    return measure.Measured(found["cpu_s"] / passes, found["wall_s"] / passes, whole.peak_mb), found["digests"]


def extract(side: str, *, rule: Rule, folder: Path, passes: int) -> None:
    """Do one side's work, in the child: time each extraction, and write what it cost and what came out."""
    extraction = {measure.US: ours, PEER: reference}[side]()
    clocks: list[measure.Clock] = []
    digests: list[str] = []
    for path in sorted(folder.glob("*.npy")):
        probability = np.load(path)
        for _ in range(passes):
            with measure.clocked() as clock:
                result = extraction(probability, rule)
            clocks.append(clock)
        digests.append(digest(result))
    costs = {"cpu_s": sum(each.cpu_s for each in clocks), "wall_s": sum(each.wall_s for each in clocks)}
    (folder / "found.json").write_text(json.dumps({**costs, "digests": digests}))


def ours() -> Callable[[np.ndarray, Rule], Result]:
    """Our extraction, as (detection map, (label, confidence) each, component map)."""

    def extraction(probability: np.ndarray, rule: Rule) -> Result:
        found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0)
        return paint_candidates(found), [(each.label, each.confidence) for each in found.candidates], found.components

    return extraction


def reference() -> Callable[[np.ndarray, Rule], Result]:
    """The reference's extraction, which gives the same three."""
    from report_guided_annotation import extract_lesion_candidates  # noqa: PLC0415 (in its own child alone)

    return lambda probability, rule: extract_lesion_candidates(probability, threshold=rule)


def digest(result: Result) -> str:
    """Sum over every bit of a result, whatever types of integers a side uses."""
    painted, candidates, components = result
    total = hashlib.sha256(painted.astype(np.float32).tobytes())
    total.update(components.astype(np.int32).tobytes())
    total.update(repr([(int(label), float(confidence)) for label, confidence in candidates]).encode())
    return total.hexdigest()


def probability_maps(*, generated: bool) -> tuple[str, Sequence[np.ndarray]]:
    """What is measured: where it is from, and the maps, float32 and not negative."""
    data = Path(os.environ.get("ONCODUET_DATA", measure.PROJECT.parent / "shared" / "data"))
    paths = sorted((data / "rga" / "softmax").glob("*.nii.gz"))
    if paths and not generated:
        return "rga/softmax", [np.maximum(np.asarray(read_volume(path).array, np.float32), 0) for path in paths]
    return "generated", [generated_map(seed) for seed in range(4)]


def generated_map(seed: int, shape: tuple[int, int, int] = (19, 384, 384)) -> np.ndarray:
    """Lesions, faint texture and single bright voxels within a gland of 90 x 110 pixels; nothing outside of it."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    centre = np.array(shape) / 2
    gland = ((z - centre[0]) / 8) ** 2 + ((y - centre[1]) / 45) ** 2 + ((x - centre[2]) / 55) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape), sigma=(0.7, 3, 3))
    probability = 0.02 * np.maximum(texture / texture.max(), 0)
    for _ in range(int(rng.integers(2, 6))):
        at, width = centre + rng.uniform(-1, 1, 3) * (5, 25, 30), rng.uniform(0.5, 1.5) * np.array((1.2, 8, 8))
        distance = sum(((axis - a) / w) ** 2 for axis, a, w in zip((z, y, x), at, width, strict=True))
        probability += rng.uniform(0.05, 0.9) * np.exp(-distance / 2)
    probability[rng.random(shape) < 2e-5] = rng.uniform(0.1, 0.5)
    return np.where(gland, np.minimum(probability, 1), 0).astype(np.float32)


def rule(text: str) -> Any:
    """Name of a rule, or a threshold."""
    return text if text.startswith("dynamic") else float(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", action="store_true", help="maps from a formula, even where real ones are")
    parser.add_argument("--side", choices=[measure.US, PEER], help=argparse.SUPPRESS)  # from here on: the child's own
    parser.add_argument("--rule", type=rule, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--passes", type=int, help=argparse.SUPPRESS)
    sys.exit(measure.main(compare, parser=parser))
