"""The schema of ``verdict.json``; :mod:`evaluation.statistics.conclusions` says what its codes mean."""

from collections.abc import Mapping
from typing import Literal

from contract.records import Record
from contract.schema import Frozen
from evaluation.statistics.analysis_file import Endpoint, Metric
from evaluation.statistics.clinical_records import Clinical

Code = Literal["better", "worse", "on-par", "undecided"]
ConfigurationKind = Literal["configuration", "ensemble", "baseline"]
ReaderCode = Literal["superior", "not inferior", "inferior", "undecided"]
Design = Literal["nested", "paired by fold", "paired by network"]


class Interval(Frozen):
    """A two-sided confidence interval."""

    low: float
    high: float
    level: float
    """Such as 0.95: 1 − alpha of the analysis."""


class MetricSummary(Frozen):
    """One metric of one configuration, over its runs."""

    mean: float | None
    sd: float | None
    """Standard deviation over runs; null for a single run."""
    interval: Interval | None
    """For new runs and cases; of a single run or a baseline for new cases. Null where nothing varies."""
    runs: Mapping[str, float | None]
    """By run."""
    picai_mean: float | None
    reason: str | None = None
    """Why the metric is undefined."""


class ConfigurationSummary(Frozen):
    """One configuration on the test set."""

    name: str
    kind: ConfigurationKind
    runs: int
    cases: int | None
    """Null, like all that is counted in cases, where a table of runs was compared."""
    positive_cases: int | None
    lesions: int | None
    missing: int | None
    """Predictions counted as worst, over all runs."""
    candidate_free_cases: int | None
    """Cases without any candidate, over all runs; null without detection maps."""
    trained_on: Mapping[str, int | None] = {}
    """By run, how many of the cases its networks were trained on; null: not known."""
    prepared_sha256: str | None = None
    """Hash of the dataset with its folds that its runs were trained on; null: not known, or there are several."""
    metrics: Mapping[Metric, MetricSummary]
    lesion_sensitivity_at_fp: Mapping[str, float | None]
    """Mean over runs, by false positives per case; keys as in ``metrics.json``."""
    afroc: MetricSummary | None = None
    """Area under the AFROC curve; null without detection maps, lesions or negative cases."""


class RunsAndCases(Frozen):
    """What the test for new runs and cases rests on."""

    design: Design
    runs: tuple[int, int]
    """Compared, of a and of b."""
    variance_of_runs: float
    variance_of_cases: float
    degrees_of_freedom: float
    note: str | None
    """What a reader of the result has to know: folds that are not known, runs that are left out."""
    approximate: str | None
    """Why p is approximate; null where simulations show it to be right."""


class RunLevel(Frozen):
    """Whether the training methods differ on this test set."""

    p: float | None
    """Two-sided, exact, of the order of the runs."""
    p_holm: float | None
    p_one_sided: Mapping[str, float] = {}
    """By the configuration that is the alternative, the other being the base: as in Bosma et al. (RSNA 2022), by
    picai_eval's permutation test, which pools all runs of each, whatever their folds."""
    p_one_sided_within_folds: Mapping[str, float] = {}
    """The same with runs shuffled within folds, over common folds; empty where ``blocked_by_fold`` is not."""
    smallest_attainable_p: float | None
    """What so many runs could give at best."""
    alpha: float
    """What p after Holm is compared with: alpha, or the level of a look at a running campaign."""
    p_of_means: float | None
    """The same question asked of the means instead of the order; not in the family."""
    probability_above: float | None = None
    """Share of pairs of runs in which a's is above b's, ties counted half: what p is about."""
    blocked_by_fold: bool
    reason: str | None
    """Why there is no p."""
    sentence: str | None = None


class Networks(Frozen):
    """Two single networks, or fixed rules, against each other: whether they differ on new cases."""

    p: float
    """Two-sided; DeLong's test, of AP by the patients' influence, with Welch's degrees of freedom."""
    p_holm: float
    """Over all comparisons of two single networks by this metric."""
    interval: Interval
    p_of_swaps: float
    """Patients' outputs swapped between the two."""
    p_interval: tuple[float, float]
    """95 %, of a Monte Carlo p of swaps."""
    exact: bool
    swaps: int | None
    """How many were drawn; null where all of them were counted."""
    approximate: str | None = None
    """Why p is approximate."""


