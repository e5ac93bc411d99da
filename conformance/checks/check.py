"""A check: an id, a level, what is expected, and a function that inspects.

Ids are those of the table in ``docs/platform.md``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from conformance.checks.bench import Bench
from conformance.engine.hosted_image import NotRunError
from conformance.results.verdicts import Broken, CheckResult, Doubtful, Level, Skipped
from contract.errors import OncoduetError
from contract.text import one_line


@dataclass(frozen=True)
class Check:
    """One requirement."""

    id: str
    level: Level
    expected: str
    inspect: Callable[[Any], str]
    """Returns what was found; raises ``Broken`` or ``Skipped``."""
    of_archive: bool = False
    """Whether it needs the saved image, which is read while the other checks run."""

    def decide(self, bench: Bench) -> CheckResult:
        """Inspect, and describe the result; what the engine refuses fails only this check."""
        try:
            return self._verdict("pass", self.inspect(bench))
        except Skipped as reason:
            return self._verdict("skipped", str(reason))
        except NotRunError as reason:
            return self._verdict("skipped", f"the image is not run ({reason})")
        except Doubtful as reason:
            return replace(self._verdict("fail", str(reason)), level="warning")
        except Broken as reason:
            return self._verdict("fail", str(reason))
        except OncoduetError as error:
            return self._verdict("fail", str(error))

    def _verdict(self, verdict: Literal["pass", "fail", "skipped"], found: str) -> CheckResult:
        return CheckResult(self.id, self.level, verdict, self.expected, one_line(found)[:500])


class Checks(list[Check]):
    """Checks in the order in which they run and are shown."""

    def add(
        self, id: str, level: Level, expected: str, *, of_archive: bool = False
    ) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
        """Decorate the function that inspects."""

        def register(inspect: Callable[[Any], str]) -> Callable[[Any], str]:
            self.append(Check(id, level, expected, inspect, of_archive))
            return inspect

        return register


def run(checks: Sequence[Check], bench: Bench, only: Sequence[str] = ()) -> Iterator[CheckResult]:
    """Decide checks, all or those with the given ids: in their order, but those of the archive last.

    Saving an image of gigabytes keeps the engine busy for half a minute, and a case keeps hardly more than one core.
    """
    chosen = [check for check in checks if not only or check.id in only]
    if any(check.of_archive for check in chosen):
        bench.reading  # noqa: B018 - starts reading
    for check in sorted(chosen, key=lambda check: check.of_archive):
        yield check.decide(bench)
