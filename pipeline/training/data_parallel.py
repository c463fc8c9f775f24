"""Who works on a batch: the GPU, or the cores of a CPU in threads of their own, each with some shares of the batch.

On a CPU this is quicker than letting all cores work on each operation in turn (benchmarks/training_throughput.py): they
meet once a step instead of a hundred times. Each worker has a copy of the network that uses the same weights and keeps
its own gradients. How a batch is cut into shares, what a share draws and in which order they are added up does not
depend on the number of workers: any number of them takes the same steps, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from pipeline.training.batch_norm import Collected, Seen

LANES = 8  # sums of gradients that are kept for a batch, at most: more workers than these have nothing to do
_Result = TypeVar("_Result")
_Task = TypeVar("_Task")


@dataclass(frozen=True)
class Made:
    """Of some shares of a batch: gradients, None for what does not learn, and what batch norm saw."""

    gradients: list[torch.Tensor | None]
    statistics: Seen


class Crew:
    """`networks`: a copy for each worker; without workers the network itself. Work is done inside of `at_work`."""

    def __init__(self, network: nn.Module, workers: int) -> None:
        self.network = network
        self._generators = [torch.Generator() for _ in range(workers)]  # of dropout
        self.networks = [_twin(network, i, g) for i, g in enumerate(self._generators)] or [network]
        self._statistics = Collected(network, self.networks if workers else [])
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
        self._statistics.reset()

    def seed(self, worker: int, seed: int) -> None:
        """Of dropout."""
        if self._generators:
            self._generators[worker].manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def take(self, worker: int) -> Made:
        """What a worker has made since it was last asked."""
        if not self._generators:
            return Made([], [])  # it is the network's own
        twin = self.networks[worker]
        gradients = [parameter.grad for parameter in twin.parameters()]
        twin.zero_grad(set_to_none=True)
        return Made(gradients, self._statistics.take(worker))

    def gather(self, made: Sequence[Made]) -> None:
        """Add up what was made of a batch, in this order, in the network's own gradients and running statistics."""
        if not self._generators:
            return
        sums, *others = [[gradient for gradient in each.gradients if gradient is not None] for each in made]
        for other in others:
            torch._foreach_add_(sums, other)
        pairs = zip(self.network.parameters(), made[0].gradients, strict=True)
        learners = [parameter for parameter, gradient in pairs if gradient is not None]
        for parameter, gradient in zip(learners, sums, strict=True):
            parameter.grad = gradient
        self._statistics.gather([each.statistics for each in made])

    def forget(self) -> None:
        """Nothing of a batch is left with the workers."""
        for twin in self.networks if self._generators else ():
            twin.zero_grad(set_to_none=True)
        self._statistics.reset()

    def refresh(self) -> None:
        """After the network's buffers were set from outside: those that a worker has for itself."""
        for twin in self.networks if self._generators else ():
            for mine, theirs in zip(twin.buffers(), self.network.buffers(), strict=True):
                mine.copy_(theirs)


def workers_for(network: nn.Module, size: int, shares: int, threads: int) -> int:
    """How many workers a CPU's threads make for batches of so many shares of images of `size`: none for a single share,
    and where the network draws random numbers that a worker cannot draw by itself, such as stochastic depth."""
    return min(threads, shares, LANES) if shares > 1 and not _draws_globally(network, size) else 0


def _draws_globally(network: nn.Module, size: int) -> bool:
    """Whether, apart from dropout layers, a forward pass moves torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        twin = _twin(network, 1, torch.Generator()).train()  # whose buffers are its own
        before = torch.get_rng_state()
        with torch.no_grad():
            twin(torch.zeros(2, 3, size, size))
        return not torch.equal(before, torch.get_rng_state())


def _twin(network: nn.Module, worker: int, generator: torch.Generator) -> nn.Module:
    """A copy on the same weights, the first worker's on the same buffers too (statistics of batch norm aside, see
    batch_norm.py), with dropout by its own generator."""
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
