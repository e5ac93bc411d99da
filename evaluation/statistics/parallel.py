"""Independent pieces of work over several processes: see :mod:`contract.process.workers`."""

from contract.process.workers import each_of

__all__ = ["each_of"]
