"""The schema of ``verdict.json``; :mod:`evaluation.statistics.conclusions` defines its codes."""

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
    """Confidence level such as 0.95, 1 − alpha of the analysis."""


class MetricSummary(Frozen):
    """One metric of one configuration, over its runs."""

    mean: float | None
    sd: float | None
    """Standard deviation over runs; null for a single run."""
    interval: Interval | None
    """Interval for new runs and cases; of a single run or a baseline for new cases. Null where nothing varies."""
    runs: Mapping[str, float | None]
    """Values by run."""
    picai_mean: float | None
    reason: str | None = None
    """Reason why the metric is undefined."""


class ConfigurationSummary(Frozen):
    """One configuration on the test set."""

    name: str
    kind: ConfigurationKind
    runs: int
    cases: int | None
    """Number of cases; null, like all counts of cases, where a table of runs was compared."""
    positive_cases: int | None
    lesions: int | None
    missing: int | None
    """Missing predictions, counted as worst, over all runs."""
    candidate_free_cases: int | None
    """Cases without any candidate, over all runs; null without detection maps."""
    trained_on: Mapping[str, int | None] = {}
    """Number of cases that a run's networks were trained on, by run; null: not known."""
    prepared_sha256: str | None = None
    """Hash of the dataset with folds that the runs were trained on; null: not known, or several."""
    metrics: Mapping[Metric, MetricSummary]
    lesion_sensitivity_at_fp: Mapping[str, float | None]
    """Lesion sensitivity by false positives per case, mean over runs; keys as in ``metrics.json``."""
    afroc: MetricSummary | None = None
    """Area under the AFROC curve; null without detection maps, lesions or negative cases."""


class RunsAndCases(Frozen):
    """Design, variances and degrees of freedom of the test for new runs and cases."""

    design: Design
    runs: tuple[int, int]
    """Numbers of compared runs of a and of b."""
    variance_of_runs: float
    variance_of_cases: float
    degrees_of_freedom: float
    note: str | None
    """Limitations of the result: unknown folds, runs that are left out."""
    approximate: str | None
    """Reason why p is approximate; null where simulations confirm it."""


class RunLevel(Frozen):
    """Whether the training methods differ on this test set."""

    p: float | None
    """Two-sided exact p of the order of the runs."""
    p_holm: float | None
    p_one_sided: Mapping[str, float] = {}
    """One-sided p by the configuration that is the alternative, the other being the base, as in Bosma et al. (RSNA
    2022): picai_eval's permutation test, which pools all runs of each and ignores folds."""
    p_one_sided_within_folds: Mapping[str, float] = {}
    """The same with runs shuffled within common folds; empty unless ``blocked_by_fold``."""
    smallest_attainable_p: float | None
    """Smallest p that these numbers of runs can give."""
    alpha: float
    """Level that p after Holm is compared with: alpha, or that of a look at a running campaign."""
    p_of_means: float | None
    """p of the difference of means instead of the order; not in the family."""
    probability_above: float | None = None
    """Share of pairs of runs in which a's is above b's, ties counted half: the tested statistic."""
    blocked_by_fold: bool
    reason: str | None
    """Reason why there is no p."""
    sentence: str | None = None


class Networks(Frozen):
    """Two single networks, or fixed rules, against each other: whether they differ on new cases."""

    p: float
    """Two-sided p by DeLong's test, of AP by the patients' influence, with Welch's degrees of freedom."""
    p_holm: float
    """p adjusted over all comparisons of two single networks by this metric."""
    interval: Interval
    p_of_swaps: float
    """p by swapping patients' outputs between the two."""
    p_interval: tuple[float, float]
    """95 % interval of a Monte Carlo p of swaps."""
    exact: bool
    swaps: int | None
    """Number of swaps drawn; null where all of them were counted."""
    approximate: str | None = None
    """Reason why p is approximate."""


class Equivalence(Frozen):
    """Two one-sided tests against the margin."""

    margin: float
    interval: Interval
    """Interval of level 1 − 2·alpha: within ± margin exactly where p ≤ alpha."""
    p: float
    p_holm: float | None
    shown: bool
    """Whether p after Holm is at most the comparison's ``alpha``, that of the look included."""


class NonInferiority(Frozen):
    """One-sided tests of one side's disadvantage against the margin."""

    margin: float
    interval: Interval
    """Interval of level 1 − 2·alpha, whose ends are the one-sided bounds."""
    p_of_a: float
    p_of_b: float
    p_holm_of_a: float | None
    """p adjusted over the family's two hypotheses per comparison, of which at most one is true."""
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
    """Code of that comparison, seen from the ensemble; null where it was not declared."""


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
    """p adjusted over all groups and comparisons."""
    approximate: str | None
    """Reason why p is approximate."""


class Subgroup(Frozen):
    """Cases with one value in one column of the marksheet."""

    column: str
    value: str
    positive_cases: int
    negative_cases: int
    configurations: tuple[SubgroupValue, ...]
    pairs: tuple[SubgroupPair, ...]


class Interaction(Frozen):
    """Whether a comparison's difference in a group differs from that in the column's other groups.

    The difference is in AUROC for subgroups, in sensitivity for strata of lesions.
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
    """Two-sided p for new runs and cases; of single networks for new cases."""
    p_holm: float
    """p adjusted over all interactions."""
    approximate: str | None
    """Reason why p is approximate."""


class StratumSensitivity(Frozen):
    """One configuration in one stratum of lesions."""

    configuration: str
    sensitivity: float
    """Share of the stratum's lesions that are found, mean over runs."""
    interval: tuple[float, float] | None
    """Interval for new runs and cases, of level 1 − alpha, with a patient's lesions as one cluster."""


