"""nnU-Net's environment variables, set while it runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from nnunetv2.training.dataloading import data_loader
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

SWITCHES = {
    "nnUNet_compile": "false",  # it would rename the weights; a profile's own key compiles in place
    "nnUNet_wandb_enabled": "0",  # nothing is sent anywhere
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
}


@contextmanager
def nnunet_folders(*, raw: Path, preprocessed: Path, results: Path, loader_processes: int) -> Iterator[None]:
    """Point nnU-Net to these folders; afterwards the environment is what it was.

    Parameters
    ----------
    loader_processes
        0: batches are made in this process, which is what makes a run repeatable. nnU-Net's planner takes the same
        number for its count of threads and needs at least 1.
    """
    wanted = SWITCHES | {
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        "nnUNet_n_proc_DA": str(loader_processes),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def batches_on_one_thread() -> Iterator[None]:
    """Keep nnU-Net's rule that a batch is made on one thread, without its price.

    Before every batch nnU-Net has threadpoolctl search the process's memory map for libraries with threads, which costs
    a twentieth of a tiny network's step. Here they are searched once, and torch is limited by its own counter.
    """
    stock = data_loader.threadpool_limits
    data_loader.threadpool_limits = _torch_threads
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        data_loader.threadpool_limits = stock


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _torch_threads(limits: int, user_api: str | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(limits)
    try:
        yield
    finally:
        torch.set_num_threads(before)
