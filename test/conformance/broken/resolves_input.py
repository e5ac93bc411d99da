"""Takes paths relative to /input after it resolved them; /input is a link."""

import honest

read_image = honest.read_image


def resolving(path):
    print(path.resolve().relative_to(honest.INPUT))
    return read_image(path)


honest.read_image = resolving
