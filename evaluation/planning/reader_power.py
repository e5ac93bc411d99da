"""Planning a comparison with human readers: how many readers and cases, by a closed formula.

The test is the one that :mod:`evaluation.statistics.readers.reader_comparison` makes: r runs against h readers,
nested, on common cases. Obuchowski and Rockette's components (Hillis, Obuchowski and Berbaum, Academic Radiology 2011)
give its variance::

    V = (σ²_run + Var_a − Cov_a)/r + (σ²_reader + b (Var_h − Cov_h))/h + Cov_a + Cov_h − 2 Cov_ah

with Var the variance by cases of one run's or one reader's AUROC, Cov the covariance of two of an arm, Cov_ah that of
a run and a reader. Each is a part by positive and one by negative cases, and falls with their numbers. In a split plot
readers and cases are divided into b blocks, and a reader reads the cases of one; fully crossed is b = 1.

Power is that of noncentral t at ``difference/√V``, with the degrees of freedom that the test itself counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import nct
from scipy.stats import t as student

from contract.errors import OncoduetError
from contract.files.reading import sha256_file
from contract.records import Record
from contract.schema import Frozen
from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.planning.plan_record import AnswerTable
from evaluation.statistics.readers.reader_comparison import readers_by_patient
from evaluation.statistics.readers.readers_table import read_readers_table
from evaluation.statistics.variance.arms import arms_of
from evaluation.statistics.variance.influence import MetricByPatient, own_variance_by_cases

TYPICAL: Mapping[str, float] = {
    "auroc": 0.85,
    "run_sd": 0.01,
    "reader_sd": 0.042,
    "run_correlation": 0.7,
    "reader_correlation": 0.43,
    "cross_correlation": 0.30,
}
"""Assumptions without a pilot. Readers: the five of Van Dyke et al. by two modalities, with the components that
MRMCaov's user guide prints (√(σ²_R + σ²_TR), Cov₂/Var, Cov₃/Var). Runs: as the simulated studies of ``plan power``."""

_ROUNDING = 1e-16
"""Smaller variances are rounding errors."""


@dataclass(frozen=True)
class VarianceComponents:
    """Variance components of AUROC. Those by cases: times the number of cases, of (positive, negative) cases."""

    run_variance: float
    reader_variance: float
    var_of_runs: FloatArray
    cov_of_runs: FloatArray
    var_of_readers: FloatArray
    cov_of_readers: FloatArray
    cov_across: FloatArray

    @classmethod
    def assumed(
        cls,
        *,
        auroc: float,
        difference: float,
        run_sd: float,
        reader_sd: float,
        run_correlation: float,
        reader_correlation: float,
        cross_correlation: float,
    ) -> "VarianceComponents":
        """From correlations of the AUROCs by cases; their variance is Hanley and McNeil's (Radiology 1982).

        Parameters
        ----------
        auroc
            Mean AUROC of the readers; that of the runs is larger by ``difference``.
        """
        of_runs, of_readers = _by_class(auroc + difference), _by_class(auroc)
        return cls(
            run_variance=run_sd**2,
            reader_variance=reader_sd**2,
            var_of_runs=of_runs,
            cov_of_runs=run_correlation * of_runs,
            var_of_readers=of_readers,
            cov_of_readers=reader_correlation * of_readers,
            cov_across=cross_correlation * np.sqrt(of_runs * of_readers),
        )

    @classmethod
    def estimated(cls, runs: MetricByPatient, readers: MetricByPatient, positive: BoolArray) -> "VarianceComponents":
        """From a pilot's runs and readers on common cases, with each patient's influence."""

        def by_class(first: FloatArray, second: FloatArray, *, apart: bool) -> FloatArray:
            """Mean product of influences over pairs of rows; ``apart``: of an arm with itself, over different ones."""
            parts = []
            for kind in (positive, ~positive):
                products = first[:, kind] @ second[:, kind].T * kind.sum()
                parts.append(products[~np.eye(len(products), dtype=bool)].mean() if apart else products.mean())
            return np.array(parts)

        def alone(rows: FloatArray) -> FloatArray:
            return np.array([(rows[:, kind] ** 2).sum(axis=1).mean() * kind.sum() for kind in (positive, ~positive)])

        a, h = runs.influence, readers.influence
        return cls(
            run_variance=_variance_beyond_cases(runs),
            reader_variance=_variance_beyond_cases(readers),
            var_of_runs=alone(a),
            cov_of_runs=by_class(a, a, apart=True),
            var_of_readers=alone(h),
            cov_of_readers=by_class(h, h, apart=True),
            cov_across=by_class(a, h, apart=False),
        )


