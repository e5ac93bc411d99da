"""Which members of a bundle are averaged together: the words of ``--members``.

=====================  =============================================================================================
``all``                one ensemble of all members
``four``               one ensemble per (fold, restart), of one network per configuration that segments
``control``            per such configuration and fold, four runs of that configuration: as many as ``four`` has where
                       there are four configurations, so that its gain can be distinguished from that of mere number
``each``               every member for itself
a member's name        that member
a configuration        one ensemble of all its members
=====================  =============================================================================================

Networks that find boxes count for ``all``, ``each`` and by name: ``four`` and ``control`` ask what several losses of
one network are worth.

A control is four runs of one configuration. A fold in which the configuration has at least four restarts gives one
control, of the fold's four lowest restarts. The runs of all other folds are taken together, ordered by restart and then
by fold: the first four give one more, where there are four. So no two controls share a run. A configuration with fewer
than four runs in all is refused.

An ensemble with networks that find boxes is predicted for each choice of what boxes paint and how a case is scored,
where several are asked for; each in a folder of its name, such as ``ellipsoid_noisy-or``, below the ensemble's own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from algorithm.prediction.bundle import Bundle
from algorithm.prediction.detectors import AS_IN_RULES, BoxChoice
from algorithm.prediction.options import DEFAULTS, PredictionOptions
from contract.errors import OncoduetError, UsageError
from contract.files.reading import sha256_json
from contract.records import Member, Source

ALL, FOUR, EACH, CONTROL = "all", "four", "each", "control"
CONTROL_SIZE = 4


@dataclass(frozen=True)
class Ensemble:
    """Members whose probabilities are averaged; a single one is allowed."""

    name: str
    configuration: str
    """Name in ``source.json``: the configuration of a single member, ``ensemble-…`` or ``control-…``."""
    members: tuple[Member, ...]
    folder: str
    """Folder of its predictions below the output; ``.`` for the output itself."""
    choice: BoxChoice = AS_IN_RULES
    """How the boxes of its members become a map and a likelihood."""


def choose_ensembles(
    bundle: Bundle, words: Sequence[str], choices: Sequence[BoxChoice] = (AS_IN_RULES,)
) -> list[Ensemble]:
    """Turn the words of ``--members`` into ensembles.

    Parameters
    ----------
    choices
        How boxes become maps and likelihoods, all different.

    Raises
    ------
    UsageError
        A word is neither a choice nor a member nor a configuration, or is given twice.
    OncoduetError
        ``four`` cannot pair the members, ``control`` finds too few of a configuration, an ensemble would mix
        profiles, or a choice is given for boxes that no member finds.
    """
    if len(set(words)) != len(words):
        raise UsageError("--members", f"duplicate word in {' '.join(words)}")
    chosen = [ensemble for word in words for ensemble in _chosen(bundle, word, alone=len(words) == 1)]
    folders = [ensemble.folder for ensemble in chosen]
    if len(set(folders)) != len(folders):
        raise UsageError("--members", f"the same prediction twice in {' '.join(words)}")
    for ensemble in chosen:
        profiles = sorted({member.key.profile for member in ensemble.members})
        if len(profiles) > 1:
            raise OncoduetError(ensemble.name, expected="members of one profile", found=", ".join(profiles))
    if not any(map(_finds_boxes, chosen)) and tuple(choices) != (AS_IN_RULES,):
        raise OncoduetError(
            bundle.folder, f"no member of {' '.join(words)} finds boxes, which --fill and --case-score need"
        )
    return [each for ensemble in chosen for each in _with_choices(ensemble, choices)]


def ensemble_settings(bundle: Bundle, ensemble: Ensemble, options: PredictionOptions) -> dict[str, bool | str]:
    """What decides an ensemble's predictions apart from its networks; of boxes only what was chosen against rules."""
    chosen = {"--fill": ensemble.choice.fill, "--case-score": ensemble.choice.case_score}
    return {
        "mirroring": options.mirrors(bundle.card),
        "precision": options.precision,
        "candidate rule": bundle.card.candidates.rule,
        **{option: word for option, word in chosen.items() if word},
    }


def method_sha256(bundle: Bundle, ensemble: Ensemble, options: PredictionOptions = DEFAULTS) -> str:
    """Hash of what predicts a study; equal for two ensembles of the same networks."""
    runs = [member.run_sha256 for member in ensemble.members]
    return sha256_json([bundle.sha256, runs, ensemble_settings(bundle, ensemble, options)])


