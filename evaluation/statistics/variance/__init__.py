"""Differences for new runs and new cases: variance over runs and cases (for AUROC DeLong's), tests and intervals."""
