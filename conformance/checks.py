"""A check: an id, a level, what is expected, and a function that inspects. Also the checks of every image.

A check asks the bench for the runs that it needs. Each run is made once, when the first check asks for it, so running
only some checks makes only their runs. Ids are those of the table in ``docs/platform.md``.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from conformance.archives import LARGEST_BYTES, Reading, Saved, read_archive, read_saved, tarball_files
from conformance.conditions import (
    API_LABEL,
    GIB,
    INPUT_TARGET,
    CaseRun,
    Conditions,
    Files,
    NotRunError,
    Place,
    Server,
    Variant,
    start_server,
)
from conformance.container_engine import last_line
from conformance.output_rules import Broken, Doubtful, require_short_lines, require_utf8
from conformance.studies import MountedStudy
from contract.card import Card
from contract.errors import OncoduetError
from contract.text import one_line

Level = Literal["error", "warning"]
_MOST_ENTRIES = 10_000
"""How many entries of an image's folder are inspected."""


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

    def decide(self, bench: "Bench") -> CheckResult:
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


@dataclass(frozen=True)
class Scenario:
    """One case, and the conditions under which it runs."""

    study: Callable[[], MountedStudy]
    variant: Variant = "plain"
    alone: bool = False
    """Whether a server gets a container of its own for this case."""
    truth: Files | None = None
    """Truth that replaces the bench's; None: the bench's."""


@dataclass
class Bench:
    """An image, and the runs that were made with it."""

    place: Place
    card: Card
    archive: Path | None = None
    """The image's archive; None where a name was given."""
    tarball: Path | None = None
    """Tarball of the model (algorithm) or the truth (evaluation); None where a folder was given."""
    planted: bool = False
    """Whether the image is expected to find the planted lesion."""
    ranking: str = "strict.score"
    legacy: bool = False
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    cases: dict[str, CaseRun] = field(default_factory=dict)
    _server: Server | None = None

    @property
    def invoke(self) -> bool:
        """Whether the image is a server."""
        return self.place.api == "invoke"

    def study(self, name: str) -> MountedStudy:
        """A study by the name of its scenario."""
        return self.scenarios[name].study()

    def case(self, name: str) -> CaseRun:
        """How a scenario ended; it runs when first asked for."""
        if name not in self.cases:
            scenario = self.scenarios[name]
            files = scenario.study().files
            if not self.invoke:
                self.cases[name] = self.place.run_once(files, scenario.variant, truth=scenario.truth)
            elif scenario == Scenario(scenario.study):
                self.cases[name] = self.server.invoke(files)
            else:
                patience = 60.0 if scenario.variant == "no model" else None
                with self.other_server(scenario.variant, truth=scenario.truth, patience=patience) as server:
                    self.cases[name] = server.invoke(files)
        return self.cases[name]

    def good(self, name: str = "first") -> CaseRun:
        """A scenario's run that succeeded; skipped if the first case failed."""
        if not self.case("first").succeeded:
            raise Skipped("the first case failed")
        case = self.case(name)
        if not case.succeeded:
            raise Broken(case.how)
        return case

    @cached_property
    def server(self) -> Server:
        """The server that the plain cases share."""
        self._server = start_server(self.place)
        return self._server

    @contextmanager
    def other_server(self, variant: Variant, *, truth: Files | None, patience: float | None = None) -> Iterator[Server]:
        """A separate server, stopped at the end."""
        server = start_server(self.place, variant, truth=truth, patience=patience)
        try:
            yield server
        finally:
            server.stop()

    @cached_property
    def reading(self) -> Reading:
        """The image as it would be uploaded: saved and read in the background from first use on."""
        return Reading(
            lambda: read_archive(self.archive) if self.archive else read_saved(self.place.engine, self.place.image)
        )

    @property
    def saved(self) -> Saved:
        """The saved image, once it has been read."""
        return self.reading.result()

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions as a process in the image sees them."""
        try:
            return self.place.probe(_PROBE)
        except OncoduetError as error:
            raise Skipped(str(error)) from None

    def streams(self) -> list[bytes]:
        """Output of all runs that succeeded."""
        self.good()
        return [stream for case in self.cases.values() if case.succeeded for stream in (case.stdout, case.stderr)]


_PROBE = """
import json, os, pwd, resource, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def cuda():
    import importlib.util
    found = importlib.util.find_spec("torch")
    path = os.path.join(found.submodule_search_locations[0], "version.py") if found else ""
    names = {}
    if os.path.exists(path):
        exec(open(path).read(), names)
    return names.get("cuda")
