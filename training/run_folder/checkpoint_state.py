"""The state of a training as bytes, without pickle: tensors as safetensors, and one text that says what they are in.

Containers, numbers and text come back as they were, tuples and keys that are numbers too; a tensor that was in
several places is in all of them again. Nothing else has a form here, so that nothing that is read can run.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

_STATE = "state"
_LENGTH_BYTES = 8
"""Length of the number with which safetensors begins."""


def encode_state(state: Mapping[str, Any]) -> bytes:
    """Write a state. Raises ``TypeError`` for anything but containers, tensors, numbers and text (a bug)."""
    from safetensors.torch import save  # noqa: PLC0415

    tensors: dict[str, torch.Tensor] = {}
    known: dict[tuple[object, ...], str] = {}

    def plain(value: Any) -> Any:
        match value:
            case torch.Tensor():
                which = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
                if which not in known:
                    known[which] = f"{len(known):06d}"
                    tensors[known[which]] = value.detach().cpu().contiguous().clone()
                return {"tensor": known[which]}
            case Mapping():
                return {"mapping": [[plain(key), plain(each)] for key, each in value.items()]}
            case list():
                return {"list": [plain(each) for each in value]}
            case tuple():
                return {"tuple": [plain(each) for each in value]}
            case None | bool() | int() | float() | str():
                return value
            case _:
                raise TypeError(f"a state of containers, tensors, numbers and text holds a {type(value).__name__}")

    text = json.dumps(plain(state))
    return bytes(save(tensors, metadata={_STATE: text}))


def decode_state(content: bytes, *, device: str) -> dict[str, Any]:
    """Read a state, with its tensors on a device.

    Raises
    ------
    ValueError
        These are no bytes of :func:`encode`.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415

    try:
        tensors = {name: tensor.to(device) for name, tensor in load(content).items()}
        end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        state = _value(json.loads(json.loads(content[_LENGTH_BYTES:end])["__metadata__"][_STATE]), tensors)
    except (SafetensorError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__}")
    return state


def _value(form: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(form, dict):
        return form
    ((kind, content),) = form.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "mapping":
            return {_value(key, tensors): _value(each, tensors) for key, each in content}
        case "list":
            return [_value(each, tensors) for each in content]
        case "tuple":
            return tuple(_value(each, tensors) for each in content)
    raise ValueError(f"a value of the kind {kind!r}")