def ensemble_source(
    bundle: Bundle,
    ensemble: Ensemble,
    *,
    archive_licence: str,
    trained_on: tuple[str, ...] | None,
    options: PredictionOptions = DEFAULTS,
) -> Source:
    """``source.json`` of an ensemble's predictions on an archive; ``trained_on`` as there."""
    folds = {member.key.fold for member in ensemble.members}
    restarts = {member.key.restart for member in ensemble.members}
    licences = {bundle.record.data_licence, archive_licence}
    datasets = {member.prepared_sha256 for member in ensemble.members}
    return Source(
        parents={"bundle": bundle.sha256},
        card=bundle.record.card,
        card_sha256=bundle.record.card_sha256,
        configuration=ensemble.configuration,
        fold=folds.pop() if len(folds) == 1 else None,
        restart=restarts.pop() if len(restarts) == 1 else None,
        profile=ensemble.members[0].key.profile,
        runs=tuple(member.run_sha256 for member in ensemble.members),
        bundle_sha256=bundle.sha256,
        data_licence=" AND ".join(sorted(licences)),
        trained_on=trained_on,
        settings=ensemble_settings(bundle, ensemble, options),
        prepared_sha256=datasets.pop() if len(datasets) == 1 else None,
        method_sha256=method_sha256(bundle, ensemble, options),
    )


def _finds_boxes(ensemble: Ensemble) -> bool:
    return any(member.anchors_file is not None for member in ensemble.members)


def _with_choices(ensemble: Ensemble, choices: Sequence[BoxChoice]) -> list[Ensemble]:
    """An ensemble once for each choice; without boxes there is nothing to choose."""
    if not _finds_boxes(ensemble):
        return [ensemble]
    if len(choices) == 1:
        return [replace(ensemble, choice=choices[0])]
    return [
        replace(ensemble, choice=choice, folder=str(PurePosixPath(ensemble.folder) / str(choice))) for choice in choices
    ]


def _chosen(bundle: Bundle, word: str, *, alone: bool) -> list[Ensemble]:
    members = bundle.record.members
    if word == ALL:
        return [Ensemble("ensemble-all", "ensemble-all", members, ".")]
    if word == EACH:
        return [Ensemble(each.name, each.key.configuration, (each,), each.name) for each in members]
    if word == FOUR:
        return _fours(bundle)
    if word == CONTROL:
        return _controls(bundle)
    named = tuple(each for each in members if word in (each.name, each.key.configuration))
    if not named:
        known = [*sorted({each.key.configuration for each in members}), *(each.name for each in members)]
        raise UsageError(f"--members {word}", expected=f"one of {', '.join([ALL, FOUR, EACH, CONTROL, *known])}")
    if len(named) == 1:
        name, configuration = named[0].name, named[0].key.configuration
    else:
        name = configuration = f"ensemble-{word}"
    return [Ensemble(name, configuration, named, "." if alone else name)]


def _fours(bundle: Bundle) -> list[Ensemble]:
    """One ensemble per (fold, restart), of one network per configuration."""
    configurations = sorted({member.key.configuration for member in _segmenting(bundle)})
    if len(configurations) <= 1:
        found = f"{configurations[0]} alone" if configurations else "none that segments"
        raise OncoduetError(bundle.folder, expected="several configurations to pair", found=found)
    paired: dict[tuple[int, int], dict[str, Member]] = {}
    for member in _segmenting(bundle):
        paired.setdefault((member.key.fold, member.key.restart), {})[member.key.configuration] = member
    ensembles = []
    for (fold, restart), by_configuration in sorted(paired.items()):
        missing = [each for each in configurations if each not in by_configuration]
        if missing:
            raise OncoduetError(bundle.folder, f"no {', '.join(missing)} for fold {fold}, restart {restart}")
        name = f"ensemble-four_fold{fold}_restart{restart}"
        ensembles.append(
            Ensemble(name, "ensemble-four", tuple(by_configuration[each] for each in configurations), name)
        )
    return ensembles


def _segmenting(bundle: Bundle) -> list[Member]:
    return [member for member in bundle.record.members if member.anchors_file is None]


def _controls(bundle: Bundle) -> list[Ensemble]:
    """Four runs of one configuration, of one fold where it has enough."""
    by_configuration: dict[str, list[Member]] = {}
    for member in sorted(_segmenting(bundle), key=lambda each: (each.key.restart, each.key.fold)):
        by_configuration.setdefault(member.key.configuration, []).append(member)
    ensembles = []
    for configuration, members in sorted(by_configuration.items()):
        if len(members) < CONTROL_SIZE:
            raise OncoduetError(
                bundle.folder,
                expected=f"at least {CONTROL_SIZE} runs of the configuration {configuration} for its control",
                found=len(members),
            )
        per_fold = Counter(member.key.fold for member in members)
        enough = sorted(fold for fold, count in per_fold.items() if count >= CONTROL_SIZE)
        groups = {f"_fold{fold}": [each for each in members if each.key.fold == fold] for fold in enough}
        groups[""] = [each for each in members if each.key.fold not in enough]
        for suffix, group in groups.items():
            if len(group) >= CONTROL_SIZE:
                name = f"control-{configuration}"
                ensembles.append(Ensemble(name + suffix, name, tuple(group[:CONTROL_SIZE]), name + suffix))
    return ensembles
