"""Pickles of numbers, text, plain containers and NumPy's arrays, read without unpickling.

nnDetection writes its boxes and nnU-Net its records of cases as pickles, and a pickle is a program: it imports and
calls what it names. Here it is a list of steps of which a few are followed, by this module itself and on values
that it made itself. What a pickle refers to is looked up in a table of five words, and what they are handed is compared
with what NumPy writes, to the last value; nothing is ever imported, called or changed on a pickle's behalf. Time and
memory grow with the file, whose size and steps are bounded: keys are text or small numbers, so that none is slow to
hash.
"""

import math
import pickletools
import stat
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.files.reading import LONGEST_QUOTE, kind_of
from contract.text import one_line

MOST_BYTES = 2**28
MOST_STEPS = 100_000
"""Most opcodes of a pickle; nnU-Net's records have some hundred."""
_LARGEST_KEY = 2**31


class _Word(Enum):
    """What a pickle may refer to."""

    ARRAY = "ndarray"
    TYPE = "dtype"
    EMPTY = "_reconstruct"
    NUMBER = "scalar"
    FILLED = "_frombuffer"


_WORDS: Mapping[tuple[str, str], _Word] = {
    ("numpy", "ndarray"): _Word.ARRAY,
    ("numpy", "dtype"): _Word.TYPE,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Word.EMPTY for core in ("core", "_core")},  # NumPy 1, NumPy 2
    **{(f"numpy.{core}.multiarray", "scalar"): _Word.NUMBER for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Word.FILLED for core in ("core", "_core")},  # protocol 5
}
_TYPES: Mapping[str, np.dtype[Any]] = {
    code: np.dtype(f"<{code}") for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
}
_TYPE_STATES = tuple((3, order, None, None, None, -1, -1, 0) for order in "<|")
"""States of the types that are read: little-endian, or of one byte."""
_MARK = object()


