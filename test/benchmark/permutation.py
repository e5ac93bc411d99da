"""Case-paired permutation of ours and of a loop over the reference's metrics: CPU seconds for the same test.

    python test/benchmark/permutation.py [--quick]

Two models' outputs on the same cases are swapped or not in each case. AP: ours draws a million swaps and computes both
models' AP in each; the peer is a loop that builds picai-eval's ``Metrics`` from the swapped dictionaries and reads
``AP``. AUROC: ours counts the p of all swaps exactly; the peer is a loop that calls scikit-learn's ``roc_auc_score`` on
the swapped likelihoods, a million times. The peers do a part of that, stated in the conditions, and their cost is
extrapolated in proportion. ``identical`` says that in the peer's part both gave the same differences, to 1e-12, and
that our exact p of AUROC lies within the 99.9 % interval of a drawn one.

Outputs are ranked within each model before, on both sides. CPU and wall seconds are taken inside each child around the
test, so that imports do not count; peak memory is that of the whole child. The JSON line is about AP.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
from scipy.stats import beta, rankdata
from swaps import swap_differences

from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.statistics.resampling.case_permutation import case_swap_tests

SIDES = ("ap", "auroc")
PEER = "loop"
PEERS = {"ap": "picai_eval.metrics.Metrics", "auroc": "sklearn.metrics.roc_auc_score"}
SEED = 1


def compare(options: argparse.Namespace) -> None:
    """Run both sides on both metrics and report."""
    if options.side:
        found = (our_part if options.side == measure.US else peers_part)(options.metric, options)
        options.result.write_text(json.dumps(found))
        return
    swaps = 100_000 if options.quick else options.swaps
    done = {"ap": 20 if options.quick else 200, "auroc": 200 if options.quick else 2_000}
    costs, identical = {}, True
    for metric in SIDES:
        ours = child(measure.US, metric, cases=options.cases, swaps=swaps, done=done[metric])
        peer = child(PEER, metric, cases=options.cases, swaps=swaps, done=done[metric])
        costs[metric] = (ours[0], peer[0])
        identical &= bool(np.allclose(ours[1]["differences"], peer[1]["differences"], rtol=0, atol=1e-12))
        identical &= ours[1].get("plausible", True)
    truth = a_test_set(options.cases)[0]
    conditions = measure.machine("numpy", "scipy", "scikit-learn", "picai-eval") | {
        "cases": options.cases,
        "positive_cases": truth.positive_count,
        "lesions": truth.lesion_count,
        "candidates": [each.confidence.size for each in a_test_set(options.cases)[1:]],
        "swaps": swaps,
        "peers": PEERS,
        "peer_swaps_measured": done,
        "peer_extrapolated": True,
        "quick": options.quick,
    }
    measure.report(
        "permutation",
        ours=costs["ap"][0],
        peer=costs["ap"][1],
        peer_name=PEER,
        identical=identical,
        conditions=conditions,
        details=[("AUROC", *costs["auroc"])],
    )


def child(side: str, metric: str, *, cases: int, swaps: int, done: int) -> tuple[measure.Measured, dict[str, Any]]:
    """Run one side in a process of its own; its cost for all swaps, and what it found."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        words = [sys.executable, __file__, "--side", side, "--metric", metric, "--cases", cases, "--swaps", swaps]
        whole = measure.run([str(word) for word in [*words, "--done", done, "--result", result]])
        found = json.loads(result.read_text())
    return measure.Measured(found["cpu_s"], found["wall_s"], whole.peak_mb), found


def our_part(metric: str, options: argparse.Namespace) -> dict[str, Any]:
    """The whole test, and beside it the differences in the swaps that the peer computes."""
    truth, a, b = a_test_set(options.cases)
    if metric == "ap":
        # without two kinds of case there is no AUROC to compute beside AP
        truth = TestSet(truth.case_ids, np.zeros(len(truth.case_ids), dtype=bool), truth.lesions)
    else:
        truth = TestSet(truth.case_ids, truth.positive, np.zeros(len(truth.case_ids), dtype=np.int64))
    with measure.clocked() as clock:
        found = case_swap_tests(truth, a, b, draws=options.swaps, seed=SEED)[metric]
    values = {"cpu_s": clock.cpu_s, "wall_s": clock.wall_s, "p": found.p}
    truth, a, b = a_test_set(options.cases)
    values["differences"] = swap_differences(truth, a, b, swaps_of(truth, options.done))[metric].tolist()
    if metric == "auroc":
        drawn = swap_differences(truth, a, b, swaps_of(truth, 20_000))["auroc"]
        extreme = int((np.abs(drawn) >= abs(found.statistic) - 1e-12).sum())
        low, high = beta.ppf([0.0005, 0.9995], [extreme, extreme + 1], [drawn.size - extreme + 1, drawn.size - extreme])
        values["plausible"] = bool(low <= found.p <= high)
    return values


