"""Finding boxes: our Retina U-Net against MONAI's RetinaNet, in training and over the tiles of a study.

    python -m pip install --no-deps --require-hashes --target build/monai --requirement requirements/monai.lock
    PYTHONPATH=build/monai python test/benchmark/detection.py [--quick]

Both get the plan, the anchors and the weights of one run of ``retina-unet`` on phantoms, and the same patches, cut and
augmented as that run's were. MONAI is no package of ours (``docs/decisions/detection-parts.md``), so it lies in a
folder of its own. Each side works in a child process; seconds are taken inside it, without imports and reading.

*Training*: forward, loss, backward and SGD on patches with their boxes. The peer is MONAI's ``RetinaNetDetector`` with
the heads of its ``RetinaNet``, ATSS matcher, hard negatives and GIoU, set to our numbers. Two of its parts need
torchvision, which is not there: the backbone, a ResNet with feature pyramid, in whose place stands the plan's U-Net
with the same features at each detection level as ours, decoded no finer than these; and the two classes by which the
detector asks whether its matcher and its sampler are torchvision's, in whose place stands one that they are not. What
else differs is what each side is: MONAI's heads have four convolutions (without ``--quick`` a row has the peer with our
two), ours has the segmentation and its loss besides.

*Inference*: the tiles of whole studies through the same network. Ours clusters the boxes of all tiles; the peer thins
each tile's boxes, puts them together and thins them again, both by MONAI's ``non_max_suppression``. How good the boxes
are is printed too: a lesion that several tiles see, or that a tile's edge cuts, is where such a rule shows.

The JSON line is about training; its conditions say the rest. ``identical`` says that both sides gave the same lesions
to the same anchors, and that 99 in 100 of the boxes that they kept within tiles are the same (MONAI compares in single
precision, so a box at the threshold may go either way). For the first, lesions are moved a little so that no two
positions are equally near: of such MONAI takes any, we the first. And its matcher is told of anchors in place of
positions, as in nnDetection: else it takes fewer candidates at a level with few positions.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor, nn

from contract.errors import OncoduetError
from contract.files.reading import read_json
from contract.records import read_record
from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.boxes import iou
from network.detection.clustering import BoxPostprocessing, ScoredBoxes
from network.detection.retina_unet import RetinaUNet, build_retina_unet
from network.detection.tiles import BOXES_PER_TILE, SAME_LESION_IOU, SMALLEST_SIZE_VOXELS, STRONGEST_ANCHORS
from network.detection.whole_study import Detector, find_boxes
from network.inference.sliding_window import window_slices, windows_per_pass
from network.model.weights import load_weights
from network.preprocessing.nnunet_preprocessing import patch_size_zyx
from training.dataset.prepared import Prepared, load_prepared
from training.profile import PROFILES
from training.retina_unet.atss import NEAREST_POSITIONS, match_anchors
from training.retina_unet.box_rule_sweep import mean_average_precisions
from training.retina_unet.engine import anchors_file, box_rule_file
from training.retina_unet.loss import DetectionLoss, Sampling
from training.run_folder.folder import RunFolder

CARD = "cspca-picai"
PEER = "MONAI"
SHORT_PEER = "MONAI, two convolutions"
SIDES = (measure.US, PEER, SHORT_PEER)
LAYERS_PER_CONVOLUTION = 3
"""Convolution, norm and activation, in MONAI's heads."""
LARGEST_GRADIENT = 12.0
"""nnU-Net's."""
STRONGEST = 10
"""Boxes of a study that are looked at, per study: a rank, for the two rules' scores have different scales."""
HIT_IOU = 0.1
ON_EDGE_VOXELS = 0.5
MOVED_VOXELS = (0.137, 0.071, 0.033)
"""By which lesions are moved before they are matched."""
Found = list[tuple[Tensor, Tensor]]
"""Boxes (n, 6) and scores (n,) of each study."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    cases: int
    epochs: int | None
    """Of the run; None: as the profile has it."""
    batches: int
    studies: int


FULL, QUICK = Size(cases=20, epochs=None, batches=60, studies=4), Size(cases=5, epochs=1, batches=3, studies=1)


@dataclass(frozen=True)
class Quality:
    """What the boxes of some studies are worth."""

    mean_average_precision: float
    duplicates_per_lesion: float
    """Boxes beyond the first that overlap a lesion, for each lesion that was hit."""
    on_tile_edges: float
    """Share of the boxes that end where a tile does, inside the study."""


def main(options: argparse.Namespace) -> None:
    """Run both sides and report."""
    require_monai()
    if options.side:
        torch.set_num_threads(1)
        {"patches": write_patches, "training": train, "inference": infer}[options.part](options.folder, options.side)
        return
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, size, options.profile)
        child("patches", measure.US, folder, size)
        steps = {side: child("training", side, folder, size) for side in (SIDES[:2] if options.quick else SIDES)}
        tiles = {side: child("inference", side, folder, size) for side in SIDES[:2]}
        studies = torch.load(folder / "studies.pt", weights_only=True)
        patches = torch.load(folder / "patches.pt", weights_only=True)
        patch = patch_size_zyx(read_json(RunFolder(folder / "run").plans))
        anchors = int(patches["anchors"])
    short = [steps[SHORT_PEER].whole] if SHORT_PEER in steps else []
    identical = torch.equal(steps[measure.US].matched, steps[PEER].matched)
    same = shared(tiles[measure.US].in_tiles, tiles[PEER].in_tiles)
    judged = {side: quality(each.found, studies, patch) for side, each in tiles.items()}
    for side, each in steps.items():
        print(f"{side:24} {1 / each.whole.cpu_s:6.2f} training steps per CPU s")
    print(f"boxes kept within tiles that the other side kept too: {same:.4f}")
    for side, worth in judged.items():
        print(
            f"{side:24} mAP {worth.mean_average_precision:.3f}, of the {STRONGEST} strongest per study "
            f"{worth.on_tile_edges:.0%} end at a tile's edge, {worth.duplicates_per_lesion:.2f} too many per lesion hit"
        )
    measure.report(
        "detection",
        ours=steps[measure.US].whole,
        peer=steps[PEER].whole,
        peer_name=PEER,
        identical=identical and same >= 0.99,
        conditions={
            **measure.machine("torch", "monai"),
            "profile": options.profile,
            "epochs": size.epochs,
            "batches": size.batches,
            "patch_zyx": list(patch),
            "anchors_per_patch": anchors,
            "parameters": {side: each.parameters for side, each in steps.items()},
            "ratio_cpu_two_convolutions": [_ratio(each, steps[measure.US].whole) for each in short],
            "ratio_cpu_matching": _ratio(steps[PEER].part, steps[measure.US].part),
            "inference_studies": size.studies,
            "ratio_cpu_inference": _ratio(tiles[PEER].whole, tiles[measure.US].whole),
            "ratio_cpu_boxes": _ratio(tiles[PEER].part, tiles[measure.US].part),
            "quality": {side: vars(worth) for side, worth in judged.items()},
            "quick": bool(options.quick),
        },
        details=[
            ("matching", steps[measure.US].part, steps[PEER].part),
            *(("step, peer with two convolutions", steps[measure.US].whole, each) for each in short),
            ("study", tiles[measure.US].whole, tiles[PEER].whole),
            ("study, boxes alone", tiles[measure.US].part, tiles[PEER].part),
        ],
    )


@dataclass(frozen=True)
class Done:
    """What a child has to tell: costs per step or study, and results."""

    whole: measure.Measured
    part: measure.Measured
    """Of the matching, or of what makes boxes of the network's output."""
    parameters: int
    matched: Tensor
    """Lesion of each anchor of each patch."""
    found: Found
    in_tiles: Found
    """Boxes within tiles, before tiles come together."""