def read_plain_pickle(path: Path, *, what: str) -> Any:
    """Read a pickle that holds data alone.

    Raises ``OncoduetError``: there is no such file, or it is no whole pickle, or it holds anything else.

    Parameters
    ----------
    what
        What is expected there, for the message where there is no file.

    Returns
    -------
    Numbers, text, bytes, None, lists, tuples, dictionaries and arrays of numbers. One object may be in several
    places, and a container in itself: a walk through all of it needs a limit of depth.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError(kind_of(found) + f" of {found.st_size} bytes")
        return _Steps().follow(path.read_bytes())
    except FileNotFoundError:
        raise OncoduetError(path, f"{what} not found") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, AssertionError) as error:
        found_there = one_line(str(error))[:200] or type(error).__name__
        raise OncoduetError(path, expected="a pickle of arrays and numbers only", found=found_there) from None


class _Steps:
    """The steps of one pickle, and what they have made so far."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = 0
        """Bytes of arrays that may still come; all arrays together are no larger than the pickle."""

    def follow(self, content: bytes) -> Any:
        """The one value that is left at the end."""
        self.bytes_left = len(content)
        for number, (step, argument, position) in enumerate(pickletools.genops(content)):
            assert position is not None
            if number == MOST_STEPS:
                raise ValueError(f"more than {MOST_STEPS} steps")
            if step.name == "STOP":
                if position != len(content) - 1:
                    raise ValueError("more after its end")
                (value,) = self.stack
                return value
            if step.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[step.name])
            elif step.name in _VALUES:
                self.stack.append(argument)
            elif step.name in _ACTIONS:
                _ACTIONS[step.name](self, argument)
            else:
                raise ValueError("a persistent object" if step.name.endswith("PERSID") else f"the step {step.name}")
        raise ValueError("no end")

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("an end without a beginning")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def take(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(items) < count or any(each is _MARK for each in items):
            raise ValueError("too few values")
        del self.stack[len(self.stack) - count :]
        return items

    def remember(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.last(object)

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def last(self, kind: type) -> Any:
        value = self.stack[-1]
        if value is _MARK or not isinstance(value, kind):
            raise ValueError(f"{type(value).__name__} in place of {kind.__name__}")
        return value

    def extend(self, items: list[Any]) -> None:
        self.last(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.last(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and abs(key) < _LARGEST_KEY):
                raise ValueError(f"{type(key).__name__} as a key, or a large number")
            target[key] = value

    def new_dict(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def word(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str) and (module, name) in _WORDS):
            raise ValueError(f"a reference to {str(module)[:LONGEST_QUOTE]}.{str(name)[:LONGEST_QUOTE]}")
        self.stack.append(_WORDS[module, name])

    def call(self, _: Any) -> None:
        """What NumPy's functions would do of what NumPy hands them."""
        word, arguments = self.take(2)
        match word, arguments:
            case _Word.TYPE, (str(code), False, True) if code in _TYPES:
                self.stack.append(_TYPES[code])
            case _Word.TYPE, _:
                raise ValueError("a type that is no number")
            case _Word.EMPTY, (_Word.ARRAY, (0,), b"b"):
                self.stack.append(np.ndarray((0,), np.int8))
            case _Word.NUMBER, (np.dtype() as kind, bytes(raw)):
                self.stack.append(self.array(raw, kind, ())[()])
            case _Word.FILLED, (bytes() | bytearray() as raw, np.dtype() as kind, tuple(shape), "C" | "F" as order):
                self.stack.append(self.array(raw, kind, shape, fortran=order == "F").copy(order))
            case _:
                called = word.value if isinstance(word, _Word) else type(word).__name__
                raise ValueError(f"a call of {called} that NumPy does not write")

    def build(self, _: Any) -> None:
        """Give an array its content, or a type the order of bytes that it has anyway."""
        target, state = self.take(2)
        match target, state:
            case np.dtype(), tuple() if any(_same(state, each) for each in _TYPE_STATES):
                pass
            case np.ndarray(), (1, tuple(shape), np.dtype() as kind, bool(fortran), bytes(raw)) if target.shape == (0,):
                whole = self.array(raw, kind, shape, fortran=fortran)
                target.__setstate__((1, whole.shape, kind, fortran, raw))  # type: ignore[arg-type]
            case _:
                raise ValueError(f"a state of {type(target).__name__} that NumPy does not write")
        self.stack.append(target)

    def array(
        self, raw: bytes | bytearray, kind: np.dtype[Any], shape: tuple[Any, ...], *, fortran: bool = False
    ) -> npt.NDArray[Any]:
        """An array of as many bytes as it says."""
        if len(shape) > 8 or not all(type(length) is int and 0 <= length < _LARGEST_KEY for length in shape):
            raise ValueError("an array without a size")
        self.bytes_left -= len(raw)
        if math.prod(shape) * kind.itemsize != len(raw) or self.bytes_left < 0:
            raise ValueError(f"{len(raw)} bytes for an array of {math.prod(shape)} times {kind.itemsize}")
        return np.frombuffer(bytes(raw), kind).reshape(shape, order="F" if fortran else "C")


def _same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Whether two flat tuples are equal, by type too."""
    return len(found) == len(expected) and all(
        type(each) is type(other) and each == other for each, other in zip(found, expected, strict=True)
    )


_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BYTEARRAY8"}
    | {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
)
_ACTIONS: Mapping[str, Callable[[_Steps, Any], object]] = {
    "PROTO": lambda _, __: None,
    "FRAME": lambda _, __: None,
    "MARK": _Steps.mark,
    "EMPTY_LIST": lambda steps, _: steps.stack.append([]),
    "EMPTY_DICT": lambda steps, _: steps.stack.append({}),
    "LIST": lambda steps, _: steps.stack.append(steps.since_mark()),
    "DICT": lambda steps, _: steps.new_dict(steps.since_mark()),
    "TUPLE": lambda steps, _: steps.stack.append(tuple(steps.since_mark())),
    "TUPLE1": lambda steps, _: steps.stack.append(tuple(steps.take(1))),
    "TUPLE2": lambda steps, _: steps.stack.append(tuple(steps.take(2))),
    "TUPLE3": lambda steps, _: steps.stack.append(tuple(steps.take(3))),
    "APPEND": lambda steps, _: steps.extend(steps.take(1)),
    "APPENDS": lambda steps, _: steps.extend(steps.since_mark()),
    "SETITEM": lambda steps, _: steps.set_items(steps.take(2)),
    "SETITEMS": lambda steps, _: steps.set_items(steps.since_mark()),
    "MEMOIZE": lambda steps, _: steps.remember(None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Steps.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Steps.recall),
    "GLOBAL": lambda steps, both: steps.word(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda steps, _: steps.word(*steps.take(2)),
    "REDUCE": _Steps.call,
    "BUILD": _Steps.build,
}
