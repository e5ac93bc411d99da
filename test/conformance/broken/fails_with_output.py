"""Writes its outputs, and exits with 1."""

import sys

import honest

predict = honest.predict


def failing(threshold):
    predict(threshold)
    sys.exit("error: the log could not be sent")


honest.predict = failing
