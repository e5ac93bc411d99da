"""Writes links where outputs are expected, to files that are not its own."""

import honest


def link(array, reference):
    folder = honest.OUTPUT / "images" / "cspca-detection-map"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "map.mha").symlink_to("/etc/passwd")


honest.write_map = link
