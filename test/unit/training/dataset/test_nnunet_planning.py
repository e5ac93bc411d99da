"""The fingerprint and the numbers from which nnU-Net plans."""

from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from studies import read_study, read_study_label

from contract.archive.studies import find_studies
from contract.card import load_card
from contract.files.atomic import write_json
from contract.images.volume import Volume, write_volume
from training.dataset import nnunet_planning
from training.dataset.nnunet_folders import nnunet_folders


def test_channel_names_for_nnunet_are_normalisation_schemes():
    dataset = nnunet_planning.dataset_json(load_card("cspca-picai"), studies=7)
    assert dataset["channel_names"] == {"0": "zscore", "1": "CT", "2": "zscore"}
    assert dataset["labels"] == {"background": 0, "lesion": 1}


def test_the_fingerprint_equals_nnunets_own(archive, tmp_path, monkeypatch):
    card = load_card("cspca-picai")
    stacked = {}
    name = "Dataset001_stock"
    raw = tmp_path / "raw" / name
    raw.mkdir(parents=True)
    listing = {}
    for study in find_studies(archive, card, labels_required=True):
        image = read_study(card, study.channels, name=study.case_id)
        label = read_study_label(card, study.label, image)
        stacked[study.case_id] = (image.array, label, image.placement.spacing_mm_zyx)
        files = {f"{study.case_id}_{i:04d}.mha": channel for i, channel in enumerate(image.array)}
        files[f"{study.case_id}.mha"] = label
        for file, array in files.items():
            write_volume(raw / file, Volume(array, image.grid))
        *images, truth = (str(raw / file) for file in files)
        listing[study.case_id] = {"images": images, "label": truth}
    dataset = nnunet_planning.dataset_json(card, studies=len(stacked))
    write_json(raw / "dataset.json", dataset | {"dataset": listing})

    pools = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(fingerprint_extractor, "multiprocessing", pools)
    folders = {"raw": tmp_path / "raw", "preprocessed": tmp_path / "preprocessed", "results": tmp_path / "results"}
    with nnunet_folders(**folders, loader_processes=1):
        extractor = fingerprint_extractor.DatasetFingerprintExtractor(name, 1)
        extractor.num_foreground_voxels_for_intensitystats = 500 * len(stacked)
        stock = extractor.run()
    ours = nnunet_planning.fingerprint(
        [nnunet_planning.study_fingerprint(each, samples=500) for each in stacked.values()]
    )

    assert ours["shapes_after_crop"] == [list(map(int, shape)) for shape in stock["shapes_after_crop"]]
    np.testing.assert_allclose(ours["spacings"], stock["spacings"], rtol=1e-6)
    assert ours["median_relative_size_after_cropping"] == stock["median_relative_size_after_cropping"]
    for channel, expected in stock["foreground_intensity_properties_per_channel"].items():
        assert ours["foreground_intensity_properties_per_channel"][str(channel)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("studies", "largest", "expected"),
    [(40, 900, 9_000), (1000, 50_000, 100_000), (10, 2_000_000, 10_000_000)],  # the last two: nnU-Net's own number
)
def test_foreground_samples_are_limited_by_the_foreground(studies, largest, expected):
    assert nnunet_planning.samples_per_case(studies=studies, largest_foreground_voxels=largest) == expected
