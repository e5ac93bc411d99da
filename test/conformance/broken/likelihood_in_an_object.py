"""Writes {"likelihood": …} instead of the number."""

import honest

write = honest.write_likelihood
honest.write_likelihood = lambda likelihood: write({"likelihood": likelihood})
