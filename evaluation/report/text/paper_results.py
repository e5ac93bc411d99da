"""The section *Results* of the paper's text: the answers by the leading metric, and what was described with them."""

from collections.abc import Iterable, Sequence

from evaluation.report.number_format import capitalised, in_brackets, listed, number, p_in_words, percent, signed
from evaluation.report.text.result_sentences import numbers_against_readers, numbers_of, numbers_of_networks
from evaluation.statistics.analysis_file import METRIC_NAMES
from evaluation.statistics.clinical_records import Clinical, ClinicalConfiguration, Estimate
from evaluation.statistics.conclusions import is_shown, leading_metric, level_of
from evaluation.statistics.verdict_records import AgainstReaders, Interaction, PairVerdict, Verdict

MOST_WRITTEN_OUT = 12
"""Most comparisons that are written out; the tables hold all."""


def results(verdict: Verdict) -> list[str]:
    """The paragraphs."""
    pairs = [pair for pair in verdict.pairs if pair.metric == leading_metric(verdict)]
    answers = [_of_table(pair) if verdict.card is None else _answer(pair) for pair in pairs[:MOST_WRITTEN_OUT]]
    if len(pairs) > MOST_WRITTEN_OUT:
        answers.append(f"The other {len(pairs) - MOST_WRITTEN_OUT} comparisons are in the tables.")
    answers += _interactions(verdict.interactions, "AUROC", "subgroups", verdict)
    if verdict.lesion_strata:
        answers += _interactions(verdict.lesion_strata.interactions, "lesion sensitivity", "strata of lesions", verdict)
    paragraphs = [_means(verdict), " ".join(answers)]
    if verdict.readers:
        paragraphs.append(" ".join([*map(_against_readers, verdict.readers.comparisons), *_at_their_point(verdict)]))
    if verdict.clinical:
        paragraphs.append(" ".join(_clinical(verdict.clinical, 1 - verdict.alpha)))
    return [each for each in paragraphs if each]


def _means(verdict: Verdict) -> str:
    metric = leading_metric(verdict)
    defined = [each for each in verdict.configurations if each.metrics[metric].mean is not None]
    name = capitalised(METRIC_NAMES[metric])
    if not defined:
        return f"{name} is undefined on this test set."
    parts = []
    for each in defined:
        found = each.metrics[metric]
        spread = "" if found.sd is None else f" ± {found.sd:.3f}"
        interval = in_brackets(found.interval, differences=False)
        parts.append(f"{number(found.mean)}{spread}{interval} for {each.name}")
    single = any(each.runs == 1 for each in defined)
    explained = []
    if any(each.runs > 1 for each in defined):
        explained.append("mean ± standard deviation over runs")
        population = "for new runs and cases" + (", of a single run for new cases" if single else "")
    else:
        population = "for new cases"
    if any(each.metrics[metric].interval for each in defined):
        explained.append(f"with the confidence interval {population}")
    how = f" ({', '.join(explained)})" if explained else ""
    return f"{name} was {listed(parts)}{how}."


def _answer(pair: PairVerdict) -> str:
    """Sentence and numbers for new runs and cases, then what the ranking on this test set says."""
    numbers = numbers_of_networks(pair) or numbers_of(pair)
    why = pair.approximate or (pair.networks and pair.networks.approximate)
    note = f"; p is approximate, since {why}" if numbers and why else ""
    said = f"{pair.sentence[:-1]} ({numbers}{note})." if numbers else pair.sentence
    level = pair.run_level
    if level.sentence is None or level.p_holm is None:
        return said
    return f"{said} {level.sentence[:-1]} ({p_in_words(level.p_holm, None, level.alpha)})."


def _of_table(pair: PairVerdict) -> str:
    """Answer for a table of runs: only the ranking on this test set."""
    level = pair.run_level
    names = f"By {METRIC_NAMES[pair.metric]}, {pair.a} against {pair.b}"
    if level.sentence is None or level.p_holm is None:
        return f"{names}: not compared, since {level.reason}."
    said = f"{level.sentence[:1].lower()}{level.sentence[1:-1]}"
    return (
        f"{names}: {said} (difference of means {signed(pair.estimate)}, {p_in_words(level.p_holm, None, level.alpha)})."
    )


