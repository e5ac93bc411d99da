"""Draws its progress on one line that never ends."""

import honest

predict = honest.predict


def printing(threshold):
    print("." * 100_000)
    predict(threshold)


honest.predict = printing
