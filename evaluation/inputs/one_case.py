"""One case of a run as it is scored: with its detection map, or the likelihood of a model without maps."""

from collections.abc import Callable
from functools import partial

import numpy as np

from evaluation.inputs.predictions import PredictionSet
from evaluation.inputs.truth import TruthFolder
from evaluation.masks.components import connect
from evaluation.matching.cases import (
    Case,
    LesionTruth,
    MatchingRule,
    PredictionFiles,
    read_case,
    read_case_as_picai_eval,
)


def read_one(
    run: PredictionSet, truth: TruthFolder, case_id: str, *, picai_only: bool = False
) -> tuple[Case, LesionTruth]:
    """One case of a run as it is scored, and its truth. Raises ``OncoduetError`` where either cannot be scored."""
    known = truth.case(case_id, MatchingRule.of(run.card))
    return read_with(run, known, case_id, picai_only=picai_only), known


def read_with(run: PredictionSet, known: LesionTruth, case_id: str, *, picai_only: bool) -> Case:
    """One case of a run as it is scored. Raises ``OncoduetError`` where it cannot be scored."""
    if run.likelihoods is not None:
        return _case_of_likelihood(run.likelihoods.get(case_id, 0.0), known)
    strictly = partial(read_case, most_candidates=MatchingRule.of(run.card).most_candidates)
    return _case(run.predictions.get(case_id), known, read_case_as_picai_eval if picai_only else strictly)


def _case(
    prediction: PredictionFiles | None, truth: LesionTruth, read: Callable[[PredictionFiles, LesionTruth], Case]
) -> Case:
    if prediction is not None:
        return read(prediction, truth)
    return _case_of_likelihood(0.0, truth)


def _case_of_likelihood(likelihood: float, truth: LesionTruth) -> Case:
    """A case without candidates."""
    nothing = connect(np.zeros(0, dtype=np.int64), truth.grid.shape_zyx)
    return Case(truth.lesions, nothing, np.zeros(0), np.float32(likelihood), likelihood)
