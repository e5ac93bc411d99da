"""What the command says before anything runs; the engine's client is a script that answers as some engine does."""

import json

import pytest

from conformance.__main__ import main

IMAGE = {"Id": "sha256:1", "Os": "linux", "Architecture": "amd64", "Config": {"User": "1000:1000", "Cmd": ["/program"]}}


@pytest.fixture
def conform(tmp_path, capsys):
    """Check A2 alone of an image, with an engine that has these runtimes; returns the exit code and the output."""

    def conform(*options, runtimes):
        client = tmp_path / "docker"
        client.write_text(f"""#!/bin/sh
case "$*" in
  *Runtimes*) echo '{json.dumps({name: {} for name in runtimes})}' ;;
  *Architecture*) echo x86_64 ;;
  *Version*) echo 20.10 ;;
  "image inspect a:1") echo '{json.dumps([IMAGE])}' ;;
esac
""")
        client.chmod(0o755)
        words = ["a:1", "--kind", "algorithm", "--card", "cspca-picai", "--only", "A2", *options]
        status = main([*words, "--engine", str(client), "--output", str(tmp_path / "report")])
        return status, capsys.readouterr()

    return conform


NOTE = "Note: the engine has no GPU; everything runs on the CPU."


def test_a_gpu_profile_runs_on_the_cpu_with_a_note_if_there_is_no_gpu(conform, tmp_path):
    status, said = conform("--profile", "t4-16", runtimes=["runc"])
    assert (status, said.err) == (0, "")
    assert said.out.startswith(NOTE)
    assert json.loads((tmp_path / "report/conformance.json").read_text())["machine"].endswith("GPU no")


@pytest.mark.parametrize(("profile", "runtimes"), [("t4-16", ["nvidia", "runc"]), ("cpu-8", ["runc"])])
def test_no_note_if_a_gpu_is_present_or_not_wanted(conform, profile, runtimes):
    status, said = conform("--profile", profile, runtimes=runtimes)
    assert (status, said.err) == (0, "")
    assert "Note" not in said.out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_wrong_usage(conform, capsys, seconds):
    with pytest.raises(SystemExit) as ended:
        conform("--limit-s", seconds, runtimes=["runc"])
    assert ended.value.code == 2
    assert f"argument --limit-s: expected a positive number, found {seconds}" in capsys.readouterr().err
