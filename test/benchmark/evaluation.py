"""Scoring a test set of PI-CAI's size: ``python -m evaluation score`` against ``python -m picai_eval`` on its files.

Cases are made from the real label maps of PI-CAI (``ONCODUET_DATA``), with their sizes, types and grids. There are 60;
for more cases they come again with their lesions shifted in plane and another origin, so that no two files are the
same. Detection maps are made by a rule: of five lesions four have a candidate that is the lesion moved a little, and
beside them lie ellipsoids of 4 to 8 mm, 0.7 per case. They are ``.mha``, float32, compressed, as ``python -m
algorithm`` writes them.

    python test/benchmark/evaluation.py --cases 150 500 1500
    python test/benchmark/evaluation.py --cases 240 --workers 2 --pairs 5

With ``--workers`` our command with so many processes is measured against itself with one, in turns, both with the index
of the truth; ``ratio_wall`` is the figure then, and ``identical`` says that all files are the same.

Both commands run as they come: ours computes both answers (strict and picai) and all hashes, and makes its index of the
truth in the first run and finds it in the second; a third run makes an index of predictions (``--index``), with which a
fourth scores the same again. picai-eval computes its one answer. ``identical`` compares AUROC, AP, the FROC curve's
operating points, every case's likelihood and every row of lesions, to the last bit, and that all our runs wrote the
same files.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import SimpleITK as sitk
from picai_eval.metrics import Metrics as OracleMetrics

from contract.errors import OncoduetError
from contract.images.volume import image_stem
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, Froc, sensitivity_key

LESIONS_FOUND = 0.8
OTHERS_PER_CASE = 0.7
RADII_MM = (4.0, 8.0)
CANDIDATE_SHIFT_MM = 3.0


def main(options: argparse.Namespace) -> None:
    """Make the cases, measure both, and report."""
    sizes = [12] if options.quick else sorted(set(options.cases))
    most = sizes[-1]
    if options.workers is not None:
        measure_workers(most, options.workers, options.pairs)
        return
    peer_cases = min(options.extrapolate or most, most)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.write(most)
        peer = bench.measure_peer(bench.part(peer_cases))
        start = measure.run([sys.executable, "-m", "picai_eval", "--help"])  # its imports, which come once
        runs = {size: bench.measure_ours(bench.part(size)) for size in {*sizes, peer_cases}}
        identical = bench.same(bench.part(peer_cases))
    factor = most / peer_cases
    if factor > 1:
        print(
            f"picai-eval: {peer_cases} of {most} cases measured ({peer.cpu_s:.2f} CPU s, of which {start.cpu_s:.2f} "
            "before the first case), the others extrapolated"
        )
    scaled = measure.Measured(
        start.cpu_s + (peer.cpu_s - start.cpu_s) * factor,
        start.wall_s + (peer.wall_s - start.wall_s) * factor,
        peer.peak_mb,
    )
    for size in sizes:
        first, again, known = runs[size]
        print(
            f"{size} cases: {first.cpu_s:.2f} CPU s, {first.peak_mb:.0f} MB; "
            f"with the index {again.cpu_s:.2f} CPU s, {again.peak_mb:.0f} MB; "
            f"predictions from an index too {known.cpu_s:.2f} CPU s, {known.peak_mb:.0f} MB"
        )
    first, again, known = runs[most]
    measure.report(
        "evaluation",
        ours=first,
        peer=scaled,
        peer_name="picai-eval",
        identical=identical,
        conditions={
            **measure.machine("picai-eval", "simpleitk", "numpy"),
            "zlib": bench.inflated_by(),
            "cases": most,
            "picai_eval_cases_measured": peer_cases,
            "picai_eval_cpu_s_measured": round(peer.cpu_s, 2),
            "picai_eval_cpu_s_before_the_first_case": round(start.cpu_s, 2),
            "gigavoxel": round(bench.voxels / 1e9, 2),
            "ratio_cpu_with_index": round(scaled.cpu_s / again.cpu_s, 2),
            "ratio_cpu_with_predictions_from_an_index": round(scaled.cpu_s / known.cpu_s, 2),
            "cpu_s_by_cases": {str(size): round(runs[size][0].cpu_s, 2) for size in sizes},
            "cpu_s_by_cases_with_index": {str(size): round(runs[size][1].cpu_s, 2) for size in sizes},
            "cpu_s_by_cases_with_both": {str(size): round(runs[size][2].cpu_s, 2) for size in sizes},
        },
        details=[("truth from the index", again, scaled), ("predictions from an index too", known, scaled)],
    )


def measure_workers(cases: int, workers: int, pairs: int) -> None:
    """Measure several processes of ours against one, and report."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.write(cases)
        part = bench.part(cases)
        costs: dict[int, list[measure.Measured]] = {1: [], workers: []}
        bench.score(part, "first")  # makes the index
        for pair in range(pairs):
            for count, measured in costs.items():
                measured.append(bench.score(part, f"{count}-{pair}", "--workers", str(count)))
        written = [_files(folder) for folder in part.output.iterdir()]
    measure.report(
        "evaluation",
        ours=measure.total(costs[workers]),
        peer=measure.total(costs[1]),
        peer_name="one process",
        identical=all(each == written[0] for each in written),
        conditions={**measure.machine("simpleitk", "numpy"), "cases": cases, "workers": workers, "pairs": pairs},
    )


