"""Whether the demo's task is honest and the networks learnt it: check_demo.py build/demo LEAST_AUROC."""

import json
import sys
from pathlib import Path

LEAST_LEAD = 0.05


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
    faults += [f"no {name}" for name in ("verdict.json", "report.html") if not (demo / name).is_file()]
    if faults:
        sys.exit("; ".join(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
