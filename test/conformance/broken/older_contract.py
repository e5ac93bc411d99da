"""Reads fixed paths, as the published baselines do; no fault under the contract of their time."""

import honest


def fixed(slug):
    (file,) = (honest.INPUT / f"images/{slug}").glob("*.mha")
    if (honest.INPUT / "inputs.json").exists():
        raise honest.RefusedError("/input: expected images alone, found inputs.json")
    return honest.read_image(file)


honest.read = fixed
