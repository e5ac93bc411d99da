"""Networks against human readers: runs, readers and cases as three sources of variance.

A configuration's runs and the readers are two arms whose members were drawn independently and saw the same cases: the
nested design of Obuchowski and Rockette (:mod:`evaluation.statistics.variance.runs_and_cases`). Where readers read
parts of the test set (split-plot), a reader's metric and influence are those of the cases that were read.

A configuration with one scored network, or a fixed rule, is compared as that network: the variance is that of readers
and cases, and the answer concerns this network.

Questions are asked in a fixed sequence: is the configuration not inferior to the readers, by the declared margin; if
so, is it superior? Holm adjusts each over the configurations that the analysis file compares. Non-inferiority is
one-sided at alpha, as between configurations; the others are two-sided.

At the readers' operating point each run is given the threshold that has the readers' mean specificity on this test set,
and its sensitivity is compared with theirs, over resampled patients, runs and readers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contract.errors import OncoduetError
from evaluation.metrics.outcomes import BoolArray, FloatArray, TestSet
from evaluation.metrics.weighted_metrics import last_of_ties
from evaluation.statistics.adjustment import holm
from evaluation.statistics.analysis_file import METRIC_NAMES, Analysis, Metric
from evaluation.statistics.conclusions import is_shown, spoken
from evaluation.statistics.readers.readers_table import Reader
from evaluation.statistics.resampling.random_streams import stream
from evaluation.statistics.variance.arms import Arm, interval_of, interval_of_mean
from evaluation.statistics.variance.influence import MetricByPatient, by_patient
from evaluation.statistics.variance.runs_and_cases import DifferenceTest, approximation, nested, too_few
from evaluation.statistics.verdict_records import (
    AgainstReaders,
    AtReadersSpecificity,
    Interval,
    ReaderCode,
    ReaderStudy,
    ReaderSummary,
)

REPLICATES = 1_000
"""Fewest bootstrap replicates at the readers' operating point."""

READER_SENTENCES: Mapping[ReaderCode, str] = {
    "superior": "By {metric}, {a} is superior to the readers for {new}.",
    "not inferior": "By {metric}, {a} is not inferior to the readers by {margin:g} for {new}; {beyond}.",
    "inferior": "By {metric}, {a} is inferior to the readers for {new}.",
    "undecided": "By {metric}, neither superiority nor non-inferiority of {a} to the readers is shown.",
}
WITHOUT_MARGIN = "By {metric}, no difference between {a} and the readers is shown."
NOT_DUE = "By {metric}, {a} is not compared with the readers: {reason}."
NOT_SUPERIOR = "superiority is not shown"
WORSE = "it is worse, but by less than the margin"
NEW = "new runs, new readers and new cases"
NEW_BUT_RUNS = "new readers and new cases"


def compare_with_readers(
    readers: Sequence[Reader], arms: Mapping[str, Arm], truth: TestSet, plan: Analysis
) -> ReaderStudy:
    """Compare configurations with the readers, by those of the analysis file's metrics that readers have.

    Parameters
    ----------
    arms
        Configurations to compare: those that the analysis file names.

    Raises
    ------
    OncoduetError
        The readers have none of the analysis file's metrics.
    """
    metrics: list[Metric] = ["auroc", "ap"] if readers[0].has_marks and truth.lesion_count else ["auroc"]
    of_readers = {metric: readers_by_patient(readers, truth, metric) for metric in metrics}
    asked = [metric for metric in metrics if metric in plan.metrics]
    if not asked:
        raise OncoduetError(
            plan.where,
            expected=f"a metric that readers have: {' or '.join(METRIC_NAMES[metric] for metric in metrics)}",
            found=", ".join(plan.metrics),
        )
    threshold = plan.readers.threshold
    _require_within(threshold, readers, plan)
    leading = plan.primary if plan.primary in asked else asked[0]
    few = next(
        (f"{each.name} read {why}" for each in readers if (why := too_few(_read_by(each, truth).positive_patients))),
        None,
    )
    comparisons = []
    left_out = []
    for metric in asked:
        margin = plan.readers.margin if metric == leading else None
        found, without = _compare(metric, of_readers[metric], arms, truth, plan, margin=margin, few=few)
        comparisons += found
        left_out += without
    return ReaderStudy(
        readers=tuple(_summary(reader, number, of_readers, truth, threshold) for number, reader in enumerate(readers)),
        design="fully crossed" if all(reader.read.all() for reader in readers) else "split-plot",
        means={metric: float(arm.values.mean()) for metric, arm in of_readers.items()},
        intervals={
            metric: interval_of_mean(arm, truth.positive_patients, fixed=False, level=1 - plan.alpha)
            for metric, arm in of_readers.items()
        },
        comparisons=tuple(comparisons),
        threshold=threshold,
        operating_points=()
        if threshold is None
        else tuple(
            _at_specificity(arm, _Readings.of(arm, readers, truth, threshold), truth, plan) for arm in arms.values()
        ),
        left_out=tuple(left_out),
    )