def _interactions(found: Sequence[Interaction], what: str, groups: str, verdict: Verdict) -> Iterable[str]:
    """Differences shown to differ between groups, or a sentence that none is."""
    level = level_of(verdict)
    significant = [each for each in found if is_shown(each.p_holm, level)]
    if found and not level:
        yield f"Whether differences in {what} differ between {groups} is not judged: no look is due."
    elif found and not significant:
        least = min(found, key=lambda each: each.p_holm)
        smallest = p_in_words(least.p_holm, least.approximate, level)
        yield f"No difference in {what} was shown to differ between {groups} (smallest {smallest})."
    for each in significant:
        yield (
            f"The difference in {what} between {each.a} and {each.b} differed between {each.column} {each.value} and "
            f"{each.against} by {signed(each.difference)}{in_brackets(each.interval)}, "
            f"{p_in_words(each.p_holm, each.approximate, level)}."
        )


def _against_readers(each: AgainstReaders) -> str:
    note = f"; p is approximate, since {each.approximate}" if each.approximate else ""
    means = f"{each.mean:.3f} against {each.readers_mean:.3f}"
    return f"{each.sentence[:-1]} ({means}, {numbers_against_readers(each)}{note})."


def _at_their_point(verdict: Verdict) -> Iterable[str]:
    """Sensitivity at the readers' operating point."""
    points = verdict.readers.operating_points if verdict.readers else ()
    if points:
        parts = [
            f"{each.sensitivity:.2f} for {each.configuration} (difference {signed(each.difference)}"
            f"{in_brackets(each.interval)})"
            for each in points
        ]
        first = points[0]
        yield (
            f"At the readers’ mean specificity of {first.specificity:.2f}, sensitivity was "
            f"{first.readers_sensitivity:.2f} for the readers and {listed(parts)}."
        )


def _clinical(clinical: Clinical, level: float) -> Iterable[str]:
    """Operating points, calibration and net benefit."""
    first = clinical.configurations[0]
    for place, point in enumerate(first.operating_points):
        other = "specificity" if point.aim == "sensitivity" else "sensitivity"
        of_each = []
        for each in clinical.configurations:
            found = each.operating_points[place]
            reached = f" (at a {point.aim} of {_estimate(getattr(found, point.aim), level)})"
            met = reached if clinical.thresholds_from == "validation" else ""
            of_each.append(f"{_estimate(getattr(found, other), level)} for {each.name}{met}")
        yield f"With thresholds for a {point.aim} of {point.at_least:g}, {other} was {listed(of_each)}."
    calibrated = [each for each in clinical.configurations if each.calibration]
    if calibrated:
        of_each = [_calibration(each, level) for each in calibrated]
        yield f"Brier score and calibration slope were {listed(of_each)}."
        of_each = [f"{_of_thresholds(_beneficial(each, clinical))} for {each.name}" for each in calibrated]
        low, high = clinical.treat_all[0].threshold, clinical.treat_all[-1].threshold
        yield (
            f"Of {len(clinical.treat_all)} threshold probabilities from {low:g} to {high:g}, mean net benefit "
            f"was above that of calling all cases positive, or none, at {listed(of_each)}."
        )


def _calibration(each: ClinicalConfiguration, level: float) -> str:
    assert each.calibration is not None
    slope = each.calibration.slope
    of_slope = "not estimable" if slope is None else _estimate(slope, level)
    return f"{_estimate(each.calibration.brier, level, digits=3)} and {of_slope} for {each.name}"


def _beneficial(each: ClinicalConfiguration, clinical: Clinical) -> list[float]:
    """Thresholds at which acting by the likelihood is better than acting on all cases, or on none."""
    return [
        point.threshold
        for point, everyone in zip(each.net_benefit, clinical.treat_all, strict=True)
        if point.net_benefit.mean > max(0.0, everyone.net_benefit)
    ]


def _of_thresholds(found: Sequence[float]) -> str:
    if len(found) < 2:
        return f"{len(found)} ({found[0]:g})" if found else "none"
    return f"{len(found)} ({found[0]:g} to {found[-1]:g})"


def _estimate(found: Estimate, level: float, digits: int = 2) -> str:
    if found.interval is None:
        return number(found.mean, digits)
    low, high = (number(end, digits) for end in found.interval)
    return f"{number(found.mean, digits)} [{percent(level)} CI {low} to {high}]".replace("-", "−")
