"""The processes of one training: alone, or several started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mslesseg_app.core.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process among all of a training.

    Attributes
    ----------
    rank, size : int
        Its number from 0, and how many there are.
    device : str
        Where it computes.
    """

    rank: int = 0
    size: int = 1
    device: str = 'cpu'

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and speaks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def mean(self, value: float) -> float:
        """Return the mean over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.size

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda:N``; with several processes on GPUs each takes the one of its
        ``LOCAL_RANK``. They speak by NCCL there, by Gloo on the CPU.
    """
    size = int(os.environ.get('WORLD_SIZE', '1'))
    if size == 1:
        yield World(device=device)
        return
    rank, local = (int(os.environ.get(name, '0')) for name in ('RANK', 'LOCAL_RANK'))
    if device != 'cpu':
        device = f'cuda:{local}'
        if local >= torch.cuda.device_count():
            raise UsageError(
                f'Process {local} of this machine has no GPU.', 'Start fewer processes a machine.'
            )
        torch.cuda.set_device(local)
    backend = 'gloo' if device == 'cpu' else 'nccl'
    dist.init_process_group(backend, timeout=timedelta(hours=6))
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()
