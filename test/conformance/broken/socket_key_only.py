"""Reads the newer key of the listing alone."""

import json

import honest

read = honest.read


def strict(slug):
    for entry in json.loads((honest.INPUT / "inputs.json").read_text()):
        if "socket" not in entry:
            raise honest.RefusedError("expected the key socket")
    return read(slug)


honest.read = strict
