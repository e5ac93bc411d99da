"""Every command of every package × everything of the user's that may lie where it is told to write.

A row says how a command is called, what it reads, and by which names it writes. The commands themselves come from the
argument parsers: one without a row fails the first test.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from demo_files import CARD, run
from paths import PROJECT
from safety.demo_outputs import everything

import algorithm.__main__
import evaluation.__main__
import phantom.__main__
import training.__main__
from contract.images.volume import Volume, read_volume, write_volume
from contract.records import RunRecord, read_record, write_record

Words = Sequence[object]


@dataclass(frozen=True)
class Row:
    """One command that writes."""

    words: Callable[[Path], Words]
    """Package, command and options for a demo, but for the output."""
    inputs: tuple[str, ...]
    """Folders of the demo that it reads and that its output has to lie apart from."""
    names: tuple[str, ...]
    """Files that it writes into its output, with a slash folders; of a command that writes one file, none."""
    suffix: str = ""
    """Of the output, where that is a file."""
    option: str = "--output"


MAP = "images/cspca-detection-map"
SCORES = ("metrics.json", "cases.csv", "lesions.csv", "source.json")
RUN = ("weights.safetensors", "card.toml", "plans.json", "training.log", "work", "tensorboard", ".lock")
PLAN = ("--studies", 20, "--runs", 2, "--cases", 30)


def of_run(demo: Path) -> Words:
    return ("--configuration", "ce", "--fold", 0, "--restart", 1, "--profile", demo / "tiny.toml", "--device", "cpu")


ROWS: dict[tuple[str, str], Row] = {
    ("phantom", ""): Row(
        lambda demo: ("phantom", "--card", CARD, "--cases", 2, "--positive-fraction", 0.5, "--seed", 3),
        (),
        ("archive.json", "marksheet.csv", "labels/10000_1000000.nii.gz", "10000/10000_1000000_adc.mha"),
    ),
    ("phantom", "sheet"): Row(
        lambda demo: ("phantom", "sheet", "--card", CARD, "--archive", demo / "archive"), ("archive",), (), ".png"
    ),
    ("training", "prepare"): Row(
        lambda demo: ("training", "prepare", "--card", CARD, "--archive", demo / "archive", "--folds", 2),
        ("archive",),
        (
            *("splits.json", "card.toml", "sources.json", "prepare.log", "cases/10000_1000000.pkl"),
            *("failures.json", ".work", ".work/"),
        ),
    ),
    ("training", "run"): Row(
        lambda demo: ("training", "run", "--prepared", demo / "prepared", *of_run(demo)),
        ("prepared", "archive"),
        RUN,
    ),
    ("training", "campaign"): Row(
        lambda demo: ("training", "campaign", demo / "campaign.toml"),
        ("prepared", "archive"),
        (
            *("status.html", ".campaign.lock", "slurm", "slurm/", "ce_fold0_restart1/"),
            *(f"ce_fold0_restart1/{name}" for name in RUN),
        ),
    ),
    ("training", "status"): Row(
        lambda demo: ("training", "status", demo / "campaign.toml"), ("prepared",), ("status.html",)
    ),
    ("training", "sweep"): Row(
        lambda demo: ("training", "sweep", "--runs", demo / "runs" / "retina-unet", "--device", "cpu"),
        ("runs/retina-unet", "archive"),
        (
            "map_sweep.csv",
            "map_sweep.json",
            *(f"retina-unet_fold0_restart1/{name}" for name in ("predictions", "scores")),
        ),
    ),
    ("training", "bundle"): Row(
        lambda demo: ("training", "bundle", "--runs", demo / "runs" / "ce"), ("runs/ce",), (), ".tar.gz"
    ),
    ("training", "predict"): Row(
        lambda demo: ("training", "predict", "--run", demo / "upstream", "--archive", demo / "archive"),
        ("upstream", "archive"),
        ("predictions.json", "card.toml", "prediction.log", "nndetection", "10000_1000000/study.json"),
    ),
    ("algorithm", ""): Row(
        lambda demo: ("algorithm", "--input", demo / "study", "--model", demo / "model", "--no-mirroring"),
        ("study", "model"),
        (f"{MAP}/image.mha", "cspca-case-level-likelihood.json"),
    ),
    ("algorithm", "batch"): Row(
        lambda demo: ("algorithm", "batch", "--archive", demo / "archive", "--model", demo / "model"),
        ("archive", "model"),
        ("batch.json", "predictions.json", "source.json", "card.toml", "failures.json", "10000_1000000"),
    ),
    ("algorithm", "precision"): Row(
        lambda world: ("algorithm", "precision", "--archive", world / "archive", "--model", world / "model"),
        ("archive", "model"),
        (),
        ".json",
    ),
    ("algorithm", "candidates"): Row(
        lambda demo: ("algorithm", "candidates", "--probability", demo / "maps" / "ce"),
        ("maps/ce",),
        ("10000_1000000.mha", "10000_1000000.json", "source.json"),
    ),
    ("algorithm", "baseline"): Row(
        lambda demo: ("algorithm", "baseline", "--card", CARD, "--archive", demo / "archive"),
        ("archive",),
        (
            "baseline-minimum-adc/predictions.json",
            f"baseline-minimum-adc/10000_1000000/output/{MAP}/10000_1000000.mha",
            "baseline-minimum-adc/",
        ),
    ),
    ("evaluation", ""): Row(
        lambda demo: ("evaluation", "--input", demo / "maps" / "ce", "--truth", demo / "archive"),
        ("maps/ce", "archive"),
        ("metrics.json",),
    ),
    ("evaluation", "score"): Row(
        lambda demo: ("evaluation", "score", "--predictions", demo / "maps", "--truth", demo / "archive" / "labels"),
        ("maps", "archive/labels"),
        (*(f"ce/{name}" for name in SCORES), "focal/"),
    ),
    ("evaluation", "compare"): Row(
        lambda demo: ("evaluation", "compare", "--scores", demo / "scores", "--few-patients"),
        ("scores",),
        ("verdict.json", "report.html", "figures/roc.svg", "figures/", "tables/flips.csv"),
    ),
    ("evaluation", "plan power"): Row(lambda demo: ("evaluation", "plan", "power", *PLAN), (), ("plan.json",)),
    ("evaluation", "plan errors"): Row(lambda demo: ("evaluation", "plan", "errors", *PLAN), (), ("plan.json",)),
    ("evaluation", "plan readers"): Row(
        lambda demo: ("evaluation", "plan", "readers", "--cases", 100), (), ("plan-readers.json",)
    ),
    ("evaluation", "plan stop"): Row(
        lambda demo: ("evaluation", "plan", "stop", "--scores", demo / "scores", "--analysis", demo / "looks.toml"),
        ("scores",),
        ("sequential.json",),
    ),
}
WITHOUT_OUTPUT = {("training", "verify"), ("evaluation", "plan looks")}
SERVED = {("algorithm", "serve"), ("evaluation", "serve")}
"""Write as the command without a name does, which test_serve shows."""
IN_PLACE = {("evaluation", "index")}
"""Writes into the truth: below."""


def commands() -> Iterator[tuple[tuple[str, str], argparse.ArgumentParser]]:
    yield ("phantom", ""), phantom.__main__._archive_parser()
    yield ("phantom", "sheet"), phantom.__main__._sheet_parser()
    for package, parser in (
        ("algorithm", algorithm.__main__._parser()),
        ("evaluation", evaluation.__main__._parser()),
        ("training", training.__main__._parser()),
    ):
        if parser.get_default("command") is not None:
            yield (package, ""), parser
        yield from (((package, name), each) for name, each in _commands(parser))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    (choices,) = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for name, each in choices.items():
        if any(isinstance(action, argparse._SubParsersAction) for action in each._actions):
            yield from ((f"{name} {command}", below) for command, below in _commands(each))
        else:
            yield name, each


def test_every_command_has_a_row() -> None:
    known = {*ROWS, *WITHOUT_OUTPUT, *SERVED, *IN_PLACE}
    assert {command for command, _ in commands()} == known
    for command, parser in commands():
        assert any(action.dest == "output" for action in parser._actions) == (command in {*ROWS, *SERVED}), command


def cases() -> Iterator[object]:
    for command, row in ROWS.items():
        for name in row.names or [""]:
            for what in ("file", "link") if name.endswith("/") else ("file", "folder", "link"):
                yield pytest.param(row, what, name, id=f"{' '.join(command).strip()}-{what}-{name or 'itself'}")
        around = ["around"] if row.inputs else []
        around += ["read-only"] if command != ("training", "status") else []  # which shows what is planned there
        for what in ("below a file", "nowhere", *around, "behind a link", "another's", "below another's"):
            yield pytest.param(row, what, "", id=f"{' '.join(command).strip()}-{what}")
        for name in row.inputs:
            for what in ("input", "in input", "dots"):
                yield pytest.param(row, what, name, id=f"{' '.join(command).strip()}-{what}-{name}")


def in_the_way(what: str, path: Path) -> None:
    """Put something of the user's at a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "file":
        path.write_text("mine")
    elif what == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        elsewhere = path.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "mine.txt").write_text("mine")
        path.symlink_to(elsewhere)


