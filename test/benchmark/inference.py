"""One study by an ensemble: ``python -m algorithm`` against ``nnUNetv2_predict`` per member and ``nnUNetv2_ensemble``.

Both get the same networks (1.2 million parameters, or 30.3 million as in nnU-Net's own plan for such studies;
untrained, seeded, with logits of the size that trained ones have) and the same bpMRI study of 20 × 384 × 384 voxels of
3 × 0.5 × 0.5 mm, which is the plans' spacing: nothing has to be resampled. nnU-Net runs with its own settings. It has
no command for members of several trainings, so each is predicted by a command of its own, as its documentation has it
for ensembles of configurations.

    python test/benchmark/inference.py --members 4
    python test/benchmark/inference.py --members 4 --mirroring
    python test/benchmark/inference.py --members 20 --extrapolate 2
    python test/benchmark/inference.py --network real --extrapolate 1
    python test/benchmark/inference.py --network real --windows-only 5

The row "one window" compares the networks' passes alone, alternately in one process: ours as it is loaded from the
bundle, and nnU-Net's module called as nnU-Net's predictor does, a window at a time.

``identical`` says whether the ensemble's probability is nnU-Net's but for the rim, where its float16 accumulators have
no digits left, and half a percent elsewhere: see ``docs/decisions/averaging-probabilities.md``.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np

from contract.card import load_card
from contract.files.atomic import write_json
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume

CARD = "cspca-picai"
DATASET = "Dataset001_benchmark"
PLANS = measure.PROJECT / "test" / "unit" / "network" / "tiny_plans.json"
Json = dict[str, Any]
SMALL: Json = {
    "n_stages": 5,
    "features_per_stage": [8, 16, 32, 64, 128],
    "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2, 2, 2],
    "n_conv_per_stage_decoder": [1, 1, 1, 1],
}
REAL: Json = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "n_conv_per_stage": [2, 2, 2, 2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2, 2, 2, 2],
}


@dataclass(frozen=True)
class Case:
    """Size of the study and of the networks' patch, (z, y, x) voxels of 3 × 0.5 × 0.5 mm."""

    size: tuple[int, int, int] = (20, 384, 384)
    patch: tuple[int, int, int] = (16, 160, 160)


QUICK = Case((16, 128, 128), (16, 96, 96))


