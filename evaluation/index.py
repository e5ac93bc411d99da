"""``python -m evaluation index``: frozen baselines, scored runs that ship with the truth.

``--truth DIR --baseline SCORES…`` checks them and copies each into ``DIR/baselines/NAME/``. The platform's run then
compares every submission with each, both as single models, and adds differences, intervals and p-values to
``metrics.json``. The copies hold a row per case and stay with the truth; only aggregates are written.

A baseline counts only where it was scored against these very label maps by this very card and rule.
"""

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import inside
from contract.outputs import Output, require_apart, require_unedited, subfolder
from contract.records import AgainstBaseline, MetricsRecord, Source, read_record
from contract.text import short_hash
from evaluation.inputs.truth import BASELINES, TruthFolder
from evaluation.matching.cases import MatchingRule, ScoredCase
from evaluation.metrics.outcomes import Outcome, TestSet, require_patients
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import find_scored_runs, read_scored_runs
from evaluation.statistics.analysis_file import METRICS
from evaluation.statistics.variance.influence import by_patient
from evaluation.statistics.variance.runs_and_cases import nested, too_few

MOST_BASELINES = 5
"""Baselines at most: every submission is tested against each."""

_FILES = ("metrics.json", "cases.csv", "lesions.csv", "source.json")


def freeze_baselines(truth: TruthFolder, scores: Sequence[Path]) -> list[Path]:
    """Copy scored runs to the truth folder, replacing the same that are there, and return their folders.

    Raises
    ------
    OncoduetError
        As :func:`read_baselines`; an existing baseline is not given again; the folder cannot be written to, or files
        not written by oncoduet are in the way. Nothing is changed then.
    """
    folders = [folder for path in scores for folder in find_scored_runs(path)]
    _require_few(folders, ", ".join(map(str, scores)))
    place = subfolder(truth.folder, BASELINES)
    require_apart(place, baseline=folders)
    by_name: dict[str, Path] = {}
    for folder in folders:
        name = _name(folder)
        if name in by_name:
            raise OncoduetError(folder, f"duplicate baseline name {name}")
        _truth_of(truth, _read(folder, truth, truth.card).truth)
        by_name[name] = folder
    for before in [path for path in _places(place) if (path / "source.json").is_file()]:
        again = by_name.get(before.name)
        if again is None or _network(again) != _network(before):
            raise OncoduetError(
                before,
                f"the baseline {before.name} would be replaced by another network's; rename the folder of one"
                if again
                else f"the baseline {before.name} would be removed; pass it to --baseline again or move its folder",
            )
    files = [f"{name}/{file}" for name in by_name for file in _FILES]
    identity = {"of": BASELINES}  # which networks they are of was compared above, one by one
    with Output(place, "evaluation index", files, identity=identity).staged() as stage:
        for name, folder in by_name.items():
            (stage / name).mkdir()
            for file in _FILES:
                shutil.copyfile(folder / file, stage / name / file)
    return [place / name for name in by_name]


def read_baselines(truth: TruthFolder, card: Card | None) -> dict[str, ScoredRun]:
    """Read the baselines of a truth folder, by name; none without ``baselines/``.

    Parameters
    ----------
    card
        Card that scores the submission; None: the one that scored the baselines.

    Raises
    ------
    OncoduetError
        The folder holds no baseline, or more than five; a baseline is not a scored run, contradicts itself, or was
        scored by another card, by another rule or against other label maps; its patients are ambiguous or too few.
    """
    folder = truth.folder / BASELINES
    if not folder.is_dir():
        return {}
    places = _places(folder)
    _require_few(places, folder)
    for place in places:
        if _name(place) != place.name:
            raise OncoduetError(place, expected="a name of letters, digits, - and _", found=f"{place.name!r}")
    found = {place.name: _read(place, truth, card) for place in places}
    _truth_of(truth, next(iter(found.values())).truth)
    return found


def compare_with_baselines(
    cases: Sequence[ScoredCase], truth_folder: TruthFolder, card: Card | None
) -> dict[str, Mapping[str, AgainstBaseline]]:
    """Test one model's cases against each baseline: submission minus baseline, by baseline and metric.

    p is two-sided, for new cases and these two models, and the 95 % interval is its inverse: DeLong's test, of AP by
    the patients' influence, with Welch's degrees of freedom. Nothing depends on the order of cases or baselines.

    Raises
    ------
    OncoduetError
        As :func:`read_baselines`; also where a baseline's tables hold other labels or lesions than the label maps.
    """
    baselines = read_baselines(truth_folder, card)
    truth, outcome = outcome_of(cases)
    truth = _truth_of(truth_folder, truth)
    found: dict[str, Mapping[str, AgainstBaseline]] = {}
    for name, baseline in baselines.items():
        if (baseline.truth.positive != truth.positive).any() or (baseline.truth.lesions != truth.lesions).any():
            raise OncoduetError(
                truth_folder.folder / BASELINES / name, "labels or lesions of its tables differ from the label maps"
            )
        found[name] = against_baseline(truth, outcome, baseline.outcome)
    return found


