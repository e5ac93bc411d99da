"""Expects the name of one upload."""

import honest

read = honest.read


def named(slug):
    wanted = {"transverse-t2-prostate-mri": "411abef6-ef1d-5322-96fb-1bd23c04605f"}
    if slug in wanted and not (honest.INPUT / f"images/{slug}" / f"{wanted[slug]}.mha").is_file():
        raise honest.RefusedError(f"expected {wanted[slug]}.mha")
    return read(slug)


honest.read = named
