"""Checks and their report: verdicts in words, what every build server reads, and ids that mean one thing."""

import io
import json
from xml.etree import ElementTree

import pytest
from refusals import refused_with
from rich.console import Console

from conformance.checks.algorithm_checks import ALGORITHM
from conformance.checks.check import Check, run
from conformance.checks.evaluation_checks import EVALUATION
from conformance.engine.hosted_image import HostedImage, NotRunError
from conformance.engine.server import Server
from conformance.results.report import report_place, show, write
from conformance.results.verdicts import Broken, CheckResult, Doubtful, Skipped
from conformance.uploads.archives import Reading, Saved
from contract.errors import OncoduetError


def see(outcome):
    def see(bench):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return see


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [("a", "pass"), (Broken("a"), "fail"), (Skipped("a"), "skipped"), (OncoduetError("a"), "fail")],
)
def test_a_check_comes_to_one_of_three_verdicts(outcome, verdict):
    found = Check("A1", "error", "b", see(outcome)).decide(None)
    assert found == CheckResult("A1", "error", verdict, "b", "a")


def test_a_doubt_is_a_warning_at_every_level():
    found = Check("A1", "error", "b", see(Doubtful("a"))).decide(None)
    assert (found.verdict, found.level) == ("fail", "warning")


def test_checks_of_an_image_that_is_not_run_are_skipped_with_the_reason():
    found = Check("A1", "error", "b", see(NotRunError("user 'root'"))).decide(None)
    assert (found.verdict, found.found) == ("skipped", "the image is not run (user 'root')")


def test_a_bug_in_a_check_is_no_verdict():
    with pytest.raises(KeyError):
        Check("A1", "error", "b", see(KeyError("a"))).decide(None)


def test_only_requested_checks_run_in_order():
    checks = [Check(id, "error", "", see("")) for id in "abc"]
    assert [verdict.id for verdict in run(checks, None)] == ["a", "b", "c"]
    assert [verdict.id for verdict in run(checks, None, ["c", "a"])] == ["a", "c"]


def test_an_archive_is_read_from_the_start_and_judged_in_the_end():
    events = []

    class Bench:
        @property
        def reading(self):
            events.append("reading")

    def case(bench):
        events.append("case")
        return ""

    checks = [Check("A4", "error", "", see(""), of_archive=True), Check("C1", "error", "", case)]
    assert [verdict.id for verdict in run(checks, Bench())] == ["C1", "A4"]
    assert events == ["reading", "case"]


def test_what_goes_wrong_with_reading_comes_with_the_question():
    def read():
        raise OncoduetError("the engine is gone")

    assert Reading(lambda: Saved(layers=3)).result().layers == 3
    with refused_with("the engine is gone"):
        Reading(read).result()


@pytest.mark.parametrize("checks", [ALGORITHM, EVALUATION], ids=["algorithm", "evaluation"])
def test_every_id_means_one_check(checks):
    ids = [check.id for check in checks]
    assert len(set(ids)) == len(ids)


def test_every_check_is_documented(request):
    text = (request.config.rootpath / "docs" / "platform.md").read_text()
    for check in [*ALGORITHM, *EVALUATION]:
        level = {"error": "E", "warning": "W"}[check.level]
        assert f"| {check.id} | {level} | {check.expected} |" in text, check.id


def test_peak_memory_is_counted_in_the_unit_of_the_limit(tmp_path):
    class Engine:
        def ask(self, *command):
            return 0, b"8589934592\n", b""  # 8 × 1024³, what --memory 8g allows

    server = Server(HostedImage(Engine(), "image", tmp_path), "container", None, None)
    assert server.peak_memory_gib() == server.hosted.profile.memory_gb == 8


VERDICTS = [
    CheckResult("A1", "error", "pass", "a user", "user 1000"),
    CheckResult("O3", "error", "fail", "a number", "str '\x00'"),
    CheckResult("R7", "warning", "fail", "read-only", "exit code 1"),
    CheckResult("C3", "warning", "skipped", "SIGTERM", "exec"),
]


def place(folder, image="sha256:1", *, replaces=False):
    return report_place(folder, {"image": image}, replaces=replaces)


def test_report_on_another_image_is_replaced_only_in_the_default_folder(tmp_path):
    write(VERDICTS, place(tmp_path), {"image": "a:b", "seconds": 1.25})
    with refused_with(expected="image sha256:2", found="image sha256:1"):
        place(tmp_path, "sha256:2").check()
    place(tmp_path, "sha256:2", replaces=True).check()


def test_the_reports_say_the_same_as_json_and_as_xml(tmp_path):
    path = write(VERDICTS, place(tmp_path / "report"), {"image": "a:b", "seconds": 1.25})
    report = json.loads(path.read_text())
    assert (report["errors"], report["written_by"]["program"]) == (1, "oncoduet")
    assert report["checks"][1] == {
        "id": "O3",
        "level": "error",
        "verdict": "fail",
        "expected": "a number",
        "found": r"str '\x00'",
    }
    suite = ElementTree.parse(tmp_path / "report" / "conformance.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    assert suite[0].get("name") == "A1: a user"
    assert [case[0].tag for case in suite] == ["system-out", "failure", "system-out", "skipped"]


NAMES = ["a\x1b[2J\x00b", "half \ud800 pair", "<&\"'>", "two\nlines\r", "\ufffe\uffff"]


@pytest.mark.parametrize("name", NAMES)
def test_an_images_name_or_its_words_may_hold_any_character(tmp_path, name):
    found = Check("A1", "error", "b", see(Broken(name))).decide(None)
    path = write(
        [found, CheckResult("A2", "error", "fail", name, name)], place(tmp_path), {"image": name, "seconds": 1.0}
    )
    assert json.loads(path.read_text(encoding="utf-8"))["errors"] == 2
    ElementTree.parse(tmp_path / "conformance.xml")
    console = Console(file=io.StringIO(), width=120)
    show([found], console)
    console.file.getvalue().encode()
    assert "\x1b" not in console.file.getvalue()


def test_the_table_counts_errors_and_warnings_apart():
    console = Console(file=io.StringIO(), width=120)
    show(VERDICTS, console)
    assert console.file.getvalue().splitlines()[-1] == "1 passed, 1 skipped, 1 errors, 1 warnings"
