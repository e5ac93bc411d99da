"""Studies and folds as nnDetection reads them."""

import pickle

import numpy as np
import SimpleITK as sitk
from refusals import refused_with
from studies import read_study

from contract.archive.studies import find_studies
from contract.files.reading import read_json
from contract.images.volume import read_label, read_volume
from training.dataset.prepared import Fold, load_prepared
from training.nndetection.dataset_layout import Layout, write_splits, write_training_study


def test_channels_and_numbered_lesions_are_on_the_study_grid(tmp_path, prepared_folder, write_study):
    card = load_prepared(prepared_folder).card
    write_study(tmp_path / "archive", "7_1", kind=1, lesion=True, label_value=3)
    label = tmp_path / "archive" / "labels" / "7_1.nii.gz"
    (study,) = find_studies(tmp_path / "archive", card, labels_required=True)
    image = sitk.ReadImage(str(label))
    image[2:4, 2:4, 0:2] = 1  # a second lesion, far from the first
    sitk.WriteImage(image, str(label))
    layout = Layout(tmp_path / "root", card)
    assert write_training_study(layout, study) == 2
    assert read_json(layout.raw / "labelsTr" / "7_1.json") == {"instances": {"1": 0, "2": 0}}
    truth, numbered = read_label(label), read_label(layout.raw / "labelsTr" / "7_1.nii.gz")
    np.testing.assert_array_equal(numbered.array > 0, truth.array > 0)
    assert np.unique(numbered.array).tolist() == [0, 1, 2]
    assert set(numbered.array[0:2, 2:4, 2:4].ravel().tolist()) == {1}  # the first voxel in (z, y, x)
    stacked = read_study(card, study.channels, name="7_1")
    for number, array in enumerate(stacked.array):
        np.testing.assert_array_equal(read_volume(layout.raw / "imagesTr" / f"7_1_{number:04d}.nii.gz").array, array)


def test_the_folds_hold_no_array_of_numpy_2(tmp_path, prepared_folder):
    layout = Layout(tmp_path, load_prepared(prepared_folder).card)
    write_splits(layout, Fold(train=("b", "a"), validation=("c",)))
    data = layout.splits.read_bytes()
    assert b"numpy" not in data
    assert data[:2] == b"\x80\x04"  # protocol 4, the newest of Python 3.8's own choice
    assert pickle.loads(data) == [{"train": ["a", "b"], "val": ["c"]}]


def test_a_study_with_a_dot_is_refused(prepared_folder, tmp_path):
    layout = Layout(tmp_path, load_prepared(prepared_folder).card)
    with refused_with(r"study 1\.2_1", "name has a dot, at which nnDetection cuts"):
        layout.require_names(["1_1", "1.2_1"])
