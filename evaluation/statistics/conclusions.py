"""The rule that turns a test and its interval into a code and a sentence.

*Better* or *worse*: the difference for new runs and new cases is significant after Holm's adjustment
(:mod:`evaluation.statistics.variance.runs_and_cases`). *On par*: equivalence within the declared margin is shown, by
two one-sided tests, adjusted likewise. Otherwise *undecided*: absence of evidence is no evidence of absence. A
difference can be both shown and smaller than the margin; the sentence then says so.

Whether the runs differ *on this test set* is another question, answered by a separate attribute
(``run_level`` of :class:`~evaluation.statistics.verdict_records.PairVerdict`), with its own direction and sentence; it
does not affect the code. A single trained run decides nothing about its configuration: two networks are compared as
such (``networks``).
"""

from collections.abc import Mapping

from evaluation.statistics.analysis_file import METRIC_NAMES, METRICS, Endpoint, Metric
from evaluation.statistics.verdict_records import Code, Verdict

EXPLORATORY_NAME = "{metric} (exploratory)"
"""Name of a metric in sentences where another is declared primary."""

SENTENCES: Mapping[Code, str] = {
    "better": "By {metric}, {a} is better than {b} for new runs and new cases{within}.",
    "worse": "By {metric}, {a} is worse than {b} for new runs and new cases{within}.",
    "on-par": "By {metric}, {a} and {b} are on par for new runs and new cases: they differ by less than {margin:g}.",
    "undecided": "By {metric}, no difference between {a} and {b} is shown for new runs and new cases{nor}.",
}
WITHIN = ", but by less than the margin of {margin:g}"
NOR = ", nor that they differ by less than {margin:g}"
NOT_TESTED = "By {metric}, {a} and {b} are not compared: {reason}."
NOT_ASKED_SENTENCE = "By {metric}, whether {a} and {b} differ for new runs and new cases is not asked: {reason}."
TWO_NETWORKS = (
    "By {metric}, of {a} and {b} single networks were scored, which decide nothing about new runs; these two {differ}."
)

ON_THIS_TEST_SET = "On this test set the runs of {favoured} rank above those of {other}."
DISAGREE = (
    "On this test set the runs of {favoured} rank above those of {other}, while their mean is lower: {run} decides the "
    "mean."
)
NO_ORDER = "On this test set the ranking of the runs shows no difference."
TOO_FEW_TO_ORDER = "On this test set the ranking of so few runs cannot show a difference{at_look}."
ORDER_NOT_TESTED = "The ranking of the runs on this test set is not judged: {reason}."


def decide(*, estimate: float | None, p_holm: float | None, alpha: float, equivalent: bool) -> Code:
    """The code of one comparison.

    Parameters
    ----------
    p_holm
        Adjusted p of the difference for new runs and cases; None where that is not tested.
    alpha
        Level that p is compared with.
    equivalent
        Whether equivalence is shown.
    """
    if estimate is not None and is_shown(p_holm, alpha):
        return "better" if estimate > 0 else "worse"
    return "on-par" if equivalent else "undecided"


def is_shown(p_holm: float | None, alpha: float) -> bool:
    """Whether a test rejects; never at the level 0, where nothing is decided, even if p underflows to 0."""
    return p_holm is not None and p_holm <= alpha and alpha > 0


def level_of(verdict: Verdict) -> float:
    """Level of groups, strata and interactions: alpha, or that of the look, 0 where none is due."""
    return min((pair.alpha for pair in verdict.pairs), default=verdict.alpha) if verdict.looks else verdict.alpha


def leading_metric(verdict: Verdict) -> Metric:
    """The metric that summary and text lead with: the declared primary one; else the only one with a margin.

    Otherwise the last that two configurations, or with readers one, have on this test set.
    """
    if verdict.primary is not None:
        return verdict.primary
    compared = compared_metrics(verdict)
    with_margin = [metric for metric in compared if metric in verdict.margins]
    return with_margin[0] if len(with_margin) == 1 else compared[-1]


def compared_metrics(verdict: Verdict) -> list[Metric]:
    """Metrics with an estimate, in their usual order; where there is none, those asked for."""
    estimated = {pair.metric for pair in verdict.pairs if pair.estimate is not None}
    read = {each.metric for each in verdict.readers.comparisons} if verdict.readers and not verdict.pairs else set()
    found = estimated | read or {pair.metric for pair in verdict.pairs} or set(METRICS)
    return [metric for metric in METRICS if metric in found]


def spoken(metric: Metric, endpoint: Endpoint | None) -> str:
    """The metric's name in a sentence, marked where it is exploratory."""
    name = METRIC_NAMES[metric]
    return EXPLORATORY_NAME.format(metric=name) if endpoint == "exploratory" else name


def sentence(
    code: Code,
    *,
    a: str,
    b: str,
    metric: Metric,
    margin: float | None,
    equivalent: bool,
    endpoint: Endpoint | None = None,
) -> str:
    """The fixed sentence of a code."""
    return SENTENCES[code].format(
        a=a,
        b=b,
        metric=spoken(metric, endpoint),
        margin=margin,
        within=WITHIN.format(margin=margin) if equivalent else "",
        nor="" if margin is None else NOR.format(margin=margin),
    )
