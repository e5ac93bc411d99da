"""Whatever is wrong with what a command is given, it says so in one printable line, and ends with 3 (or 2).

Each command's parser tells which files and folders it takes; ``GOOD`` has a call of each that would succeed. In such a
call one path is replaced by something that is no use (``_replaced``), or one file below it is spoiled (``_spoiled``).
Nothing may end with a traceback, hang, or say anything on stderr but one line; what reaches stdout and stderr is
printable. ``ONCODUET_FUZZ`` is the number of attempts of each kind per command (12), ``ONCODUET_FUZZ_SEED`` another
deal; 1000 tries every path and word.
"""

import argparse
import faulthandler
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import demo_files
import pytest
from bundles import seal

import algorithm.__main__
import algorithm.baselines
import algorithm.batch
import algorithm.candidate_maps
import algorithm.single
import conformance.__main__
import evaluation.__main__
import evaluation.compare
import evaluation.index
import evaluation.plan
import phantom.__main__
import phantom.contact_sheet
import training.__main__
import training.bundle
import training.campaign.local_executor
import training.campaign.slurm_executor
import training.nndetection.prediction
import training.nnunet.trainer
import training.prepare
import training.sweep
import training.verify

FUZZ = int(os.environ.get("ONCODUET_FUZZ", "12"))
SEED = int(os.environ.get("ONCODUET_FUZZ_SEED", "20261130"))
LIMIT_S = 60
LIMIT_BYTES = 8 << 30
HOSTILE = "a\nerror: forged\x1b[31m[/b]\u202e$\\frac{$=1+2"

Main = Callable[[list[str]], int]

GOOD = {
    "training prepare": "--card {card.toml} --archive {archive} --output {new} --folds 2 --patients {patients.csv}",
    "training run": "--prepared {prepared} --configuration ce --fold 0 --restart 3 --profile {tiny.toml} "
    "--output {new} --archive {archive} --localisation {runs/ce_fold0_restart1} --device cpu",
    "training campaign": "{campaign.toml} --prepared {prepared} --output {new} --dry-run --device cpu",
    "training status": "{campaign.toml} --prepared {prepared} --output {runs}",
    "training verify": "{runs} --prepared {prepared} --archive {archive}",
    "training sweep": "--runs {runs} --output {new} --archive {archive} --prepared {prepared} "
    "--localisation {runs/ce_fold0_restart1} --device cpu",
    "training bundle": "--runs {runs} --output {new}.tar.gz",
    "training predict": "--run {runs/ce_fold0_restart1} --archive {archive} --output {new}",
    "algorithm": "--input {input} --output {new} --model {model} --no-mirroring --threads 1",
    "algorithm batch": "--archive {archive} --output {new} --model {model} --no-mirroring --threads 1",
    "algorithm precision": "--archive {archive} --output {new}.json --model {model} --studies 1 --no-mirroring "
    "--threads 1",
    "algorithm candidates": "--probability {probability} --output {new} --card {card.toml}",
    "algorithm baseline": "--archive {archive} --card {card.toml} --output {new}",
    "evaluation": "--input {submission} --truth {truth} --output {new}",
    "evaluation score": "--predictions {predictions} --truth {truth} --output {new} --card {card.toml} "
    "--patients {patients.csv} --training-studies-too --index {new}.sqlite",
    "evaluation index": "--truth {truth} --baseline {scores}",
    "evaluation compare": "--scores {scores} {scores-of-fl} --output {new} --analysis {analysis.toml} "
    "--marksheet {marksheet.csv} --archive {archive} --predictions {predictions} --patients {patients.csv} "
    "--few-patients",
    "evaluation compare #more": "--scores {scores} {scores-of-fl} --output {new} --analysis {analysis.toml} "
    "--marksheet {marksheet.csv} --validation {scores} {scores-of-fl} --readers {readers.csv} --lesions {lesions.csv} "
    "--plan {plan.json} --few-patients",
    "evaluation compare #runs": "--runs {runs.csv} --output {new}",
    "evaluation plan power": "--pilot {scores} {scores-of-fl} --studies 20 --runs 2 --cases 40 --output {new}",
    "evaluation plan errors": "--pilot {scores} {scores-of-fl} --studies 20 --runs 2 --cases 40 --output {new}",
    "evaluation plan readers": "--pilot {scores} --pilot-readers {readers.csv} --cases 40 --output {new}",
    "evaluation plan looks": "--looks 2 4 --studies 20",
    "evaluation plan stop": "--scores {scores} {scores-of-fl} --analysis {analysis.toml} --output {new}",
    "phantom": "--card {card.toml} --cases 1 --positive-fraction 1 --seed 1 --output {new}",
    "phantom sheet": "--card {card.toml} --archive {archive} --output {new}.png",
    "conformance": "oncoduet-none --kind algorithm --card {card.toml} --model {model} --truth {truth} "
    "--study {archive} --output {new} --engine {tiny.toml}",
}

