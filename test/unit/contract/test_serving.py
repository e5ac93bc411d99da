"""The server of the platform's second protocol, as the platform meets it: a process of its own, asked over HTTP."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys, time
from pathlib import Path
from contract.errors import OncoduetError, exit_status
from contract.serving import end_process, serve

def case():
    wish = Path(sys.argv[2]).read_text()
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

end_process(exit_status(lambda: serve(load, host="127.0.0.1", port=int(sys.argv[1]))))
"""


class Service:
    def __init__(self, wish: Path, *arguments: str) -> None:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.wish = wish
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(self.port), str(wish), *arguments],
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


def test_health_says_503_until_everything_is_loaded_and_cases_are_refused_as_long(start):
    service = start(seconds_to_load=1.5)
    service.until(503)
    assert service.ask("POST", "/invoke") == 503
    service.until(200)
    assert service.invoke("0") == 201


def test_a_case_that_fails_gets_500_its_reason_as_the_last_line_and_the_next_is_taken(start):
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


def test_a_second_case_is_refused_while_one_is_under_way_and_health_stays_200(start):
    service = start()
    service.until(200)
    service.wish.write_text("1.5")
    with contextlib.closing(service.begin("POST", "/invoke")) as first:
        time.sleep(0.5)
        assert service.ask("POST", "/invoke") == 409
        assert service.ask("GET", "/health") == 200
        assert first.getresponse().status == 201
    assert service.invoke("0") == 201


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(start, number):
    service = start()
    service.until(200)
    begun = time.monotonic()
    status, _, stderr = service.end(number)
    assert (status, stderr) == (0, "")
    assert time.monotonic() - begun < 3


def test_sigterm_ends_it_while_it_loads(start):
    service = start(seconds_to_load=60)
    service.until(503)
    begun = time.monotonic()
    status, _, stderr = service.end()
    assert (status, stderr) == (0, "")
    assert time.monotonic() - begun < 3


def test_sigterm_ends_it_within_five_seconds_although_a_case_is_under_way(start):
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
    second = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(first.port), "none", "0"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 3
    assert second.stderr == f"error: port {first.port}: expected to listen on it, found: Address already in use\n"


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/health/"), ("POST", "/"), ("POST", "/health")])
def test_other_addresses_are_not_found(start, method, path):
    service = start()
    service.until(200)
    assert service.ask(method, path) == 404