def require_monai() -> None:
    """Say in one line how the peer is installed.

    Raises
    ------
    OncoduetError
        It is not.
    """
    try:
        measure.machine("monai")
    except OncoduetError:
        raise OncoduetError(
            "monai",
            "not in PYTHONPATH; requirements/monai.lock has it, and the first lines of test/benchmark/detection.py say "
            "how to install it",
        ) from None


def prepare(folder: Path, size: Size, profile: str) -> None:
    """Phantoms, preprocessed, and one run of ``retina-unet`` on them."""
    archive, prepared, path = folder / "archive", folder / "prepared", PROFILES / f"{profile}.toml"
    card = ["--card", CARD]
    measure.run([sys.executable, "-m", "phantom", *card, "--cases", str(size.cases), "--positive-fraction", "0.7",
                 "--seed", "1", "--output", archive])  # fmt: skip
    measure.run([sys.executable, "-m", "training", "prepare", *card, "--archive", archive, "--output", prepared])
    if size.epochs is not None:
        begin, plan, rest = path.read_text(encoding="utf-8").partition("\n[plan]")
        kept = [line for line in begin.splitlines() if not line.startswith(("epochs =", "iterations_per_epoch ="))]
        path = folder / "short.toml"
        text = "\n".join([*kept, f"epochs = {size.epochs}", "iterations_per_epoch = 3"])
        path.write_text(text + plan + rest, encoding="utf-8")
    measure.run([sys.executable, "-m", "training", "run", "--prepared", prepared, "--configuration", "retina-unet",
                 "--fold", "0", "--restart", "1", "--profile", path, "--output", folder / "run",
                 "--device", "cpu"])  # fmt: skip
    (folder / "profile").write_text(str(path), encoding="utf-8")


