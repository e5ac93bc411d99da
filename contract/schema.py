"""Data from files as models: frozen pydantic classes, TOML files, and every fault named in one line."""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from contract.errors import OncoduetError, problem_of
from contract.files.reading import LONGEST_QUOTE, read_text
from contract.names import require_name
from contract.tables import LARGEST_NUMBER

MOST_TOML_BYTES = 2**17
"""Size limit of a card, profile or configuration; ours have 2 kB."""
MOST_KEY_PARTS = 16
"""Limit of the parts of a dotted TOML key; the parser's memory grows with their square."""
_KEY = r"""(?>[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY}(?>[ \t]*\.[ \t]*{_KEY}){{{MOST_KEY_PARTS}}}")
MOST_FAULTS = 50
"""Number of faults that one message names."""
Model = TypeVar("Model", bound=BaseModel)
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
"""A name that is safe as a part of a path."""


def _shown(text: str) -> str:
    try:
        return require_name(text, "")
    except OncoduetError as error:
        raise ValueError(f"expected {error.expected}, found {error.found}") from None


Shown = Annotated[str, AfterValidator(_shown)]
"""A name that users choose freely: printable, of bounded length, in NFC."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""A number of things, at least one."""
Index = Annotated[int, Field(ge=0, le=1_000_000)]
Factor = Annotated[float, Field(gt=0, le=1e6)]


def later(default: Any) -> Any:
    """A key that came after the first cards: at its default it is no part of a card's hash, so runs keep theirs."""
    return Field(default=default, exclude_if=lambda value: value == default)


def is_relative(path: str) -> bool:
    """Whether a path from a file stays below the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in path


def _relative(path: str) -> str:
    if not is_relative(path):
        raise ValueError(f"expected a relative path, found {path!r}")
    return path


RelativePath = Annotated[str, Field(max_length=1000), AfterValidator(_relative)]


class Frozen(BaseModel):
    """Base of what comes from a file: immutable, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Contradictions between fields; ``values`` may be malformed, and those faults are named elsewhere."""
        del values
        return []

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if faults := self.faults_between(self.model_dump()):
            raise PydanticCustomError("fields_disagree", "{faults}", {"faults": "; ".join(faults)})
        return self


def named_toml(name_or_path: str | Path, folder: Path, *, what: str) -> Path:
    """The TOML file that is given by its name in a folder, or by its path.

    Raises ``OncoduetError``: there is none of this name.

    Parameters
    ----------
    what
        What the file is, for the message: ``card``, ``profile``.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = folder / f"{name_or_path}.toml"
        if not path.is_file():
            known = ", ".join(toml_names(folder))
            raise OncoduetError(f"{what} {str(name_or_path)!r}", expected=f"one of {known} or a .toml file")
    return path


def toml_names(folder: Path) -> list[str]:
    """Names of a folder's TOML files."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def parse_toml(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into a pydantic model; every fault is named, in one ``OncoduetError``."""
    try:
        text = read_text(path, most_bytes=MOST_TOML_BYTES).removeprefix("\ufeff")
        if deep := _DEEP_KEY.search(text):
            raise OncoduetError(path, f"a key of more than {MOST_KEY_PARTS} parts: {deep[0][:LONGEST_QUOTE]!r}")
        values = tomllib.loads(text)
    except OSError as error:
        raise OncoduetError(path, problem_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise OncoduetError(path, f"not valid TOML: {error}") from None
    for number in _leaves(values, (int, float)):
        if LARGEST_NUMBER < abs(number) < math.inf:
            raise OncoduetError(path, expected=f"numbers within ±{LARGEST_NUMBER:g}", found=str(number)[:LONGEST_QUOTE])
    return parse(values, model, path)


def parse(values: object, model: type[Model], source: object) -> Model:
    """Check values from a file against a model; every fault is named, in one ``OncoduetError``.

    Nothing is converted: a number in quotes is no number. (The detour through JSON is pydantic's way to accept lists
    for tuples and nothing else.) Texts are printable: they go to terminals, tables and pages.
    """
    for text in _leaves(values, (str,)):
        if not text.replace("\n", "").replace("\t", "").isprintable():
            raise OncoduetError(source, f"text is not printable: {text!r}")
    try:
        as_json = json.dumps(values, default=str)
    except (ValueError, RecursionError) as error:
        raise OncoduetError(source, f"values that JSON cannot hold: {error}") from None
    try:
        return model.model_validate_json(as_json, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        named = found[:MOST_FAULTS]
        faults = [
            f"{_place(fault)}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in named
            if not _is_echo(fault, named)
        ]
        if issubclass(model, Frozen) and isinstance(values, Mapping):
            faults += model.faults_between(values)
        count = len(faults) + len(found) - len(named)
        many = "1 fault" if count == 1 else f"{count} faults"
        rest = f"; and {count - len(faults)} more" if count > len(faults) else ""
        raise OncoduetError(source, f"{many}: {'; '.join(faults)}{rest}") from None


def _place(fault: ErrorDetails) -> str:
    """Place of a fault: keys, of which an unknown one may be long."""
    return ".".join(str(each)[:LONGEST_QUOTE] for each in fault["loc"]) or "(document)"


def _is_echo(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """Whether a fault only repeats others: a list too short because its items are wrong, or what is asked again."""
    place = fault["loc"]
    items_wrong = any(other["loc"][: len(place)] == place != other["loc"] for other in faults)
    return (fault["type"] == "too_short" and items_wrong) or (fault["type"] == "fields_disagree" and not place)


def _leaves(value: object, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Every text, or number, in values from a file, names of fields too, however deep."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case Mapping() as fields:
                waiting += [*fields, *fields.values()]
            case list() | tuple() as items:
                waiting += items
            case leaf if isinstance(leaf, kinds):
                yield leaf
