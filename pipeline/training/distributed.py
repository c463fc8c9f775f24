"""Processes that share each batch, started by torchrun: torch's DistributedDataParallel, or a process by itself."""

from __future__ import annotations

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
class Team:
    """`rank` of `size` processes; `local`: which of this machine's GPUs is this one's."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are averaged over the team in `backward`."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.local] if device.type == "cuda" else None)

    def together(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around a `backward`: gradients travel with the last part of a batch only."""
        if last or not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        held_back: AbstractContextManager[None] = wrapped.no_sync()
        return held_back

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Summed over the team, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def most(self, number: int, device: torch.device) -> int:
        """The largest of all: whoever stops alone leaves the others waiting for ever."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def told(self, value: _Value) -> _Value:
        """What the leader says."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, 0)
        return said[0]

    def same_buffers(self, network: nn.Module) -> None:
        """Each process has batch norm statistics of its own: the leader's count."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)


ALONE = Team()


def start(processes: int) -> None:
    """Replace this process by torchrun, which runs the same command `processes` times; does nothing inside of it."""
    if processes == 1 or _launched():
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [*torchrun, "-m", "pipeline", *sys.argv[1:]])


def _launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team that torchrun has started this process in, if it has. `device` as in `train.device`."""
    if not _launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    on_gpus = choose_device(device).type == "cuda"
    if on_gpus:
        if team.local >= torch.cuda.device_count():
            raise UserError(f"train.processes needs a GPU each, and there are {torch.cuda.device_count()}: lower it")
        torch.cuda.set_device(team.local)
    distributed.init_process_group("nccl" if on_gpus else "gloo")
    yield team
    # Not after an error: NCCL would wait for the others, who wait for us; torchrun ends them
    distributed.destroy_process_group()
