"""Train → bundle → algorithm → evaluation, on phantoms and on real studies, as a platform would run it."""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from contract.card import CARDS, Card, load_card

CARD = load_card("cspca-picai")
CT_CARD = load_card("pdac-panorama")
POSITIVE = "11373_1001396"  # ProstateX-0000: one lesion, ISUP 3
COARSE = "ProstateX-0218_02-18-2011"  # diffusion images on another in-plane grid; no label exists
REAL_LABEL = f"prostatex/labels/csPCa_lesion_human_expert_resampled/{POSITIVE}.nii.gz"


@dataclass(frozen=True)
class Prediction:
    """One study on its way through the algorithm."""

    card: Card
    case_id: str
    input: Path
    output: Path
    ended: object

    @property
    def reference(self) -> Path:
        (channel,) = [each for each in self.card.channels if each.name == self.card.geometry.reference]
        return next((self.input / channel.socket.relative_path).iterdir())

    @property
    def likelihood(self) -> float:
        return json.loads((self.output / self.card.likelihood.relative_path).read_text())


def stage(case_id: str, study: Path, folder: Path, *, keys: Sequence[str], card: Card = CARD) -> Path:
    """Lay a study out as the platform does: one folder per socket, files named by UUIDs, and inputs.json."""
    entries = []
    for channel in card.channels:
        socket = folder / channel.socket.relative_path
        socket.mkdir(parents=True)
        pk = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{case_id}_{channel.name}"))
        shutil.copy(study / f"{case_id}_{channel.name}.mha", socket / f"{pk}.mha")
        entries.append(
            {
                **dict.fromkeys(keys, described(channel.socket)),
                "value": None,
                "file": None,
                "image": {"pk": pk, "name": f"{case_id}_{channel.name}.mha"},
                "pk": 100 + len(entries),
            }
        )
    (folder / "inputs.json").write_text(json.dumps(entries[::-1]))
    return folder


def described(socket) -> dict:
    """A socket as the platform describes it."""
    return {
        "title": socket.slug.replace("-", " "),
        "description": "",
        "slug": socket.slug,
        "kind": "Image" if socket.relative_path.startswith("images/") else "Float",
        "pk": 7,
        "default_value": None,
        "super_kind": "Image" if socket.relative_path.startswith("images/") else "Value",
        "relative_path": socket.relative_path,
        "overlay_segments": [],
        "look_up_table": None,
    }


def predict(
    place, model, case_id: str, study: Path, folder: Path, *, keys: Sequence[str], card: Card = CARD
) -> Prediction:
    staged = stage(case_id, study, folder / "input", keys=keys, card=card)
    ended = place.run(
        "algorithm", reads={"/input": staged, "/opt/ml/model": model.folder}, writes={"/output": folder / "output"}
    )
    return Prediction(card, case_id, staged, folder / "output", ended)


def platform_input(predictions: Sequence[Prediction], folder: Path) -> Path:
    """The evaluation's /input: job folders under UUIDs and predictions.json with all that the platform lists."""
    jobs = []
    for prediction in predictions:
        pk = str(uuid.uuid5(uuid.NAMESPACE_URL, prediction.case_id))
        shutil.copytree(prediction.output, folder / pk / "output")
        outputs = [prediction.card.detection_map, prediction.card.likelihood]
        jobs.append(
            {
                "pk": pk,
                "url": f"https://example.org/algorithms/jobs/{pk}/",
                "api_url": f"https://example.org/api/v1/algorithms/jobs/{pk}/",
                "algorithm_image": "https://example.org/api/v1/algorithms/images/1/",
                "inputs": json.loads((prediction.input / "inputs.json").read_text()),
                "outputs": [
                    {
                        "socket": described(socket),
                        "interface": described(socket),
                        "value": None,
                        "file": None,
                        "image": None,
                        "pk": 200 + number,
                    }
                    for number, socket in enumerate(outputs)
                ],
                "status": "Succeeded",
                "rendered_result_text": "",
                "exec_duration": "P0DT00H00M10.000000S",
                "invoke_duration": None,
                "hanging_protocol": None,
                "optional_hanging_protocols": [],
                "view_content": {},
            }
        )
    (folder / "predictions.json").write_text(json.dumps(jobs))
    return folder


def require_strict_outputs(prediction: Prediction) -> None:
    """Exactly the card's two outputs, on the reference's own grid to the last bit, float32 in [0, 1], quietly."""
    ended = prediction.ended
    assert (ended.status, ended.stderr) == (0, ""), ended
    card = prediction.card
    maps = prediction.output / card.detection_map.relative_path
    written = sorted(
        str(path.relative_to(prediction.output)) for path in prediction.output.rglob("*") if path.is_file()
    )
    (name,) = [path.name for path in maps.iterdir()]
    assert written == sorted([card.likelihood.relative_path, f"{card.detection_map.relative_path}/{name}"])
    assert name.endswith(".mha")
    assert b"CompressedData = True" in (maps / name).read_bytes()[:1024]
    found, expected = sitk.ReadImage(str(maps / name)), sitk.ReadImage(str(prediction.reference))
    assert found.GetPixelID() == sitk.sitkFloat32
    assert found.GetSize() == expected.GetSize()
    assert found.GetSpacing() == expected.GetSpacing()
    assert found.GetOrigin() == expected.GetOrigin()
    assert found.GetDirection() == expected.GetDirection()
    values = sitk.GetArrayViewFromImage(found)
    assert np.isfinite(values).all()
    assert values.min() == 0.0  # background, around the candidates
    assert values.max() <= 1.0
    assert isinstance(prediction.likelihood, float)
    assert 0.0 <= prediction.likelihood <= 1.0
    if values.max() > 0:
        assert prediction.likelihood == pytest.approx(float(values.max()), abs=1e-7)


