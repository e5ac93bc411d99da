"""Operating points, calibration and net benefit as CSV."""

from collections.abc import Callable, Mapping, Sequence

from evaluation.statistics.clinical_records import Clinical, ClinicalConfiguration, Estimate, OperatingPoint

CLINICAL_TABLES = ("operating_points.csv", "calibration.csv", "net_benefit.csv")

HeaderAndRows = tuple[list[str], list[list[object]]]

_OF_POINT: Mapping[str, Callable[[OperatingPoint], Estimate | None]] = {
    "sensitivity": lambda point: point.sensitivity,
    "specificity": lambda point: point.specificity,
    "ppv": lambda point: point.ppv,
    "npv": lambda point: point.npv,
    "ppv_at_prevalence": lambda point: point.ppv_at_prevalence,
    "npv_at_prevalence": lambda point: point.npv_at_prevalence,
    "lesion_sensitivity": lambda point: point.lesion_sensitivity,
    "false_positives_per_case": lambda point: point.false_positives_per_case,
}


def clinical_tables(clinical: Clinical) -> dict[str, HeaderAndRows]:
    """Header and rows of each of :data:`CLINICAL_TABLES`."""
    return dict(zip(CLINICAL_TABLES, (_points(clinical), _calibration(clinical), _benefit(clinical)), strict=True))


def _points(clinical: Clinical) -> HeaderAndRows:
    header = ["configuration", "thresholds_from", "aim", "at_least"]
    header += ["true_positives", "false_negatives", "false_positives", "true_negatives"]
    header += _names(_OF_POINT)
    rows: list[list[object]] = [
        [each.name, clinical.thresholds_from, point.aim, point.at_least, point.true_positives, point.false_negatives,
         point.false_positives, point.true_negatives, *_cells([get(point) for get in _OF_POINT.values()])]
        for each in clinical.configurations
        for point in each.operating_points
    ]  # fmt: skip
    return header, rows


def _calibration(clinical: Clinical) -> HeaderAndRows:
    names = ["brier", "slope", "intercept", "in_the_large", "ece", "partial_auroc", "ap_at_prevalence"]
    return ["configuration", *_names(names)], [
        [each.name, *_cells(_estimates(each))] for each in clinical.configurations
    ]


def _estimates(each: ClinicalConfiguration) -> list[Estimate | None]:
    found = each.calibration
    of_likelihoods = [found.brier, found.slope, found.intercept, found.in_the_large, found.ece] if found else [None] * 5
    return [*of_likelihoods, each.partial_auroc, each.ap_at_prevalence]


def _benefit(clinical: Clinical) -> HeaderAndRows:
    rows: list[list[object]] = [
        ["treat all", f"{each.threshold:g}", each.net_benefit, "", ""] for each in clinical.treat_all
    ]
    rows += [
        [each.name, f"{point.threshold:g}", *_cells([point.net_benefit])]
        for each in clinical.configurations
        for point in each.net_benefit
    ]
    return ["configuration", "threshold", *_names(["net_benefit"])], rows


def _names(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _cells(estimates: Sequence[Estimate | None]) -> list[object]:
    cells: list[object] = []
    for each in estimates:
        cells += [each and each.mean, *((each and each.interval) or (None, None))]
    return cells
