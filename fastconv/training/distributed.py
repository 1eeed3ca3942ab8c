"""Training in several processes: who this one is, and what they say to one another.

``torchrun`` starts the processes and tells each its number. Every process holds the whole network
and computes a part of each batch; DistributedDataParallel adds up the gradients. Splitting the
network itself (FSDP) would gain nothing here: ZFNet's weights, gradients and momentum are 750 MB.

The first process (rank 0) alone writes and speaks. What all must know before each step (how many
images it has, whether to stop or save) goes through a group of its own on the CPU, so that no
process waits for its GPU to know it, and so that the end of one process ends the others at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

# The first process may measure a large data set while the others wait for the run.
_PATIENCE = timedelta(days=1)


class ProcessLost(RuntimeError):
    """Another process of this training has ended, so this one cannot go on."""


class World:
    """The processes of one training: a single one, or those that `join` found.

    Attributes:
        rank: number of this process, from 0.
        size: how many processes there are.
        local_rank: number among the processes of this machine; None for a single process.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int | None = None):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._control = dist.new_group(backend="gloo", timeout=_PATIENCE) if size > 1 else None

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` so that its gradients are the mean over all processes."""
        if self.size == 1:
            return model
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, gradient_as_bucket_view=True
        )

    def without_exchange(self, network: Any) -> contextlib.AbstractContextManager:
        """While it lasts, the wrapped network's gradients are only added up here."""
        return contextlib.nullcontext() if self.size == 1 else network.no_sync()

    def sum(self, *values: float) -> list[float]:
        """The sums over all processes of a few numbers."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self._control)
        return numbers.tolist()

    def any(self, flag: Tensor) -> Tensor:
        """Whether `flag`, a 0-dim bool on the device, is set in any process."""
        if self.size > 1:
            flag = flag.float()
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            flag = flag > 0
        return flag

    def share(self, value: Any = None) -> Any:
        """The first process's `value`, in all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Say in one line, as `ProcessLost`, that another process ended."""
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and _is_from_network(error):
                raise ProcessLost(
                    f"process {self.rank} of {self.size} ends, because another one has"
                ) from error
            raise


@contextlib.contextmanager
def join() -> Iterator[World]:
    """The processes that torchrun started this one with; a single one where it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    dist.init_process_group()
    world = World(dist.get_rank(), size, local_rank)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _is_from_network(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return any(word in str(error) for word in ("gloo", "Connection closed", "Connection reset"))
