"""Checks of every image: what it is, the conditions that it runs under, and its first case; and what all cases left."""

import math
import re
from itertools import islice

from conformance.checks.bench import Bench
from conformance.checks.check import Checks
from conformance.checks.output_rules import require_short_lines, require_utf8
from conformance.engine.container_engine import last_line
from conformance.engine.hosted_image import API_LABEL, GIB, INPUT_TARGET, NotRunError
from conformance.results.verdicts import Broken, Skipped
from conformance.uploads.archives import LARGEST_BYTES, tarball_files

_MOST_ENTRIES = 10_000
"""How many entries of an image's folder are inspected."""

IMAGE = Checks()
"""Checks of images of both kinds."""


@IMAGE.add("A1", "error", "a user that is not root and can be resolved")
def user_is_not_root(bench: Bench) -> str:
    """Docker runs an image without a user as root; the platform refuses it."""
    try:
        bench.hosted.uid  # noqa: B018 - raises if unknown or 0
    except NotRunError as reason:
        raise Broken(str(reason)) from None
    return f"user {bench.hosted.config['User']}"


@IMAGE.add("A2", "error", "linux/amd64")
def platform_is_amd64(bench: Bench) -> str:
    """The platform's machines."""
    image = bench.hosted.engine.image(bench.hosted.image)
    found = f"{image.get('Os')}/{image.get('Architecture')}"
    if found != "linux/amd64":
        raise Broken(found)
    return found


@IMAGE.add("A3", "error", "an entry point or command, and exec, invoke or nothing as api-method")
def something_is_started(bench: Bench) -> str:
    """The entry point and protocol that the platform would use."""
    config = bench.hosted.config
    if not (config.get("Entrypoint") or config.get("Cmd")):
        raise Broken("neither entry point nor command")
    if bench.hosted.api not in ("exec", "invoke"):
        raise Broken(f"{API_LABEL}={bench.hosted.api!r}")
    return f"{' '.join(config.get('Entrypoint') or []) or config.get('Cmd')}, {bench.hosted.api}"


@IMAGE.add("A4", "error", "one whole image, with its configuration and all layers", of_archive=True)
def archive_is_whole(bench: Bench) -> str:
    """Read as by the platform's importer."""
    if bench.saved.faults:
        raise Broken("; ".join(bench.saved.faults))
    return f"{bench.saved.layers} layers"


@IMAGE.add("A4-size", "warning", f"at most {LARGEST_BYTES / 1e9:g} GB to upload", of_archive=True)
def archive_fits(bench: Bench) -> str:
    """The uncompressed size where no archive was given, an upper limit of the compressed one."""
    size = bench.saved.size_bytes
    if size > LARGEST_BYTES:
        raise Broken(f"{size / 1e9:.2f} GB")
    return f"{size / 1e9:.2f} GB" + ("" if bench.archive else " before compression")


@IMAGE.add("A5", "warning", "nothing in the image at /tmp, /input, /output or /opt/ml, where it disappears")
def nothing_lies_where_it_vanishes(bench: Bench) -> str:
    """Such files are visible everywhere but on the platform."""
    files: list[str] = []
    for place in ("/tmp", "/input", "/output", "/opt/ml"):
        with bench.hosted.engine.reading(bench.hosted.still, place) as entries:
            above = place.rpartition("/")[0]
            found = (f"{above}/{member.name}" for member, _ in islice(entries, _MOST_ENTRIES) if not member.isdir())
            files += islice(found, 5)
    if files:
        raise Broken(", ".join(files[:5]))
    return "nothing"


@IMAGE.add("A6", "error", "a tarball that Python's filter data unpacks, as SHA256SUMS in it says")
def tarball_is_safe(bench: Bench) -> str:
    """The tarball of the model or the truth."""
    if bench.tarball is None:
        raise Skipped("no tarball was given")
    return f"{len(tarball_files(bench.tarball))} files"


@IMAGE.add("A7", "warning", "no secrets, histories or images of patients in the layers", of_archive=True)
def layers_hold_nothing_private(bench: Bench) -> str:
    """Found by name; example data of installed packages are ignored."""
    if bench.saved.unwanted:
        raise Broken(", ".join(bench.saved.unwanted[:5]))
    return "none by name"


@IMAGE.add("A8", "warning", "no torch that was built for CUDA 13 or later, which the platform's T4 machines lack")
def cuda_is_old_enough(bench: Bench) -> str:
    """Read from torch's own file, without importing it."""
    cuda = bench.conditions.cuda
    if cuda and not re.fullmatch(r"(\d|1[012])(\..*)?", cuda):
        raise Broken(f"CUDA {cuda}")
    return f"CUDA {cuda}" if cuda else "no CUDA"


@IMAGE.add("R1", "error", "no network")
def conditions_without_network(bench: Bench) -> str:
    """Under the conditions of the runs below."""
    return _held(bench.conditions.offline, "out of reach", "a connection")


@IMAGE.add("R2", "error", "no capabilities and no way to gain any; not root")
def conditions_without_rights(bench: Bench) -> str:
    """Under the conditions of the runs below."""
    found = bench.conditions
    text = f"uid {found.uid}, capabilities {found.capabilities:x}, no_new_privs {found.no_new_privileges}"
    return _held(found.uid != 0 and not found.capabilities and found.no_new_privileges, text, text)


@IMAGE.add("R3", "error", "/input is a symbolic link to a folder that cannot be written to")
def conditions_of_input(bench: Bench) -> str:
    """Under the conditions of the runs below."""
    found = bench.conditions
    held = found.input_is_link and found.input_target == INPUT_TARGET and found.input_refuses
    return _held(held, f"→ {found.input_target}", f"→ {found.input_target}, refuses {found.input_refuses}")


