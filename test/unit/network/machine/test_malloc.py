from programs import python

_FAULTS = """
import resource, torch
from network.machine.malloc import freed_memory_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
with freed_memory_kept():
    faults()
    print(without, faults())
"""


def test_large_arrays_reuse_what_was_freed():
    result = python("-c", _FAULTS, OMP_NUM_THREADS="1")
    without, within = map(int, result.stdout.split())
    assert without > 1000
    assert within < without / 10


_GIVEN_BACK = """
import torch
from network.machine.malloc import freed_memory_kept
from network.machine.memory import held_bytes
before = held_bytes()
with freed_memory_kept():
    torch.ones(50_000_000)
    within = held_bytes()
print(within - before, held_bytes() - before)
"""


def test_what_is_kept_is_given_back_at_the_end():
    """In a process of its own: one that has kept memory from before does not grow."""
    result = python("-c", _GIVEN_BACK, OMP_NUM_THREADS="1")
    within, after = map(int, result.stdout.split())
    assert within > 150_000_000
    assert after < 50_000_000
