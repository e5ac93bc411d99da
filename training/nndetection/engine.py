"""Upstream nnDetection as an engine: its own programs train, and predict, since its models are pickles."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import OncoduetError
from contract.files.reading import sha256_file
from contract.records import CheckpointPolicy, RunRecord
from network.device import Device, Kind, machine_gpu
from training.configuration import UpstreamConfiguration
from training.dataset.archive_stamps import reachable_archive
from training.engine import Engine, HashedFile, Run, Trained, Workplace
from training.nndetection import PARENT
from training.run_folder.folder import RunFolder

if TYPE_CHECKING:
    import torch

NEED = "nnDetection gets its images"


class NnDetection(Engine):
    """What a run of upstream nnDetection has of its own: nearly all."""

    title = "nnDetection"
    configuration = UpstreamConfiguration
    mark = PARENT
    counts_epochs = False
    archive_need = NEED
    """It preprocesses by itself."""
    model = "nndetection"
    no_bundle = (
        "expected a run with weights for a bundle, found one of nnDetection, whose models are pickles; "
        "python -m training predict predicts with it"
    )

    def choose_device(self, wanted: Device) -> tuple[Kind, str]:
        """What nnDetection, whose environment and torch are its own, will find; the record's is by ours."""
        import torch  # noqa: PLC0415 - takes seconds to import

        gpu = machine_gpu()
        there = f"{gpu.name}, driver {gpu.driver}" if gpu else "no GPU"
        kind: Kind = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
        return kind, f"device: nnDetection's own torch decides; the machine has {there}"

    def require_machine(self, run: Run, device: Kind) -> None:
        """Nothing: of a profile only the name counts."""

    def keep(self, run: Run) -> CheckpointPolicy:
        """Always its last, averaged ones."""
        return "final"

    def require_step(self, run: Run, folder: RunFolder) -> None:
        """Raise ``OncoduetError`` unless its training has a step to resume from."""
        if not folder.upstream_steps.is_file():
            raise OncoduetError(folder.upstream_steps, "no step of nnDetection to resume from")

    def steps(self, run: Run, place: Workplace) -> Generator[None, None, Trained]:
        """Have its programs train; see :func:`training.nndetection.training.steps`."""
        from training.nndetection import training as upstream  # noqa: PLC0415 - imports torch

        return upstream.steps(run, place, archive=reachable_archive(run.prepared, place.archive, purpose=NEED))

    def finish(self, run: Run, place: Workplace, weights: "dict[str, torch.Tensor] | None") -> Mapping[str, str]:
        """The record that names its model's files."""
        return {PARENT: sha256_file(place.folder.nndetection_record)}

    def written(self, folder: RunFolder) -> Sequence[Path]:
        """Its model."""
        from training.nndetection.model import NEEDED, REPORTS  # noqa: PLC0415 - imports torch

        return [folder.nndetection / name for name in (*NEEDED, *REPORTS)]

    def model_files(self, folder: RunFolder, record: RunRecord) -> Iterator[HashedFile]:
        """``nndetection.json``, and what it names."""
        from training.nndetection.model import model_files  # noqa: PLC0415 - imports torch

        path = folder.nndetection_record
        yield path, record.parents[PARENT], partial(sha256_file, path)
        for path, sha256 in model_files(folder):
            yield path, sha256, partial(sha256_file, path)

    def predict(self, folder: RunFolder, *, archive: Path, output: Path) -> int:
        """Predict; see :func:`training.nndetection.prediction.predict`."""
        from training.nndetection.prediction import predict  # noqa: PLC0415 - imports torch

        return predict(folder, archive=archive, output=output)


ENGINE = NnDetection()