@dataclass(frozen=True)
class ReaderDesign:
    """Runs, readers and cases of a study."""

    runs: int
    readers: int
    positives: int
    negatives: int
    blocks: int = 1
    """Blocks of a split-plot design; 1: fully crossed."""


@dataclass(frozen=True)
class Precision:
    """Precision of a design's test."""

    standard_error: float
    degrees_of_freedom: float

    def power(self, distance: float, alpha: float) -> float:
        """Power of a one-sided test at alpha, at a true distance from its bound (0, or minus the margin)."""
        least = student.isf(alpha, self.degrees_of_freedom)
        return float(nct.sf(least, self.degrees_of_freedom, distance / self.standard_error))


def precision(components: VarianceComponents, design: ReaderDesign) -> Precision:
    """Standard error of the difference, runs minus readers, and the degrees of freedom of its test.

    Raises ``OncoduetError`` where nothing varies.
    """
    count = np.array([design.positives, design.negatives])
    each = components
    r, h, blocks = design.runs, design.readers, design.blocks
    var_a, cov_a, var_h, cov_h, across = (
        part / count
        for part in (each.var_of_runs, each.cov_of_runs, each.var_of_readers, each.cov_of_readers, each.cov_across)
    )
    share = (h - blocks) / (h - 1)  # of the pairs of readers, those who read the same cases, times the blocks
    of_runs = (each.run_variance + float((var_a - cov_a).sum())) / r
    of_readers = (each.reader_variance + float((blocks * var_h - share * cov_h).sum())) / h
    of_cases = max(0.0, float((cov_a + share * cov_h - 2 * across).sum()))
    # the variance by cases of the difference of means, by class
    together = (var_a + (r - 1) * cov_a) / r + (blocks * var_h + (h - blocks) * cov_h) / h - 2 * across
    variance = of_runs + of_readers + of_cases
    if variance < _ROUNDING:
        raise OncoduetError("plan readers", "nothing varies between runs, readers or cases")
    spread = of_runs**2 / (r - 1) + of_readers**2 / (h - 1)
    if of_cases:
        spread += (of_cases / together.sum()) ** 2 * float((together**2 / (count - 1)).sum())
    return Precision(math.sqrt(variance), variance**2 / spread)


class PlannedReaders(Frozen):
    """Runs, readers and cases of a design, and its power."""

    runs: int
    readers: int
    cases: int
    standard_error: float
    degrees_of_freedom: float
    power: Mapping[str, float]
    """Power to show ``superior`` and, with a margin, ``not inferior``."""


class ReaderPlanRecord(Record):
    """``plan-readers.json``. ``parents``: the pilot's scored runs and its table of readers."""

    difference: float
    margin: float | None
    alpha: float
    comparisons: int
    prevalence: float
    blocks: int
    """Blocks of a split-plot design; 1: fully crossed."""
    assumptions: Mapping[str, float]
    """Assumed standard deviations and correlations of AUROC."""
    pilot: Mapping[str, float]
    """Numbers of the pilot; empty without one."""
    designs: tuple[PlannedReaders, ...]
    sentence: str


