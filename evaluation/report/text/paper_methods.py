"""The section *Methods* of the paper's text: what was compared, by which tests, and at which level.

It describes each analysis whose numbers are in the verdict, and no other.
"""

from collections.abc import Iterable, Mapping, Sequence

from contract.text import short_hash
from evaluation.report.figures.metric_figures import shows_bands
from evaluation.report.number_format import counted, level_text, listed, percent
from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Metric
from evaluation.statistics.clinical_records import Clinical
from evaluation.statistics.conclusions import compared_metrics
from evaluation.statistics.readers.reader_comparison import REPLICATES
from evaluation.statistics.verdict_records import ConfigurationSummary, LesionStrata, ReaderStudy, Verdict

_LONG_NAMES: Mapping[Metric, str] = {
    "auroc": "the area under the receiver operating characteristic curve (AUROC) of the cases",
    "ap": "average precision (AP) of the lesions",
    "score": "the mean of AUROC and AP (score)",
}


def methods(verdict: Verdict, versions: Mapping[str, str]) -> list[str]:
    """The paragraphs."""
    described = [*_subgroups(verdict), *_clinical(verdict), *_curves(verdict)]
    return [
        _material(verdict),
        *([verdict.sample_size] if verdict.sample_size else []),
        " ".join(_analysis(verdict)),
        *([" ".join(described)] if described else []),
        *([" ".join(_readers(verdict.readers, verdict))] if verdict.readers else []),
        _software(verdict, versions),
    ]


def holm_over(verdict: Verdict) -> str:
    """How many comparisons Holm adjusted for, by question: those of the declared ones that could be tested."""
    return listed(
        [
            f"{over} {question}"
            for question, metrics in {
                "for new runs and cases": [pair.metric for pair in verdict.pairs if pair.p is not None],
                "between single networks": [pair.metric for pair in verdict.pairs if pair.networks],
                "on this test set": [pair.metric for pair in verdict.pairs if pair.run_level.p is not None],
            }.items()
            if (over := _per_metric(metrics, "comparison"))
        ]
    )


def _per_metric(metrics: Sequence[Metric], word: str) -> str:
    """``5 comparisons per metric``, or how many by each where they differ."""
    counts = {metric: metrics.count(metric) for metric in METRICS if metric in metrics}
    if len(set(counts.values())) == 1:
        return f"{counted(next(iter(counts.values())), word)} per metric"
    by_metric = listed([f"{count} ({METRIC_NAMES[metric]})" for metric, count in counts.items()])
    return f"{by_metric} {word}s" if counts else ""


def _material(verdict: Verdict) -> str:
    first = verdict.configurations[0]
    kinds: Mapping[str, list[ConfigurationSummary]] = {
        kind: [each for each in verdict.configurations if each.kind == kind]
        for kind in ("configuration", "ensemble", "baseline")
    }
    named = [
        f"{counted(len(members), word)} ({'; '.join(_with_runs(each) for each in members)})"
        for (_, members), word in zip(
            kinds.items(), ("trained configuration", "ensemble", "untrained baseline"), strict=True
        )
        if members
    ]
    said = [f"We compared {listed(named)}."]
    if first.cases is None:
        return f"{said[0]} The metrics of the runs were taken from a table; cases were not available."
    positive = first.positive_cases or 0
    said.append(
        f"The test set held {counted(first.cases, 'case')} of {counted(verdict.patients or 0, 'patient')}; {positive} "
        f"({100 * positive / first.cases:.0f} %) were positive, with {counted(first.lesions or 0, 'lesion')}."
    )
    missing = sum(each.missing or 0 for each in verdict.configurations)
    if missing:
        said.append(f"{counted(missing, 'missing prediction')} counted as likelihood 0 without candidates.")
    seen = {name: count for each in verdict.configurations for name, count in each.trained_on.items()}
    if any(seen.values()):
        said.append("Some test cases had been used for training; the results do not apply to other patients.")
    elif seen and None not in seen.values():
        said.append("No network had been trained on a test case.")
    return " ".join(said)


def _with_runs(each: ConfigurationSummary) -> str:
    return each.name if each.kind == "baseline" else f"{each.name}, {counted(each.runs, 'run')}"


