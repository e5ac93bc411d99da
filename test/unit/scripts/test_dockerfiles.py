"""The Dockerfiles: what the oldest supported builder understands, and what every image has in common."""

import re

import pytest

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


@pytest.mark.parametrize(
    ("name", "stage"), [*((name, "program") for name in DOCKERFILES), ("Dockerfile.train", "nndet")]
)
def test_it_ends_as_an_unprivileged_user_without_model_or_truth(project, name, stage):
    lines = stages(project, name)[stage]
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert not any(line.startswith(("RUN", "COPY")) for line in lines[lines.index("USER 1000:1000") :])
    assert "/opt/ml" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "stage"), [*((name, "program") for name in DOCKERFILES), ("Dockerfile.train", "nndet")]
)
def test_modules_come_from_no_folder_that_another_can_write_to(project, name, stage):
    lines = stages(project, name)[stage]
    (variables,) = [line.split() for line in lines if line.startswith("ENV")]
    assert {"PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1", "PYTHONPATH=/opt/oncoduet", "HOME=/opt/oncoduet"} < set(variables)
    assert [line for line in lines if line.startswith("WORKDIR")] == ["WORKDIR /opt/oncoduet"]
    (user,) = [line for line in lines if "useradd" in line]
    assert "--no-create-home --home-dir /opt/oncoduet" in user


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
def test_the_target_nndet_says_in_one_line_what_its_base_lacks(check_of_nndet, image, programs, said):
    ended = check_of_nndet(image, *programs)
    assert (ended.status, ended.stderr) == (1, f"Dockerfile.train: target nndet: expected {said}\n")


def test_the_target_nndet_takes_a_base_that_has_all(check_of_nndet):
    ended = check_of_nndet("mine", *PROGRAMS, "python3.11")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")


def test_nothing_enters_a_build_but_what_is_named(project):
    lines = [line for line in (project / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    packages = {"contract", "network", "algorithm", "evaluation", "training", "phantom"}
    assert packages <= allowed
    assert all(name.startswith(("requirements/", "wheels")) for name in allowed - packages)
