"""Tests of the conformance suite that need a container engine; ``ONCODUET_ENGINE`` names it."""

import os

import pytest


@pytest.fixture(scope="session")
def engine() -> str:
    """The engine's command; without one the test is skipped."""
    command = os.environ.get("ONCODUET_ENGINE")
    if not command:
        pytest.skip("NOT A CONTAINER TEST: ONCODUET_ENGINE names no container engine")
    return command
