"""Writes NaN, which Python's json does without a word."""

import honest

write = honest.write_likelihood
honest.write_likelihood = lambda likelihood: write(float("nan"))