def passwd():
    try:
        return list(pwd.getpwuid(os.getuid()))
    except KeyError:
        return None
def connects():
    socket.create_connection(("192.0.2.1", 80), timeout=2)
print(json.dumps({
    "uid": os.getuid(), "passwd": passwd(), "home": os.environ.get("HOME"),
    "capabilities": int(status["CapEff"], 16), "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    "input_target": os.path.realpath("/input"), "input_is_link": os.path.islink("/input"),
    "input_refuses": refused(lambda: open("/input/probe", "w")),
    "model_refuses": refused(lambda: open("/opt/ml/model/probe", "w")),
    "tmp": os.listdir("/tmp"), "tmp_type": [l.split()[2] for l in open("/proc/mounts") if l.split()[1] == "/tmp"],
    "output": os.listdir("/output"), "output_mode": oct(os.stat("/output").st_mode & 0o7777),
    "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "offline": refused(connects), "cuda": cuda(),
}))
"""

IMAGE = Checks()
"""Checks of images of both kinds."""


@IMAGE.add("A1", "error", "a user that is not root and can be resolved")
def user_is_not_root(bench: Bench) -> str:
    """Docker runs an image without a user as root; the platform refuses it."""
    try:
        bench.place.uid  # noqa: B018 - raises if unknown or 0
    except NotRunError as reason:
        raise Broken(str(reason)) from None
    return f"user {bench.place.config['User']}"


@IMAGE.add("A2", "error", "linux/amd64")
def platform_is_amd64(bench: Bench) -> str:
    """The platform's machines."""
    image = bench.place.engine.image(bench.place.image)
    found = f"{image.get('Os')}/{image.get('Architecture')}"
    if found != "linux/amd64":
        raise Broken(found)
    return found


@IMAGE.add("A3", "error", "an entry point or command, and exec, invoke or nothing as api-method")
def something_is_started(bench: Bench) -> str:
    """The entry point and protocol that the platform would use."""
    config = bench.place.config
    if not (config.get("Entrypoint") or config.get("Cmd")):
        raise Broken("neither entry point nor command")
    if bench.place.api not in ("exec", "invoke"):
        raise Broken(f"{API_LABEL}={bench.place.api!r}")
    return f"{' '.join(config.get('Entrypoint') or []) or config.get('Cmd')}, {bench.place.api}"


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
        with bench.place.engine.reading(bench.place.still, place) as entries:
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
    found, profile = bench.conditions, bench.place.profile
    text = f"data {found.data / GIB:g} GiB, shm {found.shm / GIB:g} GiB of {profile.memory_gb} GiB"
    held = found.data == (profile.memory_gb - 1) * GIB and math.isclose(found.shm, profile.memory_gb * GIB / 2)
    return _held(held, text, text)


@IMAGE.add("R9", "error", "no variable GRAND_CHALLENGE_…, which the platform takes away")
def no_stripped_variables(bench: Bench) -> str:
    """Checked in the image's settings: what relies on one works everywhere but on the platform."""
    own = [each.partition("=")[0] for each in bench.place.config.get("Env") or []]
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
    health, limits = bench.server.health, bench.place.limits
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
    half = bench.place.limits.case / 2
    text = f"at most {slowest:.1f} s of {half:g} s"
    if bench.invoke:
        peak = bench.server.peak_memory_gib()
        text += f", ready after {bench.server.health.ready_s:.1f} s"
        text += f", peak {peak:.2f} GiB of {bench.place.profile.memory_gb} GiB" if peak else ""
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
        raise Broken(f"still running {bench.place.limits.stop:g} s after SIGTERM")
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


def run(checks: Sequence[Check], bench: Bench, only: Sequence[str] = ()) -> Iterator[CheckResult]:
    """Decide checks, all or those with the given ids: in their order, but those of the archive last.

    Saving an image of gigabytes keeps the engine busy for half a minute, and a case keeps hardly more than one core.
    """
    chosen = [check for check in checks if not only or check.id in only]
    if any(check.of_archive for check in chosen):
        bench.reading  # noqa: B018 - starts reading
    for check in sorted(chosen, key=lambda check: check.of_archive):
        yield check.decide(bench)
