"""Which study is read, computed and written when; the bits of batches are compared in ``test_batch``."""

import threading

import pytest

from algorithm.prediction.overlap import Overlap

PATIENCE_S = 30


class Line:
    """Notes what happens, and lets one thing wait until another has begun or ended."""

    def __init__(self):
        self.happened: list[str] = []
        self._news = threading.Condition()

    def note(self, what):
        with self._news:
            self.happened.append(what)
            self._news.notify_all()

    def wait(self, what):
        with self._news:
            assert self._news.wait_for(lambda: what in self.happened, PATIENCE_S), self.happened

    def went_through(self, items, *, room, waits=(), failing=(), size=10):
        """Go through items; the first thing of each pair ends only when the second has happened."""

        def step(name):
            def run(item, *_):
                self.note(f"{name} {item}")
                for _, other in filter(lambda pair: pair[0] == f"{name} {item}", waits):
                    self.wait(other)
                if f"{name} {item}" in failing:
                    raise ValueError(f"{name} {item}")
                self.note(f"{name} {item} done")
                return item

            return run

        def read(item, alone):
            self.note(f"{item} alone" if alone else f"{item} beside others")
            return step("read")(item)

        overlap = Overlap(read=read, work=step("work"), write=step("write"), bytes_of=lambda _: size, room_bytes=room)
        return [(item, str(error or "")) for item, error in overlap.each(items)]


def test_the_next_is_read_and_the_last_is_written_meanwhile():
    line = Line()
    waits = [("work 0", "read 1"), ("work 1", "write 0"), ("work 1", "read 2"), ("write 0", "work 1")]
    assert line.went_through(range(3), room=30, waits=waits) == [(0, ""), (1, ""), (2, "")]
    assert [each for each in line.happened if "alone" in each] == ["0 alone"]


def test_where_three_do_not_fit_the_next_is_read_when_the_last_is_written():
    line = Line()
    waits = [("work 0", "read 1"), ("work 1", "read 2"), ("work 2", "read 3")]
    line.went_through(range(4), room=20, waits=waits)
    for last, following in ((0, 2), (1, 3)):
        assert line.happened.index(f"write {last} done") < line.happened.index(f"read {following}")


def test_where_two_do_not_fit_each_has_the_memory_alone():
    line = Line()
    line.went_through(range(3), room=19)
    steps = [f"{name} {item} done" for item in range(3) for name in ("read", "work", "write")]
    assert [each for each in line.happened if each.endswith("done")] == steps
    assert [each for each in line.happened if "alone" in each] == ["0 alone", "1 alone", "2 alone"]


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("room", [0, 30])
def test_what_goes_wrong_comes_with_its_study_and_in_order(step, room):
    found = Line().went_through(range(4), room=room, failing={f"{step} 1", f"{step} 3"})
    assert found == [(0, ""), (1, f"{step} 1"), (2, ""), (3, f"{step} 3")]


def test_nothing_is_begun_for_nothing():
    line = Line()
    assert line.went_through([], room=30) == []
    assert line.happened == []
