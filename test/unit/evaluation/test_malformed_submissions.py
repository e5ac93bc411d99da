"""Malformed submissions: each is refused with a line that names the case, or counts as documented.

One of three cases is spoilt in one of the ways below, with random details. ``ONCODUET_FUZZ`` is the number of
submissions (500); way and details follow from a submission's number, which therefore reproduces a failure. They run in
this process, some of them through the command line. Memory is traced when a way occurs for the first time.
"""

import gzip
import json
import os
import shutil
import struct
import tracemalloc
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from programs import python
from refusals import refused_with

from contract.errors import OncoduetError
from contract.images.grid import Grid
from contract.images.volume import Volume, to_image
from evaluation.__main__ import main
from evaluation.score import score

SUBMISSIONS = int(os.environ.get("ONCODUET_FUZZ", "500"))
THROUGH_THE_COMMAND_LINE = 50
MOST_MEMORY_BYTES = 20e6  # a submission's three maps have 0.2 MB as volumes
VICTIM = "p2_s1"


class Spoiler:
    """One submission's folder, and what may be done to its second case."""

    def __init__(self, folder, grid, number):
        self.folder, self.grid = folder, grid
        self.random = np.random.default_rng(number)
        self.path = folder / f"{VICTIM}.mha"
        self.array = sitk.GetArrayFromImage(sitk.ReadImage(str(self.path)))

    def write(self, array, grid=None, *, path=None, compressed=None):
        image = to_image(Volume(array, grid or self.grid))
        sitk.WriteImage(
            image, str(path or self.path), bool(self.random.random() < 0.5) if compressed is None else compressed
        )

    def somewhere(self, array):
        """Indices of some voxels."""
        count = int(self.random.integers(1, 20))
        return tuple(self.random.integers(0, n, count) for n in array.shape)

    def shape(self, *, longer=()):
        grid = self.grid
        size = tuple(n + (1 if axis in longer else 0) for axis, n in enumerate(grid.size_xyz))
        return Grid(size, grid.spacing_mm_xyz, grid.origin_mm_xyz, grid.direction)

    # Files that are not whole

    def truncated(self):
        self.write(self.array)
        data = self.path.read_bytes()
        self.path.write_bytes(data[: int(self.random.integers(0, len(data)))])

    def truncated_nifti(self):
        self.path.unlink()
        path = self.path.with_name(f"{VICTIM}.nii.gz")
        self.write(self.array, path=path)
        data = path.read_bytes()
        path.write_bytes(data[: int(self.random.integers(0, len(data) - 1))])

    def damaged(self):
        """One byte of the compressed stream is another."""
        self.write(self.array, compressed=True)
        data = bytearray(self.path.read_bytes())
        begin = data.index(b"LOCAL\n") + 6
        data[int(self.random.integers(begin + 2, len(data)))] ^= int(self.random.integers(1, 256))
        self.path.write_bytes(data)

    def empty_file(self):
        self.path.write_bytes(b"")

    def noise(self):
        self.path.write_bytes(self.random.bytes(int(self.random.integers(1, 5000))))

    def folder_instead(self):
        self.path.unlink()
        self.path.mkdir()

    # Voxels

    def not_finite(self):
        array = self.array.astype(self.random.choice([np.float32, np.float64]))
        array[self.somewhere(array)] = self.random.choice([np.nan, np.inf, -np.inf])
        self.write(array)

    def beyond_float32(self):
        array = self.array.astype(np.float64)
        array[self.somewhere(array)] = 10.0 ** self.random.integers(40, 300)
        self.write(array)

    def negative(self):
        array = self.array.copy()
        array[self.somewhere(array)] = -(10.0 ** -self.random.integers(0, 6))
        self.write(array)

    def above_one(self):
        array = self.array.copy()
        array[self.somewhere(array)] = np.float32(1 + 10.0 ** -self.random.integers(0, 6))
        self.write(array)

    def percent(self):
        self.write((self.array * 100).astype(self.random.choice([np.uint8, np.int16, np.uint32])))

    def softmax(self):
        noise = self.random.random(self.array.shape).astype(np.float32)
        self.write(noise / (2 if self.random.random() < 0.5 else noise.sum()))

    def uneven_candidate(self):
        array = self.array.copy()
        z, y, x = (values[0] for values in np.nonzero(array))
        array[z, y, x] /= 2
        self.write(array)

    def complex_voxels(self):
        sitk.WriteImage(sitk.GetImageFromArray(self.array.astype(np.complex64)), str(self.renamed(".nii.gz")))

    def vectors(self):
        image = sitk.GetImageFromArray(np.stack([self.array] * 3, axis=-1), isVector=True)
        sitk.WriteImage(image, str(self.path))

    # Grids

    def transposed(self):
        order = [(0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)][int(self.random.integers(5))]
        x, y, z = (2 - order[2 - axis] for axis in range(3))
        size = tuple(self.grid.size_xyz[axis] for axis in (x, y, z))
        spacing = tuple(self.grid.spacing_mm_xyz[axis] for axis in (x, y, z))
        array = np.ascontiguousarray(self.array.transpose(order))
        self.write(array, Grid(size, spacing, self.grid.origin_mm_xyz, self.grid.direction))

    def shifted_origin(self):
        origin = np.array(self.grid.origin_mm_xyz)
        origin[int(self.random.integers(3))] += self.random.choice([-1, 1]) * 10.0 ** self.random.uniform(-0.9, 5)
        self.write(self.array, Grid(self.grid.size_xyz, self.grid.spacing_mm_xyz, tuple(origin), self.grid.direction))

    def other_spacing(self):
        spacing = np.array(self.grid.spacing_mm_xyz)
        spacing[int(self.random.integers(3))] *= self.random.choice([0.5, 0.9, 1.1, 10])
        self.write(self.array, Grid(self.grid.size_xyz, tuple(spacing), self.grid.origin_mm_xyz, self.grid.direction))

    def other_direction(self):
        axes = np.array(self.grid.direction).reshape(3, 3)
        if self.random.random() < 0.5:
            axes[:, int(self.random.integers(3))] *= -1
        else:
            axes, _ = np.linalg.qr(self.random.normal(size=(3, 3)))
        direction = tuple(axes.ravel())
        self.write(self.array, Grid(self.grid.size_xyz, self.grid.spacing_mm_xyz, self.grid.origin_mm_xyz, direction))

    def other_size(self):
        longer = {int(axis) for axis in self.random.integers(0, 3, 2)}
        grid = self.shape(longer=longer)
        array = np.zeros(grid.shape_zyx, np.float32)
        array[: self.array.shape[0], : self.array.shape[1], : self.array.shape[2]] = self.array
        self.write(array, grid)

    def two_dimensions(self):
        sitk.WriteImage(sitk.GetImageFromArray(self.array[1]), str(self.path))

    def four_dimensions(self):
        sitk.WriteImage(
            sitk.JoinSeries([sitk.GetImageFromArray(self.array)] * int(self.random.integers(2, 4))), str(self.path)
        )

    # Headers

    def bomb(self):
        """A header that promises up to petabytes, in front of next to nothing."""
        x, y, z = (int(n) for n in 10.0 ** self.random.uniform(2, 5, 3))
        self.header(DimSize=f"{x} {y} {z}")

    def endless(self):
        """A stream that inflates to far more than the header says."""
        self.header(voxels=zlib.compress(self.array.tobytes() + bytes(int(self.random.integers(1, 1 << 25)))))

    def endless_nifti(self):
        path = self.renamed(".nii.gz")
        self.write(self.array, path=path)
        more = bytes(int(self.random.integers(1, 1 << 25)))
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + more, 1))

    def meta_header(self):
        key, value = [
            ("NDims", "2"), ("NDims", "4"), ("DimSize", "13 11"), ("DimSize", "13 11 -7"),
            ("DimSize", "thirteen 11 7"), ("ElementType", "MET_STRING"), ("ElementType", "MET_DOUBLE"),
            ("ElementSpacing", "nan 1 1"), ("ElementSpacing", "0 1 1"), ("Offset", "1e999 0 0"),
            ("TransformMatrix", "0 0 0 0 0 0 0 0 0"), ("ElementDataFile", "other.raw"),
            ("ElementNumberOfChannels", "2"), ("CompressedDataSize", "0"), ("CompressedDataSize", "999999"),
        ][int(self.random.integers(15))]  # fmt: skip
        self.header(**{key: value})

    def nifti_header(self):
        path = self.renamed(".nii.gz")
        self.write(self.array, path=path)
        data = bytearray(gzip.decompress(path.read_bytes()))
        place, kind, value = [
            (0, "i", 540), (40, "h", 0), (42, "h", -5), (44, "h", 32767), (70, "h", 128), (70, "h", 32),
            (80, "f", np.nan), (84, "f", -1.0), (108, "f", 1.0), (268, "f", 1e9), (280, "f", np.nan), (344, "i", 0),
        ][int(self.random.integers(12))]  # fmt: skip
        struct.pack_into(f"<{kind}", data, place, value)
        if place == 84:
            struct.pack_into("<f", data, 80, -2.0)
        if place == 268:
            for each in (268, 292):
                struct.pack_into("<f", data, each, value)
        path.write_bytes(gzip.compress(bytes(data)))

    def header(self, *, voxels=None, **keys):
        self.write(self.array, compressed=True)
        data = self.path.read_bytes()
        end = data.index(b"LOCAL\n") + 6
        lines = dict(line.split(" = ", 1) for line in data[:end].decode().splitlines())
        last = {"ElementDataFile": lines.pop("ElementDataFile")}
        if voxels is not None:
            keys["CompressedDataSize"] = str(len(voxels))
        lines = {**lines, **keys, **{key: keys.get(key, value) for key, value in last.items()}}
        lines["ElementDataFile"] = lines.pop("ElementDataFile")
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        self.path.write_bytes(text.encode() + (data[end:] if voxels is None else voxels))

    # Files and folders

    def renamed(self, suffix):
        self.path.unlink()
        return self.path.with_name(f"{VICTIM}{suffix}")

    def missing(self):
        self.path.unlink()

    def duplicate(self):
        self.write(self.array, path=self.path.with_name(f"{VICTIM}{self.random.choice(['.nii.gz', '.nii'])}"))

    def other_id(self):
        self.path.rename(self.path.with_name(f"{self.random.choice(['p9_s1', 'p2_s2', 'P2_s1', 'p2_s1x'])}.mha"))

    def surplus(self):
        shutil.copy(self.path, self.path.with_name("p9_s1.mha"))

    def link_out(self):
        outside = self.folder.parent / "outside.mha"
        self.path.rename(outside)
        self.path.symlink_to(outside if self.random.random() < 0.5 else Path("..") / outside.name)

    def likelihood_out(self):
        outside = self.folder.parent / "outside.json"
        outside.write_text("0.5")
        self.path.with_suffix(".json").symlink_to(outside)

    def link_to_truth(self):
        path = self.renamed(".nii.gz")
        path.symlink_to(self.folder.parent / "truth" / f"{VICTIM}.nii.gz")

    def truth_itself(self):
        self.renamed(".nii.gz").hardlink_to(self.folder.parent / "truth" / f"{VICTIM}.nii.gz")

    def dangling_link(self):
        self.path.unlink()
        self.path.symlink_to("nowhere.mha")

    def likelihood(self):
        text = [
            "NaN", "Infinity", "-Infinity", "null", "true", '"0.5"', "[0.5]", "{}", "", "1.0001", "-1e-9", "0,5",
            "1e999", "[" * 5000, "\x00", "0.5 0.5",
        ][int(self.random.integers(16))]  # fmt: skip
        self.path.with_suffix(".json").write_text(text)

    def other_format(self):
        path = self.renamed(".npy")
        np.save(path, self.array)


