"""Where the training set is kept, and in which precision.

========== ============================================================ =============================================
place      studies                                                      patches are cut and augmented
========== ============================================================ =============================================
``device`` in the memory of the device                                  on the device
``host``   in the main memory, images in half precision                 cut in the main memory, augmented on the device
``nnunet`` in their files                                               by nnU-Net's own loader, in its processes
========== ============================================================ =============================================

On a GPU images are kept in half precision in either memory, so that the first two give the same bits. On the CPU, whose
memory is the main memory, ``device`` keeps them in single precision: ``host`` takes half of that and rounds them.
"""

from typing import TYPE_CHECKING, Literal

from network.machine.device import Kind

if TYPE_CHECKING:
    import torch

Place = Literal["device", "host", "nnunet"]
PLACES: tuple[Place, ...] = ("device", "host", "nnunet")
"""From the quickest to the one that takes least memory."""

Patches = Literal["float32", "float16", "nnunet"]
"""What of a place decides the bits: the precision of the images, or that nnU-Net's loader makes other patches."""


def home(place: Place, kind: Kind) -> "tuple[torch.device, torch.dtype]":
    """In which device's memory images are kept, and in which precision; for the first two places."""
    import torch  # noqa: PLC0415 - takes seconds to import

    dtype = getattr(torch, patches_of(place, kind))
    return torch.device(kind if place == "device" else "cpu"), dtype


def patches_of(place: Place, kind: Kind) -> Patches:
    """What of a place decides the bits of a training on this kind of device."""
    if place == "nnunet":
        return "nnunet"
    return "float32" if (place, kind) == ("device", "cpu") else "float16"
