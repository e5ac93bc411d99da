"""The suite can fail: images that break one rule each are refused, for that reason and for no other.

Each image is a small honest algorithm (``broken/honest.py``) with one file that breaks it. Beside the checks that its
defect asks for, every image gets those that need no second run. ``must`` fails; ``may`` holds what cannot but fail with
it; anything else that fails is a fault of the suite.
"""

import gzip
import io
import itertools
import json
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.__main__ import main

BROKEN = Path(__file__).parent / "broken"
QUICK_EVALUATION = ["A1", "A2", "A3", "R9", "C1", "E1", "C2", "C2-lines"]
QUICK = ["A1", "A2", "A3", "R9", "C1", "O1", "O2", "O3", "O4", "O5", "O5-max", "L1", "C2", "C2-lines"]


@dataclass(frozen=True)
class Broken:
    """One image, and what the suite has to say about it."""

    name: str
    must: tuple[str, ...]
    may: tuple[str, ...] = ()
    api: str = "exec"
    more: str = ""
    """Lines of its Dockerfile."""
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = tuple(QUICK)
    model: str = "good"
    rejected: bool = True
    """False: warnings alone."""

    @property
    def defect(self) -> str:
        return self.name if (BROKEN / f"{self.name}.py").is_file() else "nothing"


PYTHON3 = """USER 0:0
RUN cd /usr/local/bin && mv python3 other && printf '#!/bin/sh\\nyes 200\\n' > python3 && chmod 755 python3
USER 1000:1000
ENTRYPOINT ["other", "/opt/broken/start.py"]"""
"""A python3 that says what nobody asked it, without end."""

ROOT_BY_NAME = "USER 0:0\nRUN echo 'anna:x:0:0::/:/bin/sh' >> /etc/passwd\nUSER anna"

# What would run as root here is not run at all.
IMAGES = [
    Broken("runs_as_root", ("A1",), more="USER 0:0"),
    Broken("runs_as_root_in_other_digits", ("A1",), more="USER 00"),
    Broken("runs_as_root_under_another_name", ("A1",), more=ROOT_BY_NAME),
    Broken("runs_as_nobody_known", ("A1",), more="USER nosuchuser", quick=("A2", "A3", "R9")),
    Broken("starts_nothing", ("A3",), more="ENTRYPOINT []", quick=("A1", "A2", "R9")),
    Broken("unknown_api_method", ("A3",), more="LABEL org.grand-challenge.api-method=grpc"),
    Broken("absolute_symlink_in_the_model", ("A6",), model="symlink", quick=("A1", "A2", "A3", "R9")),
    Broken("other_file_than_the_sums_say", ("A6",), model="sums", quick=("A1", "A2", "A3", "R9")),
    Broken("needs_a_stripped_variable", ("R9",), more="ENV GRAND_CHALLENGE_MAX_WORKERS=2"),
    Broken(
        "has_a_torch_for_cuda_13",
        ("A8",),
        more="USER 0:0\nRUN mkdir -p $TORCH && touch $TORCH/__init__.py && echo \"cuda = '13.0'\" > $TORCH/version.py\n"
        "USER 1000:1000",
        quick=("A1", "A2", "A3", "R9"),
        rejected=False,
    ),
    Broken(
        "keeps_weights_in_tmp",
        ("A5", "C1"),
        more="""RUN mkdir /tmp/weights && echo '{"threshold": 300.0}' > /tmp/weights/threshold.json""",
    ),
    Broken("sets_home_itself", ("R9-home",), more="ENV HOME=/opt/own", rejected=False),
    Broken("writes_elsewhere", ("C1",)),
    Broken("writes_its_own_folder", ("R7",), ("R8",), rejected=False),
    Broken("wrong_grid", ("O4",), ("L1",)),
    Broken("flipped_axis", ("L1",)),
    Broken("exchanged_axes", ("O4",), ("L1",)),
    Broken("softmax", ("O5",)),
    Broken("above_one", ("O5",), ("O5-max",)),
    Broken("nan_voxels", ("O5",)),
    Broken("nan_likelihood", ("O3",)),
    Broken("string_likelihood", ("O3",)),
    Broken("likelihood_in_an_object", ("O3",)),
    Broken("two_images", ("O2",)),
    Broken("nifti", ("O2",)),
    Broken("truncated_map", ("O2",)),
    Broken("no_output", ("O1",)),
    Broken("fails_with_output", ("C1",)),
    Broken("hard_coded_answer", ("O4",), ("L1",)),
    Broken("remembers_the_first_study", ("D2",), ("D5",), api="invoke"),
    Broken("needs_network", ("C1",)),
    Broken("many_workers", ("C1",)),
    Broken("much_memory", ("C1",)),
    Broken("latin_1", ("C2",)),
    Broken("long_line", ("C2-lines",)),
    Broken("reads_input_parent", ("C1",)),
    Broken("resolves_input", ("C1",)),
    Broken("ignores_the_model", ("M1",)),
    Broken("reads_by_file_name", ("D3",)),
    Broken("ignores_truncation", ("N1",)),
    Broken("random_answer", ("D1",), ("O5-max",)),
    Broken("zeros", ("O6", "L1")),
    Broken("socket_key_only", ("D4-interface",), rejected=False),
    Broken("needs_clinical_values", ("D4-optional",), rejected=False),
    Broken("floods_stdout", ("C2-lines",)),
    Broken("floods_output", ("C1",)),
    Broken("links_its_output", ("O1",), api="invoke"),
    Broken("python3_of_its_own", ("C1-health",), api="invoke", more=PYTHON3, quick=("A1", "A2", "A3", "R9", "R1")),
    Broken("slow_health", ("C1-health",), api="invoke", options=("--health-s", "2", "--start-s", "6")),
    Broken("healthy_too_early", ("M2",), api="invoke"),
    Broken("health_redirects", ("C1-health",), api="invoke"),
    Broken("answers_200", ("C1",), api="invoke"),
    Broken("dies_of_a_failure", ("N2",), api="invoke"),
    Broken("ignores_sigterm", ("C3",), api="invoke", rejected=False),
]


