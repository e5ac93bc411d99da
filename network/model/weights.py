"""Weights as safetensors, and a hash that depends on the tensors alone.

nnU-Net's decoder holds its encoder too, so every encoder weight has two names; such a tensor is stored once and the
file's metadata lists its other names. No pickle is read or written.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.files.reading import LONGEST_QUOTE

_ALIASES = "aliases"


def save_weights(path: Path, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write weights atomically; equal tensors give equal bytes."""
    from safetensors.torch import save  # noqa: PLC0415

    first_name: dict[str, str] = {}
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        owner = first_name.setdefault(_digest(tensor), name)
        if owner == name:
            stored[name] = tensor.clone()
        else:
            aliases[name] = owner
    # Not save_file: only its owner may read the file that it makes, while containers run as others.
    content = save(stored, metadata={_ALIASES: json.dumps(aliases, sort_keys=True)})
    with atomic_file(path, size_bytes=len(content)) as partial:
        partial.write_bytes(content)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read weights by all their names; names of one stored tensor share memory.

    Raises ``OncoduetError``: the file is missing or is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    if not path.is_file():
        raise OncoduetError(path, "weights not found")
    try:
        with safe_open(str(path), framework="pt") as file:
            aliases = _aliases(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return weights | {name: weights[owner] for name, owner in aliases.items()}
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise OncoduetError(path, expected="safetensors weights", found=error) from None


def _aliases(metadata: Mapping[str, str]) -> dict[str, str]:
    """Further names of stored tensors. Raises ``ValueError`` for anything but text by text."""
    found = json.loads(metadata.get(_ALIASES, "{}"))
    if not isinstance(found, dict) or not all(isinstance(owner, str) for owner in found.values()):
        raise ValueError(f"{_ALIASES} that are no names by name")
    return found


def fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give a network that was built without memory (on the device ``meta``) its memory, on the CPU, and its weights.

    Raises ``OncoduetError``: they are not those of such a network, by name, shape or type; it has no memory then.

    Parameters
    ----------
    path
        Where the weights come from, for the message.
    """
    expected = {name: _form(tensor) for name, tensor in network.state_dict().items()}
    found = {name: _form(tensor) for name, tensor in weights.items()}
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise OncoduetError(
            path,
            f"{len(differing)} tensors differ from those of the plans' network; {name[:LONGEST_QUOTE]}: "
            f"expected {expected.get(name, 'none')}, found {found.get(name, 'none')}",
        )
    network.to_empty(device="cpu")
    network.load_state_dict(dict(weights))


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def tensors_sha256(state_dict: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names.

    A tensor of many names is hashed once: a short file may give one a million.
    """
    total = hashlib.sha256()
    digests: dict[tuple[object, ...], str] = {}
    for name in sorted(state_dict):
        tensor = state_dict[name]
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in digests:
            digests[place] = _digest(tensor)
        total.update(f"{name}:{digests[place]}\n".encode())
    return total.hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    whole = tensor.detach().cpu().contiguous()
    described = f"{whole.dtype}:{tuple(whole.shape)}:".encode()
    return hashlib.sha256(described + whole.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
