"""Permutations of runs and of cases, and resampled patients."""
