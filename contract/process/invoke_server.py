"""The platform's second protocol: a server that is started once and processes several cases, one at a time.

``GET /health`` is 200 once cases can be taken, and 503 before. ``POST /invoke`` processes ``/input`` as it is at that
moment and answers 201 when the outputs are written; 500 means that the case failed, with the reason as stderr's last
line, and the next case is taken. During a case another one gets 409 at once: both would write into one ``/output``.
SIGTERM ends the server within seconds; the answer of a case that has ended goes out first.

Nothing of a case is kept here, and no case is begun before it is requested. Source: the platform's own client
(DIAGNijmegen/rse-sagemaker-shim), which takes exactly 201 for success and follows no redirect. It gives up at the first
500 and adds a line of its own to our stderr, of which users see the last: so the reason is repeated when the server
ends.

A caller has ``PATIENCE_S`` to ask and to take the answer, and may send ``LONGEST_HEADER`` and ``LONGEST_BODY`` bytes.
Beyond ``MOST_CALLERS`` at once, the oldest caller without an answer is dropped, so that descriptors and threads remain
for the case.
"""

import contextlib
import http.client
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NoReturn

from contract.errors import OncoduetError, UsageError, ending, problem_of
from contract.process.signals import Terminated, deaf, signals_as_exceptions
from contract.process.terminal import forget_unwritten, say

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PORT = 4743
"""Port at which the platform expects the server."""

GRACE_S = 3.0
"""How long a running case may continue after SIGTERM; the platform kills after five seconds."""

PATIENCE_S = 10.0
"""How long a caller may take to send its request, and then to read the response."""

LONGEST_HEADER = 2**17
"""Limit of the request line and the headers together, in bytes."""

LONGEST_BODY = 2**16
"""Limit of a request's body, in bytes; its content is ignored."""

MOST_CALLERS = 128
"""Limit of simultaneous callers, in addition to the one whose case is being processed."""

LINGER_S = 1.0
"""How long the rest of a refused request is read and discarded, so that the caller reads the response."""

_LAST_PORT = 65535

logger = logging.getLogger(__name__)

Case = Callable[[], None]
"""Processes one case; raises what ``contract.errors.ending`` handles."""


def serve(load: Callable[[], Case], *, host: str = "0.0.0.0", port: int = PORT) -> None:
    """Answer until SIGTERM (or Ctrl-C) arrives.

    A case that does not end within ``GRACE_S`` after that is abandoned in its thread; ``end_process`` then ends the
    process without waiting for it.

    Raises ``OncoduetError``: something else listens on the port, or it is none; or what ``load`` raises.

    Parameters
    ----------
    load
        Loads what all cases need, and returns what processes one; called once, while ``/health`` returns 503.
    host
        Address to listen on; the platform's own test calls from another container.
    port
        0 takes a free one, which the log names.
    """
    if not 0 <= port <= _LAST_PORT:
        raise UsageError("--port", expected=f"0 to {_LAST_PORT}", found=port)
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        raise OncoduetError(f"cannot listen on port {port}", problem_of(error)) from None
    answering = threading.Thread(target=server.serve_forever, daemon=True)
    try:
        with signals_as_exceptions():
            answering.start()  # after the handlers are set: a caller may send a signal as soon as it has a response
            server.case = load()
            logger.info("ready for cases on port %d", server.server_port)
            threading.Event().wait()
    except (KeyboardInterrupt, Terminated):
        server.case = None  # no new case begins
        logger.info("asked to stop")
    finally:
        with deaf():
            if answering.ident is not None:  # shutdown would wait for a thread that was never started
                server.shutdown()
            server.server_close()
            if not server.wait_for_answers(GRACE_S):
                logger.info("a case is abandoned")
            if server.cause:
                say(server.cause)