def peers_part(metric: str, options: argparse.Namespace) -> dict[str, Any]:
    """The loop, as far as it is measured; its cost in proportion."""
    truth, a, b = a_test_set(options.cases)
    step = {"ap": picai_difference, "auroc": sklearn_difference}[metric](truth, ranked(a), ranked(b))
    swapped = swaps_of(truth, options.done)
    step(swapped[0])  # imports and first calls do not count
    with measure.clocked() as clock:
        differences = [step(row) for row in swapped]
    factor = options.swaps / options.done
    return {"cpu_s": clock.cpu_s * factor, "wall_s": clock.wall_s * factor, "differences": differences}


def picai_difference(truth: TestSet, a: Outcome, b: Outcome) -> Any:
    """AP of the first minus AP of the second after a swap, by picai-eval."""
    from picai_eval.metrics import Metrics  # noqa: PLC0415 (in its own child alone)

    rows = [rows_by_case(truth, each) for each in (a, b)]
    names = truth.case_ids

    def difference(swapped: np.ndarray) -> float:
        pair = [
            {name: rows[side ^ int(swap)][case] for case, (name, swap) in enumerate(zip(names, swapped, strict=True))}
            for side in (0, 1)
        ]
        return float(Metrics(lesion_results=pair[0]).AP - Metrics(lesion_results=pair[1]).AP)

    return difference


def sklearn_difference(truth: TestSet, a: Outcome, b: Outcome) -> Any:
    """AUROC of the first minus AUROC of the second after a swap, by scikit-learn."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 (in its own child alone)

    def difference(swapped: np.ndarray) -> float:
        first = np.where(swapped, b.likelihood, a.likelihood)
        second = np.where(swapped, a.likelihood, b.likelihood)
        return float(roc_auc_score(truth.positive, first) - roc_auc_score(truth.positive, second))

    return difference


def rows_by_case(truth: TestSet, outcome: Outcome) -> list[list[tuple[int, float, float]]]:
    """Per case what picai-eval's matching gives: hits, false positives, and missed lesions at confidence 0."""
    rows: list[list[tuple[int, float, float]]] = [[] for _ in truth.case_ids]
    for case, confidence, hit in zip(outcome.candidate_case, outcome.confidence, outcome.hit, strict=True):
        rows[case].append((int(hit), float(confidence), 0.5 * hit))
    for case, lesions in enumerate(truth.lesions):
        rows[case] += [(1, 0.0, 0.0)] * int(lesions - sum(row[0] for row in rows[case]))
    return rows


def ranked(outcome: Outcome) -> Outcome:
    """Midranks as confidences in (0, 1], counted from the top, as our test takes them."""
    confidence = 1 - rankdata(-outcome.confidence) / 1e6
    return Outcome(rankdata(outcome.likelihood), outcome.candidate_case, confidence, outcome.hit)


def swaps_of(truth: TestSet, count: int) -> np.ndarray:
    """Which cases each of the first swaps exchanges, the same for both sides, shape (count, cases)."""
    return np.random.default_rng(SEED).random((count, len(truth.case_ids))) < 0.5


def a_test_set(cases: int) -> tuple[TestSet, Outcome, Outcome]:
    """A test set like the challenges': 28 % positive cases, and two models of equal quality that often agree."""
    rng = np.random.default_rng(0)
    positive = np.arange(cases) < round(0.28 * cases)
    lesions = np.where(positive, 1 + (rng.random(cases) < 0.1), 0).astype(np.int64)
    truth = TestSet(tuple(f"{number:05d}_1" for number in range(cases)), positive, lesions)
    difficulty = rng.normal(0, 0.6, cases) + 1.6 * positive
    models = []
    for _ in range(2):
        found = np.repeat(np.arange(cases), rng.binomial(lesions, 0.85))
        false = rng.integers(0, cases, round(0.75 * cases))
        case = np.concatenate([found, false])
        hit = np.arange(case.size) < found.size
        confidence = difficulty[case] * hit + rng.normal(0, 0.7, case.size)
        models.append(Outcome(difficulty + rng.normal(0, 0.7, cases), case, confidence, hit))
    return truth, models[0], models[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=1_500, help="of the test set (%(default)s)")
    parser.add_argument("--swaps", type=int, default=1_000_000, help="drawn (%(default)s)")
    parser.add_argument("--side", choices=[measure.US, PEER], help=argparse.SUPPRESS)  # from here on: the child's own
    parser.add_argument("--metric", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--done", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    sys.exit(measure.main(compare, parser=parser))