# E2-order sees other jobs than the first run's where a name is remembered: their folders are gone, and the case fails.
EVALUATIONS = [
    Broken("dots_in_keys", ("E1",)),
    Broken("nan_metrics", ("E1",)),
    Broken("no_number_to_rank", ("E1",)),
    Broken("order_of_jobs_matters", ("E2-order",)),
    Broken("random_metrics", ("D1",)),
    Broken("silent_about_a_missing_map", ("E3-missing-map",)),
    Broken("metrics_of_a_failure", ("E3-nan",)),
    Broken("remembers_the_first_submission", ("E2-order",), api="invoke"),
]


@pytest.fixture(scope="session")
def honest(engine: str):
    """The image that all are built on; removed in the end, as are those."""
    tag = f"oncoduet-honest-{time.time_ns()}"
    subprocess.run([engine, "build", "--quiet", "--tag", tag, str(BROKEN)], capture_output=True, check=True)
    yield tag
    subprocess.run([engine, "rmi", "--force", tag], capture_output=True, check=True)


@pytest.fixture
def build(engine: str, honest: str):
    """Build an image on the honest one, from a few lines."""
    tags = []

    def build(each: Broken) -> str:
        tags.append(f"{honest}-{each.name.replace('_', '-')}")
        more = each.more.replace("$TORCH", "/usr/local/lib/python3.11/site-packages/torch")
        lines = [f"FROM {honest}", f"ENV DEFECT={each.defect}", more]
        if each.api == "invoke":
            lines += ["LABEL org.grand-challenge.api-method=invoke", 'CMD ["serve"]']
        command = [engine, "build", "--quiet", "--tag", tags[0], "-"]
        subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True)
        return tags[0]

    yield build
    subprocess.run([engine, "rmi", "--force", *tags], capture_output=True, check=False)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[[str], Path]:
    """The honest algorithm's model, whole or as somebody else packed it."""

    def make(kind: str) -> Path:
        content = b'{"threshold": 300.0}'
        with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
            entry = tarfile.TarInfo("threshold.json")
            if kind == "symlink":
                entry.type, entry.linkname = tarfile.SYMTYPE, "/data/models/threshold.json"
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            if kind == "sums":
                sums = f"{'0' * 64}  threshold.json\n".encode()
                entry = tarfile.TarInfo("SHA256SUMS")
                entry.size = len(sums)
                tar.addfile(entry, io.BytesIO(sums))
        return tmp_path / "model.tar.gz"

    return make