@dataclass(frozen=True)
class Part:
    """The first cases of the test set, in folders of their own."""

    predictions: Path
    truth: Path
    output: Path


@dataclass
class Bench:
    """The test set, and both programs on it."""

    folder: Path
    voxels: int = 0

    def write(self, cases: int) -> None:
        """Make all cases."""
        sources = _label_maps()
        whole = self._folders(cases)
        for number in range(cases):
            source = sources[number % len(sources)]
            case_id = f"{image_stem(source)}_{number // len(sources):03d}"
            label, detection_map = _case(source, number)
            self.voxels += label.GetNumberOfPixels()
            sitk.WriteImage(label, str(whole.truth / f"{case_id}.nii.gz"), useCompression=True)
            sitk.WriteImage(detection_map, str(whole.predictions / f"{case_id}.mha"), useCompression=True)

    def part(self, cases: int) -> Part:
        """The first cases: links to the same files."""
        part = self._folders(cases)
        whole = max(self.folder.iterdir(), key=lambda folder: int(folder.name))
        for name in ("predictions", "truth"):
            files = sorted((whole / name).glob("*.*"), key=lambda path: (image_stem(path)[-3:], path.name))
            for path in [each for each in files if each.suffix != ".zip"][:cases]:
                link = self.folder / str(cases) / name / path.name
                if not link.exists():
                    link.hardlink_to(path)
        return part

    def measure_ours(self, part: Part) -> tuple[measure.Measured, measure.Measured, measure.Measured]:
        """Without and with an index of the truth, and with one of the predictions too."""
        first, again = self.score(part, "ours"), self.score(part, "again")
        index = ("--index", part.output / "predictions.sqlite")
        self.score(part, "kept", *index)
        return first, again, self.score(part, "known", *index)

    def score(self, part: Part, name: str, *options: str | Path) -> measure.Measured:
        """Our command, into an output folder of that name."""
        command = [sys.executable, "-m", "evaluation", "score", "--predictions", part.predictions]
        return measure.run([*command, "--truth", part.truth, "--output", part.output / name, *options])

    def measure_peer(self, part: Part) -> measure.Measured:
        """picai-eval's command with its own settings, which are three threads for cases."""
        command = [sys.executable, "-m", "picai_eval", "--input", part.predictions, "--labels", part.truth]
        return measure.run([*command, "--output", part.output / "picai_eval.json"])

    def same(self, part: Part) -> bool:
        """Whether our picai answer is picai-eval's: metrics of both of our runs, and all rows."""
        self.score(part, "rows", "--picai-only")
        theirs = json.loads((part.output / "picai_eval.json").read_text(encoding="utf-8"))
        counts = OracleMetrics(lesion_results=theirs["lesion_results"]).calculate_counts()
        curve = Froc(counts["FP"] / theirs["num_cases"], counts["TP"] / theirs["num_lesions"])
        metrics = [_ours(part.output / name) for name in ("ours", "again", "known", "rows")]
        written = {name: _files(part.output / name) for name in ("ours", "again", "kept", "known")}
        return (
            all(each == written["ours"] for each in written.values())
            and all(
                (each["auroc"], each["ap"], each["cases"], each["lesions"])
                == (theirs["auroc"], theirs["AP"], theirs["num_cases"], theirs["num_lesions"])
                and all(
                    each["lesion_sensitivity_at_fp"][sensitivity_key(rate)] == curve.sensitivity_at(rate)
                    for rate in FALSE_POSITIVES_PER_CASE
                )
                for each in metrics
            )
            and _rows(part.output / "rows")
            == {
                case_id: (theirs["case_target"][case_id], theirs["case_pred"][case_id], rows)
                for case_id, rows in theirs["lesion_results"].items()
            }
        )

    @staticmethod
    def inflated_by() -> str:
        """Which library inflates our files."""
        from contract.images.whole_image import zlib  # noqa: PLC0415

        return str(zlib.__name__)

    def _folders(self, cases: int) -> Part:
        part = Part(*(self.folder / str(cases) / name for name in ("predictions", "truth", "output")))
        for folder in (part.predictions, part.truth, part.output):
            folder.mkdir(parents=True, exist_ok=True)
        return part


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _label_maps() -> list[Path]:
    data = Path(os.environ.get("ONCODUET_DATA", measure.PROJECT.parent / "shared" / "data"))
    folder = data / "picai_labels" / "csPCa_lesion_delineations" / "human_expert"
    found = sorted(folder.rglob("*.nii.gz"), key=lambda path: path.name)
    if not found:
        raise OncoduetError(folder, "no label maps of PI-CAI; ONCODUET_DATA names the folder of the data")
    return found


