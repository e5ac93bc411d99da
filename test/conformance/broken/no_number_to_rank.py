"""Has null where the ranking looks."""

import honest_evaluation

honest_evaluation.metrics = lambda *_: {"strict": {"score": None}}
