"""The benchmark of candidates measures two sides that do work, and would notice if they differed."""

from pathlib import Path
from types import ModuleType

import numpy as np

BENCHMARK = "candidates"


def test_both_sides_find_the_same_in_children_of_their_own(benchmark: ModuleType, tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", benchmark.generated_map(number, (7, 120, 130)))
    sides = [
        benchmark.child(side, rule="dynamic", folder=tmp_path, passes=2)
        for side in (benchmark.measure.US, benchmark.PEER)
    ]
    (ours, our_digests), (peer, peer_digests) = sides
    assert our_digests == peer_digests
    assert len(set(our_digests)) == 2
    assert 0 < ours.cpu_s < peer.cpu_s < 60
    assert ours.peak_mb > 30


def test_a_digest_hears_each_of_map_confidences_and_components(benchmark: ModuleType) -> None:
    painted, components = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.int32)
    other = painted + np.float32(1e-7)
    results = [
        (painted, [(1, 0.5)], components),
        (other, [(1, 0.5)], components),
        (painted, [(1, 0.5000001)], components),
        (painted, [(1, 0.5)], components + 1),
    ]
    assert len({benchmark.digest(result) for result in results}) == 4
    assert benchmark.digest((painted.astype(np.float64), [(1, np.float64(0.5))], components.astype(np.int64))) == (
        benchmark.digest(results[0])
    )
