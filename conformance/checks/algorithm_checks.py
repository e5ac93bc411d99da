"""Checks of an algorithm: synthetic studies, repeated, interleaved with others, and faulty ones."""

import time
from collections.abc import Callable

from conformance.checks.bench import Bench, Scenario
from conformance.checks.check import Checks
from conformance.checks.image_checks import ENDING, IMAGE
from conformance.checks.output_rules import (
    map_file,
    read_map,
    require_declared,
    require_detection_map,
    require_geometry,
    require_lesion_found,
    require_likelihood,
    require_nothing_else,
    require_same,
    written_files,
)
from conformance.engine.container_engine import last_line
from conformance.engine.hosted_image import CaseRun
from conformance.results.verdicts import Broken, Doubtful, Level, Skipped
from conformance.studies.synthetic_studies import (
    SECOND,
    Keys,
    MountedStudy,
    corrupted,
    make_study,
    with_unknown_sockets,
)
from contract.card import Card

SAME = 1e-6
SAME_ON_GPU = 1e-3


SPELLINGS: dict[str, Keys] = {"both": ("socket", "interface"), "socket": ("socket",), "interface": ("interface",)}
"""Keys of a socket in ``inputs.json``, by the value of ``--spelling``."""


def scenarios(card: Card, *, legacy: bool, keys: Keys = SPELLINGS["both"]) -> dict[str, Scenario]:
    """Scenarios by name; ``keys`` are those of scenarios that do not vary them."""
    listing = not legacy

    def first(**changes: object) -> Callable[[], MountedStudy]:
        return lambda: make_study(card, **{"keys": keys, "listing": listing, **changes})  # type: ignore[arg-type]

    return {
        "first": Scenario(first()),
        "again": Scenario(first(), alone=True),
        "second": Scenario(first(shape=SECOND, name="second", whole_numbers=True)),
        "back": Scenario(first()),
        "renamed": Scenario(first(name="renamed", turned=True)),
        "optional": Scenario(first(optional=True)),
        **{name: Scenario(first(keys=(name,))) for name in ("socket", "interface")},
        "unknown": Scenario(lambda: with_unknown_sockets(make_study(card, keys=keys))),
        "blank": Scenario(first(name="blank", lesion=False)),
        "corrupt": Scenario(lambda: corrupted(first(name="corrupt")(), card)),
        "after": Scenario(first()),
        "no model": Scenario(first(), "no model"),
        "read-only": Scenario(first(), "read-only root"),
        "other user": Scenario(first(), "another user"),
    }


OWN = Checks()


@OWN.add("O1", "error", "every declared output")
def outputs_exist(bench: Bench) -> str:
    """Without one of them the case fails on the platform."""
    return require_declared(bench.good().output, bench.card)


@OWN.add("O1-other", "warning", "no output that is not declared")
def outputs_are_declared(bench: Bench) -> str:
    """The platform uploads and ignores other files."""
    return require_nothing_else(bench.good().output, bench.card)


@OWN.add("O2", "error", "one readable .mha or .tif as detection map")
def map_is_one_image(bench: Bench) -> str:
    """The platform imports no .nii.gz, and only one image."""
    output = _with_outputs(bench)
    return map_file(output.output, bench.card).suffix


@OWN.add("O3", "error", "a JSON number in [0, 1] as likelihood")
def likelihood_is_a_number(bench: Bench) -> str:
    """NaN becomes null on the platform, and null is no number."""
    return f"{require_likelihood(_with_outputs(bench).output, bench.card):g}"


@OWN.add("O4", "error", "the reference's size, spacing, origin and direction (0.001 mm), one float per voxel")
def map_has_the_references_grid(bench: Bench) -> str:
    """The platform does not check this; the evaluation does."""
    _readable(bench)
    return require_geometry(read_map(bench.good().output, bench.card), bench.study("first").reference)


@OWN.add("O5", "error", "a detection map: finite, in [0, 1], one value per lesion")
def map_is_a_detection_map(bench: Bench) -> str:
    """A softmax output is not one."""
    _readable(bench)
    return require_detection_map(read_map(bench.good().output, bench.card))


