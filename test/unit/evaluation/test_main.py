"""The command line: what it prints, which words it refuses."""

import json

import pytest
from programs import python

from evaluation.__main__ import main


def test_command_prints_scores_and_what_was_left_out(workshop, maps, truth, tmp_path, capsys):
    folder = workshop.plain(maps)
    arguments = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = [line.split() for line in printed.out.splitlines()]
    assert ["predictions", "strict", "1.0000", "0.5000", "0.7500", "0"] in rows
    assert ["picai", "1.0000", "0.5000", "0.7500", "0"] in rows
    assert f"No source.json in {folder}: none was written, and compare needs one" in printed.out
    assert "No card: every non-zero label counts as lesion, and IoU ≥ 0.1 as a hit." in printed.out


def test_command_takes_a_card_and_prints_why_a_value_is_undefined(workshop, maps, tmp_path, capsys):
    benign = workshop.truth({case_id: workshop.image() for case_id in maps}, name="benign")
    folder = workshop.plain(maps)
    workshop.source(folder)
    arguments = ["score", "--predictions", str(folder), "--truth", str(benign), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--card", "cspca-rsna2022"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "predictions, strict: AUROC is undefined: all 3 cases are negative; AP and lesion" in printed.out
    assert "No source.json" not in printed.out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["strict"]["auroc"], metrics["strict"]["ap"]) == (None, None)


def test_missing_predictions_are_named(workshop, maps, truth, tmp_path, capsys):
    del maps["b"], maps["c"]
    folders = ["--predictions", workshop.plain(maps), "--truth", truth, "--output", tmp_path / "out"]
    assert main(["score", *map(str, folders), "--on-missing", "worst"]) == 0
    assert "no prediction, counted as likelihood 0 without candidates: b, c" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_table_fits_80_columns_and_breaks_no_usual_name(
    workshop, maps, likelihoods, truth, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("ce-focal_fold4_restart19", "ensemble-four_fold0_restart1_0123abcd")
    for name in names:
        workshop.batch(maps, likelihoods, name=f"all/{name}")
    words = ["--predictions", tmp_path / "all", "--truth", truth, "--output", tmp_path / "out"]
    assert main(["score", *map(str, words)]) == 0
    shown = capsys.readouterr().out
    table_lines = shown.split("Test set:")[0].splitlines()
    assert max(map(len, table_lines)) <= 80
    assert all(any(name in line and "strict" in line for line in table_lines) for name in names)
    assert "Test set: 3 cases, 2 positive, 2 lesions." in shown


def test_a_case_to_be_explained_may_be_typed_with_its_accents_apart(workshop, tmp_path, capsys):
    truth = workshop.truth({case_id: workshop.image() for case_id in ("M\u00fc1", "b")})
    folder = workshop.plain({case_id: workshop.image() for case_id in ("M\u00fc1", "b")})
    words = ["--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    assert main(["score", *words, "--explain", "Mu\u03081"]) == 0, capsys.readouterr().err


def run_command(scores, output, **environment):
    return python("-m", "evaluation", "compare", "--scores", scores.root, "--output", output, **environment)


def test_command_leaves_stderr_empty_with_a_read_only_home(scores, tmp_path):
    scores.run("a", "ce")
    scores.run("b", "focal")
    unset = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/proc/nowhere")
    done = run_command(scores, tmp_path / "out", **unset)
    assert (done.returncode, done.stderr) == (0, "")
    assert "report.html" in done.stdout.replace("\n", "")


def test_command_refuses_wrong_input_with_3_and_one_line(scores, tmp_path):
    scores.run("a", "ce", with_source=False)
    done = run_command(scores, tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "source.json not found" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--configuration", "ensemble-x"], 2, "--configuration: expected a name of letters"),
        (["--configuration", "../x"], 2, "--configuration: expected a name of letters"),
        (["--fold", "1"], 2, "--fold and --restart need --configuration"),
        (["--configuration", "x"], 3, "expected one run without source.json, for --configuration, found source.json"),
    ],
)
def test_invalid_or_superfluous_name_for_predictions_is_refused(workshop, tmp_path, capsys, words, status, message):
    truth = workshop.truth({"1_1": workshop.image()})
    folder = workshop.batch({"1_1": workshop.image()}, {"1_1": 0.5})
    workshop.source(folder)
    score = ["score", "--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    assert main([*score, *words]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
