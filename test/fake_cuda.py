"""CUDA tensors without a GPU: values on the CPU, and every moment at which the host would wait for the device counted.

As torch's FakeTensorMode, it finds operations that mix devices; since values are there, what depends on them runs too,
and results can be compared with the CPU's. Not covered: autocast, which asks torch itself for the device; streams;
CUDA's own kernels, their determinism and memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.equal.default,
    torch.ops.aten._unique2.default,
}
"""What CUDA answers only once all that was asked before is done."""
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
"""These count the voxels of an index of truth values, and wait for the number."""


class OnGpu(torch.Tensor):
    """A tensor that is said to be on the GPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "OnGpu":
        # As torch's FakeTensor: without memory, on a device that needs no driver, and dispatched as on the GPU.
        with _disable_current_modes(), torch.inference_mode(False):
            shape = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
            made: OnGpu = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=GPU)
        made.values = values
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """What the programs under test see; within torch it is ``meta``."""
        return GPU

    @property
    def is_cuda(self) -> bool:
        """As ``device``."""
        return True

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        raise AssertionError(f"{operation} outside of FakeCuda")


class FakeCuda(TorchDispatchMode):
    """In here ``device="cuda:0"`` works; ``waits`` are the operations at which the host would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        tensors = [each for each in tree_flatten((arguments, options))[0] if isinstance(each, torch.Tensor)]
        on_gpu = [each for each in tensors if isinstance(each, OnGpu)]
        asked = options.pop("device", None)
        if operation not in _COPIES and on_gpu:
            mixed = [each for each in tensors if not isinstance(each, OnGpu) and each.dim()]
            assert not mixed, f"{operation}: tensors on the GPU and, of shape {tuple(mixed[0].shape)}, on the CPU"
        to_gpu = bool(on_gpu) if asked is None else torch.device(asked).type != "cpu"  # within torch the GPU is meta
        if operation is torch.ops.aten.copy_.default:
            to_gpu = isinstance(arguments[0], OnGpu)
        if self._waits(operation, arguments, options, tensors, to_gpu=to_gpu):
            self.waits.append(str(operation))
        known = {id(each.values): each for each in on_gpu}
        plain = tree_map(lambda each: each.values if isinstance(each, OnGpu) else each, (arguments, options))
        if asked is not None:
            plain[1]["device"] = torch.device("cpu")
        result = operation(*plain[0], **plain[1])

        def back(each: Any) -> Any:
            if not isinstance(each, torch.Tensor) or not to_gpu:
                return each
            return known[id(each)] if id(each) in known else OnGpu(each)

        return tree_map(back, result)

    @staticmethod
    def _waits(operation: Any, arguments: Any, options: Any, tensors: list[torch.Tensor], *, to_gpu: bool) -> bool:
        on_gpu = any(isinstance(each, OnGpu) for each in tensors)
        if operation in _COPIES:
            crosses = any(isinstance(each, OnGpu) != to_gpu for each in tensors)
            non_blocking = options.get("non_blocking", len(arguments) > 2 and arguments[2])
            return crosses and not (to_gpu and non_blocking)  # to the host only what is pinned need not wait
        if operation in _INDEXING and on_gpu:
            return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in arguments[1])
        return operation in _WAITING and on_gpu


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """The mode, and what torch and autocast ask of CUDA itself."""
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "current_stream", MagicMock()),
        FakeCuda() as mode,
    ):
        yield mode


def on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the GPU, to be used within the mode."""
    return OnGpu(tensor.detach())


def network_on_gpu(network: torch.nn.Module) -> torch.nn.Module:
    """Replace the weights of a network in place."""
    moved: dict[int, torch.Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = moved.setdefault(
                    id(parameter), on_gpu(parameter).requires_grad_(parameter.requires_grad)
                )  # type: ignore[assignment]
    return network