@pytest.fixture
def conform(engine: str, tmp_path: Path):
    """Check an image; exit code and the failed checks."""

    numbers = itertools.count()

    def conform(
        image: str, *options: object, kind: str = "algorithm", planted: bool = True
    ) -> tuple[int, dict[str, dict]]:
        report = tmp_path / f"report-{next(numbers)}"
        status = main(
            [
                *[image, "--kind", kind, "--card", "cspca-picai", "--engine", engine],
                *(["--planted"] if planted else []),
                *["--output", str(report), *map(str, options)],
            ]
        )
        checks = json.loads((report / "conformance.json").read_text())["checks"]
        return status, {check["id"]: check for check in checks}

    return conform


@pytest.mark.parametrize("each", IMAGES, ids=lambda each: each.name)
def test_a_broken_image_is_refused_for_its_fault_and_no_other(each: Broken, build, make_model, conform):
    wanted = dict.fromkeys([*each.quick, *each.must, *each.may])
    status, checks = conform(build(each), "--model", make_model(each.model), *each.options, "--only", *wanted)
    failed = {id for id, check in checks.items() if check["verdict"] == "fail"}
    assert set(each.must) <= failed, checks
    assert failed <= {*each.must, *each.may}, {id: checks[id]["found"] for id in failed}
    assert status == (1 if each.rejected else 0)


@pytest.mark.parametrize("each", EVALUATIONS, ids=lambda each: each.name)
def test_a_broken_evaluation_is_refused_for_its_fault_and_no_other(each: Broken, build, conform):
    wanted = dict.fromkeys([*QUICK_EVALUATION, *each.must, *each.may])
    status, checks = conform(build(each), "--only", *wanted, kind="evaluation")
    failed = {id for id, check in checks.items() if check["verdict"] == "fail"}
    assert set(each.must) <= failed <= {*each.must, *each.may}, checks
    assert status == 1


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_correct_evaluation_passes_every_applicable_check(api: str, build, conform):
    status, checks = conform(build(Broken("honest_evaluation", (), api=api)), kind="evaluation")
    assert {id: check["found"] for id, check in checks.items() if check["verdict"] == "fail"} == {}
    assert status == 0
    skipped = {id for id, check in checks.items() if check["verdict"] == "skipped"}
    assert skipped <= {"A6", "C1-health", "C3", "N2"} if api == "exec" else skipped == {"A6"}


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_the_honest_image_passes_every_check_but_what_it_cannot_have(api: str, build, make_model, conform):
    status, checks = conform(build(Broken("nothing", (), api=api)), "--model", make_model("good"))
    failed = {id: check["found"] for id, check in checks.items() if check["verdict"] == "fail"}
    assert failed == {}
    assert status == 0
    assert not [id for id, check in checks.items() if check["verdict"] == "skipped" and id not in CANNOT[api]], checks


@pytest.mark.parametrize("key", ["interface", "socket"])
def test_an_image_made_from_the_platforms_template_has_no_errors(key: str, build, conform):
    """It takes the sockets that it declares, in the spelling of its day, and needs no more."""
    more = f'ENV KEY={key}\nENTRYPOINT ["python3", "/opt/broken/template.py"]'
    status, checks = conform(build(Broken("template", (), more=more)))
    failed = {id: check["level"] for id, check in checks.items() if check["verdict"] == "fail"}
    other = {"interface": "socket", "socket": "interface"}[key]
    assert failed == {"D4-optional": "warning", f"D4-{other}": "warning"}
    assert status == 0
    assert checks["O6"]["verdict"] == "pass"


