"""What a command may write where: only what is ours is replaced, and all else is said before work begins."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from programs import python
from refusals import refused_with

from contract import outputs
from contract.errors import OncoduetError, UsageError
from contract.files.atomic import write_json
from contract.outputs import (
    MANIFEST,
    Output,
    claim_scratch,
    file_output,
    own_file,
    require_apart,
    require_folder,
    require_own,
    require_scratch,
    require_unowned,
)

FILES = ("record.json", "figures/roc.svg", "figures/pr.svg")


def output(folder: Path, **changes: object) -> Output:
    changes = {"identity": {} if changes.get("on_platform") else {"run": "ce"}, **changes}
    return Output(folder, **{"command": "draw", "files": FILES, "record": "record.json", **changes})  # type: ignore[arg-type]


def fill(place: Output, contents: Mapping[str, str]) -> None:
    with place.staged() as stage:
        for name, text in contents.items():
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text(text)


def found(folder: Path) -> dict[str, str]:
    """Every file but the list of what was written, with its text."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(paths)}


def test_a_folder_s_contents_appear_together(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with output(folder).staged() as stage:
        (stage / "figures").mkdir()
        (stage / "figures" / "roc.svg").write_text("curve")
        (stage / "record.json").write_text("0.5")
        assert found(folder).keys() == {f"{stage.name}/figures/roc.svg", f"{stage.name}/record.json"}
    assert found(folder) == {"figures/roc.svg": "curve", "record.json": "0.5"}


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), output(tmp_path / "out").staged():
        raise RuntimeError("midway")
    assert not (tmp_path / "out").exists()
    fill(output(tmp_path), {"record.json": "old"})
    with pytest.raises(RuntimeError, match="midway"), output(tmp_path).staged() as stage:
        (stage / "record.json").write_text("new")
        raise RuntimeError("midway")
    assert found(tmp_path) == {"record.json": "old"}


def test_an_error_keeps_its_fields_and_names_the_output_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, output(tmp_path).staged() as stage:
        raise UsageError(stage / "record.json", expected="1", found=stage)
    error = caught.value
    assert (error.where, error.expected, error.found) == (str(tmp_path / "record.json"), "1", str(tmp_path))


def test_own_files_are_replaced_and_obsolete_ones_removed(tmp_path: Path) -> None:
    fill(output(tmp_path), {"record.json": "old", "figures/roc.svg": "old", "figures/pr.svg": "old"})
    inode = tmp_path.stat().st_ino
    fill(output(tmp_path), {"record.json": "new", "figures/roc.svg": "new"})
    assert found(tmp_path) == {"record.json": "new", "figures/roc.svg": "new"}
    assert tmp_path.stat().st_ino == inode


def test_the_users_files_in_an_output_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    fill(output(tmp_path), {"record.json": "1", "figures/roc.svg": "1"})
    fill(output(tmp_path), {"record.json": "2"})
    assert found(tmp_path) == {"figures/mine.svg": "mine", "notes.txt": "mine", "record.json": "2"}


def link_elsewhere(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("name", "make", "fields"),
    [
        ("record.json", lambda path: path.write_text("mine"), {"expected": "nothing or what draw wrote there"}),
        (
            "record.json",
            lambda path: path.mkdir(),
            {"expected": "nothing or what draw wrote there", "found": "(a folder|something)"},
        ),
        ("record.json", link_elsewhere, {"problem": "is a link"}),
        ("figures", link_elsewhere, {"problem": "is a link"}),
        ("figures", lambda path: path.write_text("mine"), {"expected": "a folder or nothing", "found": "a file"}),
        ("record.json", os.mkfifo, {"expected": "nothing or what draw wrote there", "found": "(a folder|something)"}),
        (MANIFEST, lambda path: path.mkdir(), {"problem": "not a plain file"}),
        (
            "run.json",
            lambda path: path.write_text("{}"),
            {"expected": "a folder for the results of draw", "found": "run.json"},
        ),
        ("out", lambda path: path.write_text("mine"), {"problem": "cannot be written to: .* is not a folder"}),
    ],
)
def test_obstacles_are_refused_before_work(tmp_path: Path, name, make, fields: dict[str, str]) -> None:
    make(tmp_path / name)
    folder = tmp_path / "out" / "below" if name == "out" else tmp_path
    before = sorted(tmp_path.rglob("*"))
    with refused_with(**fields), output(folder).staged():
        pytest.fail("work began")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_listed_is_refused_before_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.R_OK)  # root may read everything
    with refused_with(problem="cannot be written to: permission denied"), output(tmp_path).staged():
        pytest.fail("work began")