WAYS = [
    name
    for name, value in vars(Spoiler).items()
    if callable(value) and name not in {"__init__", "write", "somewhere", "shape", "header", "renamed"}
]


@pytest.fixture
def submission(workshop):
    """Truth and a right submission to be spoilt: three cases, two of them positive."""
    truth = workshop.truth(
        {
            "p1_s1": workshop.image({1: workshop.box}),
            VICTIM: workshop.image({2: workshop.box}),
            "p3_s1": workshop.image(),
        }
    )
    maps = {
        "p1_s1": workshop.image({0.75: workshop.box}),
        VICTIM: workshop.image({0.5: workshop.box, 0.25: workshop.elsewhere}),
        "p3_s1": workshop.image({0.25: workshop.elsewhere}),
    }
    right = workshop.plain(maps, name="right")
    score(predictions=right, truth=truth, output=workshop.root / "scored")
    return workshop, truth, right


def spoil(submission, number):
    """The folder of one spoilt submission and the way that it was spoilt."""
    workshop, _, right = submission
    folder = workshop.root / "predictions"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(right, folder)
    way = WAYS[number % len(WAYS)]
    getattr(Spoiler(folder, workshop.grid, number), way)()
    return folder, way


def test_malformed_submissions_are_refused_by_case_in_little_memory(submission):
    workshop, truth, _ = submission
    refused = Counter()
    for number in range(SUBMISSIONS):
        folder, way = spoil(submission, number)
        with traced(number) as used, pytest.raises(OncoduetError) as error:
            score(predictions=folder, truth=truth, output=workshop.root / "out")
            pytest.fail(f"submission {number} ({way}) was scored")
        names = ("p9_s1", "p2_s2", "P2_s1", "p2_s1x") if way in ("other_id", "surplus") else (VICTIM,)
        said = f"{error.value.where} {error.value.problem} {error.value.found}"
        assert any(name in said for name in names), f"submission {number} ({way}): {error.value}"
        assert used() < MOST_MEMORY_BYTES, f"submission {number} ({way})"
        assert not (workshop.root / "out").exists(), f"submission {number} ({way})"
        refused[way] += 1
    assert len(refused) == min(len(WAYS), SUBMISSIONS)