def _declared(verdict: Verdict, metrics: Sequence[Metric]) -> str:
    """Declarations of the analysis file."""
    if verdict.analysis == "exploratory":
        return "The analysis was exploratory: no comparisons were declared in advance."
    things = ["the comparisons", *(["the margins"] if verdict.margins else [])]
    declared = f"declared in an analysis file (SHA-256 {short_hash(verdict.analysis)})"
    if verdict.primary is None:
        return f"{listed(things)[:1].upper()}{listed(things)[1:]} were {declared}; a primary metric was not."
    others = [METRIC_NAMES[metric] for metric in metrics if metric != verdict.primary]
    return f"{METRIC_NAMES[verdict.primary]} was the primary metric; {listed(['it', *things])} were {declared}." + (
        f" Comparisons by {listed(others)} are exploratory." if others else ""
    )


def _analysis(verdict: Verdict) -> Iterable[str]:
    metrics = compared_metrics(verdict)
    yield f"Detection performance was measured by {listed([_LONG_NAMES[metric] for metric in metrics])}."
    yield _declared(verdict, metrics)
    designs = {pair.runs_and_cases.design for pair in verdict.pairs if pair.runs_and_cases}
    if designs:
        words = {
            "nested": "runs were nested in configurations",
            "paired by fold": "runs of the same fold were paired",
            "paired by network": "ensembles were paired with what shares their networks",
        }
        yield (
            "Differences for new training runs and new cases were tested by the analysis of Obuchowski and Rockette, "
            "with runs in the place of readers, variances by cases from each patient’s influence on the metric (for "
            "AUROC DeLong’s), and Student’s t with Satterthwaite’s degrees of freedom; "
            f"{listed([words[design] for design in sorted(designs)])}."
        )
    if any(pair.networks for pair in verdict.pairs):
        by_influence = "" if metrics == ["auroc"] else " (AP: by influence)"
        yield (
            f"Single networks were compared for new cases alone, by DeLong’s test{by_influence} with Welch’s degrees "
            "of freedom."
        )
    if any(pair.run_level.p is not None for pair in verdict.pairs):
        yield "Whether runs rank differently on this test set was tested by an exact permutation test."
    yield _levels(verdict)
    margins = {pair.metric: pair.equivalence.margin for pair in verdict.pairs if pair.equivalence}
    if margins:
        within = listed([f"±{margin:g} ({METRIC_NAMES[metric]})" for metric, margin in margins.items()])
        yield (
            f"Equivalence within {within} was tested by two one-sided tests, adjusted likewise; its intervals are "
            f"those of {percent(1 - 2 * verdict.alpha)}."
        )


def _levels(verdict: Verdict) -> str:
    """How p-values are adjusted, and the levels they are compared with."""
    over = holm_over(verdict)
    tests = f"adjusted by Holm’s method over {over}" if over else "not adjusted"
    adjusted = f" and, unless said otherwise, {tests}" if verdict.pairs else ""
    overall = "overall " if verdict.looks else ""
    said = [f"p-values are two-sided{adjusted}; {overall}α = {verdict.alpha:g}."]
    if any(each.metrics[metric].interval for each in verdict.configurations for metric in METRICS):
        said.append(f"Intervals are {percent(1 - verdict.alpha)} confidence intervals and are not adjusted.")
    if verdict.looks:
        said.append(
            f"Interim analyses were planned at {listed([str(look) for look in verdict.looks])} runs per configuration, "
            "with the O’Brien–Fleming-type spending function of Lan and DeMets."
        )
        levels = sorted({pair.alpha for pair in verdict.pairs if pair.alpha})
        said.append(
            f"At this one p-values were compared with {listed([level_text(level) for level in levels])}."
            if levels
            else "None is due with the runs scored so far, and nothing was decided."
        )
    return " ".join(said)


