"""Processes that share each batch, started by torchrun: torch's DistributedDataParallel, or a process by itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import UserError
from pipeline.training.device import choose_device

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Distributed:
    """`rank` of `size` processes; `local_rank`: which of this machine's GPUs is this one's."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are averaged over the processes in `backward`."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.local_rank] if device.type == "cuda" else None)

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Inside of it gradients are not averaged yet: they travel with the last part of a batch."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """In place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def all_reduce_max(self, number: int, device: torch.device) -> int:
        largest = torch.tensor(number, device=device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, value: _Value) -> _Value:
        """The main process's value."""
        values = [value]
        if self.size > 1:
            distributed.broadcast_object_list(values, 0)
        return values[0]

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Each process has batch norm statistics of its own: the main process's count."""
        for buffer in network.buffers() if self.size > 1 else ():
            distributed.broadcast(buffer, 0)


ALONE = Distributed()


def start_processes(count: int) -> None:
    """Replace this process by torchrun, which runs the same command `count` times; does nothing inside of it."""
    if count > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        os.execv(sys.executable, [*torchrun, "-m", "pipeline", *sys.argv[1:]])


@contextmanager
def process_group(device: str) -> Iterator[Distributed]:
    """The processes that torchrun has started, this one among them, or this one alone. `device`: `train.device`."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    group = Distributed(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    on_gpus = choose_device(device).type == "cuda"
    if on_gpus:
        if group.local_rank >= torch.cuda.device_count():
            raise UserError(f"train.processes needs a GPU each, and there are {torch.cuda.device_count()}: lower it")
        torch.cuda.set_device(group.local_rank)
    distributed.init_process_group("nccl" if on_gpus else "gloo")
    yield group
    # Not after an error: NCCL would wait for the others, who wait for us; torchrun ends them
    distributed.destroy_process_group()
