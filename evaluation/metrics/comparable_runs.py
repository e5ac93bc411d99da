"""Requirements on compared runs: one test set, card and rule, the same settings, every run once."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from contract.archive.patients import FILE as PATIENTS
from contract.errors import OncoduetError
from contract.text import short_hash
from evaluation.metrics.scored_run import SCORED_WITH, ScoredRun

_log = logging.getLogger(__name__)


def require_agreement(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """Raise ``OncoduetError`` where runs were scored or predicted differently, or one occurs twice."""
    _require_one_test(read)
    _require_same_settings(read)
    _require_distinct(read)
    _require_own_runs(read)


def _require_one_test(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """All runs must answer the same question: one card, one rule, one case list, one truth, the same patients."""
    first_folder, first = read[0]
    for folder, run in read[1:]:
        if run.source.card_sha256 != first.source.card_sha256:
            raise OncoduetError(folder, expected=f"the card of {first_folder} ({_card(first)})", found=_card(run))
        if run.truth.case_ids != first.truth.case_ids:
            differing = sorted(set(run.truth.case_ids) ^ set(first.truth.case_ids))
            raise OncoduetError(
                folder,
                expected=f"the {len(first.truth.case_ids)} cases of {first_folder}",
                found=(
                    f"{len(run.truth.case_ids)}; {len(differing)} are in only one of the two, such as {differing[0]}"
                ),
            )
        for what, ours, theirs in [
            ("label", run.truth.positive, first.truth.positive),
            ("number of lesions", run.truth.lesions, first.truth.lesions),
        ]:
            differs = np.flatnonzero(ours != theirs)
            if differs.size:
                case = differs[0]
                raise OncoduetError(
                    f"{folder}: case {run.truth.case_ids[case]}",
                    expected=f"the {what} {int(theirs[case])} as in {first_folder}",
                    found=int(ours[case]),
                )
        for name, what in SCORED_WITH.items():
            found, expected = (each.parents.get(name) for each in (run, first))
            if found != expected:
                raise OncoduetError(
                    folder / "metrics.json",
                    expected=f"the {what} of {first_folder} ({short_hash(expected)})",
                    found=f"{short_hash(found)}; score both again, by one card and against one truth",
                )
        if run.truth.patient_names != first.truth.patient_names:
            raise OncoduetError(
                folder / PATIENTS, f"patients differ from those of {first_folder}; name them with --patients"
            )


def _require_same_settings(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """All were predicted with the same settings, as far as these are recorded."""
    known: dict[str, tuple[Path, bool | str]] = {}
    for folder, run in read:
        for name, found in run.source.settings.items():
            first, expected = known.setdefault(name, (folder, found))
            if found != expected:
                raise OncoduetError(
                    folder / "source.json", expected=f"{name} {expected} as in {first}", found=f"{name} {found}"
                )


def with_common_folds(read: Sequence[tuple[Path, ScoredRun]]) -> list[tuple[Path, ScoredRun]]:
    """The runs with their folds if trained on the most common dataset; folds of other datasets count as unknown."""
    datasets = Counter(run.source.prepared_sha256 for _, run in read if run.source.prepared_sha256 is not None)
    if len(datasets) < 2:
        return list(read)
    named = ", ".join(f"{count} × {short_hash(sha256)}" for sha256, count in datasets.items())
    _log.warning("trained on different datasets or splits: %s; their folds are not comparable", named)
    ((usual, _),) = datasets.most_common(1)
    return [
        (folder, run)
        if run.source.prepared_sha256 in (usual, None)
        else (folder, replace(run, source=run.source.model_copy(update={"fold": None})))
        for folder, run in read
    ]


def _require_distinct(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """Within a configuration each run occurs once, and all were trained alike."""
    by_configuration: dict[str, list[tuple[Path, ScoredRun]]] = {}
    for folder, run in read:
        by_configuration.setdefault(run.source.configuration, []).append((folder, run))
    for configuration, members in by_configuration.items():
        for what, found in [
            ("profile", {run.source.profile for _, run in members}),
            ("dataset", {run.source.prepared_sha256 or "" for _, run in members} - {""}),
        ]:
            if len(found) > 1:
                raise OncoduetError(
                    f"configuration {configuration}",
                    expected=f"one {what} for all its runs",
                    found=", ".join(sorted(found)),
                )
        seen: dict[object, Path] = {}
        for folder, run in members:
            source = run.source
            predictions = run.parents.get("predictions")
            marks: list[object] = [] if predictions is None else [predictions]
            if source.fold is not None and source.restart is not None:
                marks.append((source.fold, source.restart))
            if source.runs or source.fold is None or source.restart is None:
                marks.append(frozenset(source.runs))
            for mark in marks:
                if mark in seen:
                    raise OncoduetError(folder, f"duplicate run {run.name}, also in {seen[mark]}")
                seen[mark] = folder


def _require_own_runs(read: Sequence[tuple[Path, ScoredRun]]) -> None:
    """No trained run occurs again under another configuration's name, unless it finds no candidate in any case."""
    seen: dict[str, Path] = {}
    for folder, run in read:
        predictions = run.parents.get("predictions")
        finds_nothing = run.candidate_free_cases == len(run.truth.case_ids)
        if predictions is None or finds_nothing or not run.source.runs or run.is_ensemble:
            continue
        other = seen.setdefault(predictions, folder)
        if other != folder:
            raise OncoduetError(folder, f"has the same predictions as {other}")


def _card(run: ScoredRun) -> str:
    return f"{run.source.card}, {short_hash(run.source.card_sha256)}"
