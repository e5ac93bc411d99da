"""What the engine's client says, put into one line; the client is a script that says what some engines say."""

import io
import json
import resource
import tarfile
from pathlib import Path

import pytest
from refusals import refused_with

from conformance.__main__ import main
from conformance.engine import container_engine
from conformance.engine.container_engine import MOST_BYTES, ContainerEngine, entry, last_line, pack
from conformance.engine.hosted_image import MOST_OUTPUT_BYTES, MOST_OUTPUT_FILES, HostedImage, NotRunError


@pytest.fixture
def client(tmp_path):
    """A client that runs these lines of shell, whatever it is asked."""

    def client(lines: str) -> ContainerEngine:
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return ContainerEngine(str(path))

    return client


@pytest.mark.parametrize("architecture", ["aarch64", "arm64"])
def test_an_engine_on_arm_is_refused(client, architecture):
    with refused_with(expected="an engine on amd64", found=architecture):
        client(f"echo {architecture}").require_amd64()


@pytest.mark.parametrize("architecture", ["x86_64", "amd64"])
def test_an_engine_on_amd64_is_accepted(client, architecture):
    client(f"echo {architecture}").require_amd64()


def test_podman_names_the_machine_and_itself_in_another_place(client):
    podman = client("""case "$*" in *Architecture*|*Server*) echo 'no such field' >&2; exit 1;; *) echo amd64;; esac""")
    podman.require_amd64()
    assert podman.version == "amd64"
    with refused_with("docker version", "no answer: gone"):
        assert client("echo gone >&2; exit 1").version


def test_podman_gets_the_limits_that_it_may_set():
    _, name, _, processes = ContainerEngine("/usr/bin/podman").own_limits
    soft, hard = name.removeprefix("nofile=").split(":")
    assert soft == hard and resource.getrlimit(resource.RLIMIT_NOFILE)[1] in (int(hard), resource.RLIM_INFINITY)
    assert processes == "nproc=4096:4096"
    assert ContainerEngine("/usr/bin/docker").own_limits == []


def test_refusals_of_the_engine_are_one_line(client):
    with refused_with("docker volume", "no space left"):
        client("printf 'no space\\nleft\\n' >&2; exit 1").volume()
    with refused_with("docker volume", "exit code 125"):
        client("exit 125").volume()


def test_a_command_that_does_not_exist_is_named():
    with refused_with("/no/docker", "cannot run the container engine: file not found"):
        ContainerEngine("/no/docker").require_amd64()
    with refused_with("/no/docker", "cannot run the container engine"):
        ContainerEngine("/no/docker").volume()


