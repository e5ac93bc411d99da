"""How much longer networks take in another precision than in fp32, on a CPU that may only emulate it."""

import time

import torch

from network.machine.device import Precision
from network.machine.precision import computing_in


@torch.inference_mode()
def slowdown(network: torch.nn.Module, patches: torch.Tensor, precision: Precision) -> float:
    """How many times as long a pass takes as in fp32, by this process's CPU time; of each the second pass counts."""
    from network.model.channels_last_unet import quick_on_cpu  # noqa: PLC0415 - takes a second to import

    networks, seconds = {precision: network, "fp32": quick_on_cpu(network)}, {}
    each: Precision
    for each in ("fp32", precision):
        with computing_in(each, patches.device.type):
            networks[each](patches)
            begun = time.process_time()
            networks[each](patches)
            seconds[each] = time.process_time() - begun
    return seconds[precision] / seconds["fp32"]
