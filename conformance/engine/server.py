"""An image that is a server: started once, asked for its health, and sent one case after the other.

It is asked by the image's own ``python3``, since nothing reaches it from outside; its answers are untrusted, and parsed
as such.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from conformance.engine.attached import Attached
from conformance.engine.container_engine import Files
from conformance.engine.hosted_image import GIB, CaseRun, HostedImage, Variant
from contract.errors import OncoduetError
from contract.process.invoke_server import PORT

_STATUS: TypeAdapter[int | None] = TypeAdapter(int | None)


class Health(BaseModel):
    """Successive statuses (or names of errors) of ``/health``, and how long the slowest answer took."""

    model_config = ConfigDict(frozen=True, strict=True)

    statuses: list[int | str] = Field(default_factory=list, max_length=1000)
    slowest_s: float = 0.0
    ready_s: float | None = None
    """Time from the start until it was ready; None: never."""

    @property
    def last(self) -> int | str | None:
        """The last status, or error, of ``/health``; None before the first request."""
        return self.statuses[-1] if self.statuses else None


_HEALTH = """
import http.client, json, sys, time
begun, statuses, slowest = time.monotonic(), [], 0.0
while time.monotonic() - begun < float(sys.argv[2]):
    asked = time.monotonic()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=float(sys.argv[3]))
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError as error:
        status = type(error).__name__
    slowest = max(slowest, time.monotonic() - asked)
    statuses += [] if statuses[-1:] == [status] else [status]
    if status == 200 or isinstance(status, int) and 300 <= status < 400:
        break
    time.sleep(0.1)
print(json.dumps({"statuses": statuses, "slowest_s": slowest}))
"""
_INVOKE = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=float(sys.argv[2]))
try:
    connection.request("POST", "/invoke")
    print(json.dumps(connection.getresponse().status))
except OSError as error:
    print(json.dumps(None))
"""


@dataclass
class Server:
    """A container that is started once and processes several cases."""

    hosted: HostedImage
    container: str
    attached: Attached
    health: Health
    processes: int = 0
    """Number of processes before the first case."""

    @property
    def ready(self) -> bool:
        """Whether ``/health`` ever returned 200."""
        return self.health.ready_s is not None

    def invoke(self, study: Files) -> CaseRun:
        """Process one case."""
        hosted = self.hosted
        hosted.lay_out(study)
        before = len(self.attached.stdout()), len(self.attached.stderr())
        begun = time.monotonic()
        status = self.post(hosted.limits.case) if self.ready else None
        seconds = time.monotonic() - begun
        time.sleep(0.2)  # the engine may not have passed on the last output yet
        stdout, stderr = self.attached.stdout()[before[0] :], self.attached.stderr()[before[1] :]
        note = "" if self.ready else f"/health never returned 200 ({self.health.statuses})"
        stderr = stderr if self.ready else self.attached.stderr()
        return hosted.ended(status, 201, stdout, stderr, seconds=seconds, note=note)

    def post(self, seconds: float) -> int | None:
        """POST ``/invoke`` and return the status; None without an answer."""
        answered, stdout, _ = self.hosted.engine.ask(
            "exec", self.container, "python3", "-c", _INVOKE, str(PORT), str(seconds), seconds=seconds + 60
        )
        return self.hosted.said(stdout, _STATUS) if answered == 0 else None

    def begin_post(self) -> Future[int | None]:
        """POST ``/invoke`` in the background."""
        pool = ThreadPoolExecutor(1)
        asked = pool.submit(self.post, self.hosted.limits.case)
        pool.shutdown(wait=False)
        return asked

    def count_processes(self) -> int:
        """Number of processes now."""
        return max(0, len(self.hosted.engine("top", self.container).splitlines()) - 1)

    def peak_memory_gib(self) -> float | None:
        """Peak memory in GiB by the kernel's count; None where the kernel keeps none."""
        paths = "/sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
        _, stdout, _ = self.hosted.engine.ask("exec", self.container, "/bin/sh", "-c", f"cat {paths} 2>/dev/null")
        numbers = [int(word) for word in stdout.split() if word.isdigit() and len(word) < 20]
        return numbers[0] / GIB if numbers else None

    def stop(self) -> float | None:
        """Send SIGTERM; seconds until it ended, or None if it did not within the limit and was killed."""
        begun = time.monotonic()
        self.hosted.engine.ask("kill", "--signal", "TERM", self.container)
        status = self.attached.wait(self.hosted.limits.stop)
        seconds = time.monotonic() - begun
        if status is None:
            self.hosted.engine.ask("kill", self.container)
            self.attached.wait(60)
        self.hosted.engine.ask("rm", "--force", self.container)
        return None if status is None else seconds


def start_server(
    hosted: HostedImage, variant: Variant = "plain", *, truth: Files | None = None, patience: float | None = None
) -> Server:
    """Start the image's server and wait until it is ready, or for ``patience`` seconds (default: the platform's)."""
    hosted.lay_out({})
    container = hosted.engine.create(*hosted.flags(variant, truth=truth), hosted.derived)
    begun = time.monotonic()
    attached = Attached(hosted.engine, container).start()
    limits = hosted.limits
    wait = limits.start if patience is None else patience
    health = Health()
    while time.monotonic() - begun < wait and attached.status() is None:
        left = wait - (time.monotonic() - begun)
        status, stdout, stderr = hosted.engine.ask(
            *["exec", container, "python3", "-c", _HEALTH, str(PORT), str(min(left, 20.0)), str(limits.health)],
            seconds=limits.health + 60,
        )
        if status == 0:
            found = hosted.said(stdout, TypeAdapter(Health))
            statuses = [*health.statuses, *found.statuses]
            health = Health(statuses=statuses[-1000:], slowest_s=max(health.slowest_s, found.slowest_s))
            if health.last == 200 or (isinstance(health.last, int) and 300 <= health.last < 400):
                break
        elif b"python3" in stdout + stderr and b"not found" in stdout + stderr:
            raise OncoduetError(hosted.image, "no python3 in the image, which is needed to call its server")
        else:
            time.sleep(0.1)
    ready = health.last == 200
    if ready:
        health = health.model_copy(update={"ready_s": time.monotonic() - begun})
    server = Server(hosted, container, attached, health)
    server.processes = server.count_processes() if ready else 0
    return server
