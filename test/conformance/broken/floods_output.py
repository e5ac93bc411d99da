"""Writes more files than the platform collects."""

import honest

write_map = honest.write_map


def many(array, reference):
    write_map(array, reference)
    for number in range(5000):
        (honest.OUTPUT / f"{number}.txt").touch()


honest.write_map = many