def test_a_file_of_ours_that_was_edited_is_the_user_s(tmp_path: Path) -> None:
    fill(output(tmp_path), {"record.json": "1", "figures/roc.svg": "ours"})
    (tmp_path / "figures" / "roc.svg").write_text("prettier")
    with refused_with("roc.svg", "edited since draw wrote it"):
        fill(output(tmp_path), {"record.json": "2", "figures/roc.svg": "ours"})
    assert found(tmp_path) == {"record.json": "1", "figures/roc.svg": "prettier"}


@pytest.mark.parametrize("name", ["../mine/notes.txt", "figures/../../mine/notes.txt", "{tmp_path}/mine/notes.txt"])
def test_a_list_that_names_files_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Folders of results are handed on, with their lists, by people whom the user need not know."""
    place = output(tmp_path / "out")
    fill(place, {"record.json": "old"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("old")
    listed = json.loads((place.folder / MANIFEST).read_text())
    files = listed["commands"]["draw"]["files"]
    files[name.format(tmp_path=tmp_path)] = files["record.json"]
    (place.folder / MANIFEST).write_text(json.dumps(listed))
    with refused_with(problem="expected a relative path"):
        fill(place, {"record.json": "new"})
    assert found(tmp_path) == {"mine/notes.txt": "old", "out/record.json": "old"}


def test_obsolete_files_behind_a_link_stay(tmp_path: Path) -> None:
    fill(output(tmp_path / "out"), {"record.json": "old", "figures/roc.svg": "old"})
    (tmp_path / "out" / "figures").rename(tmp_path / "mine")
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "mine")
    fill(output(tmp_path / "out", files=("record.json",)), {"record.json": "new"})
    assert found(tmp_path / "mine") == {"roc.svg": "old"}


def test_results_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    fill(output(tmp_path, identity={"run": "ce"}), {"record.json": "1"})
    with refused_with(expected="results of run focal or none", found="some of run ce;"):
        output(tmp_path, identity={"run": "focal"}).check()
    output(tmp_path, identity={"run": "ce"}).check()
    with refused_with("record.json", expected="nothing or what paint wrote there"):
        output(tmp_path, command="paint").check()


def test_results_of_a_part_of_the_inputs_are_replaced_by_those_of_more(tmp_path: Path) -> None:
    def of(*runs: str, by: str = "a") -> Output:
        return output(tmp_path, identity={"runs": frozenset(runs), "analysis": by})

    fill(of("1", "2"), {"record.json": "1"})
    for other in (of("1"), of("1", "3"), of("1", "2", by="b"), of("1", "2", "3", by="b")):
        with refused_with(found="some of (runs|analysis)"):
            other.check()
    fill(of("1", "2", "3"), {"record.json": "2"})
    with refused_with(expected=r"results of runs \(2\) or none", found=r"some of runs \(3\)"):
        of("1", "2").check()


@pytest.mark.parametrize(("identity", "on_platform"), [({}, False), ({"run": "ce"}, True)])
def test_an_output_without_identity_is_the_platform_s_and_no_other(tmp_path: Path, identity, on_platform) -> None:
    with pytest.raises(ValueError, match="has an identity"):
        Output(tmp_path, "draw", FILES, identity=identity, on_platform=on_platform)


def test_files_of_one_command_have_an_identity_each(tmp_path: Path) -> None:
    for name, study in (("a.png", "1"), ("b.png", "2")):
        with file_output(tmp_path / name, "draw", study=study).staged() as stage:
            (stage / name).write_text(study)
    with refused_with(found="some of study 1"):
        file_output(tmp_path / "a.png", "draw", study="2").check()
    assert found(tmp_path) == {"a.png": "1", "b.png": "2"}


def test_a_folder_that_is_filled_step_by_step_knows_each_file(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with own_file(tmp_path, "a.txt", "draw") as partial:
            partial.write_text(text)
    assert found(tmp_path) == {"a.txt": "new"}
    (tmp_path / "a.txt").write_text("old")  # as if the process had been killed before the file took its name
    require_own(tmp_path, "a.txt", "draw")
    (tmp_path / "b.txt").write_text("mine")
    for name, problem in (("b.txt", ""), ("a.txt", "edited since draw wrote it")):
        (tmp_path / name).write_text("mine")
        with refused_with(name, problem), own_file(tmp_path, name, "draw") as partial:
            partial.write_text("newer")
    assert found(tmp_path) == {"a.txt": "mine", "b.txt": "mine"}


def test_an_undeclared_file_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"draw: more.txt was written, but not declared"):
        fill(output(tmp_path), {"more.txt": "x"})
    assert found(tmp_path) == {}


def test_a_file_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    with refused_with("pr.svg", expected="nothing"), output(tmp_path).staged() as stage:
        (stage / "record.json").write_text("1")
        (tmp_path / "figures").mkdir()
        (tmp_path / "figures" / "pr.svg").write_text("mine")
    assert found(tmp_path) == {"figures/pr.svg": "mine"}


def test_on_the_platform_only_outputs_are_written_and_replaced(tmp_path: Path) -> None:
    place = output(tmp_path, on_platform=True)
    fill(place, {"record.json": "1", "figures/roc.svg": "1"})
    fill(place, {"record.json": "2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record.json"]
    for path in tmp_path.iterdir():  # the platform takes the answer away
        path.unlink()
    fill(place, {"record.json": "3"})
    (tmp_path / "record.json").write_text("mine")
    with refused_with(problem="edited since"):
        fill(place, {"record.json": "4"})


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.mkdir()])
def test_other_files_in_a_platform_output_are_refused(tmp_path: Path, make) -> None:
    (tmp_path / "figures").mkdir()
    make(tmp_path / "figures" / "other.svg")
    (tmp_path / "notes.txt").write_text("mine")  # in no output's folder
    with pytest.raises(OncoduetError) as caught:
        output(tmp_path, on_platform=True).check()
    assert caught.value.where == str(tmp_path / "figures" / "other.svg")
    output(tmp_path).check()


def test_a_later_process_knows_an_answer_by_its_attribute(tmp_path: Path, monkeypatch) -> None:
    place = output(tmp_path, on_platform=True)
    fill(place, {"record.json": "1", "figures/roc.svg": "1"})
    monkeypatch.setattr(outputs, "_made", {})
    try:
        os.setxattr(tmp_path, "user.oncoduet", b"")
    except OSError:  # no attributes on this file system: then nothing is replaced
        with refused_with(expected="nothing or what draw wrote there"):
            place.check()
        return
    fill(place, {"record.json": "2"})
    assert found(tmp_path) == {"record.json": "2"}
    copy = tmp_path / "copy"
    shutil.copyfile(tmp_path / "record.json", copy)
    copy.replace(tmp_path / "record.json")
    monkeypatch.setattr(outputs, "_made", {})
    with refused_with(expected="nothing or what draw wrote there"):
        place.check()


KILL = """
import os, signal, sys
from pathlib import Path
from contract.outputs import Output
moved = 0
old = Path.replace
def replace(self, target):
    global moved
    found = old(self, target)
    moved += 1
    if moved == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Path.replace = replace
