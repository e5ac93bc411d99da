"""What the engine's client says, put into one line; the client is a script that says what some engines say."""

import resource

import pytest

from conformance.__main__ import main
from conformance.engine import Engine, last_line
from contract.errors import OncoduetError


@pytest.fixture
def client(tmp_path):
    """A client that runs these lines of shell, whatever it is asked."""

    def client(lines: str) -> Engine:
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return Engine(str(path))

    return client


@pytest.mark.parametrize("architecture", ["aarch64", "arm64"])
def test_an_engine_on_arm_is_refused(client, architecture):
    with pytest.raises(OncoduetError) as caught:
        client(f"echo {architecture}").require_amd64()
    assert f"expected an engine on amd64, as the platform's machines are, found {architecture}; run the" in str(
        caught.value
    )


@pytest.mark.parametrize("architecture", ["x86_64", "amd64"])
def test_an_engine_on_amd64_is_accepted(client, architecture):
    client(f"echo {architecture}").require_amd64()


def test_podman_names_the_machine_and_itself_in_another_place(client):
    podman = client("""case "$*" in *Architecture*|*Server*) echo 'no such field' >&2; exit 1;; *) echo amd64;; esac""")
    podman.require_amd64()
    assert podman.version == "amd64"
    with pytest.raises(OncoduetError, match="docker version: expected an answer, found: gone"):
        assert client("echo gone >&2; exit 1").version


def test_podman_is_told_the_limits_that_it_may_give():
    _, name, _, processes = Engine("/usr/bin/podman").own_limits
    soft, hard = name.removeprefix("nofile=").split(":")
    assert soft == hard and resource.getrlimit(resource.RLIMIT_NOFILE)[1] in (int(hard), resource.RLIM_INFINITY)
    assert processes == "nproc=4096:4096"
    assert Engine("/usr/bin/docker").own_limits == []


def test_what_the_engine_refuses_is_said_in_one_line(client):
    with pytest.raises(OncoduetError, match="docker volume: expected the engine to do it, found: no space left"):
        client("printf 'no space\\nleft\\n' >&2; exit 1").volume()
    with pytest.raises(OncoduetError, match="found: exit code 125"):
        client("exit 125").volume()


def test_a_command_that_does_not_exist_is_named():
    with pytest.raises(OncoduetError, match="/no/docker: expected the command of a container engine, found: No such"):
        Engine("/no/docker").require_amd64()
    with pytest.raises(OncoduetError, match="/no/docker: expected the command of a container engine"):
        Engine("/no/docker").volume()


def test_an_engine_that_does_not_answer_is_said_in_one_line(client, tmp_path, capsys):
    engine = client("echo 'Cannot connect to the daemon. Is it running?' >&2; exit 1").command
    words = ["a:1", "--kind", "algorithm", "--card", "cspca-picai", "--output", str(tmp_path / "report")]
    assert main([*words, "--engine", engine]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {engine} ") and line.endswith("found: Cannot connect to the daemon. Is it running?")


def test_an_image_that_the_engine_does_not_hold_is_named(client):
    with pytest.raises(OncoduetError, match="a:1: expected an image that the engine holds or an archive of one"):
        client("echo '[]'; exit 1").image("a:1")


def test_a_gpu_is_there_where_the_engine_has_nvidias_runtime(client):
    assert client("""echo '{"nvidia":{},"runc":{}}'""").has_gpu
    assert not client("""echo '{"runc":{}}'""").has_gpu


def test_the_last_line_is_the_last_that_says_something():
    assert last_line(b"a\nL\xc3\xa4sion \n\n") == "Läsion"
    assert last_line(b"\n") == ""