def end_process(status: int) -> NoReturn:
    """End the process without waiting for a case that ``serve`` abandoned: a network cannot be stopped half-way."""
    forget_unwritten()
    os._exit(status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_CALLERS  # of http.server's 5, a sixth caller would wait for a second

    case: Case | None = None
    """Processes a case; None until everything is loaded, and again at the end."""

    cause: str = ""
    """Cause of the last case's failure in one line; empty if it succeeded."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.busy = threading.Lock()
        self._owed = 0
        self._owed_changed = threading.Condition()
        self._callers: dict[socket.socket, None] = {}
        self._callers_lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._callers_lock:
            self._callers[request] = None
            if len(self._callers) > MOST_CALLERS:
                first = next(iter(self._callers))
                del self._callers[first]
                with contextlib.suppress(OSError):
                    first.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.keep(request)
        super().shutdown_request(request)

    def keep(self, caller: socket.socket) -> None:
        """Never let this caller go for others' sake: its case is worked on, or it has its answer."""
        with self._callers_lock:
            self._callers.pop(caller, None)

    @contextmanager
    def owed_answer(self) -> Iterator[None]:
        """Hold the server's end up until the answer of a case was handed over."""
        with self._owed_changed:
            self._owed += 1
        try:
            yield
        finally:
            with self._owed_changed:
                self._owed -= 1
                self._owed_changed.notify_all()

    def wait_for_answers(self, seconds: float) -> bool:
        """Wait until no answer is owed any more; False if that takes longer."""
        with self._owed_changed:
            return self._owed_changed.wait_for(lambda: self._owed == 0, timeout=seconds)

    def handle_error(self, request: object, client_address: object) -> None:
        """To our log; mostly a caller that did not wait for its answer."""
        del request
        logger.warning("an answer to %s was not delivered", client_address, exc_info=True)


class _Question(io.RawIOBase):
    """A caller's stream, limited in time and size."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection
        self.until_s = time.monotonic() + PATIENCE_S
        self.has_ended = False
        self.left_bytes = LONGEST_HEADER + LONGEST_BODY

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Take what has come. Raises ``TimeoutError`` and ``HTTPException`` (http.server: 431) at the limits."""
        left_s = self.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the question took too long")
        if self.left_bytes <= 0:
            raise http.client.HTTPException("headers are too long")
        self.connection.settimeout(left_s)
        received = self.connection.recv_into(memoryview(buffer)[: self.left_bytes])
        self.left_bytes -= received
        self.has_ended = received == 0
        return received


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_S  # of sending

    def setup(self) -> None:
        super().setup()
        self.question = _Question(self.connection)
        self.rfile = io.BufferedReader(self.question)

    def parse_request(self) -> bool:
        """Whether there is a question; one that ends before its empty line is none (http.server would take it)."""
        return super().parse_request() and not self.question.has_ended

    def do_GET(self) -> None:
        if self.path != "/health":
            self._answer(404, f"expected GET /health or POST /invoke, found GET {self.path}")
        elif self.server.case is None:
            self._answer(503, "loading")
        else:
            self._answer(200, "ready")

    def do_POST(self) -> None:
        if self.path != "/invoke":
            self._refuse(404, f"expected GET /health or POST /invoke, found POST {self.path}")
        elif self._has_whole_body():
            with self.server.owed_answer():
                self._invoke(self.server.case)

    def _has_whole_body(self) -> bool:
        """Read and ignore the body; False if the request was refused because of it."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers:
            self._refuse(411, "expected a body with its Content-Length or none, found one with Transfer-Encoding")
        elif len(set(lengths)) > 1 or not all(each.isascii() and each.isdigit() for each in lengths):
            self._refuse(400, f"expected a whole number as Content-Length, found {', '.join(lengths)}")
        elif lengths and (len(lengths[0]) > 9 or int(lengths[0]) > LONGEST_BODY):
            self._refuse(413, f"expected a body of at most {LONGEST_BODY} bytes, found {lengths[0]}")
        elif lengths and len(self.rfile.read(int(lengths[0]))) < int(lengths[0]):
            self._refuse(400, f"expected a body of {lengths[0]} bytes, found its end before")
        else:
            return True
        return False

    def _invoke(self, case: Case | None) -> None:
        if case is None:
            self._answer(503, "loading, or at its end")
        elif not self.server.busy.acquire(blocking=False):
            self._answer(409, "expected one case at a time, found another under way")
        else:
            self.server.keep(self.connection)
            try:
                code, said = ending(case)
                self.server.cause = said.rpartition("\n")[2]
                if said:
                    say(said)
            finally:
                self.server.busy.release()  # before the answer, after which the caller may ask for the next case
            if code == 0:
                self._answer(201, "done")
            else:
                self._answer(500, "the case failed; the last line of stderr says why")

    def _refuse(self, status: int, message: str) -> None:
        """Respond without having read the whole request."""
        self._answer(status, message)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            until_s = time.monotonic() + LINGER_S
            while (left_s := until_s - time.monotonic()) > 0:
                self.connection.settimeout(left_s)
                if not self.connection.recv(LONGEST_BODY):
                    return

    def _answer(self, status: int, message: str) -> None:
        body = json.dumps({"status": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """To our log, which is stdout; http.server would write to stderr, which the platform treats as an error."""
        logger.info("%s", format % arguments)