def child(part: str, side: str, folder: Path, size: Size) -> Done:
    """One side's work in a process of its own."""
    (folder / "size").write_text(f"{size.batches} {size.studies}", encoding="utf-8")
    whole = measure.run([sys.executable, __file__, "--part", part, "--side", side, "--folder", folder])
    if part == "patches":
        return Done(whole, whole, 0, torch.empty(0), [], [])
    told: Mapping[str, Any] = torch.load(folder / f"{part}-{side}.pt", weights_only=True)
    costs = [measure.Measured(*told[name], whole.peak_mb) for name in ("whole", "part")]
    return Done(*costs, told["parameters"], told["matched"], told["found"], told["in_tiles"])


def write_patches(folder: Path, side: str) -> None:
    """The run's own batches and the fold's validation studies, for both sides; ``side`` does not matter."""
    from training.dataset.lesion_instances import labels_of, lesion_boxes  # noqa: PLC0415
    from training.nnunet.trainer import build_trainer  # noqa: PLC0415
    from training.planned_run import plan_run  # noqa: PLC0415
    from training.retina_unet.trainer import DetectorTrainer  # noqa: PLC0415

    prepared: Prepared = load_prepared(folder / "prepared")
    profile = (folder / "profile").read_text(encoding="utf-8")
    run = plan_run(prepared, configuration="retina-unet", fold=0, restart=1, profile=profile)
    place = RunFolder(folder / "again")
    run.engine.plan_anchors(run, place)
    trainer: Any = build_trainer(run.engine.task(run, place, "cpu"), DetectorTrainer)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_epoch_start()
    batches, studies = (int(each) for each in (folder / "size").read_text(encoding="utf-8").split())
    images, labels, boxes = [], [], []
    for _ in range(batches):
        batch = next(trainer.dataloader_train)
        numbers = batch["target"][0]
        own = [trainer.instances[case_id] for case_id in batch["keys"]]
        images.append(batch["data"].clone())
        labels.append(torch.stack([labels_of(patch, each) for patch, each in zip(numbers, own, strict=True)]))
        boxes.append([lesion_boxes(patch[0], each) for patch, each in zip(numbers, own, strict=True)])
    anchors = sum(level.shape[0] * level.shape[1] for level in trainer.anchors)
    torch.save({"images": images, "labels": labels, "boxes": boxes, "anchors": anchors}, folder / "patches.pt")
    lesions = {study.case_id: study.lesions for study in prepared.record.studies}
    chosen = sorted(run.fold.validation, key=lambda case_id: not lesions[case_id])[:studies]
    numbered = trainer.dataloader_val.studies
    material = []
    for case_id in chosen:
        study = numbered.by_id[case_id]
        material.append((study.image.float(), lesion_boxes(study.label, numbered.instances[case_id])))
    torch.save(material, folder / "studies.pt")


