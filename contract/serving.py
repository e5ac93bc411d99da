"""The platform's second protocol: a server that is started once and asked for several cases, one at a time.

``GET /health`` is 200 as soon as cases can be taken, and 503 before. ``POST /invoke`` works on what lies in ``/input``
at that moment and is 201 when the outputs are written; 500 means that the case failed, with the reason as stderr's last
line, and the next case is taken all the same. While a case is worked on, another gets 409 at once: the two would write
into one ``/output``. SIGTERM ends the server, within seconds and whatever it does.

Nothing of a case is kept here, and no case is begun before it was asked for. Source: the platform's own client
(DIAGNijmegen/rse-sagemaker-shim), which takes exactly 201 for success and follows no redirect.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import NoReturn

from contract.errors import OncoduetError, exit_status

PORT = 4743
"""Where the platform looks for the server."""

GRACE_S = 3.0
"""How long a case that is under way may go on after SIGTERM; the platform kills after five seconds."""

logger = logging.getLogger(__name__)

Case = Callable[[], None]
"""Works on one case; raises what ``contract.errors.exit_status`` understands."""


class _Stopped(BaseException):
    """SIGTERM arrived; no ``Exception``, so that nobody takes it for a failed case."""


def serve(load: Callable[[], Case], *, host: str = "0.0.0.0", port: int = PORT) -> None:
    """Answer until SIGTERM (or Ctrl-C) arrives.

    A case that does not end within ``GRACE_S`` after that is abandoned in its thread; ``end_process`` then ends the
    process without waiting for it.

    Parameters
    ----------
    load
        Makes ready what all cases need, and returns what works on one; called once, while ``/health`` says 503.
    host
        Address to listen on; the platform's own test asks from another container.
    port
        0 takes a free one, which the log names.

    Raises
    ------
    OncoduetError
        Something else listens on the port; or what ``load`` raises.
    """
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        raise OncoduetError(f"port {port}: expected to listen on it, found: {error.strerror}") from None
    answering = threading.Thread(target=server.serve_forever, daemon=True)
    try:
        with _stopped_by_signals():
            answering.start()  # not before signals are heard: who got an answer may send one
            server.case = load()
            logger.info("ready for cases on port %d", server.server_port)
            threading.Event().wait()
    except _Stopped:
        logger.info("asked to stop")
    finally:
        if answering.ident is not None:  # shutdown would wait for a thread that was never started
            server.shutdown()
        server.server_close()
    if not server.busy.acquire(timeout=GRACE_S):
        logger.info("a case is abandoned")


def end_process(status: int) -> NoReturn:
    """End the process without waiting for a case that ``serve`` abandoned: a network cannot be stopped half-way."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    case: Case | None = None
    """None until everything is loaded."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.busy = threading.Lock()
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """To our log; mostly a caller that did not wait for its answer."""
        del request
        logger.warning("an answer to %s was not delivered", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path != "/health":
            self._answer(404, f"expected GET /health or POST /invoke, found GET {self.path}")
        elif self.server.case is None:
            self._answer(503, "loading")
        else:
            self._answer(200, "ready")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/invoke":
            self._answer(404, f"expected GET /health or POST /invoke, found POST {self.path}")
        elif self.server.case is None:
            self._answer(503, "loading")
        elif not self.server.busy.acquire(blocking=False):
            self._answer(409, "expected one case at a time, found another under way")
        else:
            try:
                status = exit_status(self.server.case)
            finally:
                self.server.busy.release()
            if status == 0:
                self._answer(201, "done")
            else:
                self._answer(500, "the case failed; the last line of stderr says why")

    def _answer(self, status: int, message: str) -> None:
        body = json.dumps({"status": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """To our log, which is stdout; http.server would write to stderr, which the platform takes for trouble."""
        logger.info("%s", format % arguments)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise ``_Stopped`` where SIGTERM or Ctrl-C finds the main thread; both do nothing afterwards."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        del signal_number, frame
        raise _Stopped

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_IGN if handler is None else handler)
