"""Differences for new runs and new cases: variance over runs and cases, tests and intervals."""
