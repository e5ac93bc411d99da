"""Limitations of a comparison: the notes right below the page's verdict, one or two sentences each."""

from collections.abc import Sequence

from evaluation.report.number_format import counted, level_text, listed, marked_p, plural
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import leading_metric
from evaluation.statistics.verdict_records import PairVerdict, Verdict

MOST_NAMED = 6
"""Most comparisons that a note names; the others are counted."""


def notes(verdict: Verdict) -> list[str]:
    """All notes, the most important first."""
    found = _on_training_studies(verdict)
    if "demo" in verdict.profiles:
        found.append(
            "Demonstration: the runs were trained with the profile “demo”, a few minutes on small phantoms. "
            "The figures show that the chain works; they say nothing about the methods."
        )
    if verdict.card is None:
        found.append(
            "The table of runs holds no cases: whether a difference would hold for new runs and new cases is not "
            "asked. There are no intervals, and nothing is shown to be better or on par."
        )
    found += _on_declarations(verdict)
    found += _on_endpoints(verdict)
    found += _on_runs(verdict)
    found += _on_comparisons(verdict)
    if verdict.subgroups_left_out:
        found.append(f"Declared subgroups that were not tested: {'; '.join(verdict.subgroups_left_out)}.")
    missing = sum(each.missing or 0 for each in verdict.configurations)
    if missing:
        found.append(f"{missing} missing {plural('prediction', missing)} counted as likelihood 0 without candidates.")
    return [*found, *_on_undefined(verdict)]


def _on_training_studies(verdict: Verdict) -> list[str]:
    """The first note: a score on training studies says nothing about other studies."""
    by_run = {name: seen for each in verdict.configurations for name, seen in each.trained_on.items()}
    cases = verdict.configurations[0].cases
    seen = [f"{name} on {count}" for name, count in by_run.items() if count]
    found = []
    if seen:
        found.append(
            f"SCORED ON TRAINING STUDIES. Networks were trained on some of the {cases} studies: {listed(seen)}. "
            "Their figures say nothing about other patients."
        )
    unknown = [name for name, count in by_run.items() if count is None]
    if unknown:
        which = f"{len(unknown)} of {counted(len(by_run), 'run')}" if len(unknown) > 3 else listed(unknown)
        found.append(f"Whether networks were trained on these studies is not known for {which}.")
    return found


def _on_declarations(verdict: Verdict) -> list[str]:
    if verdict.analysis == "exploratory":
        return [
            "Exploratory: no analysis file declared comparisons or margins before scoring, so all pairs are compared "
            "and nothing can be shown to be on par."
        ]
    leading = leading_metric(verdict)
    if verdict.card is None or not verdict.pairs or leading in verdict.margins:
        return []
    which = f" for {METRIC_NAMES[leading]}" if verdict.margins else ""
    return [f"The analysis file declares no margin{which}, so nothing can be shown to be on par{which and ' by it'}."]


def _on_endpoints(verdict: Verdict) -> list[str]:
    """Which metric is primary, if any; nothing for one metric, or without an analysis file."""
    undefined = _undefined(verdict)
    compared = list(dict.fromkeys(METRIC_NAMES[pair.metric] for pair in verdict.pairs if pair.metric not in undefined))
    if len(compared) < 2 or verdict.analysis == "exploratory":
        return []
    if verdict.primary is None:
        return [
            f"No primary metric was declared: {listed(compared)} are {len(compared)} families of comparisons, "
            f"each with α = {verdict.alpha:g}."
        ]
    others = [name for name in compared if name != METRIC_NAMES[verdict.primary]]
    return [
        f"The conclusion rests on {METRIC_NAMES[verdict.primary]}, the primary metric: α = {verdict.alpha:g} holds for "
        f"its comparisons. Those by {listed(others)} are exploratory."
    ]


def _on_runs(verdict: Verdict) -> list[str]:
    found = []
    trained = [each for each in verdict.configurations if each.kind != "baseline"]
    if verdict.card is not None and any(each.runs > 1 for each in trained):
        found.append(
            "“New runs” are further trainings on the same training cases: what other training cases would give is not "
            "estimated."
        )
    found += _on_looks(verdict)
    found += _on_smallest_p(verdict)
    claims = [pair for pair in verdict.pairs if pair.ensemble and pair.code != "undecided"]
    if claims and not any(pair.controls for pair in claims):
        found.append(
            f"No size-matched control of {listed(sorted({str(pair.ensemble) for pair in claims}))} was scored: "
            "its gain may be that of averaging as many runs of any configuration."
        )
    return found


