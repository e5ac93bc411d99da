"""What the images are: who runs in them, what they hold, and what they can do when locked down."""

import json

import pytest

PROGRAMS = {"oncoduet-algorithm": "algorithm", "oncoduet-evaluation": "evaluation", "oncoduet-train": "training"}
IMAGES = list(PROGRAMS)
LOCKED_DOWN = """
import json, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
print(json.dumps({
    "uid": os.getuid(),
    "home": os.path.expanduser("~"),
    "capabilities": int(status["CapEff"], 16),
    "new_privileges": status["NoNewPrivs"].strip() == "0",
    "root_is_read_only": refused(lambda: open("/opt/oncoduet/probe", "w")),
    "network_is_out_of_reach": refused(lambda: socket.create_connection(("192.0.2.1", 80), timeout=2)),
    "tmp_is_writable": not refused(lambda: open("/tmp/probe", "w").close()),
    "revision": os.environ["ONCODUET_REVISION"],
    "packages": sorted(os.listdir("/opt/oncoduet")),
}))
"""
DEBIAN_PACKAGES = """
import subprocess
form = "--showformat=${db:Status-Status} ${Package}=${Version}\\n"
said = subprocess.run(["dpkg-query", "--show", form], capture_output=True, text=True, check=True).stdout
print(*(line.split()[1] for line in said.splitlines() if line.startswith("installed ")))
"""
PLANTED = """
import os, pathlib, site, subprocess, sys
mark = "import pathlib; pathlib.Path('/tmp/mark').touch()"
user = pathlib.Path("/tmp/home/.local/lib/python3.11/site-packages")
user.mkdir(parents=True)
for folder in (pathlib.Path("/tmp"), user):
    for name in ("json", "encodings", "sitecustomize", "usercustomize", "contract", "numpy", "PROGRAM"):
        (folder / f"{name}.py").write_text(mark)
(user / "planted.pth").write_text(mark)
for home in ("/tmp", "/tmp/home", os.environ["HOME"]):
    ended = subprocess.run(["python", "-m", "PROGRAM", "--help"], cwd="/tmp", env={**os.environ, "HOME": home},
                           capture_output=True, text=True)
    assert ended.returncode == 0 and "usage" in ended.stdout, ended
writable = [each for each in (os.getcwd(), *sys.path, os.path.expanduser("~")) if os.access(each or ".", os.W_OK)]
print(os.path.exists("/tmp/mark"), writable, os.environ.get("OMP_WAIT_POLICY"))
"""
BYTECODE_WITH_TIME = """
import pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
base = {"pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack"}  # came with the base image
found = [path for path in site.rglob("*.pyc") if path.relative_to(site).parts[0] not in base]
timed = [path for path in found if path.open("rb").read(8)[4:] == bytes(4)]  # its flags: not hash-based
print(len(timed) if found else "none at all", *timed[:3])
"""


@pytest.fixture(scope="module", params=IMAGES)
def image(request):
    return request.param


def test_an_image_runs_as_a_user_of_its_own_that_exists(containers, image):
    assert containers.inspect(image, "{{.Config.User}}") == "1000:1000"
    asked = containers.ask(image, "import pwd; print(pwd.getpwuid(1000).pw_name, pwd.getpwuid(1000).pw_dir)")
    assert (asked.status, asked.stdout.split()) == (0, ["oncoduet", "/opt/oncoduet"]), asked


def test_image_is_for_amd64_and_labelled_with_its_protocol(containers, image):
    assert containers.inspect(image, "{{.Os}}/{{.Architecture}}") == "linux/amd64"
    labels = json.loads(containers.inspect(image, "{{json .Config.Labels}}"))
    assert labels["org.grand-challenge.api-method"] == "exec"
    assert labels["org.opencontainers.image.title"] == image
    assert json.loads(containers.inspect(image, "{{json .Config.Entrypoint}}")) == ["python", "-m", PROGRAMS[image]]