@dataclass(frozen=True)
class Model:
    """What both sides share."""

    plans: Mapping[str, Any]
    patch: tuple[int, int, int]
    anchors: list[Tensor]
    per_position: int
    network: RetinaUNet

    @classmethod
    def of(cls, folder: Path) -> "Model":
        """The finished run's, with its weights."""
        run = RunFolder(folder / "run")
        plans, plan = read_json(run.plans), read_record(anchors_file(run), AnchorPlan)
        network = build_retina_unet(plans, read_json(run.dataset), plan)
        network.load_state_dict(load_weights(run.weights))
        patch = patch_size_zyx(plans)
        anchors = anchors_of_patch(plan, level_strides(plans), patch)
        return cls(plans, patch, anchors, len(plan.sizes_voxels_zyx), network)

    @property
    def flat(self) -> Tensor:
        """All anchors, shape (anchors, 6)."""
        return torch.cat([level.flatten(0, 1) for level in self.anchors])


def train(folder: Path, side: str) -> None:
    """Train on every batch, the first of them once more to warm up; then match every batch."""
    model = Model.of(folder)
    patches = torch.load(folder / "patches.pt", weights_only=True)
    trained, loss_of, matched_of = (our_training if side == measure.US else peer_training(side))(model)
    trained.train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.99, nesterov=True, weight_decay=3e-5)
    batches = list(zip(patches["images"], patches["labels"], patches["boxes"], strict=True))
    steps, matching, matched = _Costs(), _Costs(), []
    for number, (images, labels, boxes) in enumerate([batches[0], *batches]):
        with steps.counted(number > 0):
            optimizer.zero_grad(set_to_none=True)
            loss_of(images, labels, boxes).backward()
            nn.utils.clip_grad_norm_(trained.parameters(), LARGEST_GRADIENT)
            optimizer.step()
    for _, _, boxes in batches:
        moved = [each + torch.tensor(MOVED_VOXELS).repeat(2) for each in boxes]
        with matching.counted():
            found = matched_of(moved)
        matched.append(torch.where(found >= 0, found, -1).short())
    _tell(folder, "training", side, steps, matching, parameters=_size(trained), matched=torch.stack(matched))


Loss = Callable[[Tensor, Tensor, list[Tensor]], Tensor]
"""Of images (batch, channel, z, y, x), classes (batch, 1, z, y, x) and each patch's boxes."""
Match = Callable[[list[Tensor]], Tensor]
"""Lesion of each anchor of each patch, shape (batch, anchors)."""
Training = tuple[nn.Module, Loss, Match]


def our_training(model: Model) -> Training:
    """The trainer's loss on our network."""
    losses, chance = DetectionLoss(), torch.Generator().manual_seed(0)

    def loss_of(images: Tensor, labels: Tensor, boxes: list[Tensor]) -> Tensor:
        return losses(model.network(images), model.anchors, boxes, labels, chance).total

    return model.network, loss_of, lambda boxes: torch.stack([match_anchors(model.anchors, each) for each in boxes])


