"""A child process with little memory: makes one hostile map, reads it as a case is read, and says how that went."""

import json
import resource
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from evaluation.masks.sparse_image import read_label_map
from evaluation.matching import picai, strict
from evaluation.matching.cases import MatchingRule, PredictionFiles, read_case, read_case_as_picai_eval, truth_of

MOST_BYTES = 2 << 30
RULE = MatchingRule()


def voxels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a map, as bad as its name says, and of a label map."""
    shape = (31, 512, 512)
    if name == "flood":
        array = np.zeros((80, 384, 384), np.float32)
        array[::4, ::3, ::3] = 0.5
    elif name in ("checkerboard", "small checkerboard"):
        z, y, x = np.ogrid[: 64 if name == "checkerboard" else 4, :512, :512]
        array = np.where((z + y + x) % 2, 0.5, 0).astype(np.float32)
    elif name == "full":
        array = np.full(shape, 0.5)
    elif name == "noise":
        array = np.where(np.random.default_rng(1).random(shape) < 0.4, 0.5, 0).astype(np.float32)
    elif name == "as many as may be":  # each candidate overlaps two lesions, and each lesion two candidates
        array = np.zeros((32, 64, 132), np.float32)
        for z, y, x in np.ndindex(8, 16, 16):
            array[4 * z : 4 * z + 2, 4 * y : 4 * y + 2, 8 * x : 8 * x + 6] = 0.5
        return array, np.roll(array, 3, axis=2) > 0
    else:  # one component of as many runs as can be, far apart along the way
        assert name == "snakes"
        array = np.zeros((1, 1023, 1024), np.float32)
        array[:, :, ::2] = 0.5
        array[:, 0, 1::4] = array[:, -1, 3::4] = 0.5
    label = np.zeros(array.shape, np.uint8)
    label[:2, 20:30, 20:30] = 1
    return array, label


def written(folder: Path, name: str) -> tuple[Path, Path]:
    """The map and the label map as files."""
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    array, label = voxels(name)
    z, y, x = array.shape
    for place, kind, values in (("map", "MET_FLOAT", array.astype("<f4")), ("label", "MET_UCHAR", label)):
        stream = zlib.compress(values.tobytes(), 1)
        told = f"DimSize = {x} {y} {z}\nCompressedDataSize = {len(stream)}\nElementType = {kind}\n"
        (folder / f"{place}.mha").write_bytes(f"{header}{told}ElementDataFile = LOCAL\n".encode() + stream)
    return folder / "map.mha", folder / "label.mha"


def score(detection_map: Path, label_map: Path) -> str:
    """Read and match a case both ways."""
    try:
        truth = truth_of(label_map, read_label_map(label_map), RULE)
        strict.match(read_case(PredictionFiles(detection_map, None), truth), RULE)
        picai.match(read_case_as_picai_eval(PredictionFiles(detection_map, None), truth), RULE)
    except OncoduetError as error:
        return str(error)
    return "scored"


if __name__ == "__main__":
    paths = written(Path(sys.argv[1]), sys.argv[2])
    begun = time.process_time()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_BYTES, taken + MOST_BYTES))
    print(json.dumps({"said": score(*paths), "seconds": time.process_time() - begun}))