class LesionStratum(Frozen):
    """Lesions with one value in one column."""

    column: str
    """Column: ``volume_ml``, ``diameter_mm`` or one of the table of lesions."""
    value: str
    lesions: int
    patients: int
    """Patients with such a lesion; where they are few there are neither intervals nor pairs."""
    configurations: tuple[StratumSensitivity, ...]
    pairs: tuple[SubgroupPair, ...]
    """Differences in sensitivity, adjusted by Holm over all strata and comparisons."""


class LesionStrata(Frozen):
    """Sensitivity by strata of lesions, at one threshold of each run."""

    threshold: float | None
    """Declared threshold of confidence for all runs; null without one."""
    false_positives_per_case: float | None
    """False positives per case that chose each run's threshold; null if declared."""
    thresholds_from: Literal["declared", "validation", "test set"]
    thresholds: Mapping[str, float]
    """Thresholds by run."""
    strata: tuple[LesionStratum, ...]
    interactions: tuple[Interaction, ...]


class ReaderSummary(Frozen):
    """One human reader."""

    name: str
    cases: int
    auroc: float
    ap: float | None
    """AP; null where the table does not say which marks hit."""
    sensitivity: float | None
    """Sensitivity at the declared threshold; null, like ``specificity``, without one."""
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
    """Two-sided p for new runs, new readers and new cases."""
    p_holm: float
    alpha: float
    """Level that p after Holm is compared with: two-sided of a difference, one-sided of non-inferiority."""
    single: bool
    """Whether it is one network or a fixed rule, compared for new readers and new cases only."""
    variance_of_runs: float
    variance_of_readers: float
    variance_of_cases: float
    degrees_of_freedom: float
    margin: float | None
    p_inferior: float | None
    """One-sided p of a disadvantage of at least the margin."""
    p_inferior_holm: float | None
    approximate: str | None
    """Reason why p is approximate."""
    endpoint: Endpoint | None = None
    """Declared role of the metric, as of a comparison."""
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
    """Percentile interval over resampled patients, runs and readers."""


class ReaderStudy(Frozen):
    """The comparison with human readers."""

    readers: tuple[ReaderSummary, ...]
    design: Literal["fully crossed", "split-plot"]
    means: Mapping[Metric, float]
    intervals: Mapping[Metric, Interval | None]
    """Intervals of the mean over readers, for new readers and cases."""
    comparisons: tuple[AgainstReaders, ...]
    threshold: float | None
    """Smallest positive score of the readers."""
    operating_points: tuple[AtReadersSpecificity, ...]
    left_out: tuple[str, ...] = ()
    """Configurations or readers that are not compared by a metric, and why."""


class PairVerdict(Frozen):
    """One comparison by one metric."""

    a: str
    b: str
    metric: Metric
    endpoint: Endpoint | None = None
    """Declared role of the metric; null without a primary metric."""
    estimate: float | None
    """Mean of a minus mean of b, over the runs that are compared."""
    interval: Interval | None
    """Interval for new runs and cases, of level 1 − alpha; excludes 0 exactly where ``p`` < alpha."""
    p: float | None
    """Two-sided p for new runs and cases."""
    p_holm: float | None
    alpha: float
    """Level that p after Holm is compared with: alpha, or that of a look at a running campaign."""
    runs_and_cases: RunsAndCases | None
    reason: str | None
    """Reason why new runs and cases are not asked about."""
    networks: Networks | None
    """Comparison of single networks or fixed rules; null for others."""
    run_level: RunLevel
    equivalence: Equivalence | None
    """Test of equivalence; null without a margin in the analysis file."""
    non_inferiority: NonInferiority | None
    """Tests of non-inferiority; null without a margin in the analysis file."""
    ensemble: str | None
    """Name of the one that is an ensemble of several configurations, where the other is not."""
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
    """Name of the card; null, like its hash, where a table of runs was compared."""
    card_sha256: str | None
    alpha: float
    seed: int
    replicates: int
    """Bootstrap replicates of the bands of curves."""
    swaps: int
    looks: tuple[int, ...]
    """Runs per configuration at the planned looks; empty without interim analyses."""
    family: int
    """Declared comparisons per metric; Holm adjusts over those of them that could be tested."""
    data_licences: tuple[str, ...]
    profiles: tuple[str, ...]
    patients: int | None
    configurations: tuple[ConfigurationSummary, ...]
    pairs: tuple[PairVerdict, ...]
    readers: ReaderStudy | None = None
    """Comparison with human readers; null without ``--readers``."""
    clinical: Clinical | None = None
    """Clinical use; null for a table of runs, and where the test set has one class only."""
    subgroups: tuple[Subgroup, ...] = ()
    """Subgroups of cases; empty where the analysis file declares none."""
    interactions: tuple[Interaction, ...] = ()
    lesion_strata: LesionStrata | None = None
    """Strata of lesions; null where sizes of lesions are not recorded."""
    primary: Metric | None = None
    """The declared primary metric."""
    sample_size: str | None = None
    """One sentence on how runs and cases were planned; null without ``--plan``."""
    margins: Mapping[Metric, float] = {}
    """Declared margins, tested or not."""
    subgroups_left_out: tuple[str, ...] = ()
    """Declared groups that are too small to be tested, with their numbers of cases; ``subgroups`` holds those of them
    that are large enough to be shown, without intervals and pairs."""
