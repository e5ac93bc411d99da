"""Ready text for a paper: what was analysed and how, and the answers, in the words that journals of radiology expect.

Every number comes from the verdict. What the program cannot know (who was imaged, how, and why) is not in it; the
checklists (:mod:`evaluation.report.checklists`) say what the authors have to add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.text import markdown
from evaluation.report.figures import p_text
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.conclusions import is_shown, level_of
from evaluation.statistics.verdict import AgainstReaders, ConfigurationSummary, Interval, PairVerdict, Verdict

MOST_PAIRS = 12
"""Comparisons whose answers are written out; the tables hold all."""

_LONG_NAMES: Mapping[Metric, str] = {
    "auroc": "the area under the receiver operating characteristic curve (AUROC) of the cases",
    "ap": "average precision (AP) of the lesions",
    "score": "the mean of AUROC and AP (score)",
}


@dataclass(frozen=True)
class Section:
    """A part of the text."""

    title: str
    paragraphs: Sequence[str]


def paper_text(verdict: Verdict, versions: Mapping[str, str]) -> list[Section]:
    """The sections *Methods* and *Results*.

    Parameters
    ----------
    versions
        Of Python and the packages that the numbers depend on.
    """
    methods = [_material(verdict), *([verdict.sample_size] if verdict.sample_size else []), _analysis(verdict)]
    return [
        Section("Methods", [*methods, _software(verdict, versions)]),
        Section("Results", [_means(verdict), *_answers(verdict)]),
    ]


def primary_of(verdict: Verdict) -> Metric:
    """The metric that leads: the declared one, or the last that was compared."""
    compared = [metric for metric in METRICS if any(pair.metric == metric for pair in verdict.pairs)]
    if verdict.primary in compared or not compared:
        return verdict.primary or METRICS[-1]
    return compared[-1]


def as_markdown(sections: Sequence[Section]) -> str:
    """The text as a Markdown file."""
    parts = [f"## {section.title}\n\n" + "\n\n".join(map(markdown, section.paragraphs)) for section in sections]
    return "\n\n".join(["# Text for the paper", *parts]) + "\n"


def _material(verdict: Verdict) -> str:
    first = verdict.configurations[0]
    kinds: Mapping[str, list[ConfigurationSummary]] = {
        kind: [each for each in verdict.configurations if each.kind == kind]
        for kind in ("configuration", "ensemble", "baseline")
    }
    named = [
        f"{_count(len(members), word)} ({'; '.join(_with_runs(each) for each in members)})"
        for (_, members), word in zip(
            kinds.items(), ("trained configuration", "ensemble", "untrained baseline"), strict=True
        )
        if members
    ]
    said = [f"We compared {_list(named)}."]
    if first.cases is None:
        return f"{said[0]} The metrics of the runs were taken from a table; cases were not available."
    positive = first.positive_cases or 0
    said.append(
        f"The test set held {_count(first.cases, 'case')} of {_count(verdict.patients or 0, 'patient')}; {positive} "
        f"({100 * positive / first.cases:.0f} %) were positive, with {_count(first.lesions or 0, 'lesion')}."
    )
    missing = sum(each.missing or 0 for each in verdict.configurations)
    if missing:
        said.append(f"{_count(missing, 'missing prediction')} counted as likelihood 0 without candidates.")
    seen = {name: count for each in verdict.configurations for name, count in each.trained_on.items()}
    if any(seen.values()):
        said.append("Some test cases had been used for training; the results do not apply to other patients.")
    elif seen and None not in seen.values():
        said.append("No network had been trained on a test case.")
    return " ".join(said)


def _declared(verdict: Verdict, metrics: Sequence[Metric]) -> str:
    """What was declared in advance."""
    if verdict.analysis == "exploratory":
        return "The analysis was exploratory: no comparisons were declared in advance."
    declared = f"analysis file (SHA-256 {verdict.analysis[:12]})"
    if verdict.primary is None or verdict.primary not in metrics:
        return f"Comparisons and margins were declared in an {declared}; a primary metric was not."
    others = [METRIC_NAMES[metric] for metric in metrics if metric != verdict.primary]
    return (
        f"{METRIC_NAMES[verdict.primary]} was the primary metric; it, the comparisons and the margins were declared in "
        f"an {declared}." + (f" Comparisons by {_list(others)} are exploratory." if others else "")
    )


def _analysis(verdict: Verdict) -> str:
    metrics = [metric for metric in METRICS if any(pair.metric == metric for pair in verdict.pairs)]
    alpha, level = f"{verdict.alpha:g}", f"{100 * (1 - verdict.alpha):g} %"
    said = [f"Detection performance was measured by {_list([_LONG_NAMES[metric] for metric in metrics])}."]
    said.append(_declared(verdict, metrics))
    tested = [pair for pair in verdict.pairs if pair.runs_and_cases]
    if tested:
        designs = {pair.runs_and_cases.design for pair in tested if pair.runs_and_cases}
        words = {
            "nested": "runs were nested in configurations",
            "paired by fold": "runs of the same fold were paired",
            "paired by network": "ensembles were paired with what shares their networks",
        }
        said.append(
            "Differences for new training runs and new cases were tested by the analysis of Obuchowski and Rockette, "
            "with runs in the place of readers, variances by cases from each patient’s influence on the metric (for "
            "AUROC DeLong’s), and Student’s t with Satterthwaite’s degrees of freedom; "
            f"{_list([words[design] for design in sorted(designs)])}."
        )
    if any(pair.networks for pair in verdict.pairs):
        said.append(
            "Single networks were compared for new cases alone, by DeLong’s test (AP: by influence) with Welch’s "
            "degrees of freedom."
        )
    if any(pair.run_level.p is not None for pair in verdict.pairs):
        said.append("Whether runs rank differently on this test set was tested by an exact permutation test.")
    tests = f"adjusted by Holm’s method over {over}" if (over := holm_over(verdict)) else "not adjusted"
    intervals = f" Intervals are {level} confidence intervals and are not adjusted." if _has_intervals(verdict) else ""
    said.append(f"p-values are two-sided and, unless said otherwise, {tests}; α = {alpha}.{intervals}")
    margins = {pair.metric: pair.equivalence.margin for pair in verdict.pairs if pair.equivalence}
    if margins:
        within = _list([f"±{margin:g} ({METRIC_NAMES[metric]})" for metric, margin in margins.items()])
        said.append(f"Equivalence within {within} was tested by two one-sided tests at α, adjusted likewise.")
    if verdict.looks:
        said.append(f"Interim analyses were planned at {_list([str(look) for look in verdict.looks])} runs.")
    if verdict.subgroups:
        columns = _list(list(dict.fromkeys(group.column for group in verdict.subgroups)))
        said.append(
            f"Subgroups by {columns} were declared; differences within groups and their interaction with the group "
            "(difference of differences) were each adjusted by Holm’s method over all of their tests."
        )
    if verdict.lesion_strata:
        columns = _list(list(dict.fromkeys(each.column for each in verdict.lesion_strata.strata)))
        rate, threshold = verdict.lesion_strata.false_positives_per_case, verdict.lesion_strata.threshold
        point = (
            f"a confidence of {threshold:g}"
            if rate is None
            else f"{rate:g} false positive{'' if rate == 1 else 's'} per case"
        )
        said.append(
            f"Lesion sensitivity at {point} was estimated in strata by {columns}, with the lesions of a patient as one "
            "cluster; differences within strata and their interaction with the stratum were each adjusted by Holm’s "
            "method over all of their tests."
        )
    if verdict.readers:
        said.append(
            f"{_count(len(verdict.readers.readers), 'human reader')} ({verdict.readers.design}) were compared with the "
            "configurations, with runs, readers and cases as sources of variance."
        )
        margin = next((each.margin for each in verdict.readers.comparisons if each.margin), None)
        if margin:
            said.append(
                f"Non-inferiority by {margin:g} (one-sided, α = {alpha}) was asked before superiority (two-sided)."
            )
        if any(each.single for each in verdict.readers.comparisons):
            said.append("A configuration of which a single network was scored was compared as that network.")
    return " ".join(said)


def _software(verdict: Verdict, versions: Mapping[str, str]) -> str:
    by = verdict.written_by
    others = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"Analyses were made with {by.program} {by.version} (revision {by.git_revision[:12]}; {others})."


def _means(verdict: Verdict) -> str:
    metric = primary_of(verdict)
    parts = []
    for each in verdict.configurations:
        found = each.metrics[metric]
        if found.mean is None:
            continue
        spread = "" if found.sd is None else f" ± {found.sd:.3f}"
        parts.append(f"{found.mean:.3f}{spread}{_interval(found.interval, verdict, signed=False)} for {each.name}")
    if not parts:
        return f"{METRIC_NAMES[metric]} is undefined on this test set."
    several = any(each.runs > 1 for each in verdict.configurations)
    single = any(each.runs == 1 for each in verdict.configurations)
    what = " (mean ± standard deviation over runs" if several else " ("
    if _has_intervals(verdict):
        of_one = "for new cases"
        several_too = "for new runs and cases" + (f", of a single run {of_one}" if single else "")
        what += f"{', ' if several else ''}with the confidence interval {several_too if several else of_one}"
    what = "" if what == " (" else f"{what})"
    return f"{METRIC_NAMES[metric]} was {_list(parts)}{what}."


def _answers(verdict: Verdict) -> list[str]:
    pairs = [pair for pair in verdict.pairs if pair.metric == primary_of(verdict)]
    said = [_answer(pair, verdict) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) > MOST_PAIRS:
        said.append(f"The other {len(pairs) - MOST_PAIRS} comparisons are in the tables.")
    significant = [each for each in verdict.interactions if is_shown(each.p_holm, level_of(verdict))]
    if verdict.interactions and not significant:
        smallest = min(each.p_holm for each in verdict.interactions)
        said.append(f"No difference in AUROC was shown to differ between subgroups (smallest p {_p(smallest)}).")
    said += [
        f"The difference in AUROC between {each.a} and {each.b} differed between {each.column} {each.value} and "
        f"{each.against} by {_signed(each.difference)}{_interval(each.interval, verdict)}, p {_p(each.p_holm)}."
        for each in significant
    ]
    paragraphs = [" ".join(said)] if said else []
    if verdict.readers and verdict.readers.comparisons:
        paragraphs.append(" ".join(_against_readers(each, verdict) for each in verdict.readers.comparisons))
    return paragraphs


def _against_readers(each: AgainstReaders, verdict: Verdict) -> str:
    margin = "" if each.p_inferior_holm is None else f", p of inferiority {_p(each.p_inferior_holm)}"
    note = f"; p is approximate, since {each.approximate}" if each.approximate else ""
    return (
        f"{each.sentence[:-1]} ({each.mean:.3f} against {each.readers_mean:.3f}, difference "
        f"{_signed(each.difference)}{_interval(each.interval, verdict)}, p {_p(each.p_holm)}{margin}{note})."
    )


def holm_over(verdict: Verdict) -> str:
    """How many comparisons Holm adjusted for, by question: those of the declared ones that could be tested."""
    asked = {
        "for new runs and cases": [pair.metric for pair in verdict.pairs if pair.p is not None],
        "between single networks": [pair.metric for pair in verdict.pairs if pair.networks],
        "on this test set": [pair.metric for pair in verdict.pairs if pair.run_level.p is not None],
    }
    parts = []
    for question, metrics in asked.items():
        counts = {metric: metrics.count(metric) for metric in METRICS if metric in metrics}
        if len(set(counts.values())) == 1:
            parts.append(f"{_count(next(iter(counts.values())), 'comparison')} per metric {question}")
        elif counts:
            by_metric = _list([f"{count} ({METRIC_NAMES[metric]})" for metric, count in counts.items()])
            parts.append(f"{by_metric} comparisons {question}")
    return _list(parts)


def _has_intervals(verdict: Verdict) -> bool:
    return any(each.metrics[metric].interval for each in verdict.configurations for metric in METRICS)


def _answer(pair: PairVerdict, verdict: Verdict) -> str:
    if verdict.card is None and pair.estimate is not None and pair.run_level.p_holm is not None:
        numbers = f"difference of means {_signed(pair.estimate)}, p {_p(pair.run_level.p_holm)}"
        said = (pair.run_level.sentence or pair.sentence)[:-1]
        return f"By {METRIC_NAMES[pair.metric]}, {pair.a} against {pair.b}: {said[:1].lower()}{said[1:]} ({numbers})."
    if pair.estimate is None or pair.p is None or pair.p_holm is None:
        if pair.networks is None or pair.estimate is None:
            return pair.sentence
        numbers = f"{_signed(pair.estimate)}{_interval(pair.networks.interval, verdict)}"
        return f"{pair.sentence} Difference {numbers}; p {_p(pair.networks.p_holm)}."
    approximate = pair.runs_and_cases and pair.runs_and_cases.approximate
    numbers = f"{_signed(pair.estimate)}{_interval(pair.interval, verdict)}, p {_p(pair.p_holm)}"
    note = f"; p is approximate, since {approximate}" if approximate else ""
    return f"{pair.sentence[:-1]} (difference {numbers}{note})."


def _interval(found: Interval | None, verdict: Verdict, *, signed: bool = True) -> str:
    if found is None:
        return ""
    low, high = (_signed(end) if signed else f"{end:.3f}" for end in (found.low, found.high))
    return f" [{100 * (1 - verdict.alpha):g} % CI {low} to {high}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p(value: float) -> str:
    text = p_text(value)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def _with_runs(each: ConfigurationSummary) -> str:
    return each.name if each.kind == "baseline" else f"{each.name}, {_count(each.runs, 'run')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _list(words: Sequence[str]) -> str:
    return "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"
