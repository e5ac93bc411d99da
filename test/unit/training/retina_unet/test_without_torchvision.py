"""Detection works where torchvision cannot be imported: a step of training and a prediction, in another process."""

import json

from paths import PROJECT
from programs import python

PLANS = PROJECT / "test" / "unit" / "network" / "tiny_plans.json"

CODE = """
import json, pkgutil, sys
from importlib import import_module
from importlib.abc import MetaPathFinder

asked = []

class Blocked(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "torchvision":
            asked.append(fullname)
            raise ImportError("torchvision is blocked")

sys.meta_path.insert(0, Blocked())
for package in ("network.detection", "training.retina_unet", "training.nnunet"):
    for module in pkgutil.iter_modules(import_module(package).__path__, package + "."):
        import_module(module.name)

import torch
from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.retina_unet import build_retina_unet
from network.detection.clustering import BoxPostprocessing
from network.detection.whole_study import Detector, find_boxes
from training.retina_unet.loss import DetectionLoss

torch.manual_seed(0)
patch, plan = (8, 16, 16), AnchorPlan(levels=(0, 1), sizes_voxels_zyx=((2, 4, 4), (3, 6, 6)))
plans = json.load(open(sys.argv[1]))
network = build_retina_unet(plans, {"channel_names": {"0": "ct"}, "labels": {"background": 0, "lesion": 1}}, plan)
anchors = anchors_of_patch(plan, level_strides(plans), patch)
label = torch.zeros(2, 1, *patch)
label[0, 0, 3:6, 4:10, 5:11] = 1
lesions = [torch.tensor([[3.0, 4, 5, 6, 10, 11]]), torch.empty(0, 6)]
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
before = [each.clone() for each in network.parameters()]
losses = DetectionLoss()(network(torch.randn(2, 1, *patch)), anchors, lesions, label, torch.Generator().manual_seed(0))
losses.total.backward()
optimizer.step()
changed = sum(not torch.equal(one, other) for one, other in zip(before, network.parameters()))
found = find_boxes([Detector(network.eval(), anchors)], torch.randn(1, 9, 20, 24), patch_size=patch,
score_threshold=BoxPostprocessing().score_threshold).clustered(BoxPostprocessing())
print(json.dumps({
    "loss": losses.total.item(), "changed": changed, "boxes": len(found), "asked": asked,
    "there": sorted(name for name in sys.modules if name.startswith(("torchvision", "monai"))),
}))
"""


def test_a_step_and_a_prediction_need_no_torchvision_and_no_monai():
    ended = python("-c", CODE, PLANS)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert 0 < told["loss"] < 100
    assert told["changed"] > 10
    assert told["boxes"] > 0
    assert told["there"] == []