def _require_within(threshold: float | None, readers: Sequence[Reader], plan: Analysis) -> None:
    lowest = min(float(reader.outcome.likelihood.min()) for reader in readers)
    highest = max(float(reader.outcome.likelihood.max()) for reader in readers)
    if threshold is not None and not lowest < threshold <= highest:
        raise OncoduetError(
            f"{plan.where}: threshold of [readers]",
            expected=f"above {lowest:g}, up to {highest:g}, the readers' scores",
            found=f"{threshold:g}",
        )


def readers_by_patient(readers: Sequence[Reader], truth: TestSet, metric: Metric) -> MetricByPatient:
    """A metric of each reader with the influence of all patients, 0 for those whose cases were not read."""
    values, influence = [], []
    for reader in readers:
        names = np.unique(truth.patients, return_inverse=True)[1]
        part = _read_by(reader, truth)
        found = by_patient(part, [reader.outcome])[metric]
        whole = np.zeros(truth.patient_count)
        whole[np.unique(names[reader.read])] = found.influence[0]
        values.append(found.values[0])
        influence.append(whole)
    return MetricByPatient(np.array(values), np.stack(influence))


def _read_by(reader: Reader, truth: TestSet) -> TestSet:
    names = np.unique(truth.patients, return_inverse=True)[1]
    return TestSet(
        tuple(np.array(truth.case_ids)[reader.read].tolist()),
        truth.positive[reader.read],
        truth.lesions[reader.read],
        tuple(f"{patient:08d}" for patient in names[reader.read]),
    )


def _compare(
    metric: Metric,
    readers: MetricByPatient,
    arms: Mapping[str, Arm],
    truth: TestSet,
    plan: Analysis,
    *,
    margin: float | None,
    few: str | None,
) -> tuple[list[AgainstReaders], list[str]]:
    """The comparisons by one metric; and who is not compared, with the reason."""
    tests: dict[str, DifferenceTest] = {}
    left_out = []
    positive = truth.positive_patients
    for name, arm in arms.items():
        of_arm = arm.metrics[metric]
        reason = few
        if not np.isfinite([*of_arm.values, *readers.values]).all():
            reason = f"{METRIC_NAMES[metric]} is undefined"
        test = None if reason else nested(of_arm, readers, positive, fixed=(arm.is_single, False))
        if test is None:
            left_out.append(f"{name} by {METRIC_NAMES[metric]}: {reason or 'nothing varies'}")
        else:
            tests[name] = test
    p_holm = holm([test.p for test in tests.values()])
    inferior = [None if margin is None else test.p_not_above(-margin) for test in tests.values()]
    inferior_holm = holm(inferior)
    found = []
    for number, (name, test) in enumerate(tests.items()):
        arm, adjusted = arms[name], p_holm[number]
        assert adjusted is not None
        counts = [] if arm.is_single else [len(arm.runs)]
        alpha = plan.level_at(counts) if counts else plan.alpha
        not_due = plan.not_due(counts) if counts else None
        code = _code(test, adjusted, inferior_holm[number], alpha)
        values = arm.metrics[metric].values
        found.append(
            AgainstReaders(
                configuration=name,
                metric=metric,
                mean=float(values.mean()),
                readers_mean=float(readers.values.mean()),
                difference=test.estimate,
                interval=interval_of(test, 1 - plan.alpha),
                p=test.p,
                p_holm=adjusted,
                alpha=alpha,
                single=arm.is_single,
                variance_of_runs=0.0 if arm.is_single else float(values.var(ddof=1)) / len(values),
                variance_of_readers=float(readers.values.var(ddof=1)) / len(readers.values),
                variance_of_cases=test.variance_of_cases,
                degrees_of_freedom=test.degrees_of_freedom,
                margin=margin,
                p_inferior=inferior[number],
                p_inferior_holm=inferior_holm[number],
                approximate=approximation(
                    positive, [*((count, "runs") for count in counts), (len(readers.values), "readers")]
                ),
                endpoint=plan.endpoint(metric),
                code=code,
                sentence=_sentence(
                    code,
                    spoken(metric, plan.endpoint(metric)),
                    arm,
                    margin=margin,
                    worse=adjusted <= alpha and test.estimate < 0,
                    not_due=not_due,
                ),
            )
        )
    return found, left_out


def _sentence(
    code: ReaderCode, metric: str, arm: Arm, *, margin: float | None, worse: bool, not_due: str | None
) -> str:
    a = f"the one scored network of {arm.name}" if arm.is_single and not arm.is_fixed else arm.name
    if not_due is not None:
        return NOT_DUE.format(metric=metric, a=a, reason=not_due)
    text = WITHOUT_MARGIN if code == "undecided" and margin is None else READER_SENTENCES[code]
    return text.format(
        metric=metric,
        a=a,
        new=NEW_BUT_RUNS if arm.is_single else NEW,
        margin=margin or 0.0,
        beyond=WORSE if worse else NOT_SUPERIOR,
    )


