"""Writes NaN, which is no JSON."""

import honest_evaluation

metrics = honest_evaluation.metrics
honest_evaluation.metrics = lambda *values: {**metrics(*values), "kappa": float("nan")}