def plan_readers(
    components: VarianceComponents,
    *,
    runs: Sequence[int],
    readers: Sequence[int],
    cases: Sequence[int],
    prevalence: float,
    difference: float,
    margin: float | None,
    blocks: int,
    alpha: float,
    comparisons: int,
    target: float,
    pilot: Mapping[str, float] | None = None,
    parents: Mapping[str, str] | None = None,
) -> tuple[ReaderPlanRecord, AnswerTable]:
    """Compute how many readers and cases show that a configuration is superior, or not inferior, to the readers.

    Parameters
    ----------
    difference
        True difference in AUROC, runs minus readers.
    margin
        Non-inferiority margin; if given, non-inferiority is tested first.
    comparisons
        Configurations that are compared with the readers: each is tested at alpha over this number, Holm's first step.

    Raises
    ------
    OncoduetError
        There is nothing to show; readers cannot be divided evenly into the blocks, or a block lacks cases of a class.
    """
    if difference <= 0 and margin is None:
        raise OncoduetError("--difference", expected="a difference above 0, or --margin", found=f"{difference:g}")
    if margin is not None and difference <= -margin:
        raise OncoduetError(
            "--difference", expected=f"a difference above {-margin:g} (--margin)", found=f"{difference:g}"
        )
    designs = []
    for r in sorted(set(runs)):
        for h in sorted(set(readers)):
            if h % blocks or h <= blocks:
                raise OncoduetError("--readers", expected=f"a multiple of {blocks} blocks, above {blocks}", found=h)
            for n in sorted(set(cases)):
                positives = round(n * prevalence)
                if min(positives, n - positives) < 2 * blocks:
                    raise OncoduetError(
                        "--cases", expected=f"two positive and two negative cases in each of {blocks} blocks", found=n
                    )
                found = precision(components, ReaderDesign(r, h, positives, n - positives, blocks))
                level = alpha / comparisons
                shown = {"superior": found.power(difference, level / 2)} if difference > 0 else {}
                if margin is not None:
                    shown["not inferior"] = found.power(difference + margin, level)
                designs.append(
                    PlannedReaders(
                        runs=r,
                        readers=h,
                        cases=n,
                        standard_error=found.standard_error,
                        degrees_of_freedom=found.degrees_of_freedom,
                        power=shown,
                    )
                )
    goals = {"not inferior": f"non-inferiority by {margin}", "superior": f"superiority by {difference:g}"}
    sentence = " ".join(
        _answer(designs, name, goal, target, blocks) for name, goal in goals.items() if name in designs[0].power
    )
    count = np.array([prevalence, 1 - prevalence])
    var_a, var_h = (float((part / count).sum()) for part in (components.var_of_runs, components.var_of_readers))
    record = ReaderPlanRecord(
        parents=dict(parents or {}),
        difference=difference,
        margin=margin,
        alpha=alpha,
        comparisons=comparisons,
        prevalence=prevalence,
        blocks=blocks,
        assumptions={
            "run_sd": math.sqrt(components.run_variance),
            "reader_sd": math.sqrt(components.reader_variance),
            "run_correlation": float((components.cov_of_runs / count).sum()) / var_a,
            "reader_correlation": float((components.cov_of_readers / count).sum()) / var_h,
            "cross_correlation": float((components.cov_across / count).sum()) / math.sqrt(var_a * var_h),
            "variance_of_runs_by_cases": var_a,
            "variance_of_readers_by_cases": var_h,
        },
        pilot=dict(pilot or {}),
        designs=tuple(designs),
        sentence=sentence,
    )
    names = list(designs[0].power)
    rows = [
        [str(each.runs), str(each.readers), str(each.cases), f"{each.standard_error:.4f}"]
        + [f"{100 * each.power[name]:.0f} %" for name in names]
        for each in designs
    ]
    title = f"Power against readers, {'fully crossed' if blocks == 1 else f'split plot of {blocks} blocks'}"
    return record, AnswerTable(title, ["runs", "readers", "cases", "SE", *names], rows, _note(record), sentence)


