"""The Dockerfiles: what the oldest supported builder understands, and what every image has in common."""

import re

import pytest

DOCKERFILES = ["Dockerfile.algorithm", "Dockerfile.evaluation", "Dockerfile.train"]


def instructions(project, name: str) -> list[str]:
    """Logical lines without comments."""
    text = re.sub(r"^\s*#.*\n", "", (project / name).read_text(), flags=re.MULTILINE)
    return [re.sub(r"\s+", " ", line).strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_builder_of_docker_20_10_understands_it(project, name):
    text = (project / name).read_text()
    assert not re.match(r"#\s*syntax\s*=", text)  # would fetch a frontend image from a registry
    assert "<<" not in text
    assert not re.search(r"--link|--exclude|--checksum", text)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_public_base_is_the_default_and_can_be_replaced(project, name):
    argument, base = instructions(project, name)[:2]
    assert argument == "ARG BASE_IMAGE=python:3.11-slim-bookworm"
    assert base.removesuffix(" AS program") == "FROM ${BASE_IMAGE}"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_ends_as_an_unprivileged_user_and_bakes_in_neither_model_nor_truth(project, name):
    lines = instructions(project, name)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    assert not any(line.startswith(("RUN", "COPY")) for line in lines[lines.index("USER 1000:1000") :])
    assert "/opt/ml" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("Dockerfile.algorithm", ["contract", "network", "algorithm"]),
        ("Dockerfile.evaluation", ["contract", "evaluation"]),
        ("Dockerfile.train", ["contract", "network", "training", "algorithm", "evaluation", "phantom"]),
    ],
)
def test_it_copies_the_packages_that_it_needs(project, name, packages):
    copied = [line for line in instructions(project, name) if line.startswith("COPY")]
    assert copied == [f"COPY {package} /opt/oncoduet/{package}" for package in packages]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_lists_its_packages_once_all_are_installed(project, name):
    runs = [line for line in instructions(project, name) if line.startswith("RUN") and "/build/requirements/" in line]
    assert ["install.sh" in line for line in runs] == [True] * (len(runs) - 1) + [False]
    assert runs[-1].endswith('/build/requirements/sbom.sh "$(command -v python)" /opt/oncoduet/sbom.cdx.json')


def test_the_train_image_begins_as_the_algorithms_so_that_they_share_torch(project):
    algorithm, train = (instructions(project, name) for name in ("Dockerfile.algorithm", "Dockerfile.train"))
    assert algorithm[3].startswith("RUN")
    assert algorithm[3].endswith("install.sh python torch.txt algorithm.lock")
    assert [algorithm[0], algorithm[1].removesuffix(" AS program"), *algorithm[2:4]] == train[:4]


@pytest.mark.parametrize("program", ["algorithm", "evaluation"])
def test_the_same_program_is_started_once_per_case_or_as_a_server(project, program):
    stages = instructions(project, f"Dockerfile.{program}")[-4:]
    assert stages == [
        "FROM program AS invoke",
        f'ENTRYPOINT ["python", "-m", "{program}", "serve"]',
        "FROM program AS exec",  # last, so that a build without a target gives it
        f'ENTRYPOINT ["python", "-m", "{program}"]',
    ]


def test_nothing_enters_a_build_but_what_is_named(project):
    lines = [line for line in (project / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    packages = {"contract", "network", "algorithm", "evaluation", "training", "phantom"}
    assert allowed == packages | {"wheels", "wheels/.gitkeep"} | {
        f"requirements/{name}" for name in ("install.sh", "sbom.sh", "torch.txt", "*.lock")
    }
