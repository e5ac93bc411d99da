"""What the platform may tell participants of a hidden truth: figures on a grid so coarse that one case hides in it.

Each submission asks the truth a question, and exact figures answer it: three cases ranked above all others give three
labels by one AUROC. So the platform's ``metrics.json`` holds AUROC and AP rounded to the first of ``STEPS`` that
is above 1 / min(positive, negative cases), the most by which one case can move the AUROC. The score is the mean of the
rounded two, and the picai answer and the sensitivities are left out (second answers to the same question).

Who hands a known baseline in again with a few cases moved sees these cases alone: to which side of 0 the interval of
the difference reaches is then a label, and p says whether labels are alike. So intervals are symmetric about the
rounded difference, wide enough to hold the exact one and never narrower than ``NARROWEST`` steps to a side, and p,
upwards, is told only where the interval does not hold 0. What remains is counted in ``docs/statistics.md``.

With fewer than ``FEWEST`` positive or negative cases no grid hides anything: figures have four decimals, and the log
says that they tell labels.
"""

import math
from collections.abc import Mapping

from contract.records import AgainstBaseline, Metrics, MetricsRecord

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
FEWEST = 5
NARROWEST = 2
_DECIMALS = 4
_P = (0.01, 0.05)

HIDDEN = "not shown on the platform, where it would help to tell hidden labels (settings.json: exact)"


def step_of(metrics: Metrics) -> float | None:
    """The grid for a test set of so many cases; None where no grid would hide one."""
    fewest = min(metrics.positive_cases, metrics.cases - metrics.positive_cases)
    return None if fewest < FEWEST else next((step for step in STEPS if step * fewest > 1), STEPS[-1])


def disclosed(record: MetricsRecord) -> MetricsRecord:
    """The record as participants may see it; its strict answer is there."""
    strict = record.strict
    assert strict is not None, "the platform always computes it"
    step = step_of(strict)
    if step is None:
        return record.model_copy(
            update={
                "strict": _rounded(strict, 10**-_DECIMALS),
                "picai": _rounded(record.picai, 10**-_DECIMALS),
            }
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
            "strict": _rounded(strict, step).model_copy(update={"lesion_sensitivity_at_fp": {}}),
            "picai": record.picai.model_copy(update=hidden),
            "baselines": {name: _against(strict, by_metric, step) for name, by_metric in record.baselines.items()},
        }
    )


def _rounded(metrics: Metrics, step: float) -> Metrics:
    auroc, ap = (None if value is None else _on_grid(value, step) for value in (metrics.auroc, metrics.ap))
    return metrics.model_copy(
        update={
            "auroc": auroc,
            "ap": ap,
            "score": None if auroc is None or ap is None else (auroc + ap) / 2,
            "lesion_sensitivity_at_fp": {
                rate: None if value is None else _on_grid(value, step)
                for rate, value in metrics.lesion_sensitivity_at_fp.items()
            },
        }
    )


def _against(strict: Metrics, by_metric: Mapping[str, AgainstBaseline], step: float) -> dict[str, AgainstBaseline]:
    rounded = _rounded(strict, step)
    found = {}
    for metric, each in by_metric.items():
        baseline = _on_grid(getattr(strict, metric) - each.difference, step)
        difference = getattr(rounded, metric) - baseline
        interval = each.interval and _about(difference, each.interval, step)
        is_told = interval is not None and not interval[0] <= 0 <= interval[1]
        p = next((p for p in _P if each.p <= p), 1.0) if is_told else 1.0
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