def test_an_image_works_without_rights_network_or_a_writable_root(containers, image):
    asked = containers.ask(image, LOCKED_DOWN)
    assert (asked.status, asked.stderr) == (0, ""), asked
    found = json.loads(asked.stdout)
    labels = json.loads(containers.inspect(image, "{{json .Config.Labels}}"))
    assert found == {
        "uid": 1000,
        "home": "/opt/oncoduet",
        "capabilities": 0,
        "new_privileges": False,
        "root_is_read_only": True,
        "network_is_out_of_reach": True,
        "tmp_is_writable": True,
        "revision": labels["org.opencontainers.image.revision"],
        "packages": {
            "oncoduet-algorithm": ["algorithm", "contract", "network", "sbom.cdx.json"],
            "oncoduet-evaluation": ["contract", "evaluation", "sbom.cdx.json"],
            "oncoduet-train": [
                *("algorithm", "contract", "evaluation", "network", "phantom", "sbom.cdx.json", "training")
            ],
        }[image],
    }


def test_modules_in_tmp_or_a_home_are_never_imported(containers, image):
    program = PROGRAMS[image]
    asked = containers.ask(image, PLANTED.replace("PROGRAM", program))
    passive = "None" if program == "evaluation" else "passive"
    assert (asked.status, asked.stdout.split()) == (0, ["False", "[]", passive]), asked


def test_an_image_lists_every_package_that_is_in_it(containers, image):
    asked = containers.ask(image, "print(open('/opt/oncoduet/sbom.cdx.json').read())")
    listed = json.loads(asked.stdout)
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert "timestamp" not in listed["metadata"]  # or else the same packages would not give the same bytes
    assert "serialNumber" not in listed
    names = "from importlib.metadata import distributions as d\nprint(*(f'{e.name}=={e.version}' for e in d()))"
    installed = containers.ask(image, names).stdout.split()
    system = [each for each in listed["components"] if each.get("purl", "").startswith(("pkg:deb/", "pkg:generic/"))]
    pythons = [each for each in listed["components"] if each not in system]
    assert sorted(f"{each['name']}=={each['version']}" for each in pythons) == sorted(installed)
    assert not any(each.startswith("cyclonedx") for each in installed)
    asked_of_debian = containers.ask(image, DEBIAN_PACKAGES).stdout.split()
    assert len(asked_of_debian) > 50
    assert sorted(f"{each['name']}={each['version']}" for each in system[1:]) == sorted(asked_of_debian)
    version = containers.ask(image, "import platform; print(platform.python_version())").stdout.strip()
    assert system[0]["purl"] == f"pkg:generic/python@{version}"
    without_licence = [each["name"] for each in pythons if "licenses" not in each]
    assert set(without_licence) <= {"batchgenerators", "dynamic_network_architectures", "protobuf"}  # declare none
    assert "file:///tmp" not in asked.stdout


def test_packages_in_an_image_contain_no_time(containers, image):
    asked = containers.ask(image, BYTECODE_WITH_TIME)
    assert (asked.status, asked.stdout.split()) == (0, ["0"]), asked


def test_the_evaluation_image_holds_no_torch(containers):
    asked = containers.ask("oncoduet-evaluation", "import torch")
    assert asked.status == 1
    assert asked.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torch'"
    names = "from importlib.metadata import distributions as d; print(*sorted(each.name.lower() for each in d()))"
    packages = containers.ask("oncoduet-evaluation", names).stdout.split()
    assert not {"torch", "nnunetv2", "triton", "scikit-learn"} & set(packages)
    assert {"numpy", "simpleitk", "scipy"} <= set(packages)
    assert not {"pandas", "statsmodels"} & set(packages)  # heavy, and not needed


def test_algorithm_image_predicts_without_the_omitted_packages(containers):
    code = "import algorithm.single, sys; print(*sorted({'timm', 'torchvision', 'imagecodecs'} & set(sys.modules)))"
    asked = containers.ask("oncoduet-algorithm", code)
    assert (asked.status, asked.stdout.strip()) == (0, ""), asked


def test_torch_in_the_algorithm_image_is_one_of_the_accepted_builds(containers):
    asked = containers.ask("oncoduet-algorithm", "import torch; print(torch.__version__, torch.version.cuda)")
    version, cuda = asked.stdout.split()
    assert version.partition("+")[0] == "2.13.0"
    assert (cuda == "None") == version.endswith("+cpu")
