"""Documented commands exist: programs, commands, options, and the TOML files that the documents show."""

import re
import shlex
from pathlib import Path

import pytest
from paths import PROJECT
from programs import python, run

from contract.schema import parse_toml
from training.campaign import CampaignFile
from training.engine import load_configuration

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "docs/campaigns.md", "docs/gpus.md", "docs/nndetection.md"),
    *("docs/reproducibility.md", "docs/upload.md"),
)
IMAGES = {"oncoduet-train": "training", "oncoduet-algorithm": "algorithm", "oncoduet-evaluation": "evaluation"}
PACKAGES = ("phantom", "training", "algorithm", "evaluation")


def blocks(document: Path, language: str) -> list[str]:
    """Fenced blocks, without the indentation that they have in lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(document: Path) -> list[list[str]]:
    """Command lines of the shell blocks; calls of functions are replaced by what the functions call."""
    functions: dict[str, str] = {}
    found = []
    for block in blocks(document, "bash"):
        text = block.replace("\\\n", " ")
        functions |= dict(re.findall(r'^(\w+)\(\) \{\s*(docker .*?) "\$@"\s*\}', text, flags=re.MULTILINE))
        for line in re.sub(r"^\w+\(\) \{.*?^\}$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in functions:
                words = shlex.split(functions[words[0]]) + words[1:]
            if words:
                found.append(words)
    return found


def program(words: list[str]) -> tuple[str, list[str]] | None:
    """The package that a command line calls, and the words after it."""
    for place, word in enumerate(words):
        if word in IMAGES and words[0] == "docker":
            return IMAGES[word], words[place + 1 :]
        if word == "-m" and words[place + 1] in PACKAGES and "python" in words[place - 1]:
            return words[place + 1], words[place + 2 :]
    return None


def called() -> dict[tuple[str, ...], set[str]]:
    """Options by (package, command), over all documents."""
    found: dict[tuple[str, ...], set[str]] = {}
    for name in DOCUMENTS:
        for words in commands(PROJECT / name):
            if called_program := program(words):
                package, rest = called_program
                command = (package, *rest[:1]) if rest and re.fullmatch(r"[a-z]+", rest[0]) else (package,)
                found.setdefault(command, set()).update(word for word in rest if word.startswith("--"))
    return found


def test_the_documents_show_the_whole_chain() -> None:
    expected = {
        ("phantom",),
        *(("training", command) for command in ("prepare", "run", "campaign", "status", "bundle")),
        *(("algorithm",), ("algorithm", "batch")),
        *(("evaluation",), ("evaluation", "score"), ("evaluation", "compare")),
    }
    assert expected <= set(called())


@pytest.mark.parametrize("command", sorted(called()), ids=" ".join)
def test_a_documented_command_has_its_documented_options(command: tuple[str, ...]) -> None:
    result = python("-m", *command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    offered = set(re.findall(r"--[a-z][a-z-]*", result.stdout))
    assert called()[command] <= offered


def test_scripts_have_their_documented_options() -> None:
    asked: dict[str, set[str]] = {}
    for name in DOCUMENTS:
        for words in commands(PROJECT / name):
            if words[0].startswith("./"):
                asked.setdefault(words[0], set()).update(word for word in words if word.startswith("--"))
    assert {"./demo.sh", "./test.sh", "./build.sh", "./export.sh"} <= set(asked)
    for script, options in asked.items():
        shown = run(script, "--help").stdout
        assert options <= set(re.findall(r"--[a-z][a-z-]*", shown)), script


def test_the_documented_campaign_and_configuration_are_valid(tmp_path: Path) -> None:
    (campaign,) = blocks(PROJECT / "README.md", "toml")
    (configuration,) = blocks(PROJECT / "docs/new-use-case.md", "toml")
    (tmp_path / "campaign.toml").write_text(campaign)
    (tmp_path / "mine.toml").write_text(configuration)
    assert len(parse_toml(tmp_path / "campaign.toml", CampaignFile).restarts) == 3
    assert [term.term for term in load_configuration(tmp_path / "mine.toml").loss] == ["cross-entropy", "soft-dice"]


def test_the_configuration_of_nndetections_page_is_valid(tmp_path: Path) -> None:
    (configuration,) = blocks(PROJECT / "docs/nndetection.md", "toml")
    (tmp_path / "mine.toml").write_text(configuration)
    assert load_configuration(tmp_path / "mine.toml").overwrites == {"trainer_cfg.max_num_epochs": 10}