class Equivalence(Frozen):
    """Two one-sided tests against the margin."""

    margin: float
    interval: Interval
    """Of level 1 − 2·alpha: within ± margin exactly where p ≤ alpha."""
    p: float
    p_holm: float | None
    shown: bool
    """Whether p after Holm is at most the comparison's ``alpha``, that of the look included."""


class NonInferiority(Frozen):
    """One-sided tests of one side's disadvantage against the margin."""

    margin: float
    interval: Interval
    """Of level 1 − 2·alpha, as that of the equivalence: its ends are the one-sided bounds."""
    p_of_a: float
    p_of_b: float
    p_holm_of_a: float | None
    """Over the family's two questions per comparison, of which at most one is ever wrongly answered yes."""
    p_holm_of_b: float | None
    a_not_inferior: bool
    b_not_inferior: bool


class Control(Frozen):
    """Shown with a claim about an ensemble: the same number of runs of one configuration.

    Averaging any runs helps. Only what an ensemble gains over its control speaks for the diversity of its members.
    """

    control: str
    estimate: float | None
    """Mean of the ensemble minus mean of the control."""
    interval: Interval | None
    code: Code | None
    """Of that comparison, seen from the ensemble; null where it was not declared."""


class SubgroupValue(Frozen):
    """One configuration in one group."""

    configuration: str
    auroc: float
    interval: Interval | None


class SubgroupPair(Frozen):
    """One comparison in one group, for new runs and cases; of single networks for new cases."""

    a: str
    b: str
    difference: float
    interval: Interval
    p: float
    p_holm: float
    """Over all groups and comparisons."""
    approximate: str | None
    """Why p is approximate."""


class Subgroup(Frozen):
    """Cases with one value in one column of the marksheet."""

    column: str
    value: str
    positive_cases: int
    negative_cases: int
    configurations: tuple[SubgroupValue, ...]
    pairs: tuple[SubgroupPair, ...]


class Interaction(Frozen):
    """Whether a comparison's difference is another one in a group than in the column's other groups.

    Of subgroups the difference in AUROC, of strata of lesions that in sensitivity.
    """

    column: str
    value: str
    against: str
    """The other value, or ``others`` for all other groups together."""
    a: str
    b: str
    difference: float
    """Difference a − b in the group minus that in the others."""
    interval: Interval
    p: float
    """Two-sided, for new runs and cases; of single networks for new cases."""
    p_holm: float
    """Over all interactions."""
    approximate: str | None
    """Why p is approximate."""


class StratumSensitivity(Frozen):
    """One configuration in one stratum of lesions."""

    configuration: str
    sensitivity: float
    """Share of the stratum's lesions that are found, mean over runs."""
    interval: tuple[float, float] | None
    """For new runs and cases, of level 1 − alpha, with the lesions of a patient as one cluster."""


class LesionStratum(Frozen):
    """Lesions with one value in one column."""

    column: str
    """``volume_ml``, ``diameter_mm`` or a column of the table of lesions."""
    value: str
    lesions: int
    patients: int
    """With such a lesion; where they are few there are neither intervals nor pairs."""
    configurations: tuple[StratumSensitivity, ...]
    pairs: tuple[SubgroupPair, ...]
    """Differences in sensitivity; Holm over all strata and comparisons."""


class LesionStrata(Frozen):
    """Sensitivity by strata of lesions, at one threshold of each run."""

    threshold: float | None
    """The declared one of confidence, for all runs."""
    false_positives_per_case: float | None
    """Or what chose each run's."""
    thresholds_from: Literal["declared", "validation", "test set"]
    thresholds: Mapping[str, float]
    """By run."""
    strata: tuple[LesionStratum, ...]
    interactions: tuple[Interaction, ...]


class ReaderSummary(Frozen):
    """One human reader."""

    name: str
    cases: int
    auroc: float
    ap: float | None
    """Null where the table does not tell what marks hit."""
    sensitivity: float | None
    """At the declared threshold; null without one, as ``specificity``."""
    specificity: float | None