@pytest.mark.parametrize(("row", "what", "name"), cases())
def test_what_is_the_user_s_is_refused_in_one_line_and_stays(
    row: Row, what: str, name: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("PATH", f"{demo / 'programs'}{os.pathsep}{os.environ['PATH']}")
    output = tmp_path / "user" / f"output{row.suffix}"
    output.parent.mkdir()
    if what in ("file", "folder", "link"):
        in_the_way(what, output / name if name else output)
    elif what == "below a file":
        (tmp_path / "user" / "file").write_text("mine")
        output = tmp_path / "user" / "file" / f"output{row.suffix}"
    elif what == "nowhere":
        (tmp_path / "user" / "dangling").symlink_to(tmp_path / "gone")
        output = tmp_path / "user" / "dangling" / f"x{row.suffix}"
    elif what == "read-only":
        output = Path("/proc/oncoduet") / f"x{row.suffix}"
    elif what == "behind a link":
        (tmp_path / "user" / "mine").mkdir()
        (tmp_path / "user" / "link").symlink_to(tmp_path / "user" / "mine")
        output = tmp_path / "user" / "link" / (f"x{row.suffix}" if row.suffix else "")
        in_the_way("file", output / row.names[0] if row.names else output)
    elif what in ("another's", "below another's"):
        made = "archive" if row.names[:1] != ("archive.json",) else "prepared"
        shutil.copytree(demo / made, tmp_path / "user" / "other")
        output = tmp_path / "user" / "other" / ("new" if what.startswith("below") else "")
        output /= f"x{row.suffix}" if row.suffix else ""
    elif what == "around":
        output = (demo / row.inputs[0]).parent if not row.suffix else demo / row.inputs[0] / f"x{row.suffix}"
    elif what == "input":
        output = demo / name / f"x{row.suffix}" if row.suffix else demo / name
    elif what == "in input":
        output = demo / name / "new" / f"x{row.suffix}"
    elif what == "dots":
        (tmp_path / "link").symlink_to(demo / name)
        output = tmp_path / "link" / ".." / Path(name).name / f"x{row.suffix}"
    before = everything(tmp_path), everything(demo)
    capsys.readouterr()
    status = run(*row.words(demo), row.option, output)
    said = capsys.readouterr().err
    assert (everything(tmp_path), everything(demo)) == before
    assert (status, said.count("\n")) == (3, 1), said
    assert ": " in said.removeprefix("error: ")  # where, and what is wrong


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_truth_index_replaces_no_other_file(
    what: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = Path(shutil.copytree(demo / "archive" / "labels", tmp_path / "truth"))
    (truth / "truth-index.zip").unlink(missing_ok=True)
    in_the_way(what, truth / "truth-index.zip")
    before = everything(tmp_path)
    capsys.readouterr()
    assert run("evaluation", "index", "--truth", truth) == 3
    assert "truth-index.zip: not an index" in capsys.readouterr().err
    assert everything(tmp_path) == before
    scoring = ("score", "--predictions", demo / "maps", "--truth", truth, "--output", tmp_path / "scores")
    assert run("evaluation", *scoring) == 0  # which needs none
    assert before.items() <= everything(tmp_path).items()


def test_frozen_baselines_keep_other_files_of_their_folder(demo: Path, tmp_path: Path) -> None:
    truth = Path(shutil.copytree(demo / "archive" / "labels", tmp_path / "truth"))
    in_the_way("file", truth / "baselines" / "ce" / "notes.txt")
    (truth / "settings.json").write_text('{"few_patients": true}')
    index = ("index", "--truth", truth, "--baseline", demo / "scores" / "ce")
    assert [run("evaluation", *index), run("evaluation", *index)] == [0, 0]
    assert (truth / "baselines" / "ce" / "notes.txt").read_text() == "mine"
    (truth / "baselines" / "ce" / "cases.csv").write_text("mine")
    assert run("evaluation", *index) == 3
    assert (truth / "baselines" / "ce" / "cases.csv").read_text() == "mine"


AGAIN = [("phantom", ""), ("algorithm", "candidates"), ("algorithm", "baseline"), ("evaluation", "score")]
AGAIN += [("evaluation", "compare"), ("evaluation", "plan power"), ("phantom", "sheet"), ("training", "bundle")]


@pytest.mark.parametrize("command", AGAIN, ids=" ".join)
def test_a_second_call_replaces_only_what_the_first_one_wrote(
    command: tuple[str, str], demo: Path, tmp_path: Path
) -> None:
    row = ROWS[command]
    output = tmp_path / "user" / f"output{row.suffix}"
    in_the_way("file", tmp_path / "user" / "mine.txt")
    words = list(row.words(demo))
    if command == ("phantom", "sheet"):
        words[words.index("--archive") + 1] = _archive_with_every_kind(tmp_path)
    assert run(*words, row.option, output) == 0
    made = everything(tmp_path / "user")
    for folder in [tmp_path / "user", *(path for path in (tmp_path / "user").rglob("*") if path.is_dir())]:
        (folder / "notes.txt").write_text("mine")
    assert run(*words, row.option, output) == 0
    after = everything(tmp_path / "user")
    assert set(after) >= set(made)
    notes = list((tmp_path / "user").rglob("notes.txt"))
    assert notes and all(path.read_text() == "mine" for path in notes)


RUNS = "configuration,fold,restart,auroc,ap\n" + "".join(
    f"{{}},0,{k},0.8{k},0.5\nb,0,{k},0.7{k},0.5\n" for k in range(3)
)


def table_of_runs(place: Path, configuration: str) -> Path:
    path = place / f"{configuration}.csv"
    path.write_text(RUNS.replace("{}", configuration))
    return path


def other_images(place: Path, archive: Path) -> Path:
    """The same studies, one voxel of each channel of one of them brighter."""
    copy = Path(shutil.copytree(archive, place / "other"))
    for path in copy.glob("10000/*.mha"):
        volume = read_volume(path)
        array = np.array(volume.array)
        array[0, 0, 0] += 1
        write_volume(path, Volume(array, volume.grid))
    return copy


def other_maps(place: Path, maps: Path) -> Path:
    """Maps of the same cases and runs, twice as sure."""
    copy = Path(shutil.copytree(maps, place / "maps"))
    for path in copy.glob("*.mha"):
        volume = read_volume(path)
        write_volume(path, Volume(np.minimum(np.asarray(volume.array) * 2, 1), volume.grid))
    return copy


def other_source(place: Path, maps: Path) -> Path:
    """The same maps, by another method."""
    copy = Path(shutil.copytree(maps, place / "maps"))
    source = json.loads((copy / "source.json").read_text())
    (copy / "source.json").write_text(json.dumps({**source, "method_sha256": "1" * 64}))
    return copy


def baseline(archive: Path) -> Words:
    return ("algorithm", "baseline", "--card", CARD, "--archive", archive)


def candidates(maps: Path) -> Words:
    return ("algorithm", "candidates", "--probability", maps)


def score_of(maps: Path, demo: Path, *words: object) -> Words:
    return ("evaluation", "score", "--predictions", maps, "--truth", demo / "archive" / "labels", *words)


def compare(*words: object) -> Words:
    return ("evaluation", "compare", "--few-patients", *words)


def stop(scores: Path, demo: Path) -> Words:
    return ("evaluation", "plan", "stop", "--scores", scores, "--analysis", demo / "looks.toml")


IDENTITIES: dict[str, tuple[Callable[[Path, Path], Words], Callable[[Path, Path], Words]]] = {
    "compare other rows": (
        lambda demo, place: ("evaluation", "compare", "--runs", table_of_runs(place, "a")),
        lambda demo, place: ("evaluation", "compare", "--runs", table_of_runs(place, "c")),
    ),
    "compare by an analysis": (
        lambda demo, place: compare("--scores", demo / "scores"),
        lambda demo, place: compare("--scores", demo / "scores", "--analysis", demo / "looks.toml"),
    ),
    "compare with pictures": (
        lambda demo, place: compare("--scores", demo / "scores"),
        lambda demo, place: compare(
            *("--scores", demo / "scores", "--archive", demo / "archive", "--predictions", demo / "maps")
        ),
    ),
    "baseline of other images": (
        lambda demo, place: baseline(demo / "archive"),
        lambda demo, place: baseline(other_images(place, demo / "archive")),
    ),
    "candidates of other maps": (
        lambda demo, place: candidates(demo / "maps" / "ce"),
        lambda demo, place: candidates(other_maps(place, demo / "maps" / "ce")),
    ),
    "candidates by another method": (
        lambda demo, place: candidates(demo / "maps" / "ce"),
        lambda demo, place: candidates(other_source(place, demo / "maps" / "ce")),
    ),
    "candidates by another rule": (
        lambda demo, place: candidates(demo / "maps" / "ce"),
        lambda demo, place: (*candidates(demo / "maps" / "ce"), "--rule", "dynamic-fast"),
    ),
    "score of other maps": (
        lambda demo, place: score_of(demo / "maps" / "ce", demo),
        lambda demo, place: score_of(other_maps(place, demo / "maps" / "ce"), demo),
    ),
    "score without hits": (
        lambda demo, place: score_of(demo / "maps" / "ce", demo, "--sweep-hits"),
        lambda demo, place: score_of(demo / "maps" / "ce", demo),
    ),
    "score of other patients": (
        lambda demo, place: score_of(demo / "maps" / "ce", demo, "--patients", "by-case"),
        lambda demo, place: score_of(demo / "maps" / "ce", demo),
    ),
    "plan of other assumptions": (
        lambda demo, place: ("evaluation", "plan", "power", *PLAN),
        lambda demo, place: ("evaluation", "plan", "power", *PLAN, "--auroc", 0.9),
    ),
    "phantoms of another seed": (
        lambda demo, place: ROWS["phantom", ""].words(demo),
        lambda demo, place: (*ROWS["phantom", ""].words(demo)[:-1], 4),
    ),
}


@pytest.mark.parametrize(("first", "second"), IDENTITIES.values(), ids=IDENTITIES)
def test_results_of_other_arguments_or_contents_are_not_replaced(
    first, second, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, output = tmp_path / "given", tmp_path / "output"
    place.mkdir()
    assert run(*first(demo, place), "--output", output) == 0
    words, made = second(demo, place), everything(output)
    capsys.readouterr()
    assert run(*words, "--output", output) == 3
    said = capsys.readouterr().err
    assert ("some of " in said, said.count("\n")) == (True, 1), said
    assert everything(output) == made
    assert run(*first(demo, place), "--output", output) == 0


@pytest.mark.parametrize("below", ["", "new"])
@pytest.mark.parametrize(
    "words",
    [
        lambda demo, place: ("evaluation", "compare", "--runs", table_of_runs(place, "a")),
        lambda demo, place: compare("--scores", demo / "scores"),
        lambda demo, place: ("evaluation", "plan", "readers", "--cases", 100),
        lambda demo, place: ("evaluation", "plan", "power", *PLAN),
    ],
)
def test_no_other_command_of_the_evaluation_writes_into_a_scored_run(
    words, below: str, demo: Path, tmp_path: Path
) -> None:
    scores = Path(shutil.copytree(demo / "scores", tmp_path / "scores"))
    before = everything(scores)
    assert run(*words(demo, tmp_path), "--output", scores / "ce" / below) == 3
    assert everything(scores) == before
    again = ("--predictions", demo / "maps", "--truth", demo / "archive" / "labels", "--output", scores)
    assert run("evaluation", "score", *again) == 0


def interrupted(demo: Path, place: Path, configuration: str = "ce") -> tuple[Path, Words]:
    """A run that was killed after its weights were written, and before its record said so."""
    folder = Path(shutil.copytree(demo / "runs" / configuration, place / "run"))
    record = read_record(folder / "run.json", RunRecord)
    write_record(folder / "run.json", record.model_copy(update={"state": "running", "weights_sha256": None}))
    words = ["training", "run", "--prepared", demo / "prepared", *of_run(demo), "--tensorboard", "--output", folder]
    words[words.index("ce")] = configuration
    return folder, words


WRITTEN = ["weights.safetensors", "card.toml", "plans.json", "dataset.json", "training_studies.json", "training.log"]
FOREIGN = [
    *(("ce", name) for name in [*WRITTEN, "selection.json", "tensorboard", "work"]),
    *(("ce", f"work/{name}") for name in ("checkpoints", "kept", "selection", "checkpoints/epoch_000009.pt")),
    *(("ce", f"work/{name}") for name in ("kept/epoch_000002.safetensors", "selection/epoch_000002.json")),
    *(("retina-unet", name) for name in ("weights.safetensors", "anchors.json", "box_rule.json")),
]


@pytest.mark.parametrize(("configuration", "name"), FOREIGN)
def test_a_resumed_run_replaces_nothing_that_it_did_not_write(
    configuration: str, name: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = interrupted(demo, tmp_path, configuration)
    (folder / name).unlink(missing_ok=True)
    in_the_way("file", folder / name)
    before = everything(folder)
    capsys.readouterr()
    assert run(*words) == 3
    said = capsys.readouterr().err
    assert (name in said, said.count("\n")) == (True, 1), said
    assert everything(folder) == before


def test_a_resumed_campaign_refuses_such_a_run_before_any_other_begins(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (demo / "campaign.toml").read_text().replace("restarts = [1]", "restarts = [0, 1]")
    (tmp_path / "campaign.toml").write_text(text.replace('"prepared"', f'"{demo}/prepared"'))
    folder, _ = interrupted(demo, tmp_path)
    (tmp_path / "campaign").mkdir()
    folder = folder.rename(tmp_path / "campaign" / "ce_fold0_restart1")
    (folder / "weights.safetensors").write_text("mine")
    before = everything(tmp_path)
    capsys.readouterr()
    assert run("training", "campaign", tmp_path / "campaign.toml", "--device", "cpu") == 3
    assert "weights.safetensors: file was edited since training run wrote it" in capsys.readouterr().err
    assert everything(tmp_path) == before


def without_list(folder: Path) -> None:
    """As an older version left it while it trained, or a copy without hidden files."""
    for name in (".oncoduet", "weights.safetensors", "box_rule.json"):
        (folder / name).unlink(missing_ok=True)


def half_written(folder: Path) -> None:
    (folder / f".partial-{'0' * 32}.safetensors").write_bytes(b"half")
    in_the_way("file", folder / "work" / "checkpoints" / f".partial-{'1' * 32}.pt")


def of_another_version(folder: Path) -> None:
    path = folder / "training_studies.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "written_by": {**values["written_by"], "git_revision": "0" * 40}}))


@pytest.mark.parametrize(
    ("configuration", "change"),
    [
        ("ce", lambda folder: None),
        ("retina-unet", lambda folder: None),
        ("ce", without_list),
        ("retina-unet", without_list),
        ("ce", half_written),
        ("ce", of_another_version),
        ("ce", lambda folder: (folder / "training.log").unlink()),
        ("ce", lambda folder: (folder / "card.toml").unlink()),
    ],
)
def test_a_killed_run_resumes_and_leaves_the_users_files(
    configuration: str, change: Callable[[Path], None], demo: Path, tmp_path: Path
) -> None:
    folder, words = interrupted(demo, tmp_path, configuration)
    change(folder)
    names = ["notes.txt", "tensorboard/events.out.tfevents.123.mine", "nndetection.json", "work/mine.txt"]
    names += [f"work/{name}" for name in ("checkpoints/mine.pt", "kept/mine.safetensors", "selection/archive/mine.txt")]
    mine = [folder / name for name in names]
    for path in mine:
        in_the_way("file", path)
    assert [run(*words), run(*words)] == [0, 0]
    assert [path.read_text() for path in mine] == ["mine"] * len(names)
    made = read_record(folder / "run.json", RunRecord)
    expected = read_record(demo / "runs" / configuration / "run.json", RunRecord)
    assert (made.state, made.weights_sha256) == ("finished", expected.weights_sha256)
    assert len(list((folder / "tensorboard").iterdir())) == 2


def _archive_with_every_kind(tmp_path: Path) -> Path:
    cohort = ("--card", CARD, "--cases", 24, "--positive-fraction", 0.5, "--seed", 2)
    assert run("phantom", *cohort, "--output", tmp_path / "cohort") == 0
    return tmp_path / "cohort"


def test_two_processes_with_one_output_leave_one_result_unmixed(demo: Path, tmp_path: Path) -> None:
    score = ("-m", "evaluation", "score", "--predictions", demo / "maps", "--truth", demo / "archive" / "labels")
    words = [sys.executable, *map(str, score), "--output", str(tmp_path / "scores")]
    both = [subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
    said = [process.communicate()[1].decode() for process in both]
    for process, text in zip(both, said, strict=True):
        assert (process.returncode, text.count("\n")) in ((0, 0), (3, 1)), text
    assert 0 in [process.returncode for process in both]
    assert (
        run(
            "evaluation",
            "compare",
            "--scores",
            tmp_path / "scores",
            "--few-patients",
            "--output",
            tmp_path / "compared",
        )
        == 0
    )
    assert not list(tmp_path.rglob(".partial-*"))
