"""Trainings that take turns: their clocks and contexts."""

from training.interleaving import Clock, interleave, run_to_end


def test_a_clock_counts_its_own_steps_only():
    clock = Clock()
    with clock.running():
        sum(range(300_000))
        during = clock.seconds()
    counted = clock.seconds()
    sum(range(3_000_000))
    assert clock.seconds() == counted
    assert counted[0] >= during[0] > 0


def test_each_step_and_the_closing_is_within_a_context():
    said = []

    class Turn:
        def __enter__(self):
            said.append("in")

        def __exit__(self, *_):
            said.append("out")

    def training():
        try:
            yield said.append("step")
            yield said.append("step")
        finally:
            said.append("closed")
        return 7

    assert run_to_end(interleave(training(), Turn)) == 7
    assert said == ["in", "step", "out", "in", "step", "out", "in", "closed", "out", "in", "out"]
    said.clear()
    abandoned = interleave(training(), Turn)
    next(abandoned)
    abandoned.close()
    assert said == ["in", "step", "out", "in", "closed", "out"]