@IMAGE.add("R4", "error", "/tmp empty and in memory, /output empty and open to all, the model read-only")
def conditions_of_folders(bench: Bench) -> str:
    """Under the conditions of the runs below."""
    found = bench.conditions
    text = f"/tmp {found.tmp_type} with {len(found.tmp)} files, /output {found.output_mode}"
    held = not found.tmp and not found.output and found.tmp_type == ["tmpfs"] and found.model_refuses
    return _held(held and found.output_mode == "0o777", text, text)


@IMAGE.add("R5", "error", "limits of memory, data segment (1 GiB lower) and /dev/shm (half) as on the platform")
def conditions_of_memory(bench: Bench) -> str:
    """Under the conditions of the runs below."""
    found, profile = bench.conditions, bench.hosted.profile
    text = f"data {found.data / GIB:g} GiB, shm {found.shm / GIB:g} GiB of {profile.memory_gb} GiB"
    held = found.data == (profile.memory_gb - 1) * GIB and math.isclose(found.shm, profile.memory_gb * GIB / 2)
    return _held(held, text, text)


@IMAGE.add("R9", "error", "no variable GRAND_CHALLENGE_…, which the platform takes away")
def no_stripped_variables(bench: Bench) -> str:
    """Checked in the image's settings: what relies on one works everywhere but on the platform."""
    own = [each.partition("=")[0] for each in bench.hosted.config.get("Env") or []]
    found = [name for name in own if name.upper().startswith("GRAND_CHALLENGE_")]
    if found:
        raise Broken(", ".join(found))
    return "none"


@IMAGE.add("R9-home", "warning", "HOME as /etc/passwd has it, which the platform sets")
def home_is_the_users(bench: Bench) -> str:
    """An image's own HOME has no effect on the platform."""
    found = bench.conditions
    if found.passwd is None:
        raise Skipped(f"user {found.uid} has no entry in /etc/passwd")
    return _held(found.home == found.passwd[5], str(found.home), f"{found.home}, not {found.passwd[5]}")


@IMAGE.add("C1-health", "error", "GET /health is 200 when the image is ready, without a redirect, in time")
def health_is_200(bench: Bench) -> str:
    """Each request is answered within 10 s, and with 200 within 300 s (or the given limits)."""
    _require_invoke(bench)
    health, limits = bench.server.health, bench.hosted.limits
    if not bench.server.ready:
        raise Broken(f"{health.statuses} within {limits.start:g} s, {last_line(bench.server.attached.stderr())}")
    if health.slowest_s > limits.health:
        raise Broken(f"an answer after {health.slowest_s:.1f} s")
    return f"{health.statuses}, ready after {health.ready_s:.1f} s"


@IMAGE.add("C1", "error", "exit code 0, or exactly 201 from POST /invoke")
def first_case_succeeds(bench: Bench) -> str:
    """The first case must succeed."""
    case = bench.case("first")
    if not case.succeeded:
        if bench.invoke and not bench.server.ready:
            raise Skipped("the server was never ready")
        raise Broken(case.how)
    return case.how


ENDING = Checks()
"""Checks that run last: they look back at all cases, and stop the server."""


@ENDING.add("C2", "error", "UTF-8 on stdout and stderr")
def logs_are_utf8(bench: Bench) -> str:
    """Any other byte ends the platform's log reader, and the job."""
    return require_utf8(bench.streams())


@ENDING.add("C2-lines", "error", "no line of 64 KiB or more")
def lines_are_short(bench: Bench) -> str:
    """The platform drops longer ones."""
    return require_short_lines(bench.streams())


@ENDING.add("C2-quiet", "warning", "nothing on stderr when a case succeeds")
def stderr_is_quiet(bench: Bench) -> str:
    """Any output there marks the job with a warning."""
    said = bench.good().stderr
    if said:
        raise Broken(f"{len(said)} bytes, the last line: {last_line(said)[:200]}")
    return "nothing"


@ENDING.add("R6", "error", "each case within half the time limit")
def time_is_enough(bench: Bench) -> str:
    """Measured on this machine, which is not the platform's."""
    bench.good()
    slowest = max(case.seconds for case in bench.cases.values())
    half = bench.hosted.limits.case / 2
    text = f"at most {slowest:.1f} s of {half:g} s"
    if bench.invoke:
        peak = bench.server.peak_memory_gib()
        text += f", ready after {bench.server.health.ready_s:.1f} s"
        text += f", peak {peak:.2f} GiB of {bench.hosted.profile.memory_gb} GiB" if peak else ""
    return _held(slowest <= half, text, text)


@ENDING.add("C3", "warning", "no process is left over after the cases, and SIGTERM ends the server within 5 s")
def server_ends(bench: Bench) -> str:
    """A container of the exec protocol ends with its main process, and all others with it."""
    _require_invoke(bench)
    bench.good()
    server = bench.server
    left = server.count_processes() - server.processes
    seconds = server.stop()
    if seconds is None:
        raise Broken(f"still running {bench.hosted.limits.stop:g} s after SIGTERM")
    if left > 0:
        raise Broken(f"{left} processes more than before the first case")
    return f"ended after {seconds:.1f} s, {left} processes left"


def _require_invoke(bench: Bench) -> None:
    if not bench.invoke:
        raise Skipped("an image of the exec protocol")


def _held(held: bool, text: str, otherwise: str) -> str:
    if not held:
        raise Broken(otherwise)
    return text
