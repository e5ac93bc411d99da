"""Prints a name as Latin-1."""

import sys

import honest

predict = honest.predict


def printing(threshold):
    sys.stdout.buffer.write("Befund: fünf Läsionen\n".encode("latin-1"))
    predict(threshold)


honest.predict = printing
