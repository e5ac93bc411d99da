"""The world of these tests."""

from safety.world import world

__all__ = ["world"]
