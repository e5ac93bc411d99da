"""``requirements/audit.py``: advisories about the pins, and missing answers."""

import sys

import pytest

ADVISORY = """
id: {id}
affected:
- package: {{name: lesion, ecosystem: PyPI}}
  ranges:
  - type: ECOSYSTEM
    events: {events}
  versions: {versions}
{more}
"""


@pytest.fixture
def audit(run, bare, tmp_path):
    """Audit one pin, lesion 1.5, by a list of one advisory."""
    for lock in (bare / "requirements").glob("*.lock"):
        lock.unlink()
    (bare / "requirements" / "small.lock").write_text(f"Lesion==1.5 \\\n    --hash=sha256:{'0' * 64}\n")
    (bare / "requirements" / "torch.txt").write_text("torch==2.13.0 --hash=sha256:1\n")

    def audit(*, id: str = "PYSEC-1", events: str = "[]", versions: str = "[]", more: str = ""):
        folder = tmp_path / "vulns" / "lesion"
        folder.mkdir(parents=True, exist_ok=True)
        text = ADVISORY.format(id=id, events=events, versions=versions, more=more)
        (folder / "PYSEC-1.yaml").write_text(text)
        return run(sys.executable, bare / "requirements" / "audit.py", "--advisories", tmp_path / "vulns")

    return audit


@pytest.mark.parametrize(
    "affected",
    [
        {"versions": "['1.4', '1.5.0', 'not a version']"},
        {"events": "[{introduced: '0'}]"},
        {"events": "[{introduced: '1.5'}, {fixed: '1.6'}]"},
        {"events": "[{introduced: '0'}, {fixed: '1.0'}, {introduced: '1.2'}, {fixed: '1.10'}]"},
        {"events": "[{introduced: '1.2'}, {last_affected: '1.5'}]"},
    ],
)
def test_a_version_that_an_advisory_names_is_found(audit, affected):
    ended = audit(**affected)
    assert ended.status == 1
    assert ended.stdout.splitlines()[0] == "lesion 1.5 (small.lock): PYSEC-1; NOT JUDGED YET"
    assert "1 known vulnerabilities, 1 of them not judged, 0 pins NOT ANSWERED" in ended.stdout


@pytest.mark.parametrize(
    "affected",
    [
        {"versions": "['1.4', '1.50']"},
        {"events": "[{introduced: '0'}, {fixed: '1.5'}]"},
        {"events": "[{introduced: '1.6'}]"},
        {"events": "[{introduced: '0'}, {last_affected: '1.4'}]"},
        {"versions": "['1.5']", "more": "withdrawn: '2024-01-01T00:00:00Z'"},
    ],
)
def test_another_version_is_not(audit, affected):
    ended = audit(**affected)
    assert (ended.status, ended.stderr) == (0, "")
    assert ": 0 known vulnerabilities" in ended.stdout


def test_assessed_advisories_are_listed_with_reason_and_pass(audit):
    ended = audit(id="PYSEC-2023-163", versions="['1.5']")
    assert ended.status == 0
    assert "PYSEC-2023-163; numexpr.evaluate of foreign text" in ended.stdout


def test_service_that_does_not_answer_is_reported(run, audit, bare):
    """pip-audit is not installed here, which is as silent as a network without the service."""
    audit()
    ended = run(sys.executable, bare / "requirements" / "audit.py")
    assert ended.status == 0
    assert ended.stdout.endswith("0 known vulnerabilities, 0 of them not judged, 2 pins NOT ANSWERED\n")


def test_a_list_that_is_not_there_is_an_error(run, bare, tmp_path):
    ended = run(sys.executable, bare / "requirements" / "audit.py", "--advisories", tmp_path / "none")
    said = f"error: {tmp_path / 'none'}: expected a folder of advisories, found none\n"
    assert (ended.status, ended.stderr) == (3, said)
