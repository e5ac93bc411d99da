"""Divides by the map's own maximum, which is 0 in places."""

import honest
import numpy as np

write_map = honest.write_map


def divided(array, reference):
    with np.errstate(invalid="ignore"):
        write_map(np.where(array > 0, array, np.float32(np.nan)), reference)


honest.write_map = divided
