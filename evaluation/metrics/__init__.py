"""Metrics of scored runs, and which of them may be disclosed."""