def require_metrics(metrics: Mapping, predictions: Sequence[Prediction], *, positive: set[str], lesions: int) -> None:
    """Counts as given, and the AUROC as the share of pairs in the right order, counted here by hand."""
    pairs = [
        (p.likelihood > n.likelihood) + 0.5 * (p.likelihood == n.likelihood)
        for p in predictions
        for n in predictions
        if p.case_id in positive and n.case_id not in positive
    ]
    for answer in ("strict", "picai"):
        found = metrics[answer]
        assert (found["cases"], found["positive_cases"]) == (len(predictions), len(positive))
        assert (found["lesions"], found["missing"]) == (lesions, 0)
        assert 0.0 <= found["ap"] <= 1.0
        assert found["score"] == pytest.approx((found["auroc"] + found["ap"]) / 2)
    assert metrics["strict"]["auroc"] == pytest.approx(float(np.mean(pairs)))


@pytest.fixture(scope="module")
def phantom_predictions(place, model, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Prediction]:
    """Two phantoms, a positive and a negative one; ``interface`` is the only key, as the platform wrote it once."""
    chosen = {}
    for label in sorted((phantoms / "labels").iterdir()):
        is_positive = bool(sitk.GetArrayFromImage(sitk.ReadImage(str(label))).any())
        chosen.setdefault(is_positive, label.name.removesuffix(".nii.gz"))
    return [
        predict(
            place,
            model,
            case_id,
            phantoms / case_id.split("_")[0],
            tmp_path_factory.mktemp("study"),
            keys=["interface"],
        )
        for case_id in (chosen[True], chosen[False])
    ]


@pytest.fixture(scope="module")
def real_predictions(place, model, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Prediction]:
    """The two real studies."""
    return [
        predict(
            place,
            model,
            case_id,
            real_data / "prostatex" / "mha" / case_id,
            tmp_path_factory.mktemp("study"),
            keys=["socket", "interface"],
        )
        for case_id in (POSITIVE, COARSE)
    ]


def test_phantoms_get_a_map_on_their_own_grid_and_a_likelihood(phantom_predictions):
    for prediction in phantom_predictions:
        require_strict_outputs(prediction)


@pytest.mark.data
def test_real_studies_get_a_map_on_their_own_grid_and_a_likelihood(real_predictions):
    for prediction in real_predictions:
        require_strict_outputs(prediction)