def peer_training(side: str) -> Callable[[Model], Training]:
    """MONAI's detector on the features of our U-Net."""

    def training(model: Model) -> Training:
        from monai.apps.detection.networks import retinanet_detector as monais  # noqa: PLC0415
        from monai.apps.detection.networks.retinanet_network import RetinaNet  # noqa: PLC0415
        from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher  # noqa: PLC0415
        from monai.losses.giou_loss import BoxGIoULoss  # noqa: PLC0415

        network = RetinaNet(3, 1, model.per_position, Features(model.network), model.patch)
        if side == SHORT_PEER:
            for head in (network.classification_head, network.regression_head):
                head.conv = head.conv[: 2 * LAYERS_PER_CONVOLUTION]
        monais.Matcher = monais.BalancedPositiveNegativeSampler = type("OfTorchvision", (), {})
        detector = monais.RetinaNetDetector(network, Given(model.anchors))
        sampling = Sampling()
        detector.set_atss_matcher(num_candidates=NEAREST_POSITIONS, center_in_gt=False)
        share = 1 / (1 + sampling.negatives_per_positive)
        detector.set_hard_negative_sampler(sampling.per_patch, share, pool_size=sampling.pool)
        detector.set_box_regression_loss(BoxGIoULoss(reduction="mean"), encode_gt=False, decode_pred=True)
        matcher = ATSSMatcher(num_candidates=NEAREST_POSITIONS * model.per_position, center_in_gt=False)
        counts = [level.shape[0] * level.shape[1] for level in model.anchors]

        def targets(boxes: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{"boxes": each, "labels": torch.zeros(len(each), dtype=torch.long)} for each in boxes]

        def loss_of(images: Tensor, labels: Tensor, boxes: list[Tensor]) -> Tensor:
            losses = detector(images, targets(boxes))
            return losses["classification"] + losses["box_regression"]

        def matched_of(boxes: list[Tensor]) -> Tensor:
            return torch.stack([_matched(matcher, each, model.flat, counts) for each in boxes])

        return detector, loss_of, matched_of

    return training


class Features(nn.Module):
    """Features of the detection levels, finest first, from our U-Net's encoder and as much decoder as they need."""

    def __init__(self, network: RetinaUNet) -> None:
        super().__init__()
        self.encoder: Any = network.unet.encoder
        self.upsample: Any = network.unet.decoder.transpconvs
        self.stages: Any = network.unet.decoder.stages
        self.levels = network.levels
        self.projections = network.projections
        self.out_channels = int(network.classifier[0].in_channels)

    def forward(self, patches: Tensor) -> list[Tensor]:
        """Of patches (batch, channel, z, y, x)."""
        skips = self.encoder(patches)
        at = len(skips) - 1
        features = {at: skips[at]}
        for upsample, stage in zip(self.upsample, self.stages, strict=True):
            if at == min(self.levels):
                break
            at -= 1
            features[at] = stage(torch.cat((upsample(features[at + 1]), skips[at]), dim=1))
        return [projection(features[level]) for level, projection in zip(self.levels, self.projections, strict=True)]


class Given(nn.Module):
    """Our anchors in the place of MONAI's generator, whose anchors lie half a position lower."""

    def __init__(self, anchors: list[Tensor]) -> None:
        super().__init__()
        self.anchors = anchors

    def forward(self, images: Tensor, feature_maps: list[Tensor]) -> list[Tensor]:
        """Of each image, shape (anchors, 6)."""
        return [torch.cat([level.flatten(0, 1) for level in self.anchors])] * len(images)

    def num_anchors_per_location(self) -> list[int]:
        """For each level."""
        return [level.shape[1] for level in self.anchors]


def infer(folder: Path, side: str) -> None:
    """Find the boxes of each study."""
    model, rule = Model.of(folder), read_record(box_rule_file(RunFolder(folder / "run")), BoxPostprocessing)
    network = _Clocked(model.network.eval())
    studies = torch.load(folder / "studies.pt", weights_only=True)
    whole, found, in_tiles = _Costs(), [], []
    for image, _ in studies:
        with whole.counted(), torch.inference_mode():
            boxes, before = (cluster_tiles if side == measure.US else thin_tiles)(model, network, image, rule)
        found.append(boxes)
        in_tiles.append(before)
    _tell(folder, "inference", side, whole, whole.without(network.costs), found=found, in_tiles=in_tiles)


