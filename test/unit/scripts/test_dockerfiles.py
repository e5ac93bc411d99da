"""The Dockerfiles: the syntax of the oldest supported builder, and what holds for every image."""

import re
import subprocess
import sys

import pytest

from contract.upload import user_and_group

DOCKERFILES = ["Dockerfile.algorithm", "Dockerfile.evaluation", "Dockerfile.train"]


def instructions(project, name: str) -> list[str]:
    """Logical lines without comments."""
    text = re.sub(r"^\s*#.*\n", "", (project / name).read_text(), flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", line).strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def stages(project, name: str) -> dict[str, list[str]]:
    """Logical lines of each stage after its FROM, by the stage's name."""
    found: dict[str, list[str]] = {"": []}
    for line in instructions(project, name):
        if line.startswith("FROM "):
            found[line.rpartition(" ")[2]] = []
        else:
            found[list(found)[-1]].append(line)
    return found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_docker_20_10_can_build_it(project, name):
    text = (project / name).read_text()
    assert not re.match(r"#\s*syntax\s*=", text)  # would fetch a frontend image from a registry
    assert "<<" not in text
    assert not re.search(r"--link|--exclude|--checksum", text)


STAGES = pytest.mark.parametrize(
    ("name", "stage"), [*((name, "program") for name in DOCKERFILES), ("Dockerfile.train", "nndet")]
)


@STAGES
def test_the_user_is_no_root_and_model_and_truth_are_not_copied(project, name, stage):
    lines = stages(project, name)[stage]
    users = [line.removeprefix("USER ") for line in lines if line.startswith("USER ")]
    user, _ = user_and_group(users[-1])
    assert user.isdigit()  # resolvable without /etc/passwd
    assert not any("/opt/ml" in line for line in lines if line.startswith(("COPY", "ADD", "RUN")))


@STAGES
def test_python_loads_no_module_from_the_working_directory_or_a_home(project, tmp_path, name, stage):
    """Python itself, with the variables of the image, in folders with modules of an attacker."""
    (assignments,) = [line.split()[1:] for line in stages(project, name)[stage] if line.startswith("ENV")]
    environment = dict(each.split("=", 1) for each in assignments)
    environment |= {
        "HOME": str(tmp_path),
        "PYTHONPATH": environment["PYTHONPATH"].replace("/opt/oncoduet", str(project)),
    }
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (tmp_path, tmp_path / ".local" / "lib" / version / "site-packages"):
        folder.mkdir(parents=True, exist_ok=True)
        for module in ("contract.py", "usercustomize.py", "json.py"):
            (folder / module).write_text("raise SystemExit('an attacker was here')")
    code = "import contract, json; print(contract.__file__)"
    python = sys._base_executable  # a virtual environment has no user site
    command = [python, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.stderr, ended.stdout) == ("", f"{project / 'contract' / '__init__.py'}\n")


@pytest.fixture
def check_of_nndet(project, run, tmp_path):
    """The first RUN of the target nndet as the builder's shell runs it, with some programs on PATH."""

    def check(image: str, *programs: str):
        (line,) = [each for each in stages(project, "Dockerfile.train")["nndet"] if "fail()" in each]
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in programs:
            (folder / name).symlink_to("/bin/true")
        environment = {"NNDET_IMAGE": image, "PATH": str(folder)}
        return run("/bin/sh", "-c", line.removeprefix("RUN "), environment=environment)

    return check


PROGRAMS = ["nndet_prep", "nndet_unpack", "nndet_train", "nndet_sweep", "nndet_consolidate", "nndet_predict"]


@pytest.mark.parametrize(
    ("image", "programs", "said"),
    [
        ("", [], "NNDET_IMAGE, an image built from upstream nnDetection's repository, found none"),
        ("mine", ["python3.11"], "nndet_prep on the PATH of mine, found none"),
        ("mine", PROGRAMS, "python3.11 on the PATH of mine, found none"),
    ],
)
def test_target_nndet_names_what_its_base_lacks_in_one_line(check_of_nndet, image, programs, said):
    ended = check_of_nndet(image, *programs)
    assert (ended.status, ended.stderr) == (1, f"Dockerfile.train: target nndet: expected {said}\n")


def test_the_target_nndet_takes_a_base_that_has_all(check_of_nndet):
    ended = check_of_nndet("mine", *PROGRAMS, "python3.11")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")


def is_sent(project, path: str) -> bool:
    """Whether the builder gets a file: the last pattern that matches it or a folder around it decides."""
    sent = True
    for line in (project / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if line and not line.startswith("#") and re.fullmatch(f"{pattern}(?:/.*)?", path):
            sent = line.startswith("!")
    return sent


def test_build_context_is_the_product_only(project):
    folders = ("contract", "network", "algorithm", "evaluation", "training", "phantom")
    product = [path for folder in folders for path in (project / folder).rglob("*") if path.suffix in (".py", ".toml")]
    assert [path for path in product if not is_sent(project, path.relative_to(project).as_posix())] == []
    needed = ("requirements/algorithm.lock", "requirements/install.sh", "wheels/torch-2.13.0-cp311-linux_x86_64.whl")
    assert all(is_sent(project, path) for path in needed)
    private = (".git/config", ".env", "contract/.secret", "build/export/model.tar.gz", "archive/10000/1_2_t2w.mha")
    others = ("test/conftest.py", "conformance/export.py", "contract/__pycache__/card.pyc", "requirements/audit.py")
    assert not [path for path in (*private, *others) if is_sent(project, path)]
