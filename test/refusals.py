"""Expect an error by its fields, so that the wording of its line may change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contract.errors import OncoduetError


@contextmanager
def refused_with(
    where: str = "", problem: str = "", *, expected: str = "", found: str = ""
) -> Iterator[pytest.ExceptionInfo[OncoduetError]]:
    """Expect an :class:`OncoduetError` whose fields match these regular expressions, of which at least one is given."""
    fields = {"where": where, "problem": problem, "expected": expected, "found": found}
    patterns = {field: pattern for field, pattern in fields.items() if pattern}
    assert patterns
    with pytest.raises(OncoduetError) as caught:
        yield caught
    for field, pattern in patterns.items():
        value = getattr(caught.value, field)
        assert value is not None and re.search(pattern, value), f"{field}: {caught.value}"
