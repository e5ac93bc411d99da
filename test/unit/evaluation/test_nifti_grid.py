"""Everyday NIfTI headers beside ITK: the same grid to the last bit, signs of zeros included, or no answer."""

import gzip
import math
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from contract.errors import OncoduetError
from contract.volume import Grid, read_grid
from evaluation.nifti_grid import everyday_grid
from evaluation.sparse import open_image

LAYOUT = {"dim": "40:<4h", "intent": "68:<h", "datatype": "70:<2h", "qfac": "76:<f", "spacing": "80:<3f"}
LAYOUT |= {"begin": "108:<f", "units": "123:<B", "codes": "252:<2h", "quaternion": "256:<3f", "offset": "268:<3f"}
LAYOUT |= {"affine": "280:<12f", "magic": "344:<4s"}


def bits(grid):
    numbers = (*grid.spacing_mm_xyz, *grid.origin_mm_xyz, *grid.direction)
    return (grid.size_xyz, *(number.hex() for number in numbers))


def rotations():
    """Random ones, all exchanges and flips of axes, and slight tilts of those."""
    random = np.random.default_rng(5)
    for _ in range(150):
        yield np.linalg.qr(random.normal(size=(3, 3)))[0]
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]):
        for signs in np.ndindex(2, 2, 2):
            axes = np.eye(3)[order] * (1 - 2 * np.array(signs))
            yield axes
            angle = 10.0 ** random.uniform(-6, -1)
            turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
            yield axes @ turn
            yield turn @ axes


def test_headers_that_itk_wrote_are_answered_with_its_grid_to_the_last_bit(tmp_path):
    random = np.random.default_rng(6)
    answered = total = 0
    for number, axes in enumerate(rotations()):
        image = sitk.Image([7, 5, 3], sitk.sitkUInt8)
        image.SetDirection(axes.ravel().tolist())
        image.SetSpacing(random.uniform(0.05, 6, 3).tolist())
        image.SetOrigin([0.0, 0.0, 0.0] if number % 10 == 0 else random.uniform(-500, 500, 3).tolist())
        path = tmp_path / f"a.nii{'.gz' if number % 2 else ''}"
        sitk.WriteImage(image, str(path))
        found = open_image(path).grid
        assert bits(found) == bits(read_grid(path))
        total += 1
        answered += everyday_grid(sitk_header(path)) is not None
    assert answered > 0.9 * total


def sitk_header(path):
    return (gzip.open if path.suffix == ".gz" else open)(path, "rb").read(348)


@pytest.fixture
def usual(tmp_path):
    """A tilted image; its path, and the bytes of its file."""
    image = sitk.Image([7, 5, 3], sitk.sitkUInt8)
    image.SetSpacing([0.5, 0.75, 3.0])
    image.SetOrigin([-20.0, 31.0, 7.5])
    image.SetDirection([0.96, 0.28, 0.0, -0.28, 0.96, 0.0, 0.0, 0.0, 1.0])
    path = tmp_path / "a.nii"
    sitk.WriteImage(image, str(path))
    assert everyday_grid(path.read_bytes()[:348]) is not None
    return path, bytearray(path.read_bytes())


def changed(data, field, *values):
    place, layout = LAYOUT[field].split(":")
    struct.pack_into(layout, data, int(place), *values)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("dim", (2, 7, 15, 1)),
        ("dim", (4, 7, 5, 3)),
        ("dim", (3, 7, 15, 1)),
        ("dim", (3, 7, 5, 0)),
        ("intent", (1007,)),
        ("qfac", (1.0,)),
        ("spacing", (0.5, 0.75, 3.001)),
        ("spacing", (0.5, 0.75, -3.0)),
        ("spacing", (math.nan, 0.75, 3.0)),
        ("begin", (348.0,)),
        ("begin", (math.nan,)),
        ("units", (1,)),
        ("units", (3,)),
        ("units", (0,)),
        ("codes", (0, 1)),
        ("codes", (1, 0)),
        ("codes", (0, 0)),
        ("codes", (1, 2)),
        ("codes", (2, 4)),
        ("quaternion", (0.1, 0.2, 0.3)),
        ("quaternion", (math.nan, 0.2, 0.3)),
        ("offset", (20.0, -31.0, 7.75)),
        ("affine", (-0.5, 0.1, 0, 20, 0, -0.75, 0, -31, 0, 0, 3, 7.5)),
        ("affine", (math.inf, 0.1, 0, 20, 0, -0.75, 0, -31, 0, 0, 3, 7.5)),
        ("magic", (b"ni1\0",)),
    ],
)
def test_a_header_that_is_not_everyday_is_left_to_itk(usual, field, values):
    path, data = usual
    flipped = field == "qfac" and struct.unpack_from("<f", data, 76)[0] > 0
    changed(data, field, *((-1.0,) if flipped else values))
    assert everyday_grid(bytes(data[:348])) is None
    path.write_bytes(bytes(data) + bytes(200))
    outcomes = []
    for read in (lambda: open_image(path).grid, lambda: read_grid(path)):
        try:
            outcomes.append(bits(read()))
        except OncoduetError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_no_single_changed_byte_leads_to_another_grid_than_itks(usual):
    path, data = usual
    random = np.random.default_rng(8)
    answered = 0
    for place in [*range(36, 124), *range(252, 348)]:
        for _ in range(4):
            damaged = data.copy()
            damaged[place] = int(random.integers(256))
            grid = everyday_grid(bytes(damaged[:348]))
            if grid is None:
                continue
            answered += 1
            path.write_bytes(bytes(damaged) + bytes(1 << 12))
            try:
                expected: Grid | None = read_grid(path)
            except OncoduetError as error:
                assert "datatype" in str(error) or "positive sizes" in str(error)
                continue
            assert bits(grid) == bits(expected)
    assert answered > 50


def test_an_everyday_header_with_voxels_that_are_no_numbers_is_refused_as_ever(usual):
    path, data = usual
    changed(data, "datatype", 9999, 32)
    path.write_bytes(data)
    assert everyday_grid(bytes(data[:348])) is not None
    for read in (open_image, read_grid):
        with pytest.raises(OncoduetError, match=r"a\.nii: expected real numbers as voxels, .* datatype 9999"):
            read(path)


def test_a_nii_gz_that_is_not_compressed_is_refused_as_ever(usual):
    path, data = usual
    path = path.with_suffix(".nii.gz")
    path.write_bytes(data)
    for read in (open_image, read_grid):
        with pytest.raises(OncoduetError, match=r"a\.nii\.gz: expected a whole compressed stream, found a damaged one"):
            read(path)
