"""What the platform may disclose of a hidden truth: figures rounded too coarsely to reveal a single case.

Each submission queries the truth, and exact figures would answer: three cases ranked above all others give three
labels by one AUROC. So the platform's ``metrics.json`` holds AUROC and AP rounded to the first of ``STEPS`` that
is above 1 / min(positive, negative cases), the most by which one case can move the AUROC. The score is the mean of the
rounded two, and the picai answer and the sensitivities are left out (second answers to the same question).

Submitting a known baseline with a few cases moved would isolate these cases: the side of 0 to which the interval of the
difference reaches is then a label, and p says whether labels are alike. So intervals are symmetric about the
rounded difference, wide enough to hold the exact one and never narrower than ``NARROWEST`` steps to a side, and p,
upwards, is given only where the interval excludes 0. What remains is quantified in ``docs/statistics.md``.

With fewer than ``FEWEST`` positive or negative cases no rounding hides a label: figures have four decimals, and the log
warns of it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from contract.records import AgainstBaseline, Metrics, MetricsRecord

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
FEWEST_PER_CLASS = 5
NARROWEST = 2
_P = (0.01, 0.05)

HIDDEN = "not shown on the platform, where it would help to infer hidden labels (settings.json: exact)"


class Rounding(NamedTuple):
    """The steps that a metric is rounded to."""

    auroc: float
    ap: float


_FOUR_DECIMALS = Rounding(auroc=1e-4, ap=1e-4)


def rounding_for(metrics: Metrics) -> Rounding | None:
    """The rounding for a test set of so many cases and lesions; None where no rounding would hide one."""
    fewest = min(metrics.positive_cases, metrics.cases - metrics.positive_cases)
    if fewest < FEWEST_PER_CLASS:
        return None
    lesions = max(metrics.lesions, 1)
    one_candidate = sum(1 / k for k in range(1, lesions + 2)) / lesions
    return Rounding(auroc=_first_step_above(1 / fewest), ap=_first_step_above(one_candidate))


def _first_step_above(change: float) -> float:
    return next((step for step in STEPS if step > change), STEPS[-1])


def disclosed(record: MetricsRecord) -> MetricsRecord:
    """The record as participants may see it; its strict answer is there."""
    strict = record.strict
    assert strict is not None, "the platform always computes it"
    rounding = rounding_for(strict)
    if rounding is None:
        return record.model_copy(
            update={"strict": _rounded(strict, _FOUR_DECIMALS), "picai": _rounded(record.picai, _FOUR_DECIMALS)}
        )
    hidden: dict[str, object] = {
        "auroc": None,
        "ap": None,
        "score": None,
        "lesion_sensitivity_at_fp": {},
        "reason": HIDDEN,
    }
    return record.model_copy(
        update={
            "strict": _rounded(strict, rounding).model_copy(update={"lesion_sensitivity_at_fp": {}}),
            "picai": record.picai.model_copy(update=hidden),
            "baselines": {name: _against(strict, by_metric, rounding) for name, by_metric in record.baselines.items()},
        }
    )


def _rounded(metrics: Metrics, rounding: Rounding) -> Metrics:
    auroc = None if metrics.auroc is None else _on_grid(metrics.auroc, rounding.auroc)
    ap = None if metrics.ap is None else _on_grid(metrics.ap, rounding.ap)
    return metrics.model_copy(
        update={
            "auroc": auroc,
            "ap": ap,
            "score": None if auroc is None or ap is None else (auroc + ap) / 2,
            "lesion_sensitivity_at_fp": {
                rate: None if value is None else _on_grid(value, rounding.auroc)
                for rate, value in metrics.lesion_sensitivity_at_fp.items()
            },
        }
    )


def _against(
    strict: Metrics, by_metric: Mapping[str, AgainstBaseline], rounding: Rounding
) -> dict[str, AgainstBaseline]:
    exact = {metric: getattr(strict, metric) - each.difference for metric, each in by_metric.items()}
    baseline = _rounded(strict.model_copy(update=exact), rounding)
    submission = _rounded(strict, rounding)
    found = {}
    for metric, each in by_metric.items():
        difference = getattr(submission, metric) - getattr(baseline, metric)
        step = getattr(rounding, metric, max(rounding))  # the score's is the coarser of its two
        interval = each.interval and _about(difference, each.interval, step)
        is_shown = interval is not None and not interval[0] <= 0 <= interval[1]
        p = next((p for p in _P if each.p <= p), 1.0) if is_shown else 1.0
        found[metric] = AgainstBaseline(difference=difference, interval=interval, p=p)
    return found


def _about(difference: float, interval: tuple[float, float], step: float) -> tuple[float, float]:
    """The symmetric interval about a difference that holds another one, in whole steps to both sides."""
    low, high = interval
    reach = max(NARROWEST, math.ceil(max(difference - low, high - difference) * round(1 / step))) * step
    return max(difference - reach, -1.0), min(difference + reach, 1.0)


def _on_grid(value: float, step: float) -> float:
    steps = round(1 / step)
    return round(value * steps) / steps
