"""The schema of ``verdict.json``, and the rule that turns two tests and an interval into a code and a sentence.

The direction is that of the statistic that gave the p: at run level the order of the runs, which one collapsed run does
not reverse, as it may reverse their mean. Where order and means disagree, nothing is decided; nor where the arms share
no fold.

Better: both levels are significant after Holm and the two-level interval excludes 0. Better on this test set: only
the run level. On par: equivalence is shown within the declared margin. Otherwise undecided: absence of evidence is no
evidence of absence. Where the run level does not apply (ensembles with their own members, baselines), the case level
and the interval decide; a single trained run decides nothing about its configuration.
"""

from collections.abc import Mapping
from typing import Literal

from contract.records import Record
from contract.schema import Frozen
from evaluation.metrics.outcomes import FloatArray
from evaluation.statistics.analysis_file import Metric
from evaluation.statistics.bootstrap import percentile_interval

Code = Literal["better", "worse", "better-on-this-test-set", "on-par", "undecided"]
Kind = Literal["configuration", "ensemble", "baseline"]

METRIC_NAMES: Mapping[str, str] = {"auroc": "AUROC", "ap": "AP", "score": "score"}

SENTENCES: Mapping[str, str] = {
    "better": "By {metric}, {a} is better than {b}, beyond the chance of runs and of cases.",
    "worse": "By {metric}, {a} is worse than {b}, beyond the chance of runs and of cases.",
    "better-on-this-test-set": (
        "By {metric}, {favoured} is better than {other} on this test set; that it holds for new cases is not shown."
    ),
    "on-par": "By {metric}, {a} and {b} are on par: their difference is within the declared margin.",
    "undecided": "By {metric}, neither a difference between {a} and {b} nor their equivalence is shown.",
}

DISAGREE = (
    "By {metric}, the order of the runs favours {ordered} and their means {favoured}: {run} decides the mean, and "
    "nothing is decided between {a} and {b}."
)

NOT_TESTED = "By {metric}, {a} and {b} are not compared: {reason}."

SENTENCES_WITHOUT_RUN_LEVEL: Mapping[str, str] = {
    **SENTENCES,
    "better": "By {metric}, {a} is better than {b}, beyond the chance of cases.",
    "worse": "By {metric}, {a} is worse than {b}, beyond the chance of cases.",
}


class Interval95(Frozen):
    """A two-level 95 % interval."""

    low: float
    high: float
    undefined_replicates: int
    """Bootstrap replicates without a positive, a negative or a lesion; left out."""

    @staticmethod
    def of(draws: FloatArray, *, level: float = 0.95) -> "Interval95 | None":
        """The percentile interval of bootstrap draws, NaN where undefined; None where all are."""
        found = percentile_interval(draws, level=level)
        return (
            None if found is None else Interval95(low=found.low, high=found.high, undefined_replicates=found.undefined)
        )


class MetricSummary(Frozen):
    """One metric of one configuration, over its runs."""

    mean: float | None
    sd: float | None
    """Standard deviation over runs; null for a single run."""
    interval: Interval95 | None
    delong_interval: tuple[float, float] | None
    """Only of AUROC: 95 %, over cases, the runs taken as they are."""
    runs: Mapping[str, float | None]
    """By run."""
    picai_mean: float | None
    reason: str | None = None
    """Why the metric is undefined."""


class ConfigurationSummary(Frozen):
    """One configuration on the test set."""

    name: str
    kind: Kind
    runs: int
    cases: int
    positive_cases: int
    lesions: int
    missing: int
    """Predictions counted as worst, over all runs."""
    candidate_free_cases: int
    """Cases without any candidate, over all runs."""
    trained_on: Mapping[str, int | None] = {}
    """By run, how many of the cases its networks were trained on; null: not known."""
    metrics: Mapping[Metric, MetricSummary]
    lesion_sensitivity_at_fp: Mapping[str, float | None]
    """Mean over runs, by false positives per case; keys as in ``metrics.json``."""


class RunLevel(Frozen):
    """Whether the training methods differ on this test set."""

    p: float | None
    smallest_attainable_p: float | None
    """What so many runs could give at best."""
    p_holm: float | None
    alpha: float
    """Threshold of p after Holm: all of alpha, or what the current interim analysis may spend."""
    p_of_means: float | None
    """The same test of the means instead of the order; informative, not in the family."""
    probability_above: float | None = None
    """Share of pairs of runs in which a's is above b's, ties counted half: what p is about."""
    blocked_by_fold: bool
    reason: str | None
    """Why there is no p."""
    folds: str | None = None
    """A note where the arms' folds differ or are unknown."""


class CaseLevel(Frozen):
    """Whether a difference would hold on new cases."""

    p: float | None
    """The larger of the two below (:mod:`evaluation.statistics.case_level`)."""
    p_holm: float | None
    p_of_swaps: float | None
    """The trained networks as they are: patients' outputs swapped."""
    p_interval: tuple[float, float] | None
    """95 %, of a Monte Carlo p of swaps."""
    exact: bool
    swaps: int | None
    """How many were drawn; null where all of them were counted."""
    p_of_runs_and_cases: float | None
    """Runs and cases as drawn; null where an arm's spread over runs is unknown: then p speaks of these networks."""
    degrees_of_freedom: float | None
    """Of that test; null where no spread of runs was estimated."""
    reason: str | None = None
    """Why there is no test at all."""