def test_the_same_study_again_gives_the_same_bytes(place, model, phantoms, phantom_predictions, tmp_path):
    first = phantom_predictions[0]
    study = phantoms / first.case_id.split("_")[0]
    second = predict(place, model, first.case_id, study, tmp_path, keys=["socket"])
    require_strict_outputs(second)
    files = [path for path in first.output.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.read_bytes() == next(second.output.rglob(path.name)).read_bytes()


def scored(place, predictions: list[Prediction], truth: Path, tmp_path: Path):
    """The evaluation of these predictions as the platform starts it."""
    return place.run(
        "evaluation",
        reads={
            "/input": platform_input(predictions, tmp_path / "input"),
            "/opt/ml/input/data/ground_truth": truth,
        },
        writes={"/output": tmp_path / "output"},
    )


def test_phantoms_are_scored_from_the_platforms_listing(place, phantoms, phantom_predictions, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    for prediction in phantom_predictions:
        shutil.copy(phantoms / "labels" / f"{prediction.case_id}.nii.gz", truth)
    ended = scored(place, phantom_predictions, truth, tmp_path)
    assert (ended.status, ended.stderr) == (0, ""), ended
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["metrics.json"]
    label = sitk.ReadImage(str(truth / f"{phantom_predictions[0].case_id}.nii.gz"))
    lesions = sitk.ConnectedComponentImageFilter()
    lesions.SetFullyConnected(True)
    lesions.Execute(label > 0)
    require_metrics(
        json.loads((tmp_path / "output" / "metrics.json").read_text()),
        phantom_predictions,
        positive={phantom_predictions[0].case_id},
        lesions=lesions.GetObjectCount(),
    )


@pytest.mark.data
def test_real_studies_are_scored_from_the_platforms_listing(place, real_data, real_predictions, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(real_data / REAL_LABEL, truth)
    coarse = sitk.ReadImage(str(real_predictions[1].reference))
    empty = sitk.Image(coarse.GetSize(), sitk.sitkUInt8)  # nobody has labelled this study: counted as negative here
    empty.CopyInformation(coarse)
    sitk.WriteImage(empty, str(truth / f"{COARSE}.nii.gz"), useCompression=True)
    shutil.copy(CARDS / "cspca-picai.toml", truth / "card.toml")
    ended = scored(place, real_predictions, truth, tmp_path)
    assert (ended.status, ended.stderr) == (0, ""), ended
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    require_metrics(metrics, real_predictions, positive={POSITIVE}, lesions=1)


def require_refusal(ended, output: Path, *, names: str) -> None:
    """Exit code 3, one line on stderr that names the culprit, and nothing written."""
    assert ended.status == 3, ended
    (line,) = ended.stderr.splitlines()
    assert names in line
    assert not any(output.iterdir())


def test_a_study_without_its_adc_is_refused(place, model, phantoms, phantom_predictions, tmp_path):
    case_id = phantom_predictions[0].case_id
    staged = stage(case_id, phantoms / case_id.split("_")[0], tmp_path / "input", keys=["socket"])
    shutil.rmtree(staged / "images/transverse-adc-prostate-mri")
    output = tmp_path / "output"
    ended = place.run("algorithm", reads={"/input": staged, "/opt/ml/model": model.folder}, writes={"/output": output})
    require_refusal(ended, output, names="transverse-adc-prostate-mri")


def test_a_bundle_with_one_flipped_byte_is_refused(place, model, phantom_predictions, tmp_path):
    damaged = tmp_path / "model"
    shutil.copytree(model.folder, damaged)
    weights = damaged / "members" / "001.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    output = tmp_path / "output"
    ended = place.run(
        "algorithm",
        reads={"/input": phantom_predictions[0].input, "/opt/ml/model": damaged},
        writes={"/output": output},
    )
    require_refusal(ended, output, names="001.safetensors")


def test_a_submission_that_lacks_a_prediction_is_refused(place, phantoms, phantom_predictions, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    for prediction in phantom_predictions:
        shutil.copy(phantoms / "labels" / f"{prediction.case_id}.nii.gz", truth)
    ended = scored(place, phantom_predictions[:1], truth, tmp_path)
    require_refusal(ended, tmp_path / "output", names=phantom_predictions[1].case_id)


def test_an_archive_without_labels_cannot_be_trained_on(place, phantoms, tmp_path):
    bare = tmp_path / "archive"
    shutil.copytree(phantoms, bare)
    shutil.rmtree(bare / "labels")
    output = tmp_path / "prepared"
    ended = place.run(
        "training",
        *["prepare", "--card", CARD.name, "--archive", "/archive", "--output", "/runs"],
        reads={"/archive": bare},
        writes={"/runs": output},
    )
    require_refusal(ended, output, names="labels")


@pytest.fixture(scope="module")
def ct_prediction(place, ct_model, ct_phantoms, tmp_path_factory) -> Prediction:
    """A CT phantom with a lesion, through both stages."""
    truth = {
        label.name.removesuffix(".nii.gz"): sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
        for label in sorted((ct_phantoms / "labels").iterdir())
    }
    case_id = next(case_id for case_id, array in truth.items() if (array == 1).any())
    folder = tmp_path_factory.mktemp("study")
    study = ct_phantoms / case_id.split("_")[0]
    return predict(place, ct_model, case_id, study, folder, keys=["socket"], card=CT_CARD)


def test_ct_phantom_gets_a_map_on_its_own_grid_and_a_likelihood(ct_prediction):
    require_strict_outputs(ct_prediction)


def test_ct_phantom_with_organ_labels_is_scored_by_the_lesion(place, ct_phantoms, ct_prediction, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(ct_phantoms / "labels" / f"{ct_prediction.case_id}.nii.gz", truth)
    shutil.copy(CARDS / "pdac-panorama.toml", truth / "card.toml")
    ended = scored(place, [ct_prediction], truth, tmp_path)
    assert (ended.status, ended.stderr) == (0, ""), ended
    strict = json.loads((tmp_path / "output" / "metrics.json").read_text())["strict"]
    assert (strict["cases"], strict["positive_cases"], strict["lesions"]) == (1, 1, 1)


@pytest.mark.data
def test_real_ct_gets_a_map_on_its_own_grid_and_a_likelihood(place, ct_model, real_data, tmp_path):
    """512 × 512 × 20 voxels of the upper abdomen; nothing is claimed about what a network of phantoms finds in it."""
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(real_data / "ct" / "example_ct_contrast_512x512x20.mha", study / "real_1_ct.mha")
    prediction = predict(place, ct_model, "real_1", study, tmp_path, keys=["socket", "interface"], card=CT_CARD)
    require_strict_outputs(prediction)


@pytest.mark.data
def test_a_real_mr_in_the_place_of_the_ct_is_refused(place, ct_model, real_data, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    mr = sitk.ReadImage(str(real_data / "ct" / "example_mr_sm.nii.gz"))
    sitk.WriteImage(mr, str(study / "mr_1_ct.mha"))
    prediction = predict(place, ct_model, "mr_1", study, tmp_path, keys=["socket"], card=CT_CARD)
    require_refusal(prediction.ended, prediction.output, names="another modality or unit")