def _code(test: DifferenceTest, p_holm: float, inferior: float | None, alpha: float) -> ReaderCode:
    """The fixed sequence: superiority is asked only where non-inferiority is shown, or no margin was declared.

    A configuration that is not inferior is never called inferior, though it may be worse by less than the margin.
    """
    differs = is_shown(p_holm, alpha)
    if inferior is not None and is_shown(inferior, alpha):
        return "superior" if differs and test.estimate > 0 else "not inferior"
    if differs and test.estimate < 0:
        return "inferior"
    return "superior" if differs and inferior is None else "undecided"


def _summary(
    reader: Reader, number: int, metrics: Mapping[Metric, MetricByPatient], truth: TestSet, threshold: float | None
) -> ReaderSummary:
    rates = None if threshold is None else _rates(reader, truth, threshold)
    return ReaderSummary(
        name=reader.name,
        cases=int(reader.read.sum()),
        auroc=float(metrics["auroc"].values[number]),
        ap=float(metrics["ap"].values[number]) if "ap" in metrics else None,
        sensitivity=rates and rates[0],
        specificity=rates and rates[1],
    )


def _rates(reader: Reader, truth: TestSet, threshold: float) -> tuple[float, float]:
    positive = truth.positive[reader.read]
    called = reader.outcome.likelihood >= threshold
    return float(called[positive].mean()), float((~called[~positive]).mean())


@dataclass(frozen=True)
class _Readings:
    """Likelihoods of one configuration's runs, and calls of the readers, by case."""

    positive: BoolArray  # (cases,)
    likelihood: FloatArray  # (runs, cases)
    called: BoolArray  # by the readers, (readers, cases)
    read: BoolArray  # (readers, cases)

    @classmethod
    def of(cls, arm: Arm, readers: Sequence[Reader], truth: TestSet, threshold: float) -> "_Readings":
        called = np.zeros((len(readers), len(truth.case_ids)), dtype=np.bool_)
        for row, reader in zip(called, readers, strict=True):
            row[reader.read] = reader.outcome.likelihood >= threshold
        return cls(
            truth.positive,
            np.stack([run.outcome.likelihood for run in arm.runs]),
            called,
            np.stack([reader.read for reader in readers]),
        )

    def rates(self, cases: FloatArray, runs: FloatArray, readers: FloatArray) -> tuple[float, float, float]:
        """The readers' mean specificity, the runs' mean sensitivity there, the readers' mean sensitivity, weighted."""
        weights = self.read * cases * readers[:, None]
        negatives, positives = weights[:, ~self.positive], weights[:, self.positive]
        specificity = float((~self.called[:, ~self.positive] * negatives).sum() / negatives.sum())
        theirs = float((self.called[:, self.positive] * positives).sum() / positives.sum())
        ours = [_sensitivity_at(row, self.positive, cases, specificity) for row in self.likelihood]
        return specificity, float(np.average(ours, weights=runs)), theirs


def _at_specificity(arm: Arm, readings: _Readings, truth: TestSet, plan: Analysis) -> AtReadersSpecificity:
    counts = (len(truth.case_ids), len(readings.likelihood), len(readings.read))
    specificity, ours, theirs = readings.rates(*map(np.ones, counts))
    generator = stream(plan.seed, "readers", arm.name)
    patients = truth.patient_count
    drawn = []
    for _ in range(max(REPLICATES, plan.replicates)):
        cases = generator.multinomial(patients, np.full(patients, 1 / patients))[truth.patients]
        # one fewer than there are, which makes the variance of a mean unbiased (Rao and Wu, JASA 1988)
        runs, readers = (generator.multinomial(max(1, n - 1), np.full(n, 1 / n)) for n in counts[1:])
        _, a, b = readings.rates(*(counted.astype(np.float64) for counted in (cases, runs, readers)))
        drawn.append(a - b)
    low, high = np.nanpercentile(drawn, [50 * plan.alpha, 100 - 50 * plan.alpha])
    return AtReadersSpecificity(
        configuration=arm.name,
        specificity=specificity,
        sensitivity=ours,
        readers_sensitivity=theirs,
        difference=ours - theirs,
        interval=Interval(low=float(low), high=float(high), level=1 - plan.alpha),
    )


def _sensitivity_at(likelihood: FloatArray, positive: BoolArray, weights: FloatArray, specificity: float) -> float:
    """Weighted ROC at a specificity, linear between its points."""
    order = np.argsort(-likelihood, kind="stable")
    last = last_of_ties(likelihood[order])
    hits, false = (np.cumsum((weights * kind)[order])[last] for kind in (positive, ~positive))
    return float(np.interp(1 - specificity, np.append(0.0, false / false[-1]), np.append(0.0, hits / hits[-1])))