def test_the_spelling_of_the_plain_studies_can_be_chosen(build, conform):
    image = build(Broken("template", (), more='ENV KEY=socket\nENTRYPOINT ["python3", "/opt/broken/template.py"]'))
    status, checks = conform(image, "--spelling", "interface", "--only", "C1")
    assert (status, checks["C1"]["verdict"]) == (1, "fail")
    assert "KeyError: 'socket'" in checks["C1"]["found"]


@pytest.mark.parametrize("planted", [True, False])
def test_zeros_are_an_error_if_the_model_finds_lesions_else_a_warning(planted, build, make_model, conform):
    options = ["--model", make_model("good"), "--only", "O6"]
    status, checks = conform(build(Broken("zeros", ())), *options, planted=planted)
    assert (status, checks["O6"]["level"]) == ((1, "error") if planted else (0, "warning"))
    assert (checks["O6"]["verdict"], checks["O6"]["found"]) == ("fail", "likelihood 0 without a lesion, 0 with one")


def test_image_with_onbuild_steps_is_refused_and_not_run(engine, build, make_model, capsys):
    image = build(Broken("nothing", (), more="ONBUILD RUN touch /made"))
    words = [image, "--kind", "algorithm", "--card", "cspca-picai", "--engine", engine, "--only", "C1"]
    assert main([*words, "--model", str(make_model("good"))]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {image}: has an ONBUILD step, which would run here as root: 'RUN touch /made'"


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_image_without_python3_skips_the_checks_that_need_it(api, build, make_model, conform):
    more = "USER 0:0\nRUN mv /usr/local/bin/python3 /usr/local/bin/other\nUSER 1000:1000\n"
    image = build(Broken("nothing", (), api=api, more=more + 'ENTRYPOINT ["other", "/opt/broken/start.py"]'))
    check = {"exec": "R1", "invoke": "C1"}[api]
    status, checks = conform(image, "--model", make_model("good"), "--only", check, "--start-s", "20")
    said = checks[check]["found"]
    if api == "exec":
        assert (status, checks[check]["verdict"]) == (0, "skipped")
        assert "expected python3 in the image, for checking the conditions, found " in said
    else:
        assert (status, checks[check]["verdict"]) == (1, "fail")
        assert "no python3 in the image, which is needed to call its server" in said


def test_algorithm_of_the_older_contract_passes_with_legacy(build, make_model, conform):
    status, checks = conform(build(Broken("older_contract", ())), "--model", make_model("good"), "--legacy")
    assert {id: check["found"] for id, check in checks.items() if check["verdict"] == "fail"} == {}
    assert status == 0
    skipped = {id for id, check in checks.items() if check["verdict"] == "skipped"}
    assert skipped == CANNOT["exec"] | {"D4-optional", "D4-socket", "D4-interface", "D4-unknown"}


def test_the_archive_of_an_image_is_checked_as_it_is_uploaded(engine, conform, tmp_path):
    """Of images that hold two files and start nothing that runs: saving ours takes a minute."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("opt/program", "opt/.env"):
            tar.addfile(tarfile.TarInfo(name))
    settings = ["--change", "USER 1000:1000", "--change", 'CMD ["/opt/program"]']
    tags = [f"oncoduet-small-{time.time_ns()}-{number}" for number in range(2)]
    archive = tmp_path / "image.tar.gz"
    try:
        for tag in tags:
            subprocess.run([engine, "import", *settings, "-", tag], input=stream.getvalue(), check=True)
        for saved, faults in ((tags[:1], {"A7"}), (tags, {"A4"})):
            content = subprocess.run([engine, "save", *saved], capture_output=True, check=True).stdout
            archive.write_bytes(gzip.compress(content))
            status, checks = conform(str(archive), "--only", "A1", "A2", "A3", "A4", "A4-size", "A7")
            assert {id for id, check in checks.items() if check["verdict"] == "fail"} == faults
            assert status == int("A4" in faults)
            assert "before compression" not in checks["A4-size"]["found"]
        assert checks["A4"]["found"] == "expected one image in manifest.json, found 2"
    finally:
        subprocess.run([engine, "rmi", "--force", *tags], capture_output=True, check=False)


CANNOT = {
    "exec": {"C1-health", "C3", "C4", "D2", "M2", "N2"},
    "invoke": {"C4"},  # it has one thread: a second case waits
}