def main(options: argparse.Namespace) -> None:
    """Measure both and report."""
    import torch  # noqa: PLC0415

    case = QUICK if options.quick else Case()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        members = 2 if options.quick else options.members
        network = REAL if options.network == "real" else SMALL
        bench = Bench(Path(folder), case, members=members, mirroring=options.mirroring, device=device, network=network)
        bench.write()
        own_pass, peer_pass, gap = bench.measure_window(
            1 if options.quick else options.windows_only or 3, options.threads
        )
        if options.windows_only:
            _report_windows(own_pass, peer_pass, gap, options)
            return
        ours = bench.measure_ours(options.threads)
        timed = 1 if options.quick else min(options.extrapolate or members, members)
        parts = [bench.measure_stock(member, options.threads) for member in range(timed)]
        joined = [bench.measure_stock_ensemble(timed, options.threads)] if timed > 1 else []
        per_member = measure.total(parts)
        factor = members / timed
        scaled = measure.Measured(per_member.cpu_s * factor, per_member.wall_s * factor, per_member.peak_mb)
        peer = measure.total([scaled, *joined])
        largest, inside, mean = bench.difference(timed)
    if timed < members:
        print(f"nnU-Net: {timed} of {members} members measured, the others extrapolated")
    print(f"one window: probabilities differ by at most {gap:.2g}")
    print(f"|dp|: at most {largest:.2g} (without the rim {inside:.2g}), on average {mean:.2g}")
    measure.report(
        "inference",
        ours=ours,
        peer=peer,
        peer_name="nnU-Net",
        identical=inside < 0.005,
        conditions={
            **measure.machine("torch", "nnunetv2", threads=options.threads),
            "device": device,
            "network": options.network,
            "members": members,
            "mirroring": options.mirroring,
            "size_zyx": case.size,
            "patch_zyx": case.patch,
            "nnunet_members_measured": timed,
            "largest_difference": round(largest, 6),
            "largest_difference_without_rim": round(inside, 6),
        },
        details=[("one window", own_pass, peer_pass), ("per member", measure.Measured(
            ours.cpu_s / members, ours.wall_s / members, ours.peak_mb
        ), measure.Measured(per_member.cpu_s / timed, per_member.wall_s / timed, per_member.peak_mb))],
    )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """The study and the networks, as both programs want them."""

    folder: Path
    case: Case
    members: int
    mirroring: bool
    device: str
    network: Json | None = None
    """The network's ``arch_kwargs`` in the plans; None: ``SMALL``."""

    def write(self) -> None:
        """Write networks and study for both."""
        import torch  # noqa: PLC0415
        from bundles import dataset_of  # noqa: PLC0415

        from network.model.architecture import build_network  # noqa: PLC0415

        plans, dataset = self._plans(), dataset_of(load_card(CARD))
        weights = []
        for seed in range(self.members):
            torch.manual_seed(seed)
            network = build_network(plans, dataset)
            for name, parameter in network.named_parameters():
                if "seg_layers" in name and name.endswith("weight"):
                    parameter.data *= 4
                if "seg_layers" in name and name.endswith("bias"):
                    parameter.data[1] -= 7  # lesions are rare
            weights.append(network.state_dict())
        self._write_study()
        self._write_results(plans, dataset, weights)
        self._write_bundle(plans, dataset, weights)

    def measure_window(self, rounds: int, threads: int) -> tuple[measure.Measured, measure.Measured, float]:
        """A window's pass through the first member, ours and nnU-Net's, and how far the probabilities differ."""
        import torch  # noqa: PLC0415

        from algorithm.prediction.bundle import load_network, read_bundle  # noqa: PLC0415
        from network.inference.sliding_window import windows_per_pass  # noqa: PLC0415
        from network.machine.malloc import freed_memory_kept  # noqa: PLC0415
        from network.model.architecture import build_network  # noqa: PLC0415
        from network.model.weights import load_weights  # noqa: PLC0415

        torch.set_num_threads(threads)
        device = torch.device(self.device)
        bundle = read_bundle(self.folder / "model")
        member = bundle.record.members[0]
        ours = load_network(bundle, member, device)
        peer = build_network(bundle.plans, bundle.dataset).eval()
        peer.load_state_dict(load_weights(bundle.folder / member.file))
        peer.to(device)
        count = windows_per_pass(device)
        patches = torch.randn(count, len(bundle.card.channels), *self.case.patch).to(device)
        times: list[tuple[measure.Measured, measure.Measured]] = []
        with torch.inference_mode():
            for _ in range(rounds + 1):  # the first is a warm-up
                with freed_memory_kept(), measure.clocked() as own:
                    logits = ours(patches).cpu()
                with measure.clocked() as theirs:
                    expected = peer(patches[:1]).cpu()
                times.append((
                    measure.Measured(own.cpu_s / count, own.wall_s / count, 0),
                    measure.Measured(theirs.cpu_s, theirs.wall_s, 0),
                ))  # fmt: skip
        times = times[1:]
        print("one window, CPU s:", ", ".join(f"{own.cpu_s:.3f} v {theirs.cpu_s:.3f}" for own, theirs in times))
        medians = [
            measure.Measured(
                *(statistics.median(getattr(each, what) for each in side) for what in ("cpu_s", "wall_s")), 0
            )
            for side in zip(*times, strict=True)
        ]
        return medians[0], medians[1], float((logits[:1].softmax(1) - expected.softmax(1)).abs().max())

    def measure_ours(self, threads: int) -> measure.Measured:
        """One command for all members."""
        options = [] if self.mirroring else ["--no-mirroring"]
        return measure.run(
            [sys.executable, "-m", "algorithm", "--input", self.folder / "input", "--output", self.folder / "output",
             "--model", self.folder / "model", "--threads", str(threads), *options],
            threads=threads,
        )  # fmt: skip

    def measure_stock(self, member: int, threads: int) -> measure.Measured:
        """One member's command."""
        options = [] if self.mirroring else ["--disable_tta"]
        return self._stock(
            ["nnUNetv2_predict", "-d", DATASET, "-c", "3d_fullres", "-f", str(member), "-i", self.folder / "images",
             "-o", self.folder / f"stock{member}", "--save_probabilities", "-device", self.device, *options],
            threads,
        )  # fmt: skip

    def measure_stock_ensemble(self, members: int, threads: int) -> measure.Measured:
        """The command that averages the members' probabilities."""
        folders = [self.folder / f"stock{member}" for member in range(members)]
        return self._stock(["nnUNetv2_ensemble", "-i", *folders, "-o", self.folder / "stock", "--save_npz"], threads)

    def difference(self, members: int) -> tuple[float, float, float]:
        """Between the averages of some members: the largest, the largest without the rim, and the mean."""
        from algorithm.prediction.bundle import read_bundle  # noqa: PLC0415
        from algorithm.prediction.options import PredictionOptions  # noqa: PLC0415
        from algorithm.prediction.predictor import load_predictor  # noqa: PLC0415

        bundle = read_bundle(self.folder / "model")
        some = bundle.record.members[:members]
        options = PredictionOptions(mirroring=self.mirroring, device=self.device)
        predictor = load_predictor(bundle, some, options, ensembles=[some])
        ours = np.asarray(predictor.predict(self.images(), name="case").ensemble(some).array)
        stock = self.folder / ("stock" if members > 1 else "stock0") / "case.npz"
        with np.load(stock) as file:
            gap = np.abs(ours - file["probabilities"][bundle.card.lesion_index].astype(np.float32))
        # Half a patch from the faces in plane: a voxel's weights there are those of windows' middles too.
        _, rows, columns = (length // 4 for length in self.case.patch)
        return float(gap.max()), float(gap[:, rows:-rows, columns:-columns].max()), float(gap.mean())

    def images(self) -> dict[str, Path]:
        """The study's image of each channel."""
        channels = load_card(CARD).channels
        return {each.name: self.folder / "input" / each.socket.relative_path / "case.mha" for each in channels}

    def _stock(self, command: list[str | Path], threads: int) -> measure.Measured:
        program = Path(sys.executable).parent / str(command[0])
        folders = {f"nnUNet_{each}": str(self.folder / f"nnunet_{each}") for each in ("raw", "preprocessed", "results")}
        return measure.run([program, *command[1:]], threads=threads, environment=folders, folder=self.folder)

    def _plans(self) -> Json:
        plans = json.loads(PLANS.read_text(encoding="utf-8"))
        configuration = plans["configurations"]["3d_fullres"]
        configuration |= {"spacing": [3.0, 0.5, 0.5], "patch_size": list(self.case.patch)}
        configuration["architecture"]["arch_kwargs"] |= self.network or SMALL
        return plans

    def _write_study(self) -> None:
        """Three channels of slow waves with little noise, so that few candidates come out of untrained networks."""
        rng = np.random.default_rng(0)
        z, y, x = np.meshgrid(*(np.linspace(0, 6, length) for length in self.case.size), indexing="ij")
        depth, height, width = self.case.size
        grid = Grid((width, height, depth), (0.5, 0.5, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        for number, channel in enumerate(load_card(CARD).channels):
            wave = 2 + np.sin(x + number) * np.cos(y) + 0.5 * np.sin(z)
            noisy = (300 * wave + rng.normal(scale=1, size=wave.shape)).clip(1).astype(np.float32)
            for path in (
                self.folder / "images" / f"case_{number:04d}.mha",
                self.folder / "input" / channel.socket.relative_path / "case.mha",
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_volume(path, Volume(noisy, grid))

    def _write_results(self, plans: Json, dataset: Json, weights: list[Json]) -> None:
        """nnU-Net's folder of finished trainings, one fold per member."""
        import torch  # noqa: PLC0415

        model = self.folder / "nnunet_results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        for member, each in enumerate(weights):
            checkpoint = {
                "network_weights": each,
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "3d_fullres"},
                "inference_allowed_mirroring_axes": (0, 1, 2),
            }
            fold = model / f"fold_{member}"
            fold.mkdir(parents=True)
            torch.save(checkpoint, fold / "checkpoint_final.pth")
        write_json(model / "plans.json", plans)
        write_json(model / "dataset.json", dataset)

    def _write_bundle(self, plans: Json, dataset: Json, weights: list[Json]) -> None:
        from bundles import write_bundle, write_member  # noqa: PLC0415

        folder, card = self.folder / "model", load_card(CARD)
        members = [
            write_member(folder, card, each, number, configuration="benchmark", restart=number + 1)
            for number, each in enumerate(weights)
        ]
        write_bundle(folder, card, plans, dataset, members)


def _report_windows(ours: measure.Measured, peer: measure.Measured, gap: float, options: argparse.Namespace) -> None:
    print(f"probabilities differ by at most {gap:.2g}")
    measure.report(
        "inference, one window",
        ours=ours,
        peer=peer,
        peer_name="nnU-Net",
        identical=gap < 1e-4,
        conditions={
            **measure.machine("torch", "nnunetv2", threads=options.threads),
            "network": options.network,
            "rounds": options.windows_only,
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=4, help="networks of the ensemble; default: 4")
    parser.add_argument("--network", choices=["small", "real"], default="small", help="1.2 or 30.3 million parameters")
    parser.add_argument("--windows-only", type=int, metavar="N", help="no commands, only N passes of a window by each")
    parser.add_argument("--mirroring", action="store_true", help="average over the eight mirrored copies")
    parser.add_argument("--threads", type=int, default=1, help="threads of both; default: 1")
    parser.add_argument("--extrapolate", type=int, metavar="N", help="measure nnU-Net for N members only, and multiply")
    return parser


if __name__ == "__main__":
    sys.exit(measure.main(main, parser=_parser()))
