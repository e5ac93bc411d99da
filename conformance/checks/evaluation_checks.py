"""Checks of an evaluation: metrics that can be ranked, independent of job order, and a defined outcome for bad jobs."""

from collections.abc import Callable
from pathlib import Path

from conformance.checks.bench import Bench, Scenario
from conformance.checks.check import Checks
from conformance.checks.image_checks import ENDING, IMAGE
from conformance.checks.output_rules import require_metrics, written_files, written_json
from conformance.engine.container_engine import Files, last_line
from conformance.results.verdicts import Broken, Level, Skipped
from conformance.studies.submissions import (
    Spoil,
    Truth,
    as_softmax,
    made_truth,
    on_another_grid,
    submission,
    synthetic_predictions,
    truth_files,
    with_nan,
    without_job,
    without_map,
)
from conformance.studies.synthetic_studies import MountedStudy
from contract.card import Card

EXTREMES = {"no-positives": 0, "all-positive": 4}
"""Number of positive cases among four, by the check's name."""

SPOILT: dict[str, tuple[Spoil, str]] = {
    "missing map": (without_map, "a job whose map is missing"),
    "missing job": (without_job, "a case without a job"),
    "other grid": (on_another_grid, "a map on another grid"),
    "nan": (with_nan, "a map with NaN"),
    "softmax": (as_softmax, "a softmax instead of a detection map"),
}


def scenarios(card: Card, truth: Truth, *, given: bool) -> dict[str, Scenario]:
    """Scenarios by name; ``given``: the truth is the user's, so submissions that need another truth are left out."""

    def of(files: Callable[[], Files]) -> Callable[[], MountedStudy]:
        reference = next(iter(truth.values())).grid
        return lambda: MountedStudy(files(), reference, None, ())

    def spoilt(spoil: Spoil) -> Callable[[], Files]:
        def files() -> Files:
            predictions = synthetic_predictions(card, truth)
            spoil(predictions)
            return submission(card, predictions)

        return files

    good = of(lambda: submission(card, synthetic_predictions(card, truth)))
    found = {
        "first": Scenario(good),
        "again": Scenario(good, alone=True),
        "shuffled": Scenario(of(lambda: submission(card, synthetic_predictions(card, truth), seed=1))),
        "one core": Scenario(good, "one core"),
        "after": Scenario(good),
        "read-only": Scenario(good, "read-only root"),
        "other user": Scenario(good, "another user"),
        **{name: Scenario(of(spoilt(spoil))) for name, (spoil, _) in SPOILT.items()},
    }
    for name, positives in () if given else EXTREMES.items():
        extreme = made_truth(card, positives=positives)
        files = submission(card, synthetic_predictions(card, extreme))
        found[name] = Scenario(of(lambda files=files: files), truth=truth_files(card, extreme))  # type: ignore[misc]
    return found


OWN = Checks()


@OWN.add("E1", "error", "metrics.json in strict JSON, no dots in keys, a number where the ranking looks")
def metrics_can_be_ranked(bench: Bench) -> str:
    """Otherwise the submission silently loses its rank."""
    return require_metrics(bench.good().output, bench.ranking)


def _same_metrics(id: str, level: Level, expected: str, name: str) -> None:
    """Add a check that a scenario gives exactly the same metrics as the first."""

    @OWN.add(id, level, expected)
    def metrics_are_the_same(bench: Bench) -> str:
        return _same(bench, name)


_same_metrics("E2-order", "error", "other job names in another order: the same metrics", "shuffled")
_same_metrics("E2-cores", "error", "on one core: the same metrics", "one core")
_same_metrics("D1", "error", "the same submission in a new container: the same metrics", "again")


def _spoilt_check(name: str, what: str) -> None:
    @OWN.add(f"E3-{name.replace(' ', '-')}", "error", f"{what}: complete metrics, or a failure with its cause")
    def end_is_defined(bench: Bench) -> str:
        _ranked(bench)
        case = bench.case(name)
        if case.succeeded:
            return f"{case.how}, {require_metrics(case.output, bench.ranking)}"
        return _failed(bench, name)


for _name, (_, _what) in SPOILT.items():
    _spoilt_check(_name, _what)


@OWN.add("N2", "error", "the next submission after one that failed is scored as before")
def failures_leave_nothing(bench: Bench) -> str:
    """A server must continue after a failure."""
    if not bench.invoke:
        raise Skipped("an image of the exec protocol has a process per submission")
    _ranked(bench)
    if bench.case("missing map").succeeded:
        raise Skipped("the missing map caused no failure")
    return _same(bench, "after")


_same_metrics("R7", "warning", "works with a read-only root", "read-only")
_same_metrics("R8", "warning", "works as any user (12345:0)", "other user")


def _extreme_check(name: str, what: str) -> None:
    @OWN.add(f"E3-{name}", "error", f"{what}: complete metrics or null, or a failure with its cause")
    def end_is_defined(bench: Bench) -> str:
        if name not in bench.scenarios:
            raise Skipped("the truth was given")
        _ranked(bench)
        case = bench.case(name)
        if not case.succeeded:
            return _failed(bench, name)
        written_json(case.output / "metrics.json")
        return case.how


_extreme_check("no-positives", "no positive case")
_extreme_check("all-positive", "only positive cases")

EVALUATION = [*IMAGE, *OWN, *ENDING]
"""All checks of an evaluation, in order."""


def _ranked(bench: Bench) -> Path:
    output = bench.good().output
    try:
        require_metrics(output, bench.ranking)
    except Broken:
        raise Skipped("no metrics that can be ranked (E1)") from None
    return output


def _same(bench: Bench, name: str) -> str:
    first = written_json(_ranked(bench) / "metrics.json")
    other = bench.good(name).output
    said = require_metrics(other, bench.ranking)
    if written_json(other / "metrics.json") != first:
        raise Broken(f"other metrics ({said})")
    return said


def _failed(bench: Bench, name: str) -> str:
    case = bench.case(name)
    if case.status is None or not last_line(case.stderr):
        raise Broken(f"{case.how}, nothing on stderr")
    if files := written_files(case.output):
        raise Broken(f"{case.how}, and the output {files[0]}")
    return case.how
