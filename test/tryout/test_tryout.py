"""One study through a local fake of the platform's API, as gcapi speaks to it. **Nothing here has met the platform.**

Runs in the environment of ``requirements/tryout.lock``, not in the project's: gcapi does not fit into that one.
The fake knows the routes and fields that gcapi 0.16.1 uses for a job (``gcapi/models.py``); what it answers was not
recorded from the platform. ``build/tryout/bin/python -m pytest --noconftest test/tryout`` runs it.
"""

import http.server
import json
import re
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from conformance.studies.submissions import made_truth
from conformance.studies.synthetic_studies import FIRST, describe_socket, image_bytes, make_study
from conformance.tryout import TOKEN, main
from contract.card import load_card

pytest.importorskip("gcapi")

CARD = load_card("cspca-picai")
JOB = "5d2d1a1c-0000-4000-8000-000000000001"


class Fake(http.server.BaseHTTPRequestHandler):
    """The part of the API that a job needs; ``server`` carries what it holds."""

    def log_message(self, *arguments):
        return

    @property
    def base(self) -> str:
        return f"https://localhost:{self.server.server_port}"

    def answer(self, value, status=200, headers=()):
        raw = isinstance(value, bytes)
        body = value if raw else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if raw else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, content in headers:
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == "BEARER secret":
            return True
        self.answer({"detail": "Invalid token."}, 401)
        return False

    def socket(self, socket) -> dict:
        described = describe_socket(socket, image=socket.relative_path.startswith("images/"))
        return {**described, "default_value": None}

    def page(self, results) -> None:
        self.answer({"count": len(results), "next": None, "previous": None, "results": results})

    def do_GET(self):
        url = urlsplit(self.path)
        path, query = url.path.removeprefix("/api/v1/"), parse_qs(url.query)
        if path == "gcapi/":
            self.answer({"latest_version": "0.16.1", "lowest_supported_version": "0.16.1"})
        elif path.startswith("media/"):
            self.answer(self.server.map)
        elif not self.allowed():
            return
        elif path == "algorithms/":
            known = query["slug"] == ["finder"]
            self.page([self.algorithm()] if known else [])
        elif path == "components/interfaces/":
            sockets = [channel.socket for channel in CARD.channels]
            self.page([self.socket(each) for each in sockets if [each.slug] == query["slug"]])
        elif path == f"algorithms/jobs/{JOB}/":
            self.server.asked += 1
            self.answer(self.job("Executing" if self.server.asked < 3 else self.server.end))
        elif path == "cases/images/m/":
            self.answer(self.image())
        else:
            self.answer({"detail": "Not found."}, 404)

    def do_POST(self):
        body = json.loads(self.body())
        path = urlsplit(self.path).path.removeprefix("/api/v1/")
        if not self.allowed():
            return
        if path == "uploads/":
            self.server.names.append(body["filename"])
            self.answer(self.upload(len(self.server.names)), 201)
        elif path == "algorithms/jobs/":
            self.server.inputs = body["inputs"]
            self.answer({"pk": JOB, "inputs": [], "status": "Queued"}, 201)

    def do_PATCH(self):
        body = json.loads(self.body())
        number = int(re.search(r"uploads/u(\d+)/", self.path)[1])
        if "generate-presigned-urls" in self.path:
            urls = {str(part): f"{self.base}/s3/{number}/{part}" for part in body["part_numbers"]}
            self.answer({**self.upload(number), "presigned_urls": urls})
        else:
            self.answer(self.upload(number))

    def do_PUT(self):
        self.server.bytes[int(self.path.split("/")[2])] = self.body()
        self.answer({}, headers=[("ETag", "e")])

    def upload(self, number: int) -> dict:
        url = f"{self.base}/api/v1/uploads/u{number}/"
        names = {"pk": f"u{number}", "filename": self.server.names[number - 1], "key": "k", "s3_upload_id": "s"}
        return {**names, "created": "2026-01-01T00:00:00Z", "status": "Completed", "api_url": url}

    def algorithm(self) -> dict:
        inputs = [self.socket(channel.socket) for channel in CARD.channels]
        outputs = [self.socket(CARD.detection_map), self.socket(CARD.likelihood)]
        url = f"{self.base}/api/v1/algorithms/a/"
        return {
            **{"api_url": url, "url": f"{self.base}/algorithms/finder/", "description": "", "pk": "a"},
            **{"title": "Finder", "logo": "", "slug": "finder", "average_duration": None},
            "interfaces": [{"inputs": inputs, "outputs": outputs}],
        }

    def job(self, status: str) -> dict:
        image = f"{self.base}/api/v1/cases/images/m/"
        outputs = [
            {**self.value(CARD.detection_map), "image": image, "pk": 1},
            {**self.value(CARD.likelihood), "value": self.server.likelihood, "pk": 2},
        ]
        url = f"{self.base}/algorithms/finder/jobs/{JOB}/"
        return {
            **{"pk": JOB, "url": url, "api_url": f"{self.base}/api/v1/algorithms/jobs/{JOB}/", "algorithm_image": ""},
            **{"inputs": [], "outputs": outputs if status == "Succeeded" else [], "status": status},
            **{"hanging_protocol": None, "optional_hanging_protocols": [], "view_content": {}},
            **{"exec_duration": "P0DT00H00M31.000000S", "invoke_duration": None, "algorithm": "a"},
        }

    def value(self, socket) -> dict:
        described = self.socket(socket)
        return {"socket": described, "interface": described, "value": None, "file": None, "image": None}

    def image(self) -> dict:
        fields = "width height depth color_space modality eye_choice stereoscopic_choice field_of_view voxel_width_mm "
        fields += "voxel_height_mm voxel_depth_mm window_center window_width segments dicom_image_set"
        file = {"pk": "f", "image": None, "file": f"{self.base}/api/v1/media/map.mha", "image_type": "MHD"}
        return {
            **dict.fromkeys(fields.split()),
            **{"pk": "m", "name": "map.mha", "files": [file], "shape_without_color": [], "shape": [], "api_url": ""},
        }


