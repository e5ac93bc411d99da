"""Writes NaN, which is not JSON."""

import honest_evaluation

metrics = honest_evaluation.metrics
honest_evaluation.metrics = lambda *values: {**metrics(*values), "kappa": float("nan")}
