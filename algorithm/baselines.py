"""Voxel-wise baselines without any learning, which a network has to beat: one channel's extreme value.

The card gives the channel and a typical value ``s``. An intensity ``v`` becomes ``v / (v + s)`` where the maximum is
suspicious and ``s / (v + s)`` where the minimum is. Nothing was measured where ``v`` is 0 or less (air around the
patient, masked background), so the probability is 0 there. It is computed on the channel's own grid, brought to the
reference grid once, kept where a network's prediction is kept, and goes through the same candidates.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from algorithm.outputs.study_output import detect, write_study
from contract.archive.duplicates import say_alike
from contract.archive.studies import Study, archive_licence, find_studies
from contract.batch_layout import LISTING_FILES, PREDICTIONS, study_files, write_listing
from contract.card import Baseline, Card, card_path, load_card
from contract.errors import OncoduetError
from contract.files.reading import sha256_file, sha256_json
from contract.images.volume import Float32Array, Volume, read_grid, read_volume, resample
from contract.outputs import Output, require_apart, require_folder, require_unowned, subfolder
from contract.process.progress import Track
from contract.records import Source
from network.study.placement import Placement
from network.study.scan import content_sha256

COMMAND = "algorithm baseline"


def predict_baselines(*, archive: Path, card_name: str, output: Path, track: Track) -> None:
    """Write a folder like a batch's for every baseline of a card.

    Raises ``OncoduetError``: the card names no baseline, the archive or one study is wrong, or the output holds files
    not written by oncoduet, or of other studies; nothing was written.
    """
    require_apart(output, archive=archive)
    require_folder(output)
    require_unowned(output, COMMAND)
    card = load_card(card_name)
    if not card.baselines:
        raise OncoduetError(f"card {card.name!r}", "names no baseline")
    studies = find_studies(archive, card, labels_required=False)
    licence = archive_licence(archive)
    card_text = card_path(card_name).read_text(encoding="utf-8")
    case_ids = [study.case_id for study in studies]
    files = [f"{case_id}/output/{file}" for case_id in case_ids for file in study_files(card, case_id)]
    contents = sha256_json({study.case_id: _used(card, study) for study in studies})
    places = {
        baseline: Output(
            subfolder(output, baseline.name),
            COMMAND,
            [*LISTING_FILES, *files],
            identity={"card": card.sha256, "studies": contents, "licence": licence},
            record=PREDICTIONS,
        )
        for baseline in card.baselines
    }
    for place in places.values():
        place.check()
    with ExitStack() as stages:
        stage = {baseline: stages.enter_context(place.staged()) for baseline, place in places.items()}
        images: dict[str, str] = {}
        for study in track(studies):
            images[study.case_id] = content_sha256(read_volume(study.channels[card.geometry.reference]))
            for baseline in card.baselines:
                found = detect(card, baseline_probability(card, baseline, study))
                write_study(stage[baseline] / study.case_id / "output", card, found, name=study.case_id)
        say_alike(archive, images, "studies {} and {} are the same image")
        for baseline in card.baselines:
            source = baseline_source(card, baseline, archive_licence=licence)
            write_listing(stage[baseline], card, card_text, case_ids, source)


def baseline_probability(card: Card, baseline: Baseline, study: Study) -> Volume:
    """Suspicion of every voxel by one channel, on the reference grid."""
    reference = read_grid(study.channels[card.geometry.reference])
    channel = read_volume(study.channels[baseline.channel])
    suspicion = Volume(_suspicion(baseline, np.asarray(channel.array, np.float32)), channel.grid)
    on_reference = resample(suspicion, reference, interpolation="linear", outside=0.0)
    kept = np.where(Placement.of(card, reference).kept_region(), on_reference.array, 0.0)
    return Volume(kept.astype(np.float32), reference)


def baseline_source(card: Card, baseline: Baseline, *, archive_licence: str) -> Source:
    """``source.json`` of a baseline's predictions: no runs, and so no fold, restart or profile."""
    return Source(
        parents={"card": card.sha256},
        card=card.name,
        card_sha256=card.sha256,
        configuration=baseline.name,
        fold=None,
        restart=None,
        profile="none",
        runs=(),
        bundle_sha256=None,
        trained_on=(),
        data_licence=archive_licence,
    )


def _used(card: Card, study: Study) -> dict[str, str]:
    """Hashes of the images that baselines are made from, by channel."""
    names = {card.geometry.reference, *(baseline.channel for baseline in card.baselines)}
    return {name: sha256_file(study.channels[name]) for name in sorted(names)}


def _suspicion(baseline: Baseline, intensity: Float32Array) -> Float32Array:
    measured = intensity > 0
    value = np.where(measured, intensity, 1.0).astype(np.float64)
    share = value / (value + baseline.scale)
    return np.where(measured, share if baseline.extreme == "maximum" else 1.0 - share, 0.0).astype(np.float32)
