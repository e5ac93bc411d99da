"""Real lesions of PI-CAI: what a perfect box is worth as a candidate."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from contract.images.volume import read_volume
from network.detection.clustering import ScoredBoxes
from network.detection.painting import paint_boxes
from training.dataset.lesion_instances import lesion_boxes, number_lesions

HIT_IOU = 0.1  # of a candidate with a lesion, in PI-CAI
LESIONS = 21  # of the 17 positive cases among the 60


def overlap_with_its_own_box(instances, fill):
    boxes = lesion_boxes(torch.from_numpy(instances.array), instances).double().numpy()
    for number, box in enumerate(boxes, start=1):
        found = ScoredBoxes(box[None], np.ones(1), np.ones(1))
        painted = paint_boxes(found, instances.array.shape, fill=fill) > 0
        lesion = instances.array == number
        yield (painted & lesion).sum() / (painted | lesion).sum()


@pytest.mark.slow
@pytest.mark.data
def test_every_real_lesions_own_box_hits_it_and_its_ellipsoid_fits_better(real_data):
    folder = real_data / "picai_labels" / "csPCa_lesion_delineations" / "human_expert"
    overlaps = {"cuboid": [], "ellipsoid": []}
    for path in sorted(folder.rglob("*.nii.gz")):
        label = (read_volume(path).array > 0).astype(np.int32)
        if label.any():
            instances = number_lesions(label[ndimage.find_objects(label)[0]], 1)
            for fill, found in overlaps.items():
                found.extend(overlap_with_its_own_box(instances, fill))
    assert len(overlaps["cuboid"]) == len(overlaps["ellipsoid"]) == LESIONS
    assert min(*overlaps["cuboid"], *overlaps["ellipsoid"]) >= HIT_IOU
    assert np.median(overlaps["ellipsoid"]) > np.median(overlaps["cuboid"])
