"""Whether the demo's task is honest and the networks learnt it: check_demo.py build/demo LEAST_AUROC."""

import json
import sys
from pathlib import Path
from statistics import mean

LEAST_LEAD = 0.05
DETECTOR = "retina-unet"
MOST_LAG = 0.05
"""Largest amount by which the detector's AP may be below that of the best configuration that segments, each over its
runs."""


def main(demo: Path, least_auroc: float) -> None:
    """Exit with a message unless the demo left its files and its figures hold."""
    metrics = json.loads((demo / "metrics.json").read_text())["strict"]
    baselines = {
        path.parent.name: json.loads(path.read_text())["strict"]["auroc"]
        for path in sorted((demo / "scores").glob("baseline-*/metrics.json"))
    }
    print(f"ensemble of four: AUROC {metrics['auroc']:.3f}, AP {metrics['ap']:.3f}; baselines: {baselines}")
    faults = []
    if metrics["cases"] < 40 or metrics["positive_cases"] < 15:
        faults.append(f"too few studies: {metrics['cases']}, of them {metrics['positive_cases']} positive")
    if metrics["auroc"] < least_auroc:
        faults.append(f"the ensemble's AUROC is below {least_auroc}")
    if not baselines or metrics["auroc"] - max(baselines.values()) < LEAST_LEAD:
        faults.append(f"the ensemble does not lead the baselines by {LEAST_LEAD}")
    faults += detector_faults(demo / "scores")
    faults += [f"no {name}" for name in ("verdict.json", "report.html") if not (demo / name).is_file()]
    if faults:
        sys.exit("; ".join(faults))


def detector_faults(scores: Path) -> list[str]:
    """What is wrong with the AP of the configuration that finds boxes; nothing where the demo has none."""
    aps: dict[str, list[float]] = {}
    for path in scores.glob("*_fold*/metrics.json"):
        configuration = json.loads((path.parent / "source.json").read_text())["configuration"]
        if not configuration.startswith("ensemble-"):
            aps.setdefault(configuration, []).append(json.loads(path.read_text())["strict"]["ap"])
    means = {configuration: mean(own) for configuration, own in sorted(aps.items())}
    if DETECTOR not in means:
        return []
    print("AP, mean over runs:", ", ".join(f"{configuration} {ap:.3f}" for configuration, ap in means.items()))
    best = max(ap for configuration, ap in means.items() if configuration != DETECTOR)
    return (
        [f"{DETECTOR}: AP {means[DETECTOR]:.3f}, the best other {best:.3f}"]
        if means[DETECTOR] < best - MOST_LAG
        else []
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
