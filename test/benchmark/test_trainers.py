"""The benchmark of training trains both sides on the same studies, and knows what its figures mean."""

from pathlib import Path
from types import ModuleType

import pytest

from training.dataset.prepared import load_prepared
from training.profile import load_profile

BENCHMARK = "trainers"


@pytest.mark.slow
def test_both_sides_train_on_the_same_studies_for_the_same_steps(benchmark: ModuleType, tmp_path: Path) -> None:
    bench = benchmark.Bench(tmp_path, benchmark.Length(warm_up=1, timed=2), "cpu", "demo")
    bench.write(load_prepared(bench.prepare(cases=5)))
    profile = load_profile(bench.own_profile)
    assert (profile.epochs, profile.iterations_per_epoch, profile.loader) == (1, 3, "device")
    assert profile.plan == load_profile("demo").plan
    stock = bench.stock()
    assert 0 < stock.cost.wall_s < stock.whole.wall_s
    (log,) = (tmp_path / "results-nnU-Net").rglob("training_log*.txt")
    assert "Epoch 0" in log.read_text()
    assert "Training done." in log.read_text()
    assert "Epoch 1" not in log.read_text()
    assert (bench.single().cost.steps, bench.packed(2).cost.steps) == (2, 4)
    assert bench.weights(0) == bench.weights(2)


def test_a_pack_is_counted_per_run(benchmark: ModuleType) -> None:
    whole = benchmark.measure.Measured(cpu_s=40.0, wall_s=20.0, peak_mb=500.0)
    one, four = (
        benchmark.Variant(
            "x", runs, whole, benchmark.StepCost(100 * runs, 20.0, 40.0, 20.0, 500.0), device, benchmark.Sampled()
        )
        for runs, device in [(1, "cpu"), (4, "cuda")]
    )
    assert one.seconds == pytest.approx(40 / 100)  # CPU seconds
    assert four.seconds == pytest.approx(20 / 400)  # wall seconds, of four runs
    assert four.runs_per_day == pytest.approx(86400 / (0.05 * 250_000))
    assert one.row().split() == ["x", "2.50", "0.864", "2.00", "500"]