def _case(source: Path, number: int) -> tuple[sitk.Image, sitk.Image]:
    """A label map and a detection map for it; the first time that a patient comes, the label map is the real one."""
    random = np.random.default_rng(number)
    label = sitk.ReadImage(str(source))
    array = sitk.GetArrayFromImage(label)
    spacing_zyx = np.array(label.GetSpacing()[::-1])
    moved = random.integers(-40, 41, 2) if number >= len(_label_maps()) else (0, 0)
    array = np.roll(array, tuple(int(step) for step in moved), axis=(1, 2))
    lesions = np.asarray(sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(array) != 0, True)))
    detection_map = np.zeros(array.shape, dtype=np.float32)
    for lesion in range(1, int(lesions.max(initial=0)) + 1):
        if random.random() < LESIONS_FOUND:
            steps = np.rint(random.uniform(-1, 1, 3) * CANDIDATE_SHIFT_MM / spacing_zyx).astype(int)
            shifted = np.roll(lesions == lesion, tuple(steps.tolist()), axis=(0, 1, 2))
            _paint(detection_map, shifted, random)
    for _ in range(random.poisson(OTHERS_PER_CASE)):
        centre = np.array(array.shape) * random.uniform(0.4, 0.6, 3)
        radii = random.uniform(*RADII_MM, 3) / spacing_zyx
        z, y, x = (
            ((np.arange(size) - middle) / radius) ** 2
            for size, middle, radius in zip(array.shape, centre, radii, strict=True)
        )
        _paint(detection_map, z[:, None, None] + y[:, None] + x <= 1, random)
    new_label, new_map = sitk.GetImageFromArray(array), sitk.GetImageFromArray(detection_map)
    for image in (new_label, new_map):
        image.CopyInformation(label)
        image.SetOrigin([label.GetOrigin()[0] + number // len(_label_maps()), *label.GetOrigin()[1:]])
    return new_label, new_map


def _paint(detection_map: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> None:
    """Add a candidate, unless it would touch another: a component has one confidence."""
    found = np.nonzero(mask)
    if not found[0].size:
        return
    box = tuple(slice(max(int(axis.min()) - 1, 0), int(axis.max()) + 2) for axis in found)
    if not detection_map[box].any():
        detection_map[mask] = np.float32(round(float(random.uniform(0.05, 1)), 3))


def _ours(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["picai"]
    return metrics


def _rows(folder: Path) -> dict[str, tuple[int, float, list[list[float]]]]:
    """Target, likelihood and rows of each case, as picai-eval writes them."""
    with (folder / "cases.csv").open(encoding="utf-8") as stream:
        cases = {each["case_id"]: (int(each["label"]), float(each["likelihood"])) for each in csv.DictReader(stream)}
    rows: dict[str, list[list[float]]] = {case_id: [] for case_id in cases}
    with (folder / "lesions.csv").open(encoding="utf-8") as stream:
        for each in csv.DictReader(stream):
            if each["kind"] != "ignored":
                target = int(each["kind"] != "fp")
                rows[each["case_id"]].append([target, float(each["confidence"]), float(each["overlap"])])
    return {case_id: (*case, rows[case_id]) for case_id, case in cases.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[1500], help="one or more sizes; default: 1500")
    parser.add_argument(
        "--extrapolate", type=int, metavar="N", help="measure picai-eval on N cases, and reckon the rest"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="measure N processes of ours against one")
    parser.add_argument("--pairs", type=int, default=1, help="how often, with --workers (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(measure.main(main, parser=_parser()))
