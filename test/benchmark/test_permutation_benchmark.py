import argparse
from types import ModuleType

import numpy as np
import pytest

BENCHMARK = "permutation"


@pytest.mark.parametrize("metric", ["ap", "auroc"])
def test_swaps_give_what_the_reference_computes_from_swapped_cases(benchmark: ModuleType, metric: str) -> None:
    options = argparse.Namespace(cases=90, swaps=3_000, done=15)
    ours, peer = benchmark.our_part(metric, options), benchmark.peers_part(metric, options)
    assert ours["differences"] == pytest.approx(peer["differences"], abs=1e-12)
    assert len(set(ours["differences"])) > 10
    assert ours.get("plausible", True)
    assert peer["cpu_s"] > 50 * ours["cpu_s"]


def test_the_references_rows_hold_every_candidate_and_every_lesion(benchmark: ModuleType) -> None:
    truth, a, _ = benchmark.a_test_set(60)
    rows = [row for case in benchmark.rows_by_case(truth, a) for row in case]
    assert sum(row[0] for row in rows) == truth.lesion_count
    assert len(rows) == a.confidence.size + truth.lesion_count - np.count_nonzero(a.hit)