def cluster_tiles(model: Model, network: nn.Module, image: Tensor, rule: BoxPostprocessing) -> Found:
    """Ours: the study's boxes, and those of its tiles."""
    before = find_boxes([Detector(network, model.anchors)], image, patch_size=model.patch)
    return [_tensors(before.clustered(rule)), _tensors(before.by_member[0])]


def thin_tiles(model: Model, network: nn.Module, image: Tensor, rule: BoxPostprocessing) -> Found:
    """The naive way, by MONAI's parts: the study's boxes, and those of its tiles."""
    from monai.apps.detection.utils.box_coder import BoxCoder  # noqa: PLC0415
    from monai.data.box_utils import clip_boxes_to_image, non_max_suppression  # noqa: PLC0415

    coder, flat = BoxCoder(weights=(1.0,) * 6), model.flat
    missing = [max(0, patch - length) for patch, length in zip(model.patch, image.shape[1:], strict=True)]
    padded = nn.functional.pad(image, [side for length in reversed(missing) for side in (0, length)])
    tiles = window_slices(padded.shape[1:], model.patch, 0.5)
    boxes, scores = [torch.empty(0, 6)], [torch.empty(0)]
    batch = windows_per_pass(image.device)
    for first in range(0, len(tiles), batch):
        some = tiles[first : first + batch]
        filled = [*some, *[some[-1]] * (batch - len(some))]  # as ours: one tile alone takes PyTorch's slow convolutions
        output = network(torch.stack([padded[(slice(None), *tile)] for tile in filled]))
        for tile, logits, deltas in zip(some, output.logits, output.deltas, strict=False):
            strongest, chosen = logits.topk(min(STRONGEST_ANCHORS, len(flat)))
            decoded, kept = clip_boxes_to_image(coder.decode_single(deltas[chosen], flat[chosen]), model.patch)
            own = strongest.sigmoid()[kept]
            large = ((decoded[:, 3:] - decoded[:, :3]) > SMALLEST_SIZE_VOXELS).all(dim=1)
            decoded, own = decoded[large], own[large]
            thinned = non_max_suppression(decoded, own, SAME_LESION_IOU, max_proposals=BOXES_PER_TILE)
            boxes.append(decoded[thinned] + torch.tensor([axis.start for axis in tile]).repeat(2))
            scores.append(own[thinned])
    together, kept = clip_boxes_to_image(torch.cat(boxes), image.shape[1:])
    every = torch.cat(scores)[kept]
    counts = every > rule.score_threshold
    last = non_max_suppression(together[counts], every[counts], rule.cluster_iou)
    return [(together[counts][last], every[counts][last]), (together, every)]


def quality(found: Found, studies: Sequence[tuple[Tensor, Tensor]], patch: tuple[int, int, int]) -> Quality:
    """What the boxes of some studies are worth.

    Parameters
    ----------
    studies
        Of each study the image, shape (channel, z, y, x), and its lesions' boxes, shape (lesions, 6).
    patch
        Size of the tiles (z, y, x).
    """
    boxes = [
        ScoredBoxes(each.numpy().astype(np.float64), scores.numpy().astype(np.float64), np.ones(len(each)))
        for each, scores in found
    ]
    lesions = [truth.numpy().astype(np.float64) for _, truth in studies]
    too_many, hit, cut, all_boxes = 0, 0, 0, 0
    for (own, scores), (image, truth) in zip(found, studies, strict=True):
        strongest = own[scores.argsort(descending=True, stable=True)[:STRONGEST]].double()
        hits = (iou(strongest[:, None], truth.double()[None]) >= HIT_IOU).sum(dim=0)
        hit += int((hits > 0).sum())
        too_many += int((hits - 1).clamp_min(0).sum())
        cut += int(_on_edges(strongest, image.shape[1:], patch).sum())
        all_boxes += len(strongest)
    return Quality(
        round(float(mean_average_precisions(boxes, lesions, np.ones((1, len(boxes))))[0]), 4),
        round(too_many / max(1, hit), 4),
        round(cut / max(1, all_boxes), 4),
    )