@pytest.fixture
def platform(tmp_path, monkeypatch):
    """The fake, behind TLS, since gcapi speaks nothing else."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], capture_output=True, check=True)
    server = http.server.ThreadingHTTPServer(("localhost", 0), Fake)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    label = next(iter(made_truth(CARD, positives=1, cases=1).values()))
    server.map = image_bytes((label.array * 0.75).astype("float32"), label.grid)
    server.likelihood, server.end, server.asked = 0.75, "Succeeded", 0
    server.names, server.bytes, server.inputs = [], {}, None
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(TOKEN, "secret")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def local(tmp_path) -> Path:
    """An archive of one study, and what it got here."""
    study = make_study(CARD, shape=FIRST)
    folder = tmp_path / "archive" / "7"
    folder.mkdir(parents=True)
    for channel in CARD.channels:
        (content,) = [each for path, each in study.files.items() if path.startswith(channel.socket.relative_path)]
        (folder / f"7_8_{channel.name}.mha").write_bytes(content)
    label = next(iter(made_truth(CARD, positives=1, cases=1).values()))
    output = tmp_path / "output"
    (output / CARD.detection_map.relative_path).mkdir(parents=True)
    image = image_bytes((label.array * 0.75).astype("float32"), label.grid)
    (output / CARD.detection_map.relative_path / "map.mha").write_bytes(image)
    (output / CARD.likelihood.relative_path).write_text("0.75")
    return tmp_path


def tryout(local: Path, server=None, *, algorithm: str = "finder", limit_s: float = 60) -> int:
    url = f"https://localhost:{server.server_port}/api/v1/" if server else "https://localhost:1/api/v1/"
    return main(
        [
            *["--algorithm", algorithm, "--card", CARD.name, "--study", str(local / "archive")],
            *["--local", str(local / "output"), "--url", url, "--poll-s", "0.05", "--limit-s", str(limit_s)],
        ]
    )


def test_job_gets_every_channel_and_its_outputs_equal_the_local_ones(platform, local, capsys):
    assert tryout(local, platform) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "the same: likelihood 0.75 twice, maps differ by 0"
    assert said.err == ""
    assert platform.asked == 3
    assert sorted(platform.names) == ["7_8_adc.mha", "7_8_hbv.mha", "7_8_t2w.mha"]
    assert {each["interface"] for each in platform.inputs} == {channel.socket.slug for channel in CARD.channels}
    for number, name in enumerate(platform.names, start=1):
        assert platform.bytes[number] == (local / "archive" / "7" / name).read_bytes()


def test_other_outputs_end_with_1(platform, local, capsys):
    platform.likelihood = 0.5
    assert tryout(local, platform) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("outputs differ: maps differ by 0, likelihoods are 0.75 and 0.5")


def test_failed_job_is_named_with_its_page(platform, local, capsys):
    platform.end = "Failed"
    assert tryout(local, platform) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: job {JOB}: expected Succeeded, found Failed; see https://localhost:")


def test_a_job_that_does_not_end_is_left(platform, local, capsys):
    platform.end = "Executing"
    assert tryout(local, platform, limit_s=0.3) == 3
    assert f"error: job {JOB}: did not end within 0.3 s (Executing)" in capsys.readouterr().err


def test_an_algorithm_that_the_platform_does_not_know_is_named(platform, local, capsys):
    assert tryout(local, platform, algorithm="nothing") == 3
    assert "error: nothing: the platform did not run it: " in capsys.readouterr().err


def test_without_a_token_it_explains_itself_and_contacts_no_server(local, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN, raising=False)
    assert tryout(local) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {TOKEN}: not set: uploads need an API token of the platform")


def test_a_platform_out_of_reach_is_named(local, monkeypatch, capsys):
    monkeypatch.setenv(TOKEN, "secret")
    assert tryout(local) == 3
    assert "error: https://localhost:1/api/v1/: platform's API does not answer: " in capsys.readouterr().err


def test_two_studies_or_no_local_outputs_are_refused(platform, local, capsys):
    shutil.rmtree(local / "output")
    assert tryout(local, platform) == 3
    assert "folder not found" in capsys.readouterr().err
    for path in list((local / "archive" / "7").iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("7_8", "7_9")))
    assert tryout(local, platform) == 3
    assert f"error: {local / 'archive'}: expected one study, found 2" in capsys.readouterr().err
