"""The benchmark of training trains both sides on the same studies, and knows what its figures mean."""

from pathlib import Path
from types import ModuleType

import pytest

from contract.files.atomic import write_json
from contract.files.reading import read_json
from training.dataset.prepared import load_prepared
from training.profile import load_profile

BENCHMARK = "training"


@pytest.mark.slow
def test_both_sides_train_on_the_same_studies_for_the_same_steps(benchmark: ModuleType, tmp_path: Path) -> None:
    length = benchmark.Length(short=1, long=2, iterations=2, validation=1)
    bench = benchmark.Bench(tmp_path, length, "cpu", "demo")
    bench.write(load_prepared(bench.prepare(cases=5)))
    profile = load_profile(bench._profile(1))
    assert (profile.epochs, profile.iterations_per_epoch, profile.loader) == (1, 2, "device")
    assert profile.plan == load_profile("demo").plan
    assert bench.stock(1, 1).cpu_s > 1
    (log,) = (tmp_path / "results1").rglob("training_log*.txt")
    assert "Epoch 0" in log.read_text()
    assert "Training done." in log.read_text()
    assert "Epoch 1" not in log.read_text()
    bench.single(2, 1)
    bench.packed(2, 2)
    assert bench.identical([2])
    path = tmp_path / "ours" / "2-2" / "1" / "run.json"
    write_json(path, read_json(path) | {"weights_sha256": "0" * 64})
    assert not bench.identical([2])


def test_a_pack_is_counted_per_run(benchmark: ModuleType) -> None:
    measured = benchmark.measure.Measured(cpu_s=40.0, wall_s=20.0, peak_mb=500.0)
    length = benchmark.Length(short=1, long=3, iterations=50, validation=10)
    one, four = (
        benchmark.Variant("x", runs, measured, measured, length, device, benchmark.Sampled())
        for runs, device in [(1, "cpu"), (4, "cuda")]
    )
    assert one.seconds == pytest.approx(40 / 100)  # CPU seconds
    assert four.seconds == pytest.approx(20 / 400)  # wall seconds, of four runs
    assert four.runs_per_day == pytest.approx(86400 / (0.05 * 250_000))
    assert one.row().split() == ["x", "2.50", "0.864", "2.00", "500"]
