"""Writes the number as a text."""

import honest

write = honest.write_likelihood
honest.write_likelihood = lambda likelihood: write(str(likelihood))