@contextmanager
def traced(number):
    """Gives the largest number of bytes held at a time, in the first round; 0 later, since tracing is slow."""
    if number < len(WAYS):
        tracemalloc.start()
    peak = 0
    try:
        yield lambda: peak
    finally:
        if tracemalloc.is_tracing():
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


def test_malformed_submissions_end_with_exit_code_3_and_one_line(submission, capfd):
    workshop, truth, _ = submission
    for number in range(THROUGH_THE_COMMAND_LINE):
        folder, way = spoil(submission, number)
        out = workshop.root / "out"
        capfd.readouterr()
        status = main(["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(out)])
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (status, len(errors)) == (3, 1), f"submission {number} ({way})"
        assert not out.exists()


def test_the_process_ends_with_exit_code_3(submission):
    workshop, truth, _ = submission
    folder, _ = spoil(submission, WAYS.index("bomb"))
    words = ("--predictions", folder, "--truth", truth, "--output", workshop.root / "out")
    ended = python("-m", "evaluation", "score", *words)
    assert ended.returncode == 3
    assert VICTIM in ended.stderr.splitlines()[-1]


def test_picai_only_refuses_or_scores_malformed_submissions(submission):
    workshop, truth, _ = submission
    outcomes = Counter()
    for number in range(min(SUBMISSIONS, 2 * len(WAYS))):
        folder, way = spoil(submission, number)
        with traced(number) as used:
            try:
                [result] = score(predictions=folder, truth=truth, output=workshop.root / "out", picai_only=True)
            except OncoduetError:
                outcomes["refused"] += 1
            else:
                assert all(np.isfinite(case.likelihood) for case in result.cases), (number, way)
                outcomes["scored"] += 1
        assert used() < MOST_MEMORY_BYTES, (number, way)
    assert outcomes["refused"] > outcomes["scored"] > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_another_voxel_type_scores_as_float32_does(submission, dtype):
    workshop, truth, right = submission
    path = right / f"{VICTIM}.mha"
    array = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0.3).astype(np.float32)
    outcomes = []
    for kind in (np.float32, dtype):
        sitk.WriteImage(to_image(Volume(array.astype(kind), workshop.grid)), str(path))
        [result] = score(predictions=right, truth=truth, output=workshop.root / f"out {len(outcomes)}")
        outcomes.append(result.cases)
    assert outcomes[0] == outcomes[1]


def test_a_case_of_the_platform_is_named_by_its_job(submission, workshop):
    _, truth, _ = submission
    maps = {"p1_s1": workshop.image(), VICTIM: workshop.image({1.5: workshop.box}), "p3_s1": workshop.image()}
    folder = workshop.batch(maps, dict.fromkeys(maps, 0.5))
    listing = json.loads((folder / "predictions.json").read_text())
    assert len(listing) == 3
    with refused_with(rf"{VICTIM}\.mha", expected=r"confidences in \[0, 1\]"):
        score(predictions=folder, truth=truth, output=workshop.root / "out")
