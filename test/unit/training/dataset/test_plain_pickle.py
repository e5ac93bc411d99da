"""Pickles of data alone come back as pickle would read them; of anything else no step is followed."""

import pickle
import struct
import time

import numpy as np
import pytest
from refusals import refused_with

from training.dataset.plain_pickle import MOST_STEPS, read_plain_pickle

DATA = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "no rows": np.zeros((0, 4), np.int64),
    "bytes": np.arange(5, dtype=np.uint8),
    "scalar": np.float64(2.5),
    "flag": np.bool_(True),
    "tuple": (1, 2.5, (3, "x", b"y")),
    "list": [[1, 2], [], None, True, -(10**12)],
    1: np.arange(3, dtype=np.int16),
    "many": list(range(3000)),
}


def same(found, expected):
    if isinstance(expected, np.ndarray | np.generic):
        return type(found) is type(expected) and found.dtype == expected.dtype and np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


def word(module, name):
    return f"c{module}\n{name}\n".encode()


def inner(value):
    """The steps that make a value."""
    return pickle.dumps(value, protocol=3)[2:-1]


def read(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    return read_plain_pickle(tmp_path / "a.pkl", what="a record")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_data_come_back_as_pickle_itself_reads_them(tmp_path, protocol):
    found = read(tmp_path, pickle.dumps(DATA, protocol))
    assert list(found) == list(DATA)
    assert [name for name, expected in DATA.items() if not same(found[name], expected)] == []
    found["float32"][0] = 7  # an array may be written to


def test_numpy_1_names_of_its_modules_are_known_too(tmp_path):
    content = pickle.dumps(DATA["float32"], protocol=3)
    older = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != content
    assert same(read(tmp_path, older), DATA["float32"])


def test_an_object_in_two_places_is_one_object(tmp_path):
    shared = [1]
    first, second = read(tmp_path, pickle.dumps([shared, shared]))
    assert first is second


TYPE = word("numpy", "dtype")
EMPTY = word("numpy._core.multiarray", "_reconstruct") + word("numpy", "ndarray") + inner((0,)) + inner(b"b") + b"\x87R"


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (word("os", "system") + inner(("true",)) + b"R", "a reference to os.system"),
        (word("numpy", "load"), "a reference to numpy.load"),
        (word("numpy", "ndarray.__class__"), "a reference to numpy.ndarray.__class__"),
        (inner("os") + inner("system") + b"\x93", "a reference to os.system"),
        (b"\x82\x01", "the step EXT1"),
        (b"(ios\nsystem\n", "the step INST"),
        (b"Pname\n", "a persistent object"),
        (word("numpy", "ndarray") + b")\x81", "the step NEWOBJ"),
        (TYPE + inner(("O8", False, True)) + b"R", "a type that is no number"),
        (TYPE + inner(("V16", False, True)) + b"R", "a type that is no number"),
        (TYPE + inner(("f8", True, True)) + b"R", "a type that is no number"),
        (TYPE + inner(("f8", False, True)) + b"R" + inner((3, ">", None, None, None, -1, -1, 0)) + b"b", "a state of"),
        (word("numpy", "ndarray") + inner(((4,), "u1")) + b"R", "a call of ndarray that NumPy does not write"),
        (EMPTY + inner((1, (2**40,), 0, False, b"")) + b"b", "a state of ndarray that NumPy does not write"),
        (b"]" + inner({"a": 1}) + b"b", "a state of list that NumPy does not write"),
        (b"}" + b")N\x86Ns", "tuple as a key"),
        (b"}" + inner(2**61 - 1) + b"Ns", "int as a key, or a large number"),
        (b"}(Nu", "a key without a value"),
        (b"]NNs", "list in place of dict"),
        (b"(N\x86", "too few values"),
        (b"Nt", "an end without a beginning"),
        (b"N.N", "more after its end"),
        (b"h\x07", "7"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(tmp_path, steps, found):
    with refused_with(r"a\.pkl", expected="a pickle of arrays and numbers only", found=f".*({found})"):
        read(tmp_path, b"\x80\x04" + steps + b".")


def doubled(depth):
    """A tuple of two of a tuple of two of …: to hash it takes as long as it is large when it is written out."""
    return b")\x94" + b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86\x94" for k in range(depth))


@pytest.mark.parametrize(
    "steps",
    [
        b"}" + doubled(100) + b"Ns",
        b"}(" + b"".join(inner(k * (2**61 - 1)) + b"N" for k in range(20_000)) + b"u",
        b"(" * (MOST_STEPS + 1),
        b"\x8e" + struct.pack("<Q", 2**60),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"L" + b"9" * 10**6 + b"L\n",
        inner(np.zeros(10**5).tobytes()) + b"\x94" + EMPTY + b"2" * 100,
    ],
)
def test_few_bytes_cost_little_time(tmp_path, steps):
    began = time.process_time()
    with refused_with(expected="a pickle of arrays and numbers only"):
        read(tmp_path, b"\x80\x04" + steps + b".")
    assert time.process_time() - began < 10


def test_arrays_together_are_no_larger_than_their_pickle(tmp_path):
    raw, place = np.zeros(10**6), struct.pack("<I", 999)
    once = EMPTY + b"(K\x01" + inner((10**6,)) + inner(np.dtype("f8")) + b"\x89j" + place + b"tb"
    kept = b"\x80\x04B" + struct.pack("<I", raw.nbytes) + raw.tobytes() + b"r" + place
    np.testing.assert_array_equal(read(tmp_path, kept + once + b"\x86.")[1], raw)
    with refused_with(found="8000000 bytes for an array of 1000000 times 8"):
        read(tmp_path, kept + once + once + b"\x87.")


def test_a_missing_file_is_refused(tmp_path):
    with refused_with(r"a\.pkl", "a record not found"):
        read_plain_pickle(tmp_path / "a.pkl", what="a record")
    with refused_with(found="a folder of"):
        read_plain_pickle(tmp_path, what="a record")