@OWN.add("O5-max", "warning", "the likelihood is the map's maximum where there is a candidate")
def likelihood_is_the_maximum(bench: Bench) -> str:
    """picai-eval takes the maximum, not the likelihood."""
    _readable(bench)
    largest = float(read_map(bench.good().output, bench.card).array.max())
    try:
        likelihood = require_likelihood(bench.good().output, bench.card)
    except Broken:
        raise Skipped("no likelihood (O3)") from None
    if not largest >= 0:
        raise Skipped("no maximum (O5)")
    if largest > 0 and abs(largest - likelihood) > SAME:
        raise Broken(f"likelihood {likelihood:g}, maximum {largest:g}")
    return f"likelihood {likelihood:g}, maximum {largest:g}"


@OWN.add("L1", "error", "the planted lesion is found at its place in the patient")
def planted_lesion_is_found(bench: Bench) -> str:
    """An array that is flipped under a correct header passes every other check."""
    if not bench.planted:
        raise Skipped("not requested (--planted: the model is expected to find such lesions)")
    _readable(bench)
    lesion = bench.study("first").lesion_mm_xyz
    assert lesion is not None
    return require_lesion_found(read_map(bench.good().output, bench.card), lesion)


@OWN.add("D1", "error", "the same study in a new container: the same voxels and likelihood")
def same_study_same_answer(bench: Bench) -> str:
    """Tolerance: 1e-6 on a CPU, 1e-3 on a GPU."""
    return _same(bench, "again")


@OWN.add("D5", "error", "another study (oblique, anisotropic, int16, compressed): correct outputs of its own")
def other_grid_other_answer(bench: Bench) -> str:
    """All rules above, on a different grid."""
    _readable(bench)
    return _all_rules(bench, "second")


@OWN.add("D2", "error", "studies A, B, A in one process: A's answer twice, and nothing of B in it")
def nothing_leaks(bench: Bench) -> str:
    """A server must keep nothing of earlier studies."""
    if not bench.invoke:
        raise Skipped("an image of the exec protocol has a process per study")
    _readable(bench)
    other = bench.good("second")
    require_geometry(read_map(other.output, bench.card), bench.study("second").reference)
    said = _same(bench, "back")
    kept = [name for name in bench.study("second").names if name in "".join(written_files(bench.case("back").output))]
    if kept:
        raise Broken(f"the name {kept[0]} of the other study")
    return said


def _same_answer(id: str, level: Level, expected: str, name: str, *, listed: bool = False) -> None:
    """Add a check that a scenario gives the same answer as the first; ``listed``: the check needs ``inputs.json``."""

    @OWN.add(id, level, expected)
    def answer_is_the_same(bench: Bench) -> str:
        if listed:
            _needs_listing(bench)
        return _same(bench, name)


_same_answer("D3", "error", "other UUIDs in another order: the same answer", "renamed")
_same_answer("D4-optional", "warning", "optional inputs with null values: the same answer", "optional", listed=True)
_same_answer("D4-socket", "warning", "sockets under only the newer key socket: the same answer", "socket", listed=True)
_same_answer(
    "D4-interface", "warning", "sockets under only the older key interface: the same answer", "interface", listed=True
)


@OWN.add("D4-unknown", "warning", "unknown sockets: a failure with its cause in stderr's last line, and no output")
def unknown_sockets_are_refused(bench: Bench) -> str:
    """An answer would be about other images; the platform sends only declared sockets."""
    _needs_listing(bench)
    return _refused(bench, "unknown")


@OWN.add("O6", "error", "a study without any lesion: correct outputs, and less likely than the one with")
def nothing_to_find_is_no_error(bench: Bench) -> str:
    """An empty map is correct. A likelihood that is not lower is only a warning without ``--planted``."""
    _readable(bench)
    said = _all_rules(bench, "blank")
    empty = require_likelihood(bench.good("blank").output, bench.card)
    found = require_likelihood(bench.good().output, bench.card)
    if empty >= found:
        raise (Broken if bench.planted else Doubtful)(f"likelihood {empty:g} without a lesion, {found:g} with one")
    return f"{said}; {found:g} with a lesion"


@OWN.add("N1", "error", "a truncated image: a failure with its cause in stderr's last line, and no output")
def corrupt_images_are_refused(bench: Bench) -> str:
    """ITK reads some truncated images without an error."""
    return _refused(bench, "corrupt")


@OWN.add("N2", "error", "the next study after one that failed is answered as before")
def failures_leave_nothing(bench: Bench) -> str:
    """A server must continue after a failure."""
    if not bench.invoke:
        raise Skipped("an image of the exec protocol has a process per study")
    if not bench.good() or bench.case("corrupt").succeeded:
        raise Skipped("the truncated image did not fail (N1)")
    return _same(bench, "after")


