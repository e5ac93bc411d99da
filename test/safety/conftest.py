"""The fixture ``demo`` of these tests."""

from safety.demo_outputs import demo

__all__ = ["demo"]