def against_baseline(truth: TestSet, submission: Outcome, baseline: Outcome) -> dict[str, AgainstBaseline]:
    """One model against another, by metric; without metrics that are undefined or whose variance is unknown."""
    ours, theirs = (by_patient(truth, [outcome]) for outcome in (submission, baseline))
    found: dict[str, AgainstBaseline] = {}
    for metric in METRICS:
        difference = float(ours[metric].values[0] - theirs[metric].values[0])
        if not math.isfinite(difference) or too_few(truth.positive_patients):
            continue
        test = nested(ours[metric], theirs[metric], truth.positive_patients, fixed=(True, True))
        found[metric] = AgainstBaseline(
            difference=difference,
            interval=test.interval(0.95) if test else (difference, difference),
            p=test.p if test else float(difference == 0),
        )
    return found


def outcome_of(cases: Sequence[ScoredCase]) -> tuple[TestSet, Outcome]:
    """One model's outcome, as read from its ``cases.csv`` and ``lesions.csv``."""
    ordered = sorted(cases, key=lambda case: case.case_id)
    truth = TestSet(
        case_ids=tuple(case.case_id for case in ordered),
        positive=np.array([case.positive for case in ordered]),
        lesions=np.array(
            [sum(each.kind in ("tp", "fn") for each in case.findings) for case in ordered], dtype=np.int64
        ),
    )
    candidates = [
        (finding.confidence, number, finding.kind == "tp")
        for number, case in enumerate(ordered)
        for finding in case.findings
        if finding.kind in ("tp", "fp")
    ]
    return truth, Outcome.of(np.array([case.likelihood for case in ordered]), candidates)


def _truth_of(folder: TruthFolder, truth: TestSet) -> TestSet:
    """The truth with the patients that its folder names; ambiguous or too few patients are refused."""
    patients = folder.patients()
    known = replace(truth, patient_names=tuple(patients[case_id] for case_id in truth.case_ids))
    way_out = '"few_patients": true in settings.json'
    require_patients(known, folder.folder, few=folder.settings.few_patients, way_out=way_out)
    return known


def _name(folder: Path) -> str:
    """A key of ``metrics.json``; without dots, where the platform splits the path of its ranking."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name)


def _places(folder: Path) -> list[Path]:
    """Folders of the existing baselines."""
    return [path for path in inside(folder, "[!.]*") if path.is_dir()] if folder.is_dir() else []


def _network(folder: Path) -> tuple[object, ...]:
    source = read_record(folder / "source.json", Source)
    return source.configuration, source.fold, source.restart, sorted(source.runs)


def _require_few(folders: Sequence[Path], where: object) -> None:
    if not 1 <= len(folders) <= MOST_BASELINES:
        raise OncoduetError(where, expected=f"1 to {MOST_BASELINES} scored runs as baselines", found=len(folders))


def _read(folder: Path, truth: TruthFolder, card: Card | None) -> ScoredRun:
    """Read a baseline. Messages reveal nothing about a case, since participants see them on the platform."""
    if folder.parent.name == BASELINES:
        require_unedited(folder.parent, [f"{folder.name}/{file}" for file in _FILES])
    (run,) = read_scored_runs([folder])
    parents = read_record(folder / "metrics.json", MetricsRecord).parents
    ours = {"truth": truth.sha256()}
    if card is not None and not _scored_alike_without_card(parents, truth, card):
        ours |= {"scoring_card": card.sha256, "scoring_rule": MatchingRule.of(card).sha256}
    for name, sha256 in ours.items():
        if parents.get(name) != sha256:
            raise OncoduetError(
                folder / "metrics.json",
                expected=f"a baseline scored with this {name.replace('_', ' ')} ({short_hash(sha256)})",
                found=short_hash(parents.get(name)),
            )
    if run.truth.case_ids != tuple(sorted(truth.label_maps)):
        raise OncoduetError(folder / "cases.csv", f"cases differ from the {len(truth.label_maps)} of {truth.folder}")
    return run


def _scored_alike_without_card(parents: Mapping[str, str], truth: TruthFolder, card: Card) -> bool:
    """Whether it was scored without a card, by a rule that gives the same on this truth as the card's."""
    none = MatchingRule()
    uncarded = "scoring_card" not in parents and parents.get("scoring_rule") == none.sha256
    return uncarded and none.reads_alike(MatchingRule.of(card), truth.label_values())
