"""The platform's machines, and how long things may take there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A machine of the platform."""

    memory_gb: int
    """In GiB, as in ``docker run --memory 8g``, which the platform calls GB."""
    cpus: int
    gpu: bool


PROFILES = {
    "cpu-8": Machine(8, 2, gpu=False),
    "cpu-16": Machine(16, 2, gpu=False),
    "t4-16": Machine(16, 4, gpu=True),
    "t4-32": Machine(32, 8, gpu=True),
}


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds."""

    case: float = 1200.0
    start: float = 300.0
    health: float = 10.0
    stop: float = 5.0