class Equivalence(Frozen):
    """Two one-sided tests: the interval of level 1 − 2·alpha against the margin."""

    margin: float
    interval: tuple[float, float]
    level: float
    shown: bool


class NonInferiority(Frozen):
    """One-sided: the lower bound of level 1 − alpha of one side's advantage against −margin."""

    margin: float
    level: float
    lower_bound_of_a: float
    """Of a minus b."""
    lower_bound_of_b: float
    """Of b minus a."""
    a_not_inferior: bool
    b_not_inferior: bool


class Control(Frozen):
    """A size-matched control of an ensemble: the same number of runs of one configuration.

    Averaging any runs helps. Only the gain of an ensemble over its control is due to its diversity.
    """

    control: str
    estimate: float | None
    """Mean of the ensemble minus mean of the control."""
    interval: Interval95 | None
    code: Code | None
    """Of that comparison, seen from the ensemble; null where it was not declared."""


class SubgroupValue(Frozen):
    """One configuration in one group."""

    configuration: str
    auroc: float
    interval: tuple[float, float] | None
    """Two-level, 95 %."""


class SubgroupPair(Frozen):
    """One comparison in one group, at case level."""

    a: str
    b: str
    difference: float
    p: float
    p_holm: float
    """Over all groups and comparisons."""


class Subgroup(Frozen):
    """Cases with one value in one column of the marksheet."""

    column: str
    value: str
    positive_cases: int
    negative_cases: int
    configurations: tuple[SubgroupValue, ...]
    pairs: tuple[SubgroupPair, ...]


class PairVerdict(Frozen):
    """One comparison by one metric."""

    a: str
    b: str
    metric: Metric
    estimate: float | None
    """Mean of a minus mean of b."""
    interval: Interval95 | None
    delong_interval: tuple[float, float] | None
    run_level_p: float | None
    case_level_p: float | None
    run_level: RunLevel
    case_level: CaseLevel
    equivalence: Equivalence | None
    """Null without a margin in the analysis file."""
    non_inferiority: NonInferiority | None
    """Null without a margin in the analysis file."""
    ensemble: str | None
    """The one of the two that is an ensemble of several configurations, where the other is not one itself."""
    controls: tuple[Control, ...]
    """Size-matched controls of that ensemble; empty where none was scored."""
    code: Code
    sentence: str


class Verdict(Record):
    """``verdict.json``. ``parents``: sha256 of each scored run's ``metrics.json``, by run."""

    analysis: str
    """sha256 of the analysis file, or ``exploratory``."""
    analysis_name: str
    card: str
    card_sha256: str
    alpha: float
    seed: int
    replicates: int
    swaps: int
    looks: tuple[int, ...]
    """Runs per configuration at which the running campaign was to be looked at; none if only at its end."""
    family: int
    """Comparisons per metric and level that Holm adjusts for."""
    data_licences: tuple[str, ...]
    profiles: tuple[str, ...]
    patients: int
    configurations: tuple[ConfigurationSummary, ...]
    pairs: tuple[PairVerdict, ...]
    subgroups: tuple[Subgroup, ...] = ()
    """Empty where the analysis file declares none."""
    subgroups_left_out: tuple[str, ...] = ()
    """Groups of the declared columns that are too small to be judged, each with what it holds; of these, ``subgroups``
    holds those that are large enough to be shown, without intervals and pairs."""


def decide(
    *,
    estimate: float | None,
    interval: Interval95 | None,
    run_level_p_holm: float | None,
    case_level_p_holm: float | None,
    run_level_applies: bool,
    spread_known: bool,
    equivalent: bool,
    alpha: float,
    run_level_alpha: float | None = None,
    order_agrees: bool = True,
    comparable: bool = True,
) -> Code:
    """Turn one comparison's tests into its code.

    Parameters
    ----------
    run_level_applies
        False where runs are not exchangeable by design: then the case level and the interval decide.
    spread_known
        Whether each arm has at least two runs, or is a baseline, which has no spread over runs.
    run_level_alpha
        Threshold of the run level, if not ``alpha``: less in an interim analysis.
    order_agrees
        Whether the order of the runs, which the run level tests, favours the side that their means favour.
    comparable
        False where the arms share no fold: fold and configuration are confounded.
    """
    if estimate is None or interval is None or not comparable:
        return "undecided"
    excludes_0 = interval.low > 0 if estimate > 0 else interval.high < 0
    at_run_level = run_level_p_holm is not None and run_level_p_holm <= (
        alpha if run_level_alpha is None else run_level_alpha
    )
    if at_run_level and not order_agrees:
        return "undecided"
    at_case_level = case_level_p_holm is not None and case_level_p_holm <= alpha
    if at_case_level and excludes_0 and spread_known and (at_run_level or not run_level_applies):
        return "better" if estimate > 0 else "worse"
    if at_run_level:
        return "better-on-this-test-set"
    return "on-par" if equivalent and spread_known else "undecided"


def sentence(code: Code, *, a: str, b: str, metric: Metric, estimate: float | None, run_level_applies: bool) -> str:
    """The fixed sentence of a code."""
    favoured, other = (a, b) if estimate is None or estimate >= 0 else (b, a)
    sentences = SENTENCES if run_level_applies else SENTENCES_WITHOUT_RUN_LEVEL
    return sentences[code].format(a=a, b=b, metric=METRIC_NAMES[metric], favoured=favoured, other=other)
