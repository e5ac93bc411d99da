"""Writes the map twice into one socket."""

import honest

save = honest.save


def twice(image, path):
    save(image, path)
    save(image, path.replace("map.mha", "copy.mha"))


honest.save = twice