with Output(Path(sys.argv[1]), "draw", sys.argv[3:], identity={"run": "ce"}, record="record.json").staged() as stage:
    for name in sys.argv[3:]:
        (stage / name).parent.mkdir(exist_ok=True)
        (stage / name).write_text("new")
"""


@pytest.mark.parametrize("moves", range(1, 6))
def test_a_kill_between_any_two_moves_leaves_no_mix_under_a_record(tmp_path: Path, moves: int) -> None:
    old, new = dict.fromkeys(FILES, "old"), dict.fromkeys(FILES, "new")
    fill(output(tmp_path), old)
    assert python("-c", KILL, tmp_path, moves, *FILES).returncode == -signal.SIGKILL
    visible = {name: text for name, text in found(tmp_path).items() if not name.startswith(".partial-")}
    assert visible in (old, new) or "record.json" not in visible
    fill(output(tmp_path), new)  # and the next call knows all of it as ours
    assert found(tmp_path) == new
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize("how", ["the same", "below", "around", "link", "dots", "hard"])
def test_output_that_equals_contains_or_is_inside_an_input_is_refused(tmp_path: Path, how: str) -> None:
    archive = tmp_path / "archive"
    (archive / "p0").mkdir(parents=True)
    (tmp_path / "link").symlink_to(archive)
    spelt = {
        "the same": archive,
        "below": archive / "new" / "out",
        "around": tmp_path,
        "link": tmp_path / "link" / "new",
        "dots": archive / "p0" / ".." / "new",
        "hard": tmp_path / "elsewhere" / ".." / "archive",
    }[how]
    with refused_with(expected="an output folder of its own", found="(inside |around )?the archive"):
        require_apart(spelt, archive=archive, model=None)
    require_apart(tmp_path / "archive2", archive=archive)


def test_a_folder_that_cannot_be_made_is_refused_even_to_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "dangling", Path("/proc/1/x")):
        with refused_with(problem="^cannot be written to: .*$"):
            output(folder).check()
    require_folder(tmp_path / "new" / "deep")


OURS = {"written_by": {"program": "oncoduet", "version": "1", "git_revision": "x"}}


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("run.json", "training run"),
        ("batch.json", "algorithm baseline"),
        ("verdict.json", "evaluation compare"),
        ("metrics.json", "evaluation score"),
        ("metrics.json", "evaluation"),
        (".campaign.lock", "training run"),
        (".campaign.lock", "training bundle"),
    ],
)
@pytest.mark.parametrize("below", ["", "new/results"])
def test_what_holds_something_else_takes_no_results_at_any_depth(tmp_path: Path, name: str, owner: str, below) -> None:
    write_json(tmp_path / name, OURS)
    require_unowned(tmp_path / below, owner)
    where = f"in {tmp_path}" if below else "in it"
    for other in ("another command", f"{owner}s", f"{owner} plan", f"{owner} {name}"):
        with pytest.raises(OncoduetError) as caught:
            require_unowned(tmp_path / below, other)
        assert caught.value.found == f"{name} of another command {where}; give another output"


def test_files_of_other_programs_claim_no_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"accuracy": 1})
    require_unowned(tmp_path, "algorithm batch")
    (tmp_path / "run.json").write_text("no JSON")
    (tmp_path / "archive.json").mkdir()
    (tmp_path / ".oncoduet").write_text("no JSON")
    require_unowned(tmp_path / "results", "algorithm batch")


def test_commands_may_write_into_a_scratch_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", OURS)
    claim_scratch(tmp_path / "work", "training run")
    require_unowned(tmp_path / "work" / "scores", "evaluation score")


def test_scratch_folder_of_a_process_killed_when_it_began_is_free(tmp_path: Path) -> None:
    partial = tmp_path / "work" / f".partial-{'0' * 32}"
    partial.parent.mkdir()
    partial.touch()
    require_scratch(tmp_path / "work", "training run")
    (tmp_path / "work" / ".partial-mine").touch()
    with refused_with(str(tmp_path / "work"), expected="nothing or what training run wrote there"):
        require_scratch(tmp_path / "work", "training run")
