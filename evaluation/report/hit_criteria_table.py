"""AP and lesion sensitivity by other hit criteria as CSV, and what the page names these criteria."""

from collections.abc import Mapping, Sequence

from evaluation.matching.sweep import HitCriterion
from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE, sensitivity_key
from evaluation.metrics.hit_criteria import CriterionMeans

HIT_CRITERIA_TABLE = "hit-criteria.csv"

_NAMES: Mapping[str, str] = {"iou": "IoU", "dice": "Dice", "centre": "Centre"}


def criterion_text(criterion: HitCriterion) -> str:
    """Such as ``IoU ≥ 0.1``."""
    name = _NAMES[criterion.name]
    return name if criterion.minimum is None else f"{name} ≥ {criterion.minimum:g}"


def hit_criteria_table(found: Sequence[CriterionMeans]) -> tuple[list[str], list[list[object]]]:
    """Header and rows: one row per configuration and criterion."""
    rates = [sensitivity_key(rate) for rate in FALSE_POSITIVES_PER_CASE]
    values = [name for each in ("ap", *rates) for name in (each, f"{each}_sd")]
    rows: list[list[object]] = []
    for each in found:
        spreads = [each.ap, *(each.lesion_sensitivity_at_fp[rate] for rate in rates)]
        cells = [cell for spread in spreads for cell in ((spread.mean, spread.sd) if spread else (None, None))]
        rows.append([each.configuration, each.runs, each.criterion.name, each.criterion.minimum, *cells])
    return ["configuration", "runs", "criterion", "minimum", *values], rows