@OWN.add("M1", "error", "without the model: a failure")
def model_is_used(bench: Bench) -> str:
    """Otherwise the weights are in the image, and an uploaded model has no effect."""
    if not bench.hosted.model:
        raise Skipped("no model was given")
    bench.good()
    case = bench.case("no model")
    if case.succeeded:
        raise Broken(f"{case.how} with an empty /opt/ml/model")
    return case.how


@OWN.add("M2", "error", "without the model: /health never says 200")
def health_means_loaded(bench: Bench) -> str:
    """Otherwise the model is loaded during the first case, and a broken model looks like a failed case."""
    if not bench.invoke:
        raise Skipped("an image of the exec protocol")
    if not bench.hosted.model:
        raise Skipped("no model was given")
    bench.good()
    case = bench.case("no model")
    if case.succeeded:
        raise Skipped("the model is not used (M1)")
    if case.status is not None:
        raise Broken(f"200 from /health, then {case.how}")
    return case.how


@OWN.add("C4", "warning", "a second case while one is under way: a clear refusal at once")
def one_case_at_a_time(bench: Bench) -> str:
    """The platform sends one case at a time; other requests must not affect its outputs."""
    if not bench.invoke:
        raise Skipped("an image of the exec protocol")
    bench.good()
    server = bench.server
    bench.hosted.lay_out(bench.study("first").files)
    first = server.begin_post()
    time.sleep(0.6)
    second = server.post(bench.hosted.limits.case)
    answered = first.result()
    if answered != 201:
        raise Broken(f"HTTP status {answered} for the first, {second} for the second")
    if second == 201:
        raise Skipped("the first case ended before the second began, or they were processed one after the other")
    if second is None or not 400 <= second < 600:
        raise Broken(f"HTTP status {second}")
    return f"HTTP status {second}"


_same_answer("R7", "warning", "works with a read-only root", "read-only")
_same_answer("R8", "warning", "works as any user (12345:0)", "other user")


def own_study_check(name: str) -> Checks:
    """The check of one study given with ``--study``."""
    checks = Checks()

    @checks.add(f"S-{name}", "error", "correct outputs of the given study")
    def given_study_is_answered(bench: Bench) -> str:
        bench.good()
        return _all_rules(bench, f"own {name}")

    return checks


ALGORITHM = [*IMAGE, *OWN, *ENDING]
"""All checks of an algorithm, in order."""


def _with_outputs(bench: Bench) -> CaseRun:
    """The first case; skipped if an output is missing, which O1 reports."""
    case = bench.good()
    try:
        require_declared(case.output, bench.card)
    except Broken:
        raise Skipped("an output is missing (O1)") from None
    return case


def _readable(bench: Bench) -> None:
    """Skip if the first case has no readable map, which O1 or O2 reports."""
    try:
        read_map(_with_outputs(bench).output, bench.card)
    except Broken:
        raise Skipped("no readable map (O2)") from None


def _same(bench: Bench, name: str) -> str:
    _readable(bench)
    first = bench.good()
    try:
        require_likelihood(first.output, bench.card)
    except Broken:
        raise Skipped("no likelihood (O3)") from None
    other = bench.good(name)
    on_gpu = bench.hosted.profile.gpu and bench.hosted.engine.has_gpu
    return require_same(first.output, other.output, bench.card, tolerance=SAME_ON_GPU if on_gpu else SAME)


def _all_rules(bench: Bench, name: str) -> str:
    study, output = bench.study(name), bench.good(name).output
    require_declared(output, bench.card)
    found = read_map(output, bench.card)
    likelihood = require_likelihood(output, bench.card)
    require_geometry(found, study.reference)
    said = f"likelihood {likelihood:g}, {require_detection_map(found)}"
    if bench.planted and study.lesion_mm_xyz is not None:
        said += f", the lesion at {require_lesion_found(found, study.lesion_mm_xyz)}"
    return said


def _refused(bench: Bench, name: str) -> str:
    bench.good()
    case = bench.case(name)
    if case.succeeded or case.status is None:
        raise Broken(case.how)
    if not last_line(case.stderr):
        raise Broken(f"{case.how}, nothing on stderr")
    if files := written_files(case.output):
        raise Broken(f"{case.how}, and the output {files[0]}")
    return case.how


def _needs_listing(bench: Bench) -> None:
    if bench.legacy:
        raise Skipped("the older contract has no inputs.json")
