"""Footnotes of the report's tables: the meaning of those marks that occur in a table."""

from collections.abc import Sequence

from markupsafe import Markup

from evaluation.metrics.hit_criterion_means import CriterionMeans
from evaluation.statistics.clinical_records import Clinical
from evaluation.statistics.verdict_records import PairVerdict, ReaderStudy, Verdict

PAIRED, WITHIN_FOLDS, APPROXIMATE, DASH = Markup("<sup>p</sup>"), Markup("<sup>f</sup>"), "≈", "–"

Footnote = tuple[str, str]
"""A mark and its meaning."""


def of_configurations(verdict: Verdict) -> list[Footnote]:
    """Footnotes of the means of metrics."""
    undefined = any(found.mean is None for each in verdict.configurations for found in each.metrics.values())
    undefined |= len({each.afroc is None for each in verdict.configurations}) > 1
    return _occurring((undefined, DASH, "undefined on this test set, see the limits above"))


def of_pairs(pairs: Sequence[PairVerdict], *, has_cases: bool) -> list[Footnote]:
    """Footnotes of the comparisons by one metric; without cases no p for new runs and cases is shown."""
    with_margin = sum(pair.equivalence is not None for pair in pairs)
    tests = [pair.runs_and_cases for pair in pairs if pair.runs_and_cases]
    levels = [pair.run_level for pair in pairs]
    return _occurring(
        (any(test.design != "nested" for test in tests), PAIRED, "runs are paired by fold or by network"),
        (
            any(level.p is not None and level.blocked_by_fold for level in levels),
            WITHIN_FOLDS,
            "runs are shuffled within folds",
        ),
        (any(pair.approximate for pair in pairs), APPROXIMATE, "p is approximate, see the limits above"),
        (
            any((has_cases and pair.p is None) or pair.run_level.p is None for pair in pairs),
            DASH,
            "as p: the question cannot be asked",
        ),
        (
            has_cases and 0 < with_margin < len(pairs),
            DASH,
            "as margin: none is declared, or new runs and cases are not asked about",
        ),
    )


def of_operating_points(clinical: Clinical) -> list[Footnote]:
    """Footnotes of predictive values and lesions at the operating points."""
    points = [point for each in clinical.configurations for point in each.operating_points]
    return _occurring(
        (
            any(point.lesion_sensitivity is None for point in points),
            DASH,
            "for lesions: no lesions or no detection maps",
        ),
        (any(point.ppv is None or point.npv is None for point in points), DASH, "as PPV or NPV: undefined for a run"),
    )


def of_calibration(clinical: Clinical) -> list[Footnote]:
    """Footnotes of calibration and AP at a prevalence."""
    found = [each.calibration for each in clinical.configurations]
    return _occurring(
        (None in found, DASH, "in all columns of calibration: a likelihood exceeds 1 and is no probability"),
        (
            any(each and each.slope is None for each in found),
            DASH,
            "as slope and intercepts: the likelihoods of a run separate the classes or are all equal",
        ),
    )


def of_readers(study: ReaderStudy) -> list[Footnote]:
    """Footnotes of the comparisons with readers."""
    return _occurring(
        (any(each.approximate for each in study.comparisons), APPROXIMATE, "p is approximate"),
        (
            any(each.p_inferior_holm is None for each in study.comparisons),
            DASH,
            "no margin is declared for this metric",
        ),
    )


def of_each_reader(study: ReaderStudy) -> list[Footnote]:
    """Footnotes of the single readers."""
    return _occurring(
        (any(each.ap is None for each in study.readers), DASH, "as AP: the table does not say what marks hit"),
        (any(each.sensitivity is None for each in study.readers), DASH, "as sensitivity: no threshold is declared"),
    )


def of_hit_criteria(found: Sequence[CriterionMeans]) -> list[Footnote]:
    """Footnotes of AP by hit criterion."""
    criteria = {each.criterion for each in found}
    gaps = len(found) < len(criteria) * len({each.configuration for each in found})
    return _occurring(
        (gaps or any(each.ap is None for each in found), DASH, "undefined, or not scored by this criterion")
    )


def _occurring(*marks: tuple[bool, str, str]) -> list[Footnote]:
    return [(mark, meaning) for occurs, mark, meaning in marks if occurs]
