"""Has null at the path of the ranking."""

import honest_evaluation

honest_evaluation.metrics = lambda *_: {"strict": {"score": None}}
