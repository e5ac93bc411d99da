"""Many studies in one pass: every member predicts a study once, for all the ensembles that were asked for.

Each ensemble gets a folder that the evaluation reads as its ``/input``: ``<case_id>/output/…`` per study,
``predictions.json``, ``source.json`` and ``card.toml``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from algorithm.bundle import read_bundle
from algorithm.ensembles import choose_ensembles, ensemble_source
from algorithm.outputs import detect, write_listing, write_study
from algorithm.prediction import load_predictor
from algorithm.progress import Track
from contract.archive import archive_licence, find_studies
from contract.files import staged_folder
from network.sliding_window import Precision

logger = logging.getLogger(__name__)


def predict_batch(
    *,
    archive: Path,
    output: Path,
    model: Path,
    members: Sequence[str],
    mirroring: bool | None,
    track: Track,
    precision: Precision = "fp32",
    memory_gb: float | None = None,
) -> None:
    """Predict every study of an archive with every ensemble.

    Parameters
    ----------
    members
        Words of ``--members``, see ``algorithm.ensembles``.
    mirroring
        None: as the card says.
    precision
        Of the networks' arithmetic.
    memory_gb
        What the process may take, in GB; None: what its container, its limits and the machine leave to it.

    Raises
    ------
    OncoduetError
        The bundle, the archive or one study is wrong; nothing was written.
    """
    bundle = read_bundle(model)
    ensembles = choose_ensembles(bundle, members)
    studies = find_studies(archive, bundle.card, labels_required=False)
    licence = archive_licence(archive)
    needed = {member.name for ensemble in ensembles for member in ensemble.members}
    predictor = load_predictor(
        bundle,
        [member for member in bundle.record.members if member.name in needed],
        mirroring=mirroring,
        ensembles=[ensemble.members for ensemble in ensembles],
        precision=precision,
        memory_gb=memory_gb,
    )
    logger.info("%d studies, %d members, %d predictions each", len(studies), len(needed), len(ensembles))
    card_text = (bundle.folder / "card.toml").read_text(encoding="utf-8")
    with staged_folder(output) as stage:
        for study in track(studies):
            prediction = predictor.predict(study.channels, name=study.case_id)
            for ensemble in ensembles:
                found = detect(bundle.card, prediction.ensemble(ensemble.members))
                write_study(stage / ensemble.folder / study.case_id / "output", bundle.card, found, name=study.case_id)
        for ensemble in ensembles:
            write_listing(
                stage / ensemble.folder,
                bundle.card,
                card_text,
                [study.case_id for study in studies],
                ensemble_source(bundle, ensemble, archive_licence=licence),
            )