def pilot_components(
    scores: Sequence[Path], table: Path
) -> tuple[VarianceComponents, dict[str, float], dict[str, str]]:
    """Take the components from scored runs and a table of readers on the same cases; the parents of the answer too.

    For several configurations the components are averaged.

    Raises
    ------
    OncoduetError
        As :func:`read_scored_runs` and :func:`read_readers_table`; also where no configuration has two runs, a reader
        did not read every case, or the AUROC of all runs, or of all readers, does not vary with the cases.
    """
    scored = read_scored_runs(scores)
    truth = scored[0].truth
    arms = [arm for arm in arms_of(scored).values() if not arm.is_fixed and not arm.is_single]
    if not arms:
        raise OncoduetError(", ".join(map(str, scores)), "a pilot needs two runs of a configuration")
    readers = read_readers_table(table, truth)
    partly = [reader.name for reader in readers if not reader.read.all()]
    if partly:
        raise OncoduetError(table, f"a pilot needs readers who read every case; {partly[0]} did not")
    positive = truth.positive_patients
    if not 1 < positive.sum() < positive.size - 1:
        raise OncoduetError(table, "a pilot needs two positive and two negative patients")
    of_readers = readers_by_patient(readers, truth, "auroc")
    for where, who, metric in [
        (", ".join(map(str, scores)), "runs", np.concatenate([arm.metrics["auroc"].influence for arm in arms])),
        (table, "readers", of_readers.influence),
    ]:
        if (metric**2).sum() < _ROUNDING:  # perfect, always wrong, or all cases alike
            raise OncoduetError(where, f"a pilot needs {who} whose AUROC varies with the cases")
    found = [VarianceComponents.estimated(arm.metrics["auroc"], of_readers, positive) for arm in arms]
    mean = VarianceComponents(
        **{
            name: np.mean([getattr(each, name) for each in found], axis=0)
            for name in VarianceComponents.__dataclass_fields__
        }
    )
    held = {
        "configurations": float(len(arms)),
        "readers": float(len(readers)),
        "cases": float(len(truth.case_ids)),
        "auroc_of_runs": float(np.mean([arm.metrics["auroc"].values.mean() for arm in arms])),
        "auroc_of_readers": float(of_readers.values.mean()),
        "prevalence": float(positive.mean()),
    }
    return mean, held, {**{run.name: run.metrics_sha256 for run in scored}, "readers": sha256_file(table)}


def _by_class(auroc: float) -> FloatArray:
    """Contribution of one positive and of one negative case to Hanley and McNeil's variance of an AUROC."""
    return np.array([auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)]) - auroc**2


def _variance_beyond_cases(arm: MetricByPatient) -> float:
    return max(0.0, float(arm.values.var(ddof=1)) - own_variance_by_cases(arm.influence))


def _answer(designs: Sequence[PlannedReaders], name: str, goal: str, target: float, blocks: int) -> str:
    enough = [each for each in designs if each.power[name] >= target]
    if enough:
        best = min(enough, key=lambda each: (each.readers * each.cases, each.runs, -each.power[name]))
        return (
            f"{best.readers} readers, {best.runs} runs and {best.cases} cases show {goal} with "
            f"{100 * best.power[name]:.0f} % power: the fewest readings ({best.readers * best.cases // blocks}) among "
            f"these designs that reach {100 * target:.0f} %."
        )
    best = max(designs, key=lambda each: each.power[name])
    return (
        f"None of these designs shows {goal} with {100 * target:.0f} % power; the best, {best.readers} readers, "
        f"{best.runs} runs and {best.cases} cases, reaches {100 * best.power[name]:.0f} %."
    )


def _note(record: ReaderPlanRecord) -> str:
    assumed = record.assumptions
    origin = "From the pilot" if record.pilot else "Assumed"
    asked = f"Superior: at a true difference of {record.difference:g}. " if record.difference > 0 else ""
    if record.margin is not None:
        asked += f"Not inferior: by {record.margin:g}, at a true difference of {record.difference:g}. "
    return (
        f"{asked}α = {record.alpha:g} over {record.comparisons} comparison{'s' if record.comparisons > 1 else ''}, "
        f"superiority two-sided, non-inferiority one-sided. {origin}: standard deviation of readers "
        f"{assumed['reader_sd']:.3f}, of runs {assumed['run_sd']:.4f}; correlation by cases of two readers "
        f"{assumed['reader_correlation']:z.2f}, of two runs {assumed['run_correlation']:z.2f}, of a run and a reader "
        f"{assumed['cross_correlation']:z.2f}. Prevalence {record.prevalence:.2f}."
    )