def test_engine_that_does_not_answer_is_one_line(client, tmp_path, capsys):
    engine = client("echo 'Cannot connect to the daemon. Is it running?' >&2; exit 1").command
    words = ["a:1", "--kind", "algorithm", "--card", "cspca-picai", "--output", str(tmp_path / "report")]
    assert main([*words, "--engine", engine]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {engine} ") and line.endswith(": Cannot connect to the daemon. Is it running?")


def test_an_image_that_the_engine_does_not_hold_is_named(client):
    with refused_with("a:1", "neither an image known to the engine nor an archive of one"):
        client("echo '[]'; exit 1").image("a:1")


def test_too_much_output_ends_the_client_and_its_children(client, tmp_path):
    with refused_with("docker volume", f"more than {MOST_BYTES} bytes of output"):
        client(f"yes & echo $! > {tmp_path}/pid; wait").volume()
    writer = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    assert not writer.exists() or not writer.read_bytes()  # gone, or dead and not yet waited for


def test_a_client_that_does_not_end_is_ended(client):
    with refused_with("docker exec", r"did not end within 0\.5 s"):
        client("exec sleep 60").ask("exec", seconds=0.5)


def test_a_layer_is_added_without_program_network_or_untrusted_text(client, tmp_path):
    (tmp_path / "image.json").write_text(json.dumps([{"Config": {"User": "0\nRUN x"}}]))
    engine = client(f"""case "$1" in image) cat {tmp_path}/image.json ;;
*) echo "$*" > {tmp_path}/words; cat > {tmp_path}/context ;; esac""")
    engine.add_layer("a:1", b"layer", tag="b")
    assert (tmp_path / "words").read_text() == "build --quiet --network none --tag b -\n"
    with tarfile.open(tmp_path / "context") as context:
        files = {member.name: context.extractfile(member).read() for member in context}
    name, value = engine.label.split("=")
    assert files == {"Dockerfile": f"FROM a:1\nADD layer.tar /\nLABEL {name}={value}\n".encode(), "layer.tar": b"layer"}


def test_an_image_with_a_malformed_name_or_onbuild_steps_is_refused(client):
    with refused_with(problem="not a valid image name"):
        client("exit 9").require_silent("a\nRUN evil")
    with refused_with("a", "ONBUILD step, which would run here as root: 'RUN x'"):
        client("""echo '[{"Config": {"OnBuild": ["RUN x"]}}]'""").require_silent("a")


def test_every_container_is_without_network_log_and_commands_of_health(client):
    words = client('echo "$*"').create("a:1")
    assert " --network none --log-driver none --no-healthcheck a:1" in words


@pytest.mark.parametrize(
    ("user", "table", "uid"),
    [
        ("1000", "", 1000),
        ("1000:1000", "", 1000),
        ("anna", "root:x:0:0::/:\nanna:x:7:7::/:\n", 7),
        ("anna:staff", "anna:x:7:7::/:\nanna:x:0:0::/:\n", 7),  # the engine takes the first, too
    ],
)
def test_an_images_user_comes_from_its_settings_and_its_passwd(client, tmp_path, user, table, uid):
    assert place(client, tmp_path, user, table).uid == uid


@pytest.mark.parametrize(
    ("user", "table"),
    [
        *[
            (each, "")
            for each in ("", "0", "root", "0:0", "root:1000", ":1000", "00", "+0", "-0", "0x0", "1000\nUSER 0")
        ],
        *[(each, "") for each in ("nobody", "4294967296", "2147483648", "a b", "$USER", "0 1000", "anna:")],
        ("anna", "anna:x:0:0::/:\nanna:x:7:7::/:\n"),
        ("anna", "anna:x:00:7::/:\n"),
        ("anna", "anna:x:-1:7::/:\n"),
        ("anna", "anna\n"),
    ],
)
def test_an_image_whose_user_is_root_or_unknown_is_not_run(client, tmp_path, user, table):
    image = place(client, tmp_path, user, table)
    with pytest.raises(NotRunError, match=r"^user "):
        assert image.uid
    with pytest.raises(NotRunError, match=r"^user "):
        image.flags()


def place(client, tmp_path, user: str, table: str) -> HostedImage:
    """An image with this user, whose container is asked for its table of users."""
    (tmp_path / "table.tar").write_bytes(pack({"passwd": table.encode()}))
    (tmp_path / "image.json").write_text(json.dumps([{"Config": {"User": user}}]))
    engine = client(f"case $1 in cp) cat {tmp_path}/table.tar ;; image) cat {tmp_path}/image.json ;; *) echo c ;; esac")
    return HostedImage(engine, "a:1", tmp_path)


@pytest.mark.parametrize("said", ["", "nonsense", "[]", '{"uid": "0"}', "9" * 5000, "[" * 100_000, '{"uid": 1}'])
def test_unexpected_output_of_an_images_python3_is_one_line(client, tmp_path, said):
    (tmp_path / "said").write_text(said)
    image = place(client, tmp_path, "1000", "")
    image.engine = client(
        f"case $1 in run) cat {tmp_path}/said ;; image) cat {tmp_path}/image.json ;; *) echo c ;; esac"
    )
    with refused_with("a:1", problem="unexpected output of the image's python3"):
        image.probe("code")


def outputs(client, tmp_path, *members: tarfile.TarInfo) -> HostedImage:
    """An image that left these in its output folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    image = place(client, tmp_path, "1000", "")
    (tmp_path / "table.tar").write_bytes(stream.getvalue())
    return image


def file(name: str, size: int = 3) -> tarfile.TarInfo:
    made = entry(name, tarfile.REGTYPE)
    made.size = size
    return made


def test_of_outputs_files_and_folders_are_taken_and_never_a_link(client, tmp_path):
    members = [
        entry("output", tarfile.DIRTYPE),
        entry("output/a", tarfile.DIRTYPE, mode=0o000),
        file("output/a/b"),
        entry("output/link", tarfile.SYMTYPE, link="/etc"),
        entry("output/hard", tarfile.LNKTYPE, link="/etc/passwd"),
        entry("output/pipe", tarfile.FIFOTYPE),
        entry("output/disk", tarfile.BLKTYPE),
    ]
    taken = outputs(client, tmp_path, *members).take()
    assert [path.relative_to(taken).as_posix() for path in sorted(taken.rglob("*"))] == ["a", "a/b"]


@pytest.mark.parametrize("name", ["../outside", "output/../../outside", f"output/{'n' * 300}", "output/a/b\udcff/../c"])
def test_output_that_cannot_be_copied_is_one_line(client, tmp_path, name):
    with refused_with("in /output cannot be copied"):
        outputs(client, tmp_path, file(name)).take()
    assert not list(tmp_path.glob("outside"))


def test_too_many_files_are_a_failed_case(client, tmp_path):
    image = outputs(client, tmp_path, *(file(f"output/{number}") for number in range(MOST_OUTPUT_FILES + 1)))
    case = image.ended(0, 0, b"", b"", seconds=1.0, note="")
    assert not case.succeeded
    assert f"more than {MOST_OUTPUT_BYTES} bytes or {MOST_OUTPUT_FILES} files in /output" in case.how


def test_truncated_output_is_one_line(client, tmp_path):
    image = outputs(client, tmp_path, file("output/a", 10_000))
    cut = (tmp_path / "table.tar").read_bytes()[:2000]
    (tmp_path / "table.tar").write_bytes(cut)
    with refused_with("in /output cannot be copied|not whole"):
        image.take()


def test_engine_has_a_gpu_if_it_has_nvidias_runtime(client):
    assert client("""echo '{"nvidia":{},"runc":{}}'""").has_gpu
    assert not client("""echo '{"runc":{}}'""").has_gpu


def test_last_line_is_the_last_that_is_not_empty():
    assert last_line(b"a\nL\xc3\xa4sion \n\n") == "Läsion"
    assert last_line(b"\n") == ""


def test_a_volume_that_a_late_container_holds_is_removed_at_the_next_attempt(tmp_path, monkeypatch):
    """The client of that container was killed while the engine was making it."""
    monkeypatch.setattr(container_engine, "_BETWEEN_REMOVALS_S", 0)
    client = tmp_path / "docker"
    client.write_text(
        "#!/bin/bash\n"
        f"cd {tmp_path}\n"
        "case $1 in ps) [ ! -e late ] || [ -e gone ] || echo c1;; rm) touch gone;; images) ;; esac\n"
        '[ "$1 $2" != "volume ls" ] || [ -e empty ] || echo v1\n'
        '[ "$1 $2" != "volume rm" ] || { [ -e gone ] && touch empty; } || { touch late; exit 1; }\n'
    )
    client.chmod(0o755)
    ContainerEngine(str(client)).remove_everything()
    assert {"late", "gone", "empty"} <= {path.name for path in tmp_path.iterdir()}
