"""How far a bundle's predictions in other precisions are from those in float32, measured once, on request.

Whole studies are predicted by all members in float32 and in each other precision that the device computes in by itself.
What differs is the ensemble's lesion probability, voxel by voxel, and the likelihood of the case.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from algorithm.outputs.study_output import detect
from algorithm.prediction.bundle import Bundle, read_bundle
from algorithm.prediction.measured_precision import MeasuredError, PrecisionRecord, default_record
from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.predictor import LEANER, Predictor, load_predictor
from contract.archive.studies import Study, find_studies
from contract.file_stamps import glance
from contract.images.volume import Float32Array
from contract.outputs import file_output, require_apart
from contract.process.progress import Track
from contract.records import write_record
from network.machine.device import Precision, memory_or_refuse
from network.machine.precision import native_precisions

logger = logging.getLogger(__name__)

COMMAND = "algorithm precision"


@dataclass
class _Sums:
    """What was found so far in one precision."""

    largest: float = 0.0
    means: list[float] = field(default_factory=list)
    likelihood: float = 0.0
    seconds: float = 0.0


def measure_precision(
    *,
    archive: Path,
    model: Path,
    output: Path | None,
    studies: int,
    device: str,
    options: PredictionOptions,
    track: Track,
) -> PrecisionRecord:
    """Predict studies in every precision of the device, compare, and write the record.

    Raises ``OncoduetError``: the bundle or a study is wrong, or another file has the record's name, even the record of
    other studies or settings; nothing was written.

    Parameters
    ----------
    output
        Of the record; None: where predictions look for it, next to the bundle.
    studies
        How many of the archive's, the first by name.
    device
        Its name and software.
    """
    bundle = read_bundle(model)
    path = output or default_record(model)
    require_apart(path, archive=archive, model_bundle=model)
    chosen = find_studies(archive, bundle.card, labels_required=False)[:studies]
    place = file_output(
        path,
        COMMAND,
        bundle=bundle.sha256,
        studies=glance(archive, [image for study in chosen for image in study.channels.values()]),
        mirroring=options.mirrors(bundle.card),
        device=device,
    )
    with place.staged() as stage:
        record = _measured(bundle, chosen, device=device, options=options, track=track)
        write_record(stage / path.name, record)
    for precision, error in record.errors.items():
        logger.info(
            "%s: at most %.2g, on average %.2g in a voxel's probability, at most %.2g in a case's likelihood; %.1f s "
            "per study (fp32 %.1f s)",
            *(precision, error.largest, error.mean, error.likelihood, error.seconds_per_study),
            record.fp32_seconds_per_study,
        )
    return record


def _measured(
    bundle: Bundle, chosen: Sequence[Study], *, device: str, options: PredictionOptions, track: Track
) -> PrecisionRecord:
    """The record of a bundle."""
    members = bundle.record.members
    predictor = load_predictor(bundle, members, options, ensembles=[members])
    sums = {precision: _Sums() for precision in native_precisions(options.device)}
    for study in track(chosen):
        _measure(predictor, study, sums)
    errors = {
        precision: MeasuredError(
            largest=each.largest,
            mean=float(np.mean(each.means)),
            likelihood=each.likelihood,
            seconds_per_study=round(each.seconds / len(chosen), 3),
        )
        for precision, each in sums.items()
    }
    return PrecisionRecord(
        parents={"bundle": bundle.sha256},
        device=device,
        studies=len(chosen),
        mirroring=predictor.mirroring,
        fp32_seconds_per_study=errors.pop("fp32").seconds_per_study,
        errors=errors,
    )


def _measure(predictor: Predictor, study: Study, sums: Mapping[Precision, _Sums]) -> None:
    """Predict one study in each precision, fp32 first."""
    card, rule = predictor.bundle.card, predictor.box_rule(predictor.members)
    exact: Float32Array | None = None
    exact_likelihood = 0.0
    for precision, found in sums.items():
        begun = time.monotonic()
        one = replace(predictor, options=replace(predictor.options, precision=precision))
        with memory_or_refuse(f"study {study.case_id}", remedy=LEANER):
            probability = one.predict(study.channels, name=study.case_id).ensemble(predictor.members)
            likelihood = detect(card, probability, rule).likelihood
        found.seconds += time.monotonic() - begun
        if exact is None:
            exact, exact_likelihood = np.asarray(probability.array, np.float32), likelihood
        change = np.abs(np.asarray(probability.array, np.float32) - exact)
        found.largest = max(found.largest, float(change.max()))
        found.means.append(float(change.mean(dtype=np.float64)))
        found.likelihood = max(found.likelihood, abs(likelihood - exact_likelihood))
