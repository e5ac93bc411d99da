"""Process state that interleaved trainings must not share: random numbers, threads, and the GPU's stream."""

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch


class ProcessState:
    """One training's own generators, threads and stream, in force during its own steps only.

    Parameters
    ----------
    device
        Where it trains. On CUDA its kernels go to a stream of their own, so that those of several trainings overlap.
    threads
        Threads of one operation on the CPU.
    """

    def __init__(self, device: torch.device, *, threads: int) -> None:
        self.device, self.threads = device, threads
        self.stream: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))  # for what was put there before
            self.stream = lambda: torch.cuda.stream(stream)
        self.generators = self._generators()

    @contextmanager
    def context(self) -> Iterator[None]:
        """Restore the state after the last step; on leaving, the process's own."""
        generators, threads = self._generators(), torch.get_num_threads()
        self._set(self.generators)
        torch.set_num_threads(self.threads)
        try:
            with self.stream():
                yield
        finally:
            self.generators = self._generators()
            self._set(generators)
            torch.set_num_threads(threads)

    def _generators(self) -> tuple[Any, ...]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002 - the global ones

    def _set(self, generators: tuple[Any, ...]) -> None:
        python, numpy, torch_state, cuda = generators
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - the global one
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, self.device)
