"""Who works on a batch: the GPU, or the cores of a CPU in threads of their own, each with a share of the batch.

On a CPU this is quicker than letting all cores work on each operation in turn (benchmarks/training_throughput.py): they
meet once a step instead of a hundred times. Each worker has a copy of the network that shares the weights' memory and
keeps its own gradients; batch norm sees a worker's part, and the first worker's running statistics count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

LEAST = 16  # images of a batch for each worker: with fewer, the pieces are too small to be quick
_Result = TypeVar("_Result")
_Task = TypeVar("_Task")


class Crew:
    """`networks`: one a worker; of a single worker it is the network itself. Work is done inside of `at_work`."""

    def __init__(self, network: nn.Module, workers: int) -> None:
        self.network = network
        self._generators = [torch.Generator() for _ in range(workers)]  # of dropout
        self.networks = [network] if workers == 1 else [_twin(network, i, g) for i, g in enumerate(self._generators)]
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Each worker has its share of the threads meanwhile, and this thread, which only waits for them, has one."""
        if len(self.networks) == 1:
            yield
            return
        threads = torch.get_num_threads()
        each = max(1, threads // len(self.networks))
        torch.set_num_threads(1)  # threads of this one that wait for work would keep cores busy
        with ThreadPoolExecutor(len(self.networks), initializer=torch.set_num_threads, initargs=(each,)) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None
                torch.set_num_threads(threads)

    def each(self, work: Callable[[int, _Task], _Result], tasks: Sequence[_Task]) -> list[_Result]:
        """`work(worker, task)` for at most as many tasks as there are workers, side by side."""
        if len(tasks) == 1:
            return [work(0, tasks[0])]
        assert self._pool is not None, "outside of at_work"
        return list(self._pool.map(work, range(len(tasks)), tasks))

    def train(self) -> None:
        for network in self.networks:
            network.train()

    def seed(self, worker: int, seed: int) -> None:
        """Of dropout."""
        if len(self.networks) == 1:
            torch.manual_seed(seed)
        else:
            self._generators[worker].manual_seed(seed)

    def gather(self, busy: int) -> None:
        """Add up the gradients of the first `busy` workers, always in the same order, in the network's own."""
        if len(self.networks) == 1:
            return
        parts = [[p.grad for p in twin.parameters() if p.grad is not None] for twin in self.networks[:busy]]
        for part in parts[1:]:
            torch._foreach_add_(parts[0], part)
        pairs = zip(self.network.parameters(), self.networks[0].parameters(), strict=True)
        learners = [parameter for parameter, mine in pairs if mine.grad is not None]
        for parameter, gradient in zip(learners, parts[0], strict=True):
            parameter.grad = gradient
        self.forget()

    def forget(self) -> None:
        """No gradients are left with the workers."""
        if len(self.networks) > 1:
            for twin in self.networks:
                twin.zero_grad(set_to_none=True)

    def refresh(self) -> None:
        """After the network's buffers were set from outside: those that a worker has for itself."""
        for twin in self.networks[1:]:
            for mine, theirs in zip(twin.buffers(), self.network.buffers(), strict=True):
                mine.copy_(theirs)


def workers_for(network: nn.Module, size: int, batch: int, threads: int) -> int:
    """How many workers a CPU's threads make for batches of images of `size`: one where the network draws random
    numbers that a worker cannot draw by itself, such as stochastic depth."""
    workers = min(threads, batch // LEAST)
    return workers if workers > 1 and not _draws_globally(network, size) else 1


def _draws_globally(network: nn.Module, size: int) -> bool:
    """Whether, apart from dropout layers, a forward pass moves torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        twin = _twin(network, 1, torch.Generator()).train()  # whose buffers are its own
        before = torch.get_rng_state()
        with torch.no_grad():
            twin(torch.zeros(2, 3, size, size))
        return not torch.equal(before, torch.get_rng_state())


def _twin(network: nn.Module, worker: int, generator: torch.Generator) -> nn.Module:
    """A copy on the same weights, the first worker's on the same buffers too, with dropout by its own generator."""
    twin = copy.deepcopy(network)
    for mine, theirs in zip(twin.parameters(), network.parameters(), strict=True):
        mine.data = theirs.data
    for buffer, original in zip(twin.buffers(), network.buffers(), strict=True) if worker == 0 else ():
        buffer.data = original.data
    for module in twin.modules():
        if isinstance(module, nn.Dropout):  # mypy knows methods only, and torch calls what the instance has
            module.forward = partial(_dropped, share=module.p, generator=generator)  # type: ignore[method-assign]
    return twin


def _dropped(values: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Dropout with a random byte a value, eight of them a draw: much quicker than torch's, with shares to 1/256."""
    kept = round((1 - share) * 256)
    if kept == 256:
        return values
    if kept == 0:
        return values * 0
    words = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    mask = words.view(torch.uint8)[: values.numel()].view(values.shape) < kept
    return values * mask.to(values.dtype).mul_(256 / kept)
