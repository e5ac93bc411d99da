"""What the platform may put into ``/input``, and what is said where it cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused_with

from contract.card import Card, Socket
from contract.sockets import Entry, Job, find_channels, job_listing, read_jobs, single_image

SLUGS = ("transverse-t2-prostate-mri", "transverse-adc-prostate-mri", "transverse-hbv-prostate-mri")
PutImages = Callable[..., Path]


@pytest.fixture
def put_images(tmp_path: Path) -> PutImages:
    """Make an ``/input`` with one image per socket, as the platform names them; other places on request."""

    def put(places: dict[str, str] | None = None) -> Path:
        for slug in SLUGS:
            folder = tmp_path / (places or {}).get(slug, f"images/{slug}")
            folder.mkdir(parents=True)
            (folder / "b2b0c1f4-4a6f-4b5d-a9a7-6a4d1c2c0a11.mha").write_bytes(b"")
        return tmp_path

    return put


def listed(*slugs: str, keys: tuple[str, ...], places: dict[str, str] | None = None) -> list[dict[str, Any]]:
    entries = []
    for slug in slugs:
        socket = {"slug": slug, "relative_path": (places or {}).get(slug, f"images/{slug}"), "kind": "Image", "pk": 4}
        entry: dict[str, Any] = dict.fromkeys(keys, socket)
        entries.append(entry | {"value": None, "file": None, "image": {"pk": "x", "name": "10_1_t2w.mha"}, "pk": 9})
    return entries


@pytest.mark.parametrize("keys", [("socket",), ("interface",), ("socket", "interface")])
def test_sockets_are_found_under_either_of_the_platform_s_names(
    put_images: PutImages, card: Card, keys: tuple[str, ...]
) -> None:
    folder = put_images()
    (folder / "inputs.json").write_text(json.dumps(listed(*reversed(SLUGS), keys=keys)))
    channels = find_channels(folder, card)
    assert list(channels) == ["t2w", "adc", "hbv"]
    assert {path.parent.name for path in channels.values()} == set(SLUGS)
    assert channels["adc"].parent.name == "transverse-adc-prostate-mri"


def test_a_null_socket_with_an_interface_is_read_as_the_interface(put_images: PutImages, card: Card) -> None:
    folder = put_images()
    entries = [entry | {"socket": None} for entry in listed(*SLUGS, keys=("interface",))]
    (folder / "inputs.json").write_text(json.dumps(entries))
    assert list(find_channels(folder, card)) == ["t2w", "adc", "hbv"]


def test_paths_are_those_of_the_listing_and_not_guessed_from_the_slug(put_images: PutImages, card: Card) -> None:
    places = {slug: f"elsewhere/{number}" for number, slug in enumerate(SLUGS)}
    folder = put_images(places)
    (folder / "inputs.json").write_text(json.dumps(listed(*SLUGS, keys=("socket",), places=places)))
    assert find_channels(folder, card)["hbv"].parent == folder / "elsewhere" / "2"


def test_without_a_listing_the_card_s_paths_count(put_images: PutImages, card: Card) -> None:
    assert find_channels(put_images(), card)["t2w"].parent.name == "transverse-t2-prostate-mri"


def test_optional_and_unknown_sockets_in_the_listing_are_not_read(put_images: PutImages, card: Card) -> None:
    folder = put_images()
    more = listed("clinical-information-prostate-mri", "something-new", keys=("socket",))
    (folder / "inputs.json").write_text(json.dumps([*more, *listed(*SLUGS, keys=("socket",))]))
    assert list(find_channels(folder, card)) == ["t2w", "adc", "hbv"]


def test_a_linked_input_folder_is_followed(put_images: PutImages, card: Card, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(put_images())
    assert find_channels(link, card)["t2w"].is_file()


MALFORMED = {
    "no entry": ([], SLUGS[0], "none"),
    "a channel less": (listed(*SLUGS[:2], keys=("socket",)), f"{SLUGS[2]}, {SLUGS[0]}", f"{SLUGS[1]}, {SLUGS[0]}"),
    "a socket twice": (listed(*SLUGS, SLUGS[0], keys=("socket",)), "each socket once", SLUGS[0]),
    "no list": ({"inputs": []}, "a list", "dict"),
    "an entry that is no object": (["x"], r"a socket \(or interface\) with slug and relative_path", "str"),
    "an entry without socket": ([{"value": 1}], r"a socket \(or interface\)", ""),
    "a socket without path": ([{"socket": {"slug": "a"}}], r"a socket \(or interface\)", ""),
    "a socket that is a text": ([{"socket": "a"}], r"a socket \(or interface\)", ""),
    "an image's name that is a number": (
        [{"socket": {"slug": "a", "relative_path": "b"}, "image": {"name": 5}}],
        "a text as the image's name",
        "int '5'",
    ),
    "a path upwards": ([{"socket": {"slug": "a", "relative_path": "../b"}}], "a relative path", "'../b'"),
    "an absolute path": ([{"socket": {"slug": "a", "relative_path": "/etc"}}], "a relative path", "'/etc'"),
    "an empty path": ([{"socket": {"slug": "a", "relative_path": ""}}], "a relative path", "''"),
    "a path with a null byte": ([{"socket": {"slug": "a", "relative_path": "a\0"}}], "a relative path", ""),
}


@pytest.mark.parametrize(("value", "expected", "found"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_listing_is_refused_for(
    put_images: PutImages, card: Card, value: Any, expected: str, found: str
) -> None:
    folder = put_images()
    (folder / "inputs.json").write_text(json.dumps(value))
    with refused_with(f"^{folder / 'inputs.json'}$", expected=expected, found=found):
        find_channels(folder, card)


def test_a_missing_channel_is_refused(put_images: PutImages, card: Card) -> None:
    folder = put_images()
    (next((folder / "images" / SLUGS[1]).iterdir())).unlink()
    with refused_with(problem="'transverse-adc-prostate-mri' has 0 images, expected 1"):
        find_channels(folder, card)


@pytest.mark.parametrize(
    ("folder", "found"), [("", r"2 images, expected 1 \(a.nii.gz, b.mha\)"), ("nowhere", "0 images")]
)
def test_two_files_or_none_in_a_socket_are_refused(tmp_path: Path, folder: str, found: str) -> None:
    for name in ("b.mha", "a.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    with refused_with(folder, f"'adc' has {found}"):
        single_image(tmp_path / folder, Socket(slug="adc", relative_path="images/adc"))


def test_text_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(b"")
    (tmp_path / ".b.mha").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.mha").mkdir()
    assert single_image(tmp_path, Socket(slug="adc", relative_path="images/adc")).name == "a.mha"


def test_a_listing_of_ours_is_read_back_as_jobs(tmp_path: Path, card: Card) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps([job_listing("10_1", card), job_listing("20_2", card)]))
    first, second = read_jobs(tmp_path / "predictions.json")
    assert (first.pk, second.pk, first.succeeded) == ("10_1", "20_2", True)
    assert [entry.slug for entry in first.inputs] == list(SLUGS)
    assert first.inputs[0].image_name == "10_1_t2w.mha"
    assert first.output("cspca-detection-map", tmp_path) == tmp_path / "10_1/output/images/cspca-detection-map"
    assert (
        second.output("prostate-cancer-likelihood", tmp_path)
        == tmp_path / "20_2/output/cspca-case-level-likelihood.json"
    )


def test_the_platform_s_other_fields_are_ignored(tmp_path: Path) -> None:
    job = {
        "pk": "b6b9",
        "url": "https://example.org",
        "exec_duration": "PT5S",
        "hanging_protocols": [],
        "inputs": [{"interface": {"slug": "psa", "relative_path": "psa.json"}, "value": 4.5, "image": None}],
        "outputs": [],
    }
    (tmp_path / "p.json").write_text(json.dumps([job]))
    assert read_jobs(tmp_path / "p.json") == [Job("b6b9", (Entry("psa", "psa.json", None, 4.5),), ())]


@pytest.mark.parametrize(("status", "succeeded"), [("Succeeded", True), (None, True), ("Failed", False), ("", False)])
def test_job_succeeded_unless_its_status_differs(tmp_path: Path, status: str | None, succeeded: bool) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"pk": "a", "status": status, "inputs": [], "outputs": []}]))
    assert read_jobs(tmp_path / "p.json")[0].succeeded is succeeded


JOB = {"pk": "a", "inputs": [], "outputs": []}
SOCKET = {"socket": {"slug": "a", "relative_path": "b"}}
BAD_JOBS = {
    "an object": ({}, "p.json", "a list of jobs", "dict"),
    "a text": ("jobs", "p.json", "a list of jobs", "str 'jobs'"),
    "nothing": ([], "p.json", "a list of jobs", "an empty list"),
    "a job that is no object": ([1], "p.json: job 0", "an object with a text pk", "int '1'"),
    "a job without pk": ([{"inputs": [], "outputs": []}], "p.json: job 0", "an object with a text pk", ""),
    "a pk that is a number": (
        [{"pk": 5, "inputs": [], "outputs": []}],
        "p.json: job 0",
        "an object with a text pk",
        "",
    ),
    "a pk that leaves the folder": (
        [{"pk": "../x", "inputs": [], "outputs": []}],
        "p.json: job 0",
        "a relative path",
        "'../x'",
    ),
    "no inputs": ([{"pk": "a", "outputs": []}], "p.json: job 0, inputs", "a list", "NoneType"),
    "no outputs": ([{"pk": "a", "inputs": []}], "p.json: job 0, outputs", "a list", "NoneType"),
    "an output without socket": (
        [{"pk": "a", "inputs": [], "outputs": [{}]}],
        "p.json: job 0, outputs",
        "a socket",
        "",
    ),
    "the second job's fault": (
        [JOB, {"pk": "b", "inputs": [SOCKET], "outputs": None}],
        "p.json: job 1, outputs",
        "a list",
        "NoneType",
    ),
    "an absolute pk": ([{"pk": "/a", "inputs": [], "outputs": []}], "p.json: job 0", "a relative path", "'/a'"),
    "an input without socket": ([{"pk": "a", "inputs": [{}], "outputs": []}], "p.json: job 0, inputs", "a socket", ""),
    "an output elsewhere": (
        [{"pk": "a", "inputs": [], "outputs": [{"socket": {"slug": "s", "relative_path": "../../x"}}]}],
        "p.json: job 0, outputs",
        "a relative path",
        r"'\.\./\.\./x'",
    ),
}


@pytest.mark.parametrize(("value", "where", "expected", "found"), BAD_JOBS.values(), ids=BAD_JOBS.keys())
def test_predictions_are_refused_for(tmp_path: Path, value: Any, where: str, expected: str, found: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(value))
    with refused_with(rf"^{tmp_path}/{where}$", expected=expected, found=found):
        read_jobs(tmp_path / "p.json")


def test_missing_unreadable_or_duplicate_predictions_are_refused(tmp_path: Path) -> None:
    with refused_with("p.json", "file not found"):
        read_jobs(tmp_path / "p.json")
    for text, problem in (("[{", "not valid JSON"), (json.dumps([JOB, JOB]), "duplicate job a")):
        (tmp_path / "p.json").write_text(text)
        with refused_with("p.json$", problem):
            read_jobs(tmp_path / "p.json")


@pytest.mark.parametrize(("outputs", "found"), [((), "none"), ((Entry("x", "x", None, None),), "x")])
def test_an_output_that_a_job_does_not_list_is_refused(tmp_path: Path, outputs: tuple[Entry, ...], found: str) -> None:
    with refused_with("predictions.json: job a", expected="the output 'map'", found=found):
        Job("a", (), outputs).output("map", tmp_path)
