"""Commands as a person or the platform calls them: exit codes, one line on stderr, nothing half written."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from programs import run as run_program

from algorithm.__main__ import main
from contract.card import CARDS, load_card
from contract.images.grid import Grid
from contract.images.volume import Volume, image_stem, read_grid, read_volume, write_volume
from contract.records import Source, read_record
from contract.sockets import read_jobs

CARD = load_card("cspca-picai")
T2W, ADC, HBV = (channel.socket.relative_path for channel in CARD.channels)
MAP = CARD.detection_map.relative_path
LIKELIHOOD = CARD.likelihood.relative_path
GRID = [(name, fold, 1) for fold in (0, 1) for name in ("ce", "focal")]


def header(path):
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def only(folder):
    (path,) = folder.iterdir()
    return path


class Command:
    """Runs the command line in this process."""

    def __init__(self, capfd):
        self.capfd = capfd
        self.stdout = ""

    def __call__(self, *arguments):
        self.capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        self.stdout, stderr = self.capfd.readouterr()
        return code, stderr

    def succeeds(self, *arguments):
        assert self(*arguments) == (0, "")

    def batch(self, archive, model, output, *more):
        self.succeeds("batch", "--archive", archive, "--model", model, "--output", output, "--threads", 1, *more)

    def fails(self, *arguments, code=3):
        found, stderr = self(*arguments)
        assert found == code, stderr
        assert len(stderr.splitlines()) == 1, stderr
        assert stderr.startswith("error: ")
        return stderr


@pytest.fixture
def run(capfd):
    return Command(capfd)


class Bench:
    """One study, one bundle, one output folder."""

    def __init__(self, run, study, model, output):
        self.run, self.study, self.model, self.output = run, study, model, output
        self.arguments = ("--input", study, "--output", output, "--model", model, "--threads", 1)

    def succeeds(self):
        self.run.succeeds(*self.arguments)
        return read_volume(only(self.output / MAP)), json.loads((self.output / LIKELIHOOD).read_text())

    def fails(self):
        message = self.run.fails(*self.arguments)
        assert not self.output.exists() or not list(self.output.iterdir())
        return message

    def image(self, socket):
        return only(self.study / socket)

    def rewrite(self, socket, change, *, compress=True):
        path = self.image(socket)
        sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path), useCompression=compress)
        return path


@pytest.fixture
def bench(run, make_bundle, make_input, tmp_path):
    return Bench(run, make_input(), make_bundle([("ce", 0, 1), ("focal", 0, 1)]), tmp_path / "output")


@pytest.mark.parametrize("words", [(), ("--device", "cpu")])
def test_the_device_is_logged_first(bench, words):
    bench.run.succeeds(*bench.arguments, "--no-mirroring", *words)
    assert bench.run.stdout.startswith("INFO algorithm: device: ")


# One study


def test_a_study_gives_a_map_on_its_reference_grid_and_a_number(bench):
    volume, likelihood = bench.succeeds()
    reference = bench.image(T2W)
    written = only(bench.output / MAP)
    assert written.name == reference.name
    assert header(written) == header(reference)
    image = sitk.ReadImage(str(written))
    assert image.GetPixelID() == sitk.sitkFloat32
    assert b"CompressedData = True" in written.read_bytes()[:2000]
    assert isinstance(likelihood, float)
    assert likelihood == pytest.approx(float(volume.array.max()))
    assert 0 < likelihood < 1
    assert sorted(path.name for path in bench.output.iterdir()) == sorted([LIKELIHOOD, "images"])


def test_the_same_study_gives_the_same_bytes(bench, tmp_path):
    bench.succeeds()
    again = Bench(bench.run, bench.study, bench.model, tmp_path / "again")
    again.succeeds()
    for relative in (LIKELIHOOD, f"{MAP}/{only(bench.output / MAP).name}"):
        assert (bench.output / relative).read_bytes() == (again.output / relative).read_bytes()


@pytest.mark.parametrize("keys", [("socket",), ("interface",), ("socket", "interface"), None])
def test_sockets_are_found_by_either_key_and_without_a_listing(bench, keys):
    _, expected = bench.succeeds()
    if keys is not None:
        listing = [
            {
                **{key: {"slug": each.socket.slug, "relative_path": f"elsewhere/{each.name}"} for key in keys},
                "value": None,
                "image": {"name": "original.mha"},
            }
            for each in reversed(CARD.channels)
        ]
        (bench.study / "elsewhere").mkdir()
        for channel in CARD.channels:
            (bench.study / channel.socket.relative_path).rename(bench.study / "elsewhere" / channel.name)
        (bench.study / "inputs.json").write_text(json.dumps(listing))
    again = Bench(bench.run, bench.study, bench.model, bench.output.parent / "again")
    assert again.succeeds()[1] == expected


def test_optional_sockets_are_not_read(bench):
    _, expected = bench.succeeds()
    for socket in CARD.optional_inputs:
        path = bench.study / socket.relative_path
        path.parent.mkdir(exist_ok=True)
        path.write_text("not for us")
    assert bench.succeeds()[1] == expected


def test_a_slash_input_that_is_a_link_is_read(bench, tmp_path):
    (tmp_path / "link").symlink_to(bench.study)
    Bench(bench.run, tmp_path / "link", bench.model, bench.output).succeeds()


def test_integer_and_uncompressed_channels_are_read(bench):
    _, expected = bench.succeeds()
    for socket in (T2W, ADC, HBV):
        bench.rewrite(socket, lambda image: sitk.Cast(sitk.Round(image), sitk.sitkInt16), compress=False)
    assert bench.succeeds()[1] == pytest.approx(expected, abs=0.05)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
@pytest.mark.parametrize("study", ["11373_1001396", "ProstateX-0218_02-18-2011"])
def test_real_studies_get_maps_with_the_header_of_their_t2w(run, make_bundle, real_data, tmp_path, card_name, study):
    # A plan coarser than in life, for the test's time: 64 voxels across, so that the way back really resamples.
    model = make_bundle(card_name=card_name, spacing_mm_zyx=(3.0, 3.0, 3.0), patch_size=(16, 64, 64))
    archive = real_data / "prostatex" / "mha"
    for channel in CARD.channels:
        target = tmp_path / "input" / channel.socket.relative_path / f"{channel.name}-uuid.mha"
        target.parent.mkdir(parents=True)
        target.write_bytes((archive / study / f"{study}_{channel.name}.mha").read_bytes())
    bench = Bench(run, tmp_path / "input", model, tmp_path / "output")
    volume, likelihood = bench.succeeds()
    assert header(only(bench.output / MAP)) == header(archive / study / f"{study}_t2w.mha")
    assert volume.grid == read_grid(archive / study / f"{study}_t2w.mha")
    assert 0 <= likelihood <= 1


# One wrong study: exit code 3, one line, nothing written


def rewritten(socket, change, *, compress=True):
    return lambda bench: bench.rewrite(socket, change, compress=compress)


def with_bytes(socket, change):
    def spoil(bench):
        path = bench.image(socket)
        path.write_bytes(change(path.read_bytes()))

    return spoil


def flipped(content):
    return bytes(byte ^ 0xFF * (place == len(content) // 2) for place, byte in enumerate(content))


def truncated(share, *, compress):
    def spoil(bench):
        bench.rewrite(ADC, lambda image: image, compress=compress)
        with_bytes(ADC, lambda content: content[: int(share * len(content))])(bench)

    return spoil


def with_voxel(value):
    def change(image):
        image[3, 4, 5] = value
        return image

    return change


def elsewhere(image):
    image.SetOrigin((400.0, 0.0, 0.0))
    return image


def listing(content):
    return lambda bench: (bench.study / "inputs.json").write_text(content)


CT_SOCKET = '[{"socket": {"slug": "venous-phase-ct-scan", "relative_path": "images/venous-ct"}}]'
OUTSIDE = '[{"socket": {"slug": "a", "relative_path": "../secret"}}]'
MALFORMED = ["", "{", "{}", "[1]", '[{"socket": {"slug": "a"}}]', OUTSIDE, '[{"value": NaN}]', "[]"]
T2W_FILE, ADC_FILE = "0f3a-uuid.mha", "1f3a-uuid.mha"
NOT_FINITE = "expected finite voxels, found 1 NaN or infinite"
WRONG_STUDY = {
    "a channel missing": (lambda bench: bench.image(ADC).unlink(), "'transverse-adc-prostate-mri' has 0 images"),
    "two files in a socket": (
        lambda bench: shutil.copy(bench.image(HBV), bench.study / HBV / "b.mha"),
        "'transverse-hbv-prostate-mri' has 2 images, expected 1",
    ),
    "truncated to a fifth": (truncated(0.2, compress=True), ADC_FILE),
    "truncated by a thousandth": (truncated(0.999, compress=True), ADC_FILE),
    "truncated voxels as they are": (truncated(0.9, compress=False), ADC_FILE),
    "damaged": (with_bytes(ADC, flipped), ADC_FILE),
    "empty": (with_bytes(T2W, lambda _: b""), T2W_FILE),
    "a text": (with_bytes(T2W, lambda _: b"no image at all\n"), T2W_FILE),
    "all bytes": (with_bytes(T2W, lambda _: bytes(range(256)) * 8), T2W_FILE),
    "2D": (rewritten(ADC, lambda image: image[:, :, 3]), "expected a 3D image (NDims = 3), found '2'"),
    "4D": (rewritten(ADC, lambda image: sitk.JoinSeries([image] * 2)), "expected a 3D image (NDims = 3), found '4'"),
    "vectors": (rewritten(ADC, lambda image: sitk.Compose([image] * 2)), "expected one value per voxel"),
    "NaN in T2W": (rewritten(T2W, with_voxel(np.nan)), NOT_FINITE),
    "infinity in ADC": (rewritten(ADC, with_voxel(np.inf)), NOT_FINITE),
    "minus infinity in HBV": (rewritten(HBV, with_voxel(-np.inf)), NOT_FINITE),
    "disjoint fields of view": (rewritten(HBV, elsewhere), "to share a field of view with 't2w'"),
    **{f"listing {content}": (listing(content), "inputs.json") for content in MALFORMED},
    "unknown sockets": (listing(CT_SOCKET), "found venous-phase-ct-scan"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_STUDY.values(), ids=WRONG_STUDY)
def test_a_wrong_study_is_refused(bench, spoil, message):
    spoil(bench)
    assert message in bench.fails()


@pytest.mark.parametrize(
    "name", ["bundle.json", "card.toml", "plans.json", "dataset.json", "members/001.safetensors", "SHA256SUMS"]
)
def test_a_bundle_with_one_flipped_byte_is_refused(bench, name):
    content = bytearray((bench.model / name).read_bytes())
    content[len(content) // 3] ^= 4
    (bench.model / name).write_bytes(content)
    assert str(bench.model) in bench.fails()


def test_a_missing_bundle_is_refused(bench, tmp_path):
    bench = Bench(bench.run, bench.study, tmp_path / "none", bench.output)
    assert "expected an extracted model bundle" in bench.fails()


def test_networks_that_give_no_probability_are_refused(run, make_bundle, make_input, tmp_path):
    def spoil(network):
        for parameter in network.parameters():
            parameter.data.fill_(float("nan"))

    model = make_bundle(spoil=spoil)
    message = Bench(run, make_input(), model, tmp_path / "output").fails()
    assert "000.safetensors: expected finite probabilities" in message


def test_an_output_that_cannot_be_written_is_refused(bench, tmp_path):
    (tmp_path / "file").write_text("")
    message = bench.run.fails(
        "--input", bench.study, "--output", tmp_path / "file", "--model", bench.model, "--threads", 1
    )
    assert "cannot be written to: " in message


def test_a_study_larger_than_the_memory_is_refused(bench):
    message = bench.run.fails(*bench.arguments, "--memory-gb", "0.1")
    assert "GB of memory (30 × 24 × 9 voxels, 3 channels); 0.1 GB available (--memory-gb)" in message
    assert not bench.output.exists()


def test_the_log_says_how_memory_is_used(bench):
    bench.run.succeeds(*bench.arguments, "--memory-gb", "50", "--no-mirroring")
    assert "of 50.0 GB (--memory-gb): 2 windows per pass, 2 members at a time, weights resident" in bench.run.stdout


def test_auto_is_fp32_on_the_cpu_and_has_its_bytes(bench, tmp_path):
    maps = []
    for words in ((), ("--precision", "fp32")):
        bench.run.succeeds(*bench.arguments, "--no-mirroring", *words)
        maps.append(only(bench.output / MAP).read_bytes())
    assert maps[0] == maps[1]


@pytest.mark.parametrize("command", [(), ("batch",), ("serve", "--port", "0")])
def test_tf32_is_refused_on_a_cpu(bench, monkeypatch, command, tmp_path):
    monkeypatch.setattr("algorithm.__main__.end_process", lambda status: None)  # the test's process continues
    archive = ("--archive", tmp_path) if command == ("batch",) else ()
    message = bench.run.fails(*command, *archive, *bench.arguments[2:], "--precision", "tf32")
    assert message.startswith(
        "error: --precision tf32: expected a GPU of compute capability 8.0 or newer, found the CPU"
    )
    assert not bench.output.exists()


@pytest.mark.parametrize("amount", ["0", "-1", "nan", "inf"])
def test_memory_that_is_no_positive_number_is_wrong_usage(capsys, amount):
    with pytest.raises(SystemExit) as exit_:
        main([f"--memory-gb={amount}"])
    assert exit_.value.code == 2
    assert f"expected a positive number, found {amount}" in capsys.readouterr().err


def test_bad_input_leaves_the_output_folder_unchanged(bench):
    bench.output.mkdir()
    (bench.output / "mine.txt").write_text("kept")
    bench.image(ADC).unlink()
    bench.run.fails(*bench.arguments)
    assert [path.name for path in bench.output.iterdir()] == ["mine.txt"]


# Many studies


def test_a_batch_has_the_layout_that_the_evaluation_mounts(run, make_bundle, make_archive, tmp_path):
    model, archive, output = make_bundle(), make_archive(2), tmp_path / "predictions"
    run.batch(archive, model, output)
    jobs = read_jobs(output / "predictions.json")
    assert [job.pk for job in jobs] == ["p0_s0", "p1_s0"]
    for job in jobs:
        detections = job.output(CARD.detection_map.slug, output)
        assert only(detections).name == f"{job.pk}.mha"
        reference = archive / job.pk.split("_")[0] / f"{job.pk}_t2w.mha"
        assert header(only(detections)) == header(reference)
        likelihood = json.loads(job.output(CARD.likelihood.slug, output).read_text())
        assert likelihood == pytest.approx(float(read_volume(only(detections)).array.max()))
    source = read_record(output / "source.json", Source)
    assert (source.configuration, source.fold, source.restart) == ("ensemble-all", 0, 1)
    assert load_card(output / "card.toml").sha256 == CARD.sha256 == source.card_sha256
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock", ".oncoduet", "batch.json", "card.toml", "p0_s0", "p1_s0", "predictions.json", "source.json",
    ]  # fmt: skip


def test_a_batch_of_all_equals_the_studies_one_by_one(run, make_bundle, make_archive, tmp_path):
    model, archive = make_bundle([("ce", 0, 1), ("focal", 0, 1)]), make_archive(2)
    run.batch(archive, model, tmp_path / "b")
    for case in ("p0_s0", "p1_s0"):
        for channel in CARD.channels:
            target = tmp_path / case / channel.socket.relative_path / f"{case}.mha"
            target.parent.mkdir(parents=True)
            target.write_bytes((archive / case[:2] / f"{case}_{channel.name}.mha").read_bytes())
        Bench(run, tmp_path / case, model, tmp_path / f"{case}_out").succeeds()
        for relative in (LIKELIHOOD, f"{MAP}/{case}.mha"):
            assert (tmp_path / "b" / case / "output" / relative).read_bytes() == (
                tmp_path / f"{case}_out" / relative
            ).read_bytes()


def test_one_pass_gives_every_choice_of_members(run, make_bundle, make_archive, tmp_path):
    model, archive = make_bundle(GRID), make_archive(1)
    words = ("all", "four", "each", "focal")
    run.batch(archive, model, tmp_path / "many", "--no-mirroring", "--members", *words)
    for word, folders in {
        "all": ["."],
        "four": ["ensemble-four_fold0_restart1", "ensemble-four_fold1_restart1"],
        "each": [f"{name}_fold{fold}_restart{restart}" for name, fold, restart in GRID],
        "focal": ["ensemble-focal"],
    }.items():
        alone = tmp_path / word
        run.batch(archive, model, alone, "--no-mirroring", "--members", word)
        for folder in folders:
            own = alone if word == "focal" else alone / folder
            for relative in (f"p0_s0/output/{LIKELIHOOD}", f"p0_s0/output/{MAP}/p0_s0.mha", "source.json"):
                assert (own / relative).read_bytes() == (tmp_path / "many" / folder / relative).read_bytes()


def test_without_mirroring_the_prediction_is_another(run, make_bundle, make_archive, tmp_path):
    model, archive = make_bundle(), make_archive(1)
    found = []
    for name, more in {"with": [], "without": ["--no-mirroring"]}.items():
        run.batch(archive, model, tmp_path / name, *more)
        found.append(json.loads((tmp_path / name / "p0_s0" / "output" / LIKELIHOOD).read_text()))
    assert found[0] != found[1]


def batch_fails(run, archive, model, output, *more, code=3):
    message = run.fails(
        "batch", "--archive", archive, "--output", output, "--model", model, "--threads", 1, *more, code=code
    )
    assert not output.exists()
    return message


def test_an_unknown_member_is_wrong_usage(run, make_bundle, make_archive, tmp_path):
    message = batch_fails(run, make_archive(1), make_bundle(), tmp_path / "o", "--members", "dice", code=2)
    assert "--members dice: expected one of all, four, each, control, ce, ce_fold0_restart1" in message


def test_an_empty_archive_is_refused(run, make_bundle, tmp_path):
    (tmp_path / "archive").mkdir()
    message = batch_fails(run, tmp_path / "archive", make_bundle(), tmp_path / "o")
    assert "no studies named <patient>/<patient>_<study>_t2w.mha (or .nii.gz)" in message


# Candidates


@pytest.fixture
def maps(tmp_path):
    """Two probability maps, one per file type, by formula."""
    folder = tmp_path / "maps"
    grid = Grid((20, 22, 9), (0.9, 0.8, 3.1), (1.0, -2.5, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    for number, name in enumerate(["a.mha", "b.nii.gz"]):
        array = np.full(grid.shape_zyx, -0.001, np.float32)
        array[2:5, 3:8, 4:9] = 0.3 - 0.1 * number
        array[7, 15, 15] = 0.95
        write_volume(folder / name, Volume(array, grid))
    return folder


def test_probability_maps_become_detection_maps_and_likelihoods(run, maps, tmp_path):
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").glob("[!.]*")) == ["a.json", "a.mha", "b.json", "b.mha"]
    for name, peak in (("a.mha", 0.3), ("b.nii.gz", 0.2)):
        volume = read_volume(tmp_path / "o" / f"{image_stem(maps / name)}.mha")
        assert volume.grid == read_grid(maps / name)
        assert np.unique(volume.array).tolist() == [0, pytest.approx(peak)]
        assert (volume.array > 0).sum() == 75
        assert json.loads((tmp_path / "o" / f"{image_stem(maps / name)}.json").read_text()) == pytest.approx(peak)


@pytest.mark.parametrize(
    ("options", "likelihood"),
    [
        (["--rule", "dynamic"], 0.0),  # its defect: the spike of one voxel ends the search
        (["--rule", "0.25"], 0.3),
        (["--rule", "0.9"], 0.0),
        (["--card", "cspca-rsna2022"], 0.0),
        (["--card", "cspca-picai"], 0.3),
        (["--card", "cspca-picai", "--rule", "dynamic"], 0.95),  # no candidate: the probability's maximum
    ],
)
def test_the_rule_and_the_card_decide(run, maps, tmp_path, options, likelihood):
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o", *options)
    assert json.loads((tmp_path / "o" / "a.json").read_text()) == pytest.approx(likelihood)


def test_source_of_the_maps_is_kept(run, maps, make_bundle, make_archive, tmp_path):
    run.batch(make_archive(1), make_bundle(), tmp_path / "b")
    (maps / "source.json").write_bytes((tmp_path / "b" / "source.json").read_bytes())
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o")
    before, after = (read_record(folder / "source.json", Source) for folder in (maps, tmp_path / "o"))
    assert after.runs == before.runs
    assert set(after.parents) == {"bundle", "probability"}
    assert after.settings == before.settings | {"candidate rule": "dynamic-v2"}


@pytest.mark.parametrize("options", [["--rule", "dynamic"], ["--card", "cspca-picai"], []])
def test_candidates_of_other_maps_or_by_another_rule_are_not_replaced(run, maps, tmp_path, options):
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o")
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o")
    before = (tmp_path / "o" / "a.mha").read_bytes()
    if not options:
        volume = read_volume(maps / "a.mha")
        write_volume(maps / "a.mha", Volume(volume.array / 2, volume.grid))
    found = run.fails("candidates", "--probability", maps, "--output", tmp_path / "o", *options)
    assert "expected results of " in found
    assert (tmp_path / "o" / "a.mha").read_bytes() == before


def test_what_rounding_left_above_one_counts_as_one(run, maps, tmp_path):
    volume = read_volume(maps / "a.mha")
    above = np.where(volume.array == volume.array.max(), np.float32(1.0000001), volume.array).astype(np.float32)
    write_volume(maps / "a.mha", Volume(above, volume.grid))
    run.succeeds("candidates", "--probability", maps, "--output", tmp_path / "o", "--rule", "dynamic-fast")
    assert "a.mha: probabilities from -0.001 to 1.0000001 count as 0 or 1 where they are outside" in " ".join(
        run.stdout.split()
    )
    assert read_volume(tmp_path / "o" / "a.mha").array.max() <= 1


def with_values(change):
    def spoil(maps):
        volume = read_volume(maps / "a.mha")
        write_volume(maps / "a.mha", Volume(change(volume.array), volume.grid))

    return spoil


def scaled(scale, shift):
    return with_values(lambda array: (array * scale + shift).astype(np.float32))


def copied(name, to):
    def spoil(maps):
        (maps / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(maps / name, maps / to)

    return spoil


RANGE = "a.mha: expected probabilities in [0, 1], found"
LABELS = "a.mha: expected probabilities between 0 and 1, found whole numbers, as of labels"
WRONG_MAPS = {
    "above": (scaled(8, 0), f"{RANGE} -0.008 to 7.6"),
    "bytes": (scaled(255, 0), f"{RANGE} -0.25500003 to 242.25"),
    "percent": (scaled(100, 0), f"{RANGE} -0.1 to 95"),
    "logits": (scaled(10, -9), f"{RANGE} -9.01 to 0.5"),
    "low logits": (scaled(1, -3), f"{RANGE} -3.001 to -2.05"),
    "labels of 8 bits": (with_values(lambda array: (array > 0.1).astype(np.uint8)), LABELS),
    "labels of 16 bits": (with_values(lambda array: (array > 0.1).astype(np.int16)), LABELS),
    "none": (shutil.rmtree, "maps: no probability maps CASE.mha or CASE.nii.gz"),
    "a map in a sub-folder": (copied("a.mha", "more/c.mha"), "more/c.mha: image in a sub-folder"),
    "a map deeper": (copied("b.nii.gz", "more/deeper/c.nii.gz"), "more/deeper/c.nii.gz: image in a sub-folder"),
    "another format in a sub-folder": (copied("a.mha", "more/c.nrrd"), "more/c.nrrd: image in a sub-folder"),
    "two maps of a case": (copied("b.nii.gz", "a.nii.gz"), "a.nii.gz: duplicate case: a.mha too"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_wrong_probability_maps_are_refused(run, maps, tmp_path, spoil, message):
    spoil(maps)
    assert message in run.fails("candidates", "--probability", maps, "--output", tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("rule", ["fast", "0", "1.5", "nan", "-0.1"])
def test_a_rule_that_does_not_exist_is_wrong_usage(maps, tmp_path, rule):
    with pytest.raises(SystemExit) as exit_:
        main(["candidates", "--probability", str(maps), "--output", str(tmp_path / "o"), f"--rule={rule}"])
    assert exit_.value.code == 2


def test_no_threads_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--threads", "0"])
    assert exit_.value.code == 2
    assert "expected a positive number, found 0" in capsys.readouterr().err


def test_more_threads_than_libraries_survive_are_wrong_usage(tmp_path, capsys):
    paths = [str(word) for name in ("archive", "output", "model") for word in (f"--{name}", tmp_path / name)]
    assert main(["batch", *paths, "--threads", "100000"]) == 2
    assert "--threads: expected at most" in capsys.readouterr().err


# Baselines


def test_baselines_are_folders_like_a_batchs(run, make_archive, tmp_path):
    run.succeeds("baseline", "--archive", make_archive(2), "--card", "cspca-picai", "--output", tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["baseline-maximum-hbv", "baseline-minimum-adc"]
    for name, peak in {"baseline-maximum-hbv": 250 / 750, "baseline-minimum-adc": 1000 / 1700}.items():
        folder = tmp_path / "o" / name
        source = read_record(folder / "source.json", Source)
        assert (source.configuration, source.runs, source.fold, source.profile) == (name, (), None, "none")
        for job in read_jobs(folder / "predictions.json"):
            detections = read_volume(only(job.output(CARD.detection_map.slug, folder)))
            assert detections.grid == read_grid(tmp_path / "archive" / job.pk[:2] / f"{job.pk}_t2w.mha")
            likelihood = json.loads(job.output(CARD.likelihood.slug, folder).read_text())
            assert likelihood == pytest.approx(peak, rel=0.1)  # the bell's top is between voxels


def test_baselines_name_a_study_that_is_there_twice(run, make_archive, make_channels, tmp_path):
    archive = make_archive(2)
    make_channels(archive / "p7", "p7_s0", seed=1)
    run.succeeds("baseline", "--archive", archive, "--card", "cspca-picai", "--output", tmp_path / "o")
    assert "studies p1_s0 and p7_s0 are the same image" in " ".join(run.stdout.split())


def test_a_card_without_baselines_is_refused(run, make_archive, tmp_path):
    text = (CARDS / "cspca-picai.toml").read_text()
    (tmp_path / "bare.toml").write_text(text[: text.index("[[baselines]]")])
    message = run.fails(
        "baseline", "--archive", make_archive(1), "--card", tmp_path / "bare.toml", "--output", tmp_path / "o"
    )
    assert "names no baseline" in message
    assert not (tmp_path / "o").exists()


# As a process of its own


def test_a_process_without_home_and_caches_writes_nothing_to_stderr(make_bundle, make_input, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    words = ("--input", make_input(), "--output", tmp_path / "o", "--model", make_bundle())
    result = run_program(sys.executable, "-B", "-m", "algorithm", *words, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "likelihood" in result.stdout
    assert (tmp_path / "o" / LIKELIHOOD).is_file()


@pytest.mark.parametrize("command", [[], ["batch"], ["candidates"], ["baseline"]])
def test_help_explains_each_command(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    assert "--output" in capsys.readouterr().out
