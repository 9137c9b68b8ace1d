"""Several processes that train one model, as `torchrun` starts them, on one machine or on many.

Each computes its share of every batch; gradients are averaged, so all take the same step. The
first process leads: it alone writes, evaluates and shows how it goes, and its clock counts.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cpusim.errors import UserError

T = TypeVar("T")

# While the first process evaluates or saves, the others wait; torchrun ends them if it dies.
_PATIENCE = timedelta(days=1)


class Ranks:
    """The processes that train together; this one is `rank` of `count`. One alone asks nobody."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def of_leader(self, do: Callable[[], T]) -> T:
        """What `do` returns in the first process, where alone it is called. A `UserError` that
        it raises is raised in all of them."""
        if self.count == 1:
            return do()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = do()
            except UserError as error:
                told[1] = str(error)
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise UserError(told[1])
        result: T = told[0]
        return result

    def clock(self, seconds: float) -> float:
        """The first process's."""
        if self.count == 1:
            return seconds
        told = torch.tensor(seconds, dtype=torch.float64)
        dist.broadcast(told, src=0)
        return told.item()

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is true in any process."""
        if self.count == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in told.tolist())

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum over all processes, of each value."""
        if self.count == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(told)
        return tuple(told.tolist())

    def concatenated(self, values: npt.NDArray[T]) -> npt.NDArray[T]:  # type: ignore[type-var]
        """The arrays of all processes, one after another."""
        if self.count == 1:
            return values
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, values)
        return np.concatenate(told)

    def learner(self, model: nn.Module, loss: Callable[..., tuple[Tensor, ...]]) -> nn.Module:
        """`loss` of the model and a batch's tensors; its gradients are averaged over processes."""
        learner = _Learner(model, loss)
        return learner if self.count == 1 else DistributedDataParallel(learner)


class _Learner(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        return self._loss(self.model, *batch)


def leads() -> bool:
    """Whether this process is the one that writes and prints: the first, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: torch.device) -> torch.device:
    """Of the machine's GPUs, the one of this process."""
    if device.type != "cuda":
        return device
    there, needed = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if needed > there:
        # All processes find it, since the first one alone says it.
        raise UserError(
            f"{needed} processes of this machine find {there} GPUs; start as many with"
            " --nproc-per-node"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes, if `torchrun` started any. Raises `UserError` if they are lost."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # What is agreed on stays on the CPU, so that no GPU has to wait for it.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
        yield Ranks(dist.get_rank(), count)
        # None may leave while another still waits for a message of its.
        dist.barrier()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            "the connection to the other processes was lost; see what ended them, and go on with"
            " --resume"
        ) from None
    finally:
        # What trained in parallel may sit in a cycle, and would keep gloo's threads alive until
        # the interpreter exits, which then ends in abort().
        gc.collect()
        if dist.is_initialized():
            dist.destroy_process_group()
