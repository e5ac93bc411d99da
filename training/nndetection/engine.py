"""Upstream nnDetection as an engine: its own programs train, and predict, since its models are pickles."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import OncoduetError
from contract.files.reading import sha256_file
from contract.records import CheckpointPolicy, RunRecord
from network.machine.device import Device, Kind, machine_gpu
from training.configuration import UpstreamConfiguration
from training.dataset.archive_stamps import reachable_archive
from training.engine import Engine, HashedFile, Trained, TrainingContext
from training.nndetection import PARENT
from training.nndetection.run_files import NEEDED, REPORTS, model_folder, model_record, steps_file, work_folder
from training.run_folder.folder import RunFolder
from training.run_identity import RunIdentity

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
    """Why it needs the archive: it preprocesses by itself."""
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

    def require_machine(self, run: RunIdentity, device: Kind) -> None:
        """Nothing: of a profile only the name counts."""

    def keep(self, run: RunIdentity) -> CheckpointPolicy:
        """Always its last, averaged ones."""
        return "final"

    def require_step(self, run: RunIdentity, folder: RunFolder) -> None:
        """Raise ``OncoduetError`` unless its training has a step to resume from."""
        if not steps_file(folder).is_file():
            raise OncoduetError(steps_file(folder), "no step of nnDetection to resume from")

    def steps(self, run: RunIdentity, context: TrainingContext) -> Generator[None, None, Trained]:
        """Train with its programs; see :func:`training.nndetection.training.steps`."""
        from training.nndetection import training as upstream  # noqa: PLC0415 - imports torch

        return upstream.steps(run, context, archive=reachable_archive(run.prepared, context.archive, purpose=NEED))

    def finish(
        self, run: RunIdentity, context: TrainingContext, weights: "dict[str, torch.Tensor] | None"
    ) -> Mapping[str, str]:
        """The record that names its model's files."""
        return {PARENT: sha256_file(model_record(context.folder))}

    def written(self, folder: RunFolder) -> Sequence[Path]:
        """The model and its record."""
        return [model_record(folder), *(model_folder(folder) / name for name in (*NEEDED, *REPORTS))]

    def programs_folder(self, folder: RunFolder) -> Path:
        """Data and models while it is trained."""
        return work_folder(folder)

    def model_files(self, folder: RunFolder, record: RunRecord) -> Iterator[HashedFile]:
        """``nndetection.json``, and what it names."""
        from training.nndetection.model import model_files  # noqa: PLC0415 - imports torch

        path = model_record(folder)
        yield path, record.parents[PARENT], partial(sha256_file, path)
        for path, sha256 in model_files(folder):
            yield path, sha256, partial(sha256_file, path)

    def predict(self, folder: RunFolder, *, archive: Path, output: Path) -> int:
        """Predict; see :func:`training.nndetection.prediction.predict`."""
        from training.nndetection.prediction import predict  # noqa: PLC0415 - imports torch

        return predict(folder, archive=archive, output=output)


ENGINE = NnDetection()
