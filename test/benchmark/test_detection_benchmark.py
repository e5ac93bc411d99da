"""The benchmark of detection: what its figures mean, and that the peer gets our features; without the peer itself."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import three_level_plans

from network.detection.anchors import AnchorPlan
from network.detection.retina_unet import build_retina_unet

FOLDER = Path(__file__).parent
PATCH = (4, 8, 12)
EMPTY = torch.empty(0, 6)


BENCHMARK = "detection"


def test_quality_by_hand(benchmark: ModuleType) -> None:
    """Tiles of 4 x 8 x 12 half a patch apart in a study of 8 x 16 x 24: edges at 2, 4, 6; 4, 8, 12; 6, 12, 18."""
    lesions = torch.tensor([[1.0, 1, 1, 3, 3, 3], [5, 9, 13, 7, 11, 15]])
    boxes = torch.tensor(
        [
            [1.0, 1, 1, 3, 3, 3],  # the first lesion
            [1, 1, 1, 3, 3, 4],  # once more: IoU 2/3
            [1, 1, 1, 4, 3, 3],  # and again: IoU 2/3, up to a tile's edge
            [0, 13, 19, 1, 14, 24],  # nothing, at the study's own edge, which counts for no tile's
        ]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1])
    studies = [(torch.empty(1, 8, 16, 24), lesions), (torch.empty(1, 8, 16, 24), EMPTY)]
    worth = benchmark.quality([(boxes, scores), (EMPTY, torch.empty(0))], studies, PATCH)
    assert worth.duplicates_per_lesion == 2  # two too many, one lesion hit
    assert worth.on_tile_edges == 0.25  # the third of four, at 4 in z
    assert worth.mean_average_precision == 0.5  # one of two lesions, by the strongest box


def test_shared_boxes_are_counted_from_both_sides(benchmark: ModuleType) -> None:
    one = torch.tensor([[0.0, 0, 0, 1, 1, 1], [0, 0, 0, 2, 2, 2]])
    other = torch.cat([one[:1] + 0.001, one[:1] + 5, one[:1] + 7])
    found = [[(each, torch.ones(len(each)))] for each in (one, other)]
    assert benchmark.shared(*found) == pytest.approx(2 / 5)
    assert benchmark.shared(found[0], found[0]) == 1
    assert benchmark.shared([], []) == 0  # nothing was compared


def test_the_peer_gets_the_features_of_our_detection_levels(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    plan = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4),))
    dataset = {"channel_names": {"0": "a"}, "labels": {"background": 0, "lesion": 1}}
    network = build_retina_unet(three_level_plans(), dataset, plan)
    seen: list[torch.Tensor] = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    patches = torch.randn(2, 1, *PATCH)
    with torch.no_grad():
        network(patches)
        features = benchmark.Features(network)(patches)
    assert [each.shape for each in features] == [each.shape for each in seen]
    for ours, theirs in zip(seen, features, strict=True):
        torch.testing.assert_close(theirs, ours)
    finest = {id(each) for each in network.unet.decoder.stages[-1].parameters()}
    wanted = sum(each.sum() for each in benchmark.Features(network)(patches))
    wanted.backward()
    used = {id(each) for each in network.parameters() if each.grad is not None}
    assert used and not used & finest  # the peer need not decode the full resolution


def test_missing_peer_is_one_line_with_its_source() -> None:
    ended = subprocess.run(
        [sys.executable, "-E", FOLDER / "detection.py", "--quick"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "monai: not in PYTHONPATH; requirements/monai.lock has it" in ended.stderr
