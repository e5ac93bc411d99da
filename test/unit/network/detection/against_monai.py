"""Our detection parts against MONAI's, with torchvision blocked: not a test, since MONAI is not among our packages.

From the project's root:

    python -m pip install --no-deps --require-hashes --target build/monai --requirement requirements/monai.lock
    PYTHONPATH=.:test:build/monai python test/unit/network/detection/against_monai.py

It ends with an error where a result differs, and prints one line per comparison.
"""

import sys
import time
from importlib import import_module
from importlib.abc import MetaPathFinder

import numpy as np
import torch
from clustered_boxes import encode

from network.detection import boxes as own
from network.detection.anchors import AnchorPlan, anchors_of_patch
from network.detection.clustering import ScoredBoxes, suppress
from training.retina_unet.atss import match_anchors


class Blocked(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "torchvision":
            raise ImportError("torchvision is blocked")


def cpu_s(work, repeats=3):
    started = time.process_time()
    for _ in range(repeats):
        result = work()
    return result, (time.process_time() - started) / repeats


def some_boxes(count, random):
    lower = random.uniform(0, 50, (count, 3))
    return torch.tensor(np.concatenate([lower, lower + random.uniform(0.5, 12, (count, 3))], axis=1)).float()


def main():
    sys.meta_path.insert(0, Blocked())
    started = time.process_time()
    atss = import_module("monai.apps.detection.utils.ATSS_matcher")
    coder = import_module("monai.apps.detection.utils.box_coder")
    theirs = import_module("monai.data.box_utils")
    modules = sum(name.startswith("monai") for name in sys.modules)
    print(f"import: {time.process_time() - started:.1f} CPU s, {modules} modules")

    random = np.random.default_rng(0)
    a, b = some_boxes(500, random), some_boxes(500, random)
    torch.testing.assert_close(own.iou(a[:, None], b[None]), theirs.box_iou(a, b))
    torch.testing.assert_close(own.giou(a, b), theirs.box_pair_giou(a, b))
    torch.testing.assert_close(encode(a, b), coder.BoxCoder(weights=(1.0,) * 6).encode_single(a, b))
    print("IoU, GIoU and codes of 500 boxes: the same")

    scores = torch.tensor(random.random(500)).float()
    kept = a[theirs.non_max_suppression(a, scores, 0.1)]
    ours = suppress(ScoredBoxes(a.double().numpy(), scores.double().numpy(), np.ones(500)), 0.1)
    np.testing.assert_allclose(ours.boxes, kept.numpy())
    print(f"suppression: the same {len(kept)} of 500 boxes")

    sizes = tuple((z, y, x) for z in (2, 4, 6) for y in (4, 8, 12) for x in (4, 8, 12))
    plan = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=sizes)
    anchors = anchors_of_patch(plan, ((1, 1, 1), (1, 2, 2), (2, 4, 4)), (16, 96, 96))
    flat = torch.cat([level.flatten(0, 1) for level in anchors])
    corner = torch.tensor(random.uniform((0, 0, 0), (10, 80, 80), (4, 3)))
    lesions = torch.cat([corner, corner + torch.tensor(random.uniform(2, 15, (4, 3)))], dim=1).float()
    matcher = atss.ATSSMatcher(num_candidates=4, center_in_gt=False)
    positions = [len(level) for level in anchors]
    (_, matched), their_s = cpu_s(lambda: matcher.compute_matches(lesions, flat, positions, len(sizes)))
    ours, our_s = cpu_s(lambda: match_anchors(anchors, lesions))
    assert torch.equal(torch.where(matched >= 0, matched, -1), ours)
    print(
        f"matching: the same {int((ours >= 0).sum())} of {len(flat)} anchors; "
        f"MONAI {1000 * their_s:.0f}, ours {1000 * our_s:.0f} CPU ms"
    )


if __name__ == "__main__":
    main()
