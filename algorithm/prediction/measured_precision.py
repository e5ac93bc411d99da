"""``MODEL.precision.json``, next to a bundle: how far its predictions in each precision are from those in float32.

``python -m algorithm precision`` writes it (:mod:`algorithm.precision`). A bundle's own files are sealed by their
hashes, so the record is kept next to them and names the bundle by its hash.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from algorithm.prediction.bundle import Bundle
from contract.errors import OncoduetError
from contract.records import Record, read_record
from contract.schema import Count, Frozen
from network.machine.device import Precision

logger = logging.getLogger(__name__)

Change = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class MeasuredError(Frozen):
    """What differs from float32 in the ensemble of all members, over all studies that were measured."""

    largest: Change
    """Greatest change of a voxel's lesion probability."""
    mean: Change
    """Mean change of a voxel's lesion probability."""
    likelihood: Change
    """Greatest change of a case's likelihood."""
    seconds_per_study: Seconds


class PrecisionRecord(Record):
    """``MODEL.precision.json``; ``parents`` has the bundle's hash."""

    device: str
    """On which it was measured: name and software."""
    studies: Count
    mirroring: bool
    fp32_seconds_per_study: Seconds
    errors: Mapping[Precision, MeasuredError]


def default_record(model: Path) -> Path:
    """Where the record of a bundle is."""
    model = model.resolve()
    return model.with_name(f"{model.name}.precision.json")


def log_error(bundle: Bundle, precision: Precision) -> None:
    """Say in one line how far this bundle's predictions in a precision are from those in float32, as far as known."""
    if precision == "fp32":
        return
    path = default_record(bundle.folder)
    with suppress(OncoduetError):  # advice; a record that cannot be read is none
        record = read_record(path, PrecisionRecord) if path.is_file() else None
        error = record.errors.get(precision) if record else None
        if record and error and record.parents.get("bundle") == bundle.sha256:
            logger.info(
                "%s differs from fp32 by at most %.2g, on average %.2g, in a voxel's probability and by at most %.2g "
                "in a case's likelihood: %d studies on %s (%s)",
                *(precision, error.largest, error.mean, error.likelihood, record.studies, record.device, path),
            )
            return
    logger.info("%s: its error against fp32 is not known for this bundle; python -m algorithm precision", precision)