class AgainstReaders(Frozen):
    """One configuration against the readers, by one metric."""

    configuration: str
    metric: Metric
    mean: float
    readers_mean: float
    difference: float
    """Mean over runs minus mean over readers."""
    interval: Interval
    p: float
    """Two-sided, for new runs, new readers and new cases."""
    p_holm: float
    alpha: float
    """What p after Holm is compared with: two-sided of a difference, one-sided of non-inferiority."""
    single: bool
    """Whether it is one network or a fixed rule, compared as such: for new readers and new cases alone."""
    variance_of_runs: float
    variance_of_readers: float
    variance_of_cases: float
    degrees_of_freedom: float
    margin: float | None
    p_inferior: float | None
    """One-sided: of a disadvantage of at least the margin."""
    p_inferior_holm: float | None
    approximate: str | None
    """Why p is approximate."""
    endpoint: Endpoint | None = None
    """As that of a comparison."""
    code: ReaderCode
    sentence: str


class AtReadersSpecificity(Frozen):
    """One configuration's sensitivity where its runs have the readers' mean specificity."""

    configuration: str
    specificity: float
    sensitivity: float
    readers_sensitivity: float
    difference: float
    interval: Interval
    """Percentiles over resampled patients, runs and readers."""


class ReaderStudy(Frozen):
    """The comparison with human readers."""

    readers: tuple[ReaderSummary, ...]
    design: Literal["fully crossed", "split-plot"]
    means: Mapping[Metric, float]
    intervals: Mapping[Metric, Interval | None]
    """Of the mean over readers, for new readers and cases."""
    comparisons: tuple[AgainstReaders, ...]
    threshold: float | None
    """Of the readers' scores: at least so much is positive."""
    operating_points: tuple[AtReadersSpecificity, ...]
    left_out: tuple[str, ...] = ()
    """Who is not compared by which metric, and why."""


class PairVerdict(Frozen):
    """One comparison by one metric."""

    a: str
    b: str
    metric: Metric
    endpoint: Endpoint | None = None
    """What the analysis file declares the metric to be; null where it declares no primary one."""
    estimate: float | None
    """Mean of a minus mean of b, over the runs that are compared."""
    interval: Interval | None
    """For new runs and cases, of level 1 − alpha; excludes 0 exactly where ``p`` < alpha."""
    p: float | None
    """For new runs and cases, two-sided."""
    p_holm: float | None
    alpha: float
    """What p after Holm is compared with: alpha, or the level of a look at a running campaign."""
    runs_and_cases: RunsAndCases | None
    reason: str | None
    """Why new runs and cases are not asked about."""
    networks: Networks | None
    """Where single networks or fixed rules are compared."""
    run_level: RunLevel
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

    @property
    def approximate(self) -> str | None:
        """Why p for new runs and cases is approximate, and with it those of equivalence and non-inferiority."""
        return None if self.runs_and_cases is None else self.runs_and_cases.approximate


class Verdict(Record):
    """``verdict.json``.

    ``parents``: sha256 of each scored run's ``metrics.json``, by run, or of the table of runs; with ``--plan`` also of
    that record, as ``plan``.
    """

    analysis: str
    """sha256 of the analysis file, or ``exploratory``."""
    analysis_name: str
    card: str | None
    """Null, like its hash, where a table of runs was compared."""
    card_sha256: str | None
    alpha: float
    seed: int
    replicates: int
    """Of the bootstrap bands of curves."""
    swaps: int
    looks: tuple[int, ...]
    """Runs per configuration at which the running campaign was to be looked at; none if only at its end."""
    family: int
    """Declared comparisons per metric; Holm adjusts over those of them that could be tested."""
    data_licences: tuple[str, ...]
    profiles: tuple[str, ...]
    patients: int | None
    configurations: tuple[ConfigurationSummary, ...]
    pairs: tuple[PairVerdict, ...]
    readers: ReaderStudy | None = None
    """Null without ``--readers``."""
    clinical: Clinical | None = None
    """Null for a table of runs, and where the test set has one class only."""
    subgroups: tuple[Subgroup, ...] = ()
    """Empty where the analysis file declares none."""
    interactions: tuple[Interaction, ...] = ()
    lesion_strata: LesionStrata | None = None
    """Null where sizes of lesions are not recorded."""
    primary: Metric | None = None
    """The metric that was declared to be the primary one."""
    sample_size: str | None = None
    """How the numbers of runs and cases were planned, in a sentence; null without ``--plan``."""
    margins: Mapping[Metric, float] = {}
    """The declared ones, whether they could be tested or not."""
    subgroups_left_out: tuple[str, ...] = ()
    """Groups of the declared columns that are too small to be judged, each with what it holds; of these, ``subgroups``
    holds those that are large enough to be shown, without intervals and pairs."""