def _on_looks(verdict: Verdict) -> list[str]:
    """Which looks were planned, and the level of the one that is due."""
    if not verdict.looks:
        return []
    runs = {each.name: each.runs for each in verdict.configurations}
    levels = {max(runs[pair.a], runs[pair.b]): pair.alpha for pair in verdict.pairs if pair.alpha}
    planned = f"Looks were planned at {listed([str(each) for each in verdict.looks])} runs per configuration. "
    if not levels:
        return [f"{planned}None is due with the runs scored so far, so nothing is decided."]
    due = listed([f"{level_text(level)} at {count} runs" for count, level in sorted(levels.items())])
    return [f"{planned}p after Holm is compared with the level of the look that is due: {due}."]


def _on_smallest_p(verdict: Verdict) -> list[str]:
    """Comparisons that no ranking of the runs can decide after Holm at their level."""
    by_p: dict[tuple[float, int, float], list[str]] = {}
    for pair in verdict.pairs:
        tested = sum(each.run_level.p is not None for each in verdict.pairs if each.metric == pair.metric)
        level = pair.run_level
        if level.p is None or level.smallest_attainable_p is None or not level.alpha:
            continue
        if level.smallest_attainable_p * tested > level.alpha:
            names = by_p.setdefault((level.smallest_attainable_p, tested, level.alpha), [])
            if _names(pair) not in names:
                names.append(_names(pair))
    return [
        f"On this test set the ranking of so few runs cannot show a difference after Holm over {tested}"
        f"{f' at the level of this look, {level_text(alpha)}' if verdict.looks else ''}, its smallest attainable p "
        f"being {marked_p(smallest, None)}: {_some_pairs(names, verdict)}."
        for (smallest, tested, alpha), names in sorted(by_p.items())
    ]


def _on_comparisons(verdict: Verdict) -> list[str]:
    """Why pairs are not compared, and what limits those that are: each reason once, with its pairs."""
    undefined = _undefined(verdict)
    by_reason: dict[str, list[str]] = {}
    for pair in verdict.pairs:
        for reason in [] if pair.metric in undefined else _reasons(pair, of_table=verdict.card is None):
            if _names(pair) not in by_reason.setdefault(reason, []):
                by_reason[reason].append(_names(pair))
    return [f"{_some_pairs(pairs, verdict)}: {reason}." for reason, pairs in by_reason.items()]


def _reasons(pair: PairVerdict, *, of_table: bool) -> list[str]:
    """All that the verdict gives as a reason or a limit of one comparison; that a table holds no cases is said once."""
    test, level, networks = pair.runs_and_cases, pair.run_level, pair.networks
    approximate = pair.approximate or (networks and networks.approximate)
    found = [
        None if of_table else pair.reason,
        test and test.note,
        approximate and f"p is approximate, since {approximate}",
    ]
    if level.reason and level.reason != pair.reason and networks is None:
        found.append(f"the ranking of the runs on this test set is not tested ({level.reason})")
    return [reason for reason in found if reason]


def _on_undefined(verdict: Verdict) -> list[str]:
    """Metrics that all or some configurations lack, with the reason."""
    named = []
    for metric in METRICS:
        without = [each for each in verdict.configurations if each.metrics[metric].mean is None]
        if without:
            some = len(without) < len(verdict.configurations)
            of = f" of {listed([each.name for each in without])}" if some else ""
            named.append(f"{METRIC_NAMES[metric]}{of} ({without[0].metrics[metric].reason})")
    return [f"Undefined on this test set: {'; '.join(named)}."] if named else []


def _undefined(verdict: Verdict) -> list[Metric]:
    """Metrics that no configuration has on this test set."""
    return [metric for metric in METRICS if all(each.metrics[metric].mean is None for each in verdict.configurations)]


def _names(pair: PairVerdict) -> str:
    return f"{pair.a} and {pair.b}"


def _some_pairs(pairs: Sequence[str], verdict: Verdict) -> str:
    """The first few pairs, and how many more; or that they are all."""
    if len(pairs) == len({(pair.a, pair.b) for pair in verdict.pairs}) > 1:
        return "All comparisons"
    more = [f"{len(pairs) - MOST_NAMED} more"] if len(pairs) > MOST_NAMED else []
    return "; ".join([*pairs[:MOST_NAMED], *more])
