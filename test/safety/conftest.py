"""The world of these tests, and logging as it was."""

from safety.world import _logging_as_before, world

__all__ = ["_logging_as_before", "world"]
