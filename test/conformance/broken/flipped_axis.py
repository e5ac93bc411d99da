"""Flips the array left to right under a correct header."""

import honest

write_map = honest.write_map
honest.write_map = lambda array, reference: write_map(array[:, :, ::-1].copy(), reference)