def _subgroups(verdict: Verdict) -> Iterable[str]:
    if verdict.subgroups:
        columns = listed(list(dict.fromkeys(group.column for group in verdict.subgroups)))
        yield (
            f"Subgroups by {columns} were declared; differences within groups and their interaction with the group "
            "(difference of differences) were each adjusted by Holm’s method over all of their tests."
        )
    if verdict.lesion_strata:
        columns = listed(list(dict.fromkeys(each.column for each in verdict.lesion_strata.strata)))
        yield (
            f"Lesion sensitivity at {operating_point_of_lesions(verdict.lesion_strata)} was estimated in strata by "
            f"{columns}, with the lesions of a patient as one cluster; differences within strata and their interaction "
            "with the stratum were each adjusted by Holm’s method over all of their tests."
        )


def operating_point_of_lesions(strata: LesionStrata) -> str:
    """How the thresholds of the strata were chosen."""
    if strata.threshold is not None:
        return f"a confidence of {strata.threshold:g}"
    rate = strata.false_positives_per_case
    return f"{rate:g} false positive{'' if rate == 1 else 's'} per case"


def _clinical(verdict: Verdict) -> Iterable[str]:
    clinical = verdict.clinical
    if clinical is None:
        return
    yield (
        f"For each run, thresholds of the likelihood that reach {aims(clinical)} were chosen on "
        + (
            "its validation cases."
            if clinical.thresholds_from == "validation"
            else "the test set itself, which is optimistic."
        )
    )
    measures = ["sensitivity", "specificity", "predictive values"]
    if any(each.calibration for each in clinical.configurations):
        measures += [
            "calibration (Brier score, slope and intercept of logistic recalibration, expected calibration error)",
            "net benefit",
        ]
    measures.append(f"partial AUROC ({clinical.partial_of} of at least {clinical.partial_at_least:g})")
    yield (
        f"{listed(measures)[:1].upper()}{listed(measures)[1:]} are means over runs with t-intervals for new runs and "
        "cases, and were not tested."
    )
    if clinical.prevalence is not None:
        yield f"Predictive values and AP are also given for a prevalence of {percent(clinical.prevalence)}."


def aims(clinical: Clinical) -> str:
    """Aims of the thresholds."""
    points = [point for each in clinical.configurations for point in each.operating_points]
    return listed(list(dict.fromkeys(f"a {point.aim} of {point.at_least:g}" for point in points)))


def _curves(verdict: Verdict) -> Iterable[str]:
    drawn = [each for each in verdict.configurations if each.kind != "baseline"]
    if verdict.card is not None and drawn and shows_bands(verdict):
        yield (
            f"Bands of curves hold the middle {percent(1 - verdict.alpha)} at each point over {verdict.replicates} "
            "bootstrap samples of the patients, with the runs kept."
        )


def _readers(study: ReaderStudy, verdict: Verdict) -> Iterable[str]:
    yield (
        f"{counted(len(study.readers), 'human reader')} ({study.design}) were compared with the configurations, with "
        "runs, readers and cases as sources of variance."
    )
    over = _per_metric([each.metric for each in study.comparisons], "configuration")
    questions = "p-values"
    levels = listed([level_text(level) for level in sorted({each.alpha for each in study.comparisons if each.alpha})])
    margin = next((each.margin for each in study.comparisons if each.margin), None)
    if margin:
        questions = "p-values of superiority and of non-inferiority, each on their own,"
        yield f"Non-inferiority by {margin:g} (one-sided) was asked before superiority (two-sided)."
    if over:
        yield (
            f"The {questions} were adjusted by Holm’s method over {over} and "
            + (f"compared with {levels}." if levels else "compared with nothing, since no look is due.")
        )
    if any(each.single for each in study.comparisons):
        yield "A configuration of which a single network was scored was compared as that network."
    if study.operating_points:
        yield (
            f"With readers’ scores of {study.threshold:g} or more called positive, each run’s sensitivity at the "
            "readers’ mean specificity, reached on this test set, was compared with theirs, with percentile intervals "
            f"over {max(REPLICATES, verdict.replicates)} bootstrap samples of patients, runs and readers."
        )


def _software(verdict: Verdict, versions: Mapping[str, str]) -> str:
    by = verdict.written_by
    others = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"Analyses were made with {by.program} {by.version} (revision {short_hash(by.git_revision)}; {others})."
