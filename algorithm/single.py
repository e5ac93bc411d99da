"""One study, as the platform asks for it: the sockets in ``/input`` to the sockets in ``/output``."""

import logging
from pathlib import Path

from algorithm.outputs.study_output import StudyOutput, detect, write_study
from algorithm.prediction.bundle import read_bundle
from algorithm.prediction.options import DEFAULTS, PredictionOptions
from algorithm.prediction.predictor import LEANER, Predictor, load_predictor, remark_on_precision
from contract.batch_layout import study_files
from contract.images.volume import image_stem
from contract.outputs import Output, require_apart
from contract.sockets import find_channels
from network.machine.device import memory_or_refuse

logger = logging.getLogger(__name__)


def predict_single(
    *,
    input_folder: Path,
    output_folder: Path,
    model: Path,
    options: PredictionOptions = DEFAULTS,
) -> StudyOutput:
    """Predict the study in ``/input`` with all members and write its outputs.

    Raises ``OncoduetError``: the bundle or the study is wrong, or files not written by oncoduet bear an output's name;
    nothing was written.
    """
    require_apart(output_folder, input=input_folder, model=model)
    predictor = load_model(model, options)
    return predict_study(predictor, input_folder=input_folder, output_folder=output_folder)


def load_model(model: Path, options: PredictionOptions = DEFAULTS) -> Predictor:
    """Verify a bundle and load all its members, which predict as one ensemble.

    Raises ``OncoduetError``: the bundle is wrong.
    """
    bundle = read_bundle(model)
    logger.info("bundle %s: card %s, %d members", model, bundle.card.name, len(bundle.record.members))
    predictor = load_predictor(bundle, bundle.record.members, options, ensembles=[bundle.record.members])
    remark_on_precision(predictor)
    return predictor


def predict_study(predictor: Predictor, *, input_folder: Path, output_folder: Path) -> StudyOutput:
    """Predict the study in ``/input`` with a loaded predictor and write its outputs.

    Raises ``OncoduetError``: the study is wrong, there is too little memory for it, or files not written by oncoduet
    bear an output's name; nothing was written.
    """
    card = predictor.bundle.card
    require_apart(output_folder, input=input_folder, model=predictor.bundle.folder)
    channels = find_channels(input_folder, card)
    name = image_stem(channels[card.geometry.reference])
    place = Output(output_folder, "algorithm", study_files(card, name), identity={}, on_platform=True)
    with place.staged() as stage:
        with memory_or_refuse(f"study {name}", remedy=LEANER):
            probability = predictor.predict(channels, name=name).ensemble(predictor.members)
            output = detect(card, probability, predictor.box_rule(predictor.members))
        write_study(stage, card, output, name=name)
    logger.info("study %s: likelihood %.4f, %d candidates", name, output.likelihood, output.candidates)
    return output
