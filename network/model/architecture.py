"""Networks built from nnU-Net's plans: the classes themselves, chosen by exact names, without any trainer.

Plans come from files of unknown origin. nnU-Net's own builder imports every name in them; here a name has to be in the
tables of :mod:`network.model.plans`, and the network's parameters are counted before it takes any memory. On the device
``meta``, where drawing weights means nothing and takes torch ten seconds, none are drawn.
"""

import contextlib
import io
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from contract.errors import OncoduetError
from network.model.plans import (
    ARCHITECTURES,
    CONVOLUTIONS,
    DROPOUTS,
    NONLINEARITIES,
    NORMS,
    require_dataset,
    require_plans,
)

MOST_PARAMETERS = 10**9
"""Most parameters of a network; nnU-Net's largest residual plans have half of them."""

OPERATORS: Mapping[str, type[nn.Module]] = {
    "Conv3d": nn.Conv3d,
    "InstanceNorm3d": nn.InstanceNorm3d,
    "BatchNorm3d": nn.BatchNorm3d,
    "Dropout3d": nn.Dropout3d,
    "LeakyReLU": nn.LeakyReLU,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
}
_ARGUMENTS = {"conv_op": CONVOLUTIONS, "norm_op": NORMS, "dropout_op": DROPOUTS, "nonlin": NONLINEARITIES}


def build_network(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], *, deep_supervision: bool = False
) -> torch.nn.Module:
    """Build the network of the plans, with freshly initialised weights.

    Where torch's default device is ``meta`` it has neither memory nor weights, and may be of any size.

    Raises ``OncoduetError``: the plans or the data set's description are malformed (:mod:`network.model.plans`), or the
    network is too large.

    Parameters
    ----------
    plans, dataset
        ``plans.json`` and ``dataset.json``: the latter gives the number of channels and classes.
    deep_supervision
        Whether the network returns its coarser outputs too: true in training, false for inference.
    """
    architecture = require_plans(plans).configurations.full_resolution.architecture
    description = require_dataset(dataset)
    written = architecture.arch_kwargs.model_dump(mode="json", exclude_unset=True)
    arguments = written | {
        argument: None if written[argument] is None else OPERATORS[table[written[argument]]]
        for argument, table in _ARGUMENTS.items()
    }
    kind = network_classes()[ARCHITECTURES[architecture.network_class_name]]

    def build() -> torch.nn.Module:
        network: torch.nn.Module = kind(
            input_channels=len(description.channel_names),
            num_classes=len(description.labels),
            deep_supervision=deep_supervision,
            **arguments,
        )
        return network

    if torch.get_default_device().type == "meta":
        return build()
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        _require_size(build())
    network = build()
    network.apply(kind.initialize)
    return network


def _require_size(network: torch.nn.Module) -> None:
    """Raise ``OncoduetError`` for a network, built without memory, of more parameters than any that is trained."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MOST_PARAMETERS:
        raise OncoduetError(
            "plans", expected=f"a network of at most {MOST_PARAMETERS:,} parameters", found=f"{count:,}"
        )


@cache
def network_classes() -> Mapping[str, Any]:
    """The networks' classes by name; importing them takes a second."""
    with contextlib.redirect_stdout(io.StringIO()):
        from dynamic_network_architectures.architectures.unet import (  # noqa: PLC0415
            PlainConvUNet,
            ResidualEncoderUNet,
        )
    return {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}


def normalise_by_groups(network: torch.nn.Module) -> torch.nn.Module:
    """Replace every instance norm by a group norm of one channel per group: the same quantity, four times as quick.

    On a CPU, PyTorch computes an instance norm as a batch norm of a reshaped image. Results differ by rounding, 1e-6 of
    a standard deviation. The network is changed in place; names of weights stay.
    """
    quick: dict[torch.nn.Module, torch.nn.GroupNorm] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out modules that occur twice
            if not isinstance(child, torch.nn.InstanceNorm3d) or child.track_running_stats:
                continue
            if child not in quick:
                quick[child] = torch.nn.GroupNorm(
                    child.num_features, child.num_features, eps=child.eps, affine=child.affine
                )
                quick[child].weight, quick[child].bias = child.weight, child.bias
                quick[child].train(child.training)
            parent._modules[name] = quick[child]
    return network
