"""Project files: changelog, hooks, links, packages, and no path of one machine."""

import ast
import re
import sys
from pathlib import Path

import yaml

from contract.provenance import VERSION

CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def test_every_version_has_a_section_on_its_effect_on_results(project: Path) -> None:
    text = (project / "CHANGELOG.md").read_text()
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert any(version.startswith(f"[{VERSION}]") for version in versions)
    for version in versions:
        assert "### Effect on results\n" in version, version.splitlines()[0]


def test_hooks_need_no_network(project: Path) -> None:
    hooks = yaml.safe_load((project / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    entries = {hook["id"]: hook for repository in hooks["repos"] for hook in repository["hooks"]}
    assert {"ruff-check", "ruff-format", "mypy", "lint-imports"} <= set(entries)
    assert {hook["language"] for hook in entries.values()} == {"system"}


def test_no_file_names_a_path_of_one_machine(project_files: list[Path]) -> None:
    machine = re.compile(r"(?<![\w.$}\-])/(?:work|root)(?=[/\s\"'`:;,)]|$)", re.MULTILINE)
    assert machine.search("see /" + "work/a") and not machine.search("see network/" + "work/a, /workspace")
    found = []
    for path in project_files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.name.startswith("Dockerfile."):
            text = text.replace("target=/" + "root/.cache/pip", "")  # in the image
        found += [f"{path.name}: {match.group()}" for match in machine.finditer(text)]
    assert found == []


def test_links_between_documents_lead_somewhere(project: Path, project_files: list[Path]) -> None:
    broken = []
    for document in [path for path in project_files if path.suffix == ".md"]:
        for link in LINK.findall(document.read_text()):
            target, _, anchor = link.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            file = (document.parent / target).resolve() if target else document
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                broken.append(f"{document.relative_to(project)}: {link}")
    assert broken == []


def test_paths_in_code_of_documents_exist(project: Path, project_files: list[Path]) -> None:
    """Words of code that begin with a folder of the project, or name a Python file; capitals are placeholders."""
    paths = {path.relative_to(project).as_posix() for path in project_files}
    folders = {parent.as_posix() for path in paths for parent in Path(path).parents} - {"."}
    named = [
        (document.name, word.removeprefix("./").partition("::")[0].rstrip("/"))
        for document in project_files
        if document.suffix == ".md"
        for code in CODE.findall(document.read_text())
        for word in code.strip("`").split()
        if re.fullmatch(r"[\w./:-]+", word)
    ]
    checked = [
        (document, word)
        for document, word in named
        if ("/" in word and word.partition("/")[0] in folders) or (word.endswith(".py") and "/" not in word)
    ]
    assert len(checked) > 100
    whole = paths | folders | {Path(path).name for path in paths}
    assert [each for each in checked if each[1] not in whole and not re.search(r"\b[A-Z]+\b", each[1])] == []


def anchors(document: Path) -> set[str]:
    """Names that a forge gives to headings: small letters, spaces as dashes, other signs dropped."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_package_of_an_image_is_accounted_for(project: Path) -> None:
    """What an image asks for by name is either used in a named module or explained."""
    decisions = (project / "docs" / "decisions" / "packages.md").read_text().lower()
    asked = set()
    for source in ("algorithm.in", "evaluation.in", "train.in", "sbom.in", "dev.in"):
        for line in (project / "requirements" / source).read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                asked.add(re.split(r"[=<> ]", line)[0].lower())
    assert sorted(name for name in asked if f"`{name}`" not in decisions) == []


NAMES = {"yaml": "pyyaml", "skimage": "scikit-image"}
"""Of packages that are imported by another name."""
EVERYWHERE = {
    "numpy",
    "torch",
    "pydantic",
    "pydantic_core",
    "rich",
    "_typeshed",
    "packaging",
    "cyclonedx",
    "packageurl",
}
"""Used everywhere, or only by programs of ``requirements/``."""


def test_packages_are_imported_by_the_modules_that_the_decision_names(project: Path) -> None:
    rows = (project / "docs" / "decisions" / "packages.md").read_text().splitlines()
    product = [folder.name for folder in project.iterdir() if (folder / "__init__.py").is_file()]
    users: dict[str, set[str]] = {}
    for path in (path for folder in product for path in (project / folder).rglob("*.py")):
        for package in imported_packages(path) - set(sys.stdlib_module_names) - set(product) - EVERYWHERE:
            users.setdefault(package, set()).add(path.relative_to(project).as_posix())
    assert len(users) > 10
    for package, modules in users.items():
        name = NAMES.get(package, package.replace("_", "-")).lower()
        (row,) = [row for row in rows if f"`{name}`" in row.lower().partition(" | ")[0]]
        named = set(re.findall(r"`(\w+/(?:[\w/]+\.py|(?:\w+/)*))`", row))
        unnamed = {module for module in modules if not any(module == each or module.startswith(each) for each in named)}
        assert (package, unnamed) == (package, set())


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_modules_named_in_the_decision_on_packages_exist(project: Path) -> None:
    text = (project / "docs" / "decisions" / "packages.md").read_text()
    modules = re.findall(r"`((?:contract|network|algorithm|evaluation|training|phantom)/[\w/]+\.py)`", text)
    assert modules
    assert [module for module in modules if not (project / module).is_file()] == []