SERVERS = {"algorithm serve", "evaluation serve"}
"""Read as the commands without ``serve`` do, and end the whole process (``test_serving.py``, ``test_signals.py``)."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser, by its words."""
    tops = {
        "training": training.__main__._parser(),
        "algorithm": algorithm.__main__._parser(),
        "evaluation": evaluation.__main__._parser(),
        "phantom": phantom.__main__._archive_parser(),
        "phantom sheet": phantom.__main__._sheet_parser(),
        "conformance": conformance.__main__._parser(),
    }
    found = {}
    for name, parser in tops.items():
        found |= _parsers(name, parser)
    del found["training"], found["evaluation plan"]  # which need a command
    return found


def _parsers(name: str, parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = {name: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, each in action.choices.items():
                found |= _parsers(f"{name} {command}", each)
    return found


PARSERS = parsers()
COMMANDS = sorted(GOOD)
"""A command whose options exclude each other has several calls, told apart by what follows ``#``."""


def _command(name: str) -> str:
    return name.partition(" #")[0]


def test_every_command_has_a_row_that_names_every_path_it_takes() -> None:
    assert set(map(_command, GOOD)) == PARSERS.keys() - SERVERS
    for name, parser in PARSERS.items():
        if name in SERVERS:
            continue
        for action in parser._actions:
            if action.type is Path and action.option_strings:
                calls = " ".join(call for row, call in GOOD.items() if _command(row) == name)
                assert any(f"{option} {{" in calls for option in action.option_strings), (name, action.dest)


MAINS: dict[str, Main] = {**demo_files.MAINS, "conformance": conformance.__main__.main}


def _call(name: str, words: list[str], folder: Path, *, at: Path | None = None) -> tuple[int, str, str]:
    """A call in a fork of this process, which has imported everything: exit code or minus signal, stdout, stderr."""
    package, _, command = _command(name).partition(" ")
    out, err = folder / "stdout", folder / "stderr"
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(at or folder)
            faulthandler.disable()  # of pytest, which has another stderr
            signal.alarm(LIMIT_S)
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
            for number, path in ((0, Path("/dev/null")), (1, out), (2, err)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = MAINS[package]([*command.split(), *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), out.read_bytes().decode(), err.read_bytes().decode()


def _faults(name: str, words: list[str], folder: Path) -> list[str]:
    """What is not as it has to be in one call."""
    code, out, err = _call(name, words, folder)
    lines = err.removesuffix("\n").split("\n")
    faults = []
    if code not in (0, 2, 3):
        faults.append(f"exit code {code}: {err[-900:]}")
    elif code == 3 and (len(lines) != 1 or not lines[0].startswith("error: ")):
        faults.append(f"stderr of {len(lines)} lines: {err[-500:]!r}")
    elif code == 2 and "error: " not in lines[-1]:
        faults.append(f"wrong usage without a reason: {err[-500:]!r}")
    elif code == 0 and err:
        faults.append(f"says at success: {err[-500:]!r}")
    if "Traceback" in out:
        faults.append(f"traceback in the log: {out[-900:]}")
    faults += [f"not printable: {line[:300]!r}" for line in (out + err).split("\n") if not line.isprintable()]
    return faults


def _words(name: str, root: Path, new: Path, replace: dict[int, str] | None = None) -> list[str]:
    """A good call, with some of its paths (counted from 0) replaced."""
    number = -1

    def path(match: re.Match[str]) -> str:
        nonlocal number
        number += 1
        good = new if match[1] == "new" else root / match[1]
        return (replace or {}).get(number, str(good))

    return [re.sub(r"\{(.*?)\}", path, word) for word in GOOD[name].split()]


def _places(name: str) -> list[str]:
    return re.findall(r"\{(.*?)\}", GOOD[name])


def _useless(folder: Path, good: Path | None) -> Iterator[tuple[str, str]]:
    """Paths that are no use where an input is expected (or, without a good one, an output)."""
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "garbage.mha").write_bytes(bytes(range(256)) * 20)
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "fifo")
    yield "below a file", str(folder / "empty" / "x")
    yield "a loop of links", str(folder / "loop")
    yield "a name too long", str(folder / ("x" * 300))
    yield "a path too long", str(folder / ("x/" * 3000))
    yield "below a system's folder", "/proc/none/x"
    yield "a name of other bytes", os.fsdecode(os.fsencode(folder) + b"/a\xff")
    yield "a pipe", str(folder / "fifo")
    yield "an empty file", str(folder / "empty")
    yield "garbage", str(folder / "garbage.mha")
    yield "a device", "/dev/null"
    yield "nothing", ""
    yield "a hostile name", str(folder / HOSTILE)
    if good is not None:
        yield "nothing there", str(folder / "none")
        yield "an empty folder", str(folder / "folder")
        yield "a dangling link", str(folder / "dangling")
        (folder / HOSTILE.replace("/", "")).symlink_to(good)
        yield "a good one by a hostile name", str(folder / HOSTILE.replace("/", ""))
        yield "a good one by a name of other bytes", _link(folder, good)
        yield "the wrong kind", str(good.parent) if good.is_dir() else str(folder / "folder")


def _link(folder: Path, good: Path) -> str:
    path = os.fsdecode(os.fsencode(folder) + b"/good\xff")
    Path(path).symlink_to(good)
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_is_no_use_is_named_in_one_line(name, demo, tmp_path) -> None:
    tried = []
    for number, place in enumerate(_places(name)):
        good = None if place == "new" else demo / place
        useless = _useless(tmp_path / f"useless-{number}", good)
        tried += [(number, f"{place} is {what}", path) for what, path in useless]
    found = []
    for count, (number, told, path) in enumerate(_some(tried, name)):
        words = _words(name, _copy_if_written(name, demo, tmp_path), tmp_path / f"new-{count}", {number: path})
        found += [f"{told}: {fault}" for fault in _faults(name, words, tmp_path)]
    assert not found, "\n".join([f"{len(found)} faults", *found])


@pytest.mark.parametrize("name", [each for each in COMMANDS if each != "conformance"])  # which waits for an engine
def test_a_folder_may_be_given_as_the_current_one(name, demo, tmp_path) -> None:
    places = [(number, place) for number, place in enumerate(_places(name)) if (demo / place).is_dir()]
    found = []
    for number, place in _some(places, name)[:3]:
        root = _copy_if_written(name, demo, tmp_path)
        codes = [
            _call(
                name,
                _words(name, root, tmp_path / f"new-{number}-{len(replace or ())}", replace),
                tmp_path,
                at=at and root / place,
            )[::2]
            for at, replace in ((None, None), (root / place, {number: "."}))
        ]
        if codes[0][0] != codes[1][0]:
            found.append((place, codes))
    assert not found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_was_spoiled_is_named_in_one_line(name, demo, tmp_path) -> None:
    chance = random.Random(f"{SEED} {name}")
    places = [place for place in _places(name) if place != "new"]
    found = []
    for count in range(FUZZ if places else 0):
        place = chance.choice(places)
        copy = tmp_path / f"copy-{count}"
        target = copy / place
        target.parent.mkdir(parents=True)
        if (demo / place).is_dir():
            shutil.copytree(demo / place, target)
        else:
            shutil.copy(demo / place, target)
        files = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else [target]
        texts = [path for path in files if path.suffix in (".json", ".toml", ".csv")]
        file = chance.choice(texts if texts and chance.random() < 0.7 else files)
        how = _spoil(file, chance)
        if chance.random() < 0.7 and (target / "SHA256SUMS").is_file():
            seal(target)
        number = _places(name).index(place)
        words = _words(name, _copy_if_written(name, demo, tmp_path), tmp_path / f"new-{count}", {number: str(target)})
        told = f"{count}: {file.relative_to(copy)}: {how}"
        found += [f"{told}: {fault}" for fault in _faults(name, words, tmp_path)]
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(tmp_path / f"new-{count}", ignore_errors=True)
    assert not found, "\n".join([f"{len(found)} faults", *found])


@pytest.mark.parametrize("name", COMMANDS)
def test_words_that_are_no_use_are_refused_in_one_line(name, demo, tmp_path) -> None:
    values = ("", "-1", "0", "nan", "inf", "1e400", "9" * 400, "x", HOSTILE, "a\udcff", "../x", "[red]")
    options = [
        each
        for each in PARSERS[_command(name)]._actions
        if each.option_strings and each.nargs != 0 and each.type != Path
    ]
    tried = [
        (action.option_strings[0], value)
        for action in options
        for value in values
        if not (name in EXPENSIVE.get(action.dest, ()) and value.isdecimal())
    ]
    found = []
    for option, value in _some(tried, name):
        words = _words(name, _copy_if_written(name, demo, tmp_path), tmp_path / "new")
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words.append(f"{option}={value}")
        found += [f"{option}={value[:30]!r}: {fault}" for fault in _faults(name, words, tmp_path)]
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert not found, "\n".join([f"{len(found)} faults", *found])


def _some(tried: list[Any], name: str) -> list[Any]:
    """As many of the attempts as were asked for, by chance; all of them if there are no more."""
    return random.Random(f"{SEED} {name}").sample(tried, min(FUZZ, len(tried)))


EXPENSIVE: dict[str, tuple[str, ...]] = {"threads": ("algorithm", "algorithm batch"), "cases": ("phantom",)}
"""Numbers that are fine and take long, or all threads of the machine."""


def _copy_if_written(name: str, demo: Path, folder: Path) -> Path:
    """The demo, or a copy for commands that write into what they read."""
    if name not in ("evaluation index", "training status"):
        return demo
    copy = folder / "demo"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(demo, copy)
    return copy


WRONG: list[Any] = [
    None, True, 0, -1, 3, 1e308, 10**400, "", "x", HOSTILE, "a\ud800", "../../etc/passwd", "=1+1", [], {}, [[]],
    {"": 0},
    "x" * 70_000, "nan", [None], 0.5, [0, 0, 0], [1e-300] * 3, "os.system",
]  # fmt: skip


def _spoil(file: Path, chance: random.Random) -> str:
    """Spoil one file, and say how."""
    kinds: list[Callable[[Path, random.Random], str]] = [_bytes, _instead, _renamed]
    if file.suffix == ".json":
        kinds += [_json] * 9
    elif file.suffix in (".toml", ".csv"):
        kinds += [_lines] * 9
    return chance.choice(kinds)(file, chance)


def _json(file: Path, chance: random.Random) -> str:
    value = json.loads(file.read_text())
    spots: list[tuple[Any, Any]] = []

    def walk(at: Any) -> None:
        for key in at if isinstance(at, dict) else range(len(at)):
            spots.append((at, key))
            if isinstance(at[key], dict | list):
                walk(at[key])

    if isinstance(value, dict | list):
        walk(value)
    if not spots or chance.random() < 0.1:
        file.write_text(json.dumps(chance.choice(WRONG)))
        return "another value"
    at, key = chance.choice(spots)
    if chance.random() < 0.3:
        del at[key]
        how = f"without {key!r}"
    else:
        at[key] = chance.choice(WRONG)
        how = f"{key!r} = {str(at[key])[:40]!r}"
    file.write_text(json.dumps(value))
    return how


def _lines(file: Path, chance: random.Random) -> str:
    lines = file.read_text().split("\n")
    number = chance.randrange(len(lines))
    line = lines[number]
    separator = "," if file.suffix == ".csv" else "= "
    head, _, _ = line.rpartition(separator)
    before = head + separator
    lines[number] = chance.choice(
        ["", line + line, f"{line}\n{line}", before, f'{before}"x\x1b[31m"', f"{before}-1", f"{before}1e999",
         f"{before}[]", f'{before}"{HOSTILE[2:]}"', f"{before}=1+1", "\x00", "[[[[", '"', f"{before}nan",
         before + "9" * 5000, before + "[" * 3000]
    )  # fmt: skip
    file.write_text("\n".join(lines))
    return f"line {number}: {lines[number][:60]!r}"


def _bytes(file: Path, chance: random.Random) -> str:
    content = file.read_bytes()
    half = content[: len(content) // 2]
    changed = {
        "empty": b"", "half": half, "garbage": bytes(range(256)) * 4, "a byte order mark": b"\xef\xbb\xbf" + content,
        "UTF-16": b"\xff\xfe" + bytes(100), "zeros": bytes(len(content)), "Latin-1": content + b"\xe4\n",
        "more": content + b"more", "deep": b"[" * 100_000, "null": b"null",
    }  # fmt: skip
    how = chance.choice(sorted(changed))
    file.write_bytes(changed[how])
    return how


def _instead(file: Path, chance: random.Random) -> str:
    file.unlink()
    how = chance.choice(["gone", "a folder", "a pipe", "a dangling link", "a loop", "a device", "a folder's link"])
    match how:
        case "a folder":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "a dangling link":
            file.symlink_to("nowhere")
        case "a loop":
            file.symlink_to(file)
        case "a device":
            file.symlink_to("/dev/zero")
        case "a folder's link":
            file.symlink_to(file.parent)
    return how


def _renamed(file: Path, chance: random.Random) -> str:
    name = chance.choice([HOSTILE.replace("/", ""), "=1+1", "a\udcff", "[red]", "\u2028", ".x", "-", "x" * 200])
    file.rename(file.with_name(name + "".join(file.suffixes[-2:])))
    return f"named {name[:20]!r}"
