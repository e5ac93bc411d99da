"""What a check concludes: passed, broken (perhaps only doubtful), or skipped."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


class Broken(Exception):  # noqa: N818 - a verdict, not an error of ours
    """The rule is broken; the message says what was found."""


class Doubtful(Broken):
    """The broken rule is not the platform's; a warning at any level of the check."""


class Skipped(Exception):  # noqa: N818 - a verdict
    """The check cannot say anything; the message says why."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check."""

    id: str
    level: Level
    verdict: Literal["pass", "fail", "skipped"]
    expected: str
    found: str