def shared(ours: Found, peer: Found) -> float:
    """Share of the boxes of either side that the other side has too."""
    same, every = 0, 0
    for (first, _), (second, _) in zip(ours, peer, strict=True):
        for these, those in ((first, second), (second, first)):
            nearest = torch.cdist(these.double(), those.double(), p=torch.inf).amin(dim=1)
            same, every = same + int((nearest < 1e-2).sum()), every + len(these)
    return same / max(1, every)


class _Costs:
    """CPU and wall seconds of repeated work."""

    def __init__(self) -> None:
        self.cpu_s, self.wall_s, self.times = 0.0, 0.0, 0

    @contextmanager
    def counted(self, counts: bool = True) -> Iterator[None]:
        with measure.clocked() as clock:
            yield
        if counts:
            self.cpu_s, self.wall_s, self.times = self.cpu_s + clock.cpu_s, self.wall_s + clock.wall_s, self.times + 1

    def without(self, part: "_Costs") -> "_Costs":
        rest = _Costs()
        rest.cpu_s, rest.wall_s, rest.times = self.cpu_s - part.cpu_s, self.wall_s - part.wall_s, self.times
        return rest

    @property
    def each(self) -> tuple[float, float]:
        return self.cpu_s / max(1, self.times), self.wall_s / max(1, self.times)


class _Clocked(nn.Module):
    """A network whose own seconds are taken, so that what is made of its output can be told apart."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.costs = network, _Costs()

    def forward(self, patches: Tensor) -> Any:
        with self.costs.counted():
            return self.network(patches)


def _tell(
    folder: Path,
    part: str,
    side: str,
    whole: _Costs,
    costs: _Costs,
    *,
    parameters: int = 0,
    matched: Tensor | None = None,
    found: Found | None = None,
    in_tiles: Found | None = None,
) -> None:
    told = {
        "whole": whole.each,
        "part": costs.each,
        "parameters": parameters,
        "matched": torch.empty(0) if matched is None else matched,
        "found": found or [],
        "in_tiles": in_tiles or [],
    }
    torch.save(told, folder / f"{part}-{side}.pt")


def _matched(matcher: Any, boxes: Tensor, anchors: Tensor, counts: list[int]) -> Tensor:
    """MONAI's answer; as its detector does, it is not asked where there is no lesion."""
    if not len(boxes):
        return torch.full((len(anchors),), -1)
    matched: Tensor = matcher.compute_matches(boxes, anchors, counts, 1)[1]
    return matched


def _tensors(found: ScoredBoxes) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(found.boxes).float(), torch.from_numpy(found.scores).float()


def _on_edges(boxes: Tensor, shape: Sequence[int], patch: tuple[int, int, int]) -> Tensor:
    """Which boxes end at the edge of a tile, other than the study's own edges; shape (boxes,)."""
    tiles = window_slices([max(length, size) for length, size in zip(shape, patch, strict=True)], patch, 0.5)
    on_edge = torch.zeros(len(boxes), dtype=torch.bool)
    for axis, length in enumerate(shape):
        edges = {tile[axis].start for tile in tiles} | {tile[axis].stop for tile in tiles}
        inner = torch.tensor([edge for edge in sorted(edges) if 0 < edge < length], dtype=boxes.dtype)
        for side in (boxes[:, axis], boxes[:, axis + 3]):
            on_edge |= ((side[:, None] - inner[None]).abs() < ON_EDGE_VOXELS).any(dim=1)
    return on_edge


def _size(network: nn.Module) -> int:
    return sum({id(each): each.numel() for each in network.parameters()}.values())


def _ratio(peer: measure.Measured, ours: measure.Measured) -> float:
    return round(peer.cpu_s / max(ours.cpu_s, 1e-9), 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--profile", default="demo", help="whose network, and how the weights are trained; default: demo"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)  # from here on: the child's own
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    sys.exit(measure.main(main, parser=parser))
