"""The server of the platform's second protocol, as the platform meets it: a process of its own, asked over HTTP."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import PROJECT
from programs import python
from refusals import refused_with

from contract.errors import UsageError
from contract.process.invoke_server import MOST_CALLERS, serve

PROGRAM = """
import os, sys, time
from pathlib import Path
from contract.errors import OncoduetError, exit_status
from contract.process.invoke_server import end_process, serve

def case():
    wish, *begun = Path(sys.argv[2]).read_text().split()
    for path in begun:
        Path(path).touch()
    if wish == "wrong":
        raise OncoduetError("study a: expected an image, found none")
    if wish == "bug":
        raise KeyError("adc")
    time.sleep(float(wish))

def load():
    time.sleep(float(sys.argv[3]))
    if sys.argv[4:] == ["wrong-model"]:
        raise OncoduetError("/opt/ml/model: expected a bundle, found none")
    return case

if sys.argv[4:] == ["full-stderr"]:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
end_process(exit_status(lambda: serve(load, host="127.0.0.1", port=int(sys.argv[1]))))
"""


class Service:
    def __init__(self, wish: Path, *arguments: str) -> None:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.wish = wish
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.port), str(wish), *arguments],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, method: str, path: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path)
        return connection

    def ask(self, method: str, path: str) -> int:
        with contextlib.closing(self.begin(method, path)) as connection:
            return connection.getresponse().status

    def invoke(self, wish: str) -> int:
        self.wish.write_text(wish)
        return self.ask("POST", "/invoke")

    def health(self) -> int | None:
        try:
            return self.ask("GET", "/health")
        except ConnectionError:
            return None

    def until(self, status: int) -> None:
        begun = time.monotonic()
        while self.health() != status:
            assert time.monotonic() - begun < 30
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, stderr


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments: str, seconds_to_load: float = 0) -> Service:
        started.append(Service(tmp_path / "wish", str(seconds_to_load), *arguments))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()
        service.process.stdout.close()
        service.process.stderr.close()


def test_a_failed_case_is_answered_although_stderr_is_on_a_full_disk(start):
    service = start("full-stderr")
    service.until(200)
    assert [service.invoke("wrong"), service.invoke("bug"), service.invoke("0")] == [500, 500, 201]
    code, stdout, stderr = service.end()
    assert (code, stderr) == (0, "")
    assert "error: study a: expected an image, found none" in stdout


def test_health_is_503_and_cases_are_refused_until_all_is_loaded(start):
    service = start(seconds_to_load=1.5)
    service.until(503)
    assert service.ask("POST", "/invoke") == 503
    service.until(200)
    assert service.invoke("0") == 201


def test_a_failed_case_gets_500_and_its_reason_and_the_next_is_taken(start):
    service = start()
    service.until(200)
    assert [service.invoke(wish) for wish in ("0", "wrong", "0")] == [201, 500, 201]
    status, _, stderr = service.end()
    assert (status, stderr) == (0, "error: study a: expected an image, found none\n")


def test_a_bug_gets_500_with_its_traceback_and_the_next_case_is_taken(start):
    service = start()
    service.until(200)
    assert [service.invoke(wish) for wish in ("bug", "0")] == [500, 201]
    _, _, stderr = service.end()
    assert stderr.startswith("Traceback")
    assert stderr.splitlines()[-1] == "KeyError: 'adc'"


def test_a_concurrent_case_is_refused_and_health_stays_200(start):
    service = start()
    service.until(200)
    service.wish.write_text("1.5")
    with contextlib.closing(service.begin("POST", "/invoke")) as first:
        time.sleep(0.5)
        assert service.ask("POST", "/invoke") == 409
        assert service.ask("GET", "/health") == 200
        assert first.getresponse().status == 201
    assert service.invoke("0") == 201


def test_the_reason_of_a_failed_case_is_repeated_as_the_last_line(start):
    service = start()
    service.until(200)
    assert service.invoke("wrong") == 500
    status, _, stderr = service.end()
    assert (status, stderr) == (0, "error: study a: expected an image, found none\n" * 2)


def test_after_a_bug_its_last_line_is_the_last_line(start):
    service = start()
    service.until(200)
    assert service.invoke("bug") == 500
    _, _, stderr = service.end()
    assert stderr.splitlines()[-2:] == ["KeyError: 'adc'"] * 2


@pytest.mark.parametrize(("wish", "expected"), [("0", 201), ("0.02", 201), ("wrong", 500)])
def test_no_answer_is_lost_at_sigterm(tmp_path, wish, expected):
    """The signal at many moments around the end of a case, of as many servers as ONCODUET_FUZZ says."""
    for number in range(int(os.environ.get("ONCODUET_FUZZ", "4"))):
        service = Service(tmp_path / "wish", "0")
        service.until(200)
        begun = tmp_path / f"begun-{number}"
        service.wish.write_text(f"{wish} {begun}")
        with contextlib.closing(service.begin("POST", "/invoke")) as asked:
            while not begun.exists():
                time.sleep(0.0005)
            time.sleep(0.0007 * (number % 50))
            service.process.send_signal(signal.SIGTERM)
            assert asked.getresponse().status == expected
        assert service.process.wait(timeout=10) == 0
        service.process.stdout.close()
        service.process.stderr.close()


@pytest.mark.parametrize(
    ("number", "seconds_to_load", "health"),
    [(signal.SIGTERM, 0, 200), (signal.SIGINT, 0, 200), (signal.SIGTERM, 60, 503)],  # `end` waits for less
)
def test_a_signal_ends_it_quietly_also_while_it_loads(start, number, seconds_to_load, health):
    service = start(seconds_to_load=seconds_to_load)
    service.until(health)
    status, _, stderr = service.end(number)
    assert (status, stderr) == (0, "")


def test_sigterm_ends_the_server_within_5_s_during_a_case(start):
    service = start()
    service.until(200)
    service.wish.write_text("60")
    with contextlib.closing(service.begin("POST", "/invoke")):
        time.sleep(0.5)
        begun = time.monotonic()
        status, _, stderr = service.end()
    assert (status, stderr) == (0, "")
    assert time.monotonic() - begun < 5


def test_what_cannot_be_loaded_ends_the_server_with_one_line(start):
    service = start("wrong-model")
    _, stderr = service.process.communicate(timeout=30)
    assert (service.process.returncode, stderr) == (3, "error: /opt/ml/model: expected a bundle, found none\n")


def test_a_port_that_is_taken_is_named(start):
    first = start()
    first.until(200)
    second = python("-c", PROGRAM, first.port, "none", "0")
    assert second.returncode == 3
    assert second.stderr == f"error: cannot listen on port {first.port}: address already in use\n"


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/health/"), ("POST", "/"), ("POST", "/health")])
def test_other_addresses_are_not_found(start, method, path):
    service = start()
    service.until(200)
    assert service.ask(method, path) == 404


ASKED = {
    "a body too large": (b"POST /invoke HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
    "a length of many digits": (b"POST /invoke HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
    "a negative length": (b"POST /invoke HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "a length in words": (b"POST /invoke HTTP/1.1\r\nContent-Length: ten\r\n\r\n", 400),
    "two lengths": (b"POST /invoke HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "chunks": (b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "a large body for nobody": (b"POST /x HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 100_000, 404),
    "a header too long": (b"POST /invoke HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "headers too many": (b"POST /invoke HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
    "headers too long together": (b"POST /invoke HTTP/1.1\r\n" + (b"X: " + b"x" * 5000 + b"\r\n") * 60 + b"\r\n", 431),
    "a line too long": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    "another verb": (b"PUT /invoke HTTP/1.1\r\n\r\n", 501),
    "a body": (b"POST /invoke HTTP/1.1\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536, 201),
    "escape sequences": (b"POST /\x1b[31m\x07 HTTP/1.1\r\n\r\n", 404),
}


def test_a_malformed_request_is_refused_and_the_next_case_is_taken(start):
    service = start()
    service.until(200)
    service.wish.write_text("0")
    before_kb = _peak_kb(service)
    for what, (question, expected) in ASKED.items():
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as asking:
            with contextlib.suppress(ConnectionError):
                asking.sendall(question)
            line = asking.makefile("rb").readline()
        assert line.split()[1:2] == [str(expected).encode()], what
    assert _peak_kb(service) < before_kb + 20_000
    assert service.invoke("0") == 201
    _, stdout, stderr = service.end()
    assert stderr == ""
    assert all(line.isprintable() for line in stdout.splitlines())


def test_a_body_of_a_gigabyte_is_not_taken_into_memory(start):
    service = start()
    service.until(200)
    before_kb = _peak_kb(service)
    block = bytes(1 << 20)
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as asking,
        contextlib.suppress(ConnectionError),
    ):
        asking.sendall(b"POST /x HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n")
        for _ in range(200):
            asking.sendall(block)
    assert _peak_kb(service) < before_kb + 20_000
    assert service.health() == 200


def test_callers_with_unfinished_requests_block_no_answer(start):
    service = start()
    service.until(200)
    begun = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(50)]
    for asking in slow:
        asking.sendall(b"POST /invoke HTTP/1.1\r\nX-")
    assert service.invoke("0") == 201
    while time.monotonic() - begun < 40:  # a byte now and then gives no more time
        try:
            slow[0].sendall(b"x")
        except ConnectionError:
            break
        time.sleep(0.5)
    assert 5 < time.monotonic() - begun < 40
    for asking in slow:
        asking.close()


def test_a_question_that_ends_early_begins_no_case(start, tmp_path):
    service = start()
    service.until(200)
    service.wish.write_text(f"0 {tmp_path / 'begun'}")
    for half in (b"POST /invoke HTTP/1.1", b"POST /invoke HTTP/1.1\r\n", b"POST /invoke HTTP/1.1\r\nHost: a\r\nX-"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as asking:
            asking.sendall(half)
            asking.shutdown(socket.SHUT_WR)
            assert asking.recv(100) == b""
    assert not (tmp_path / "begun").exists()
    assert service.ask("POST", "/invoke") == 201
    assert (tmp_path / "begun").exists()


def test_a_thousand_idle_callers_take_no_descriptors_from_the_case(start):
    service = start()
    service.until(200)
    service.wish.write_text("2")
    with contextlib.closing(service.begin("POST", "/invoke")) as first, contextlib.ExitStack() as idle:
        time.sleep(0.3)
        for _ in range(1000):
            idle.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        assert service.health() == 200
        assert len(list(Path(f"/proc/{service.process.pid}/fd").iterdir())) < 2 * MOST_CALLERS
        assert first.getresponse().status == 201
    assert service.invoke("0") == 201
    assert service.end()[::2] == (0, "")


@pytest.mark.parametrize("port", [-1, 65536, 10**20])
def test_invalid_port_is_wrong_usage(port):
    with refused_with("^--port$", expected="^0 to 65535$", found=f"^{port}$") as refused:
        serve(lambda: lambda: None, port=port)
    assert isinstance(refused.value, UsageError)


def _peak_kb(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
