"""Writes NaN, which Python's json does silently."""

import honest

write = honest.write_likelihood
honest.write_likelihood = lambda likelihood: write(float("nan"))
