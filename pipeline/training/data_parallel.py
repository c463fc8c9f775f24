"""The cores of a CPU as workers, in threads of their own, each with some shares of a batch.

This is quicker than letting all cores work on each operation in turn (benchmarks/training_throughput.py): they meet
once a step instead of a hundred times. How a batch is cut into shares, what a share draws and in which order they are
added up does not depend on the number of workers: any number of them takes the same steps, bit for bit.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import nn

from pipeline.training import batch_norm

MAX_PARTIAL_SUMS = 8  # sums of gradients that are made of a batch, at most: more workers than these have nothing to do
_Worker = TypeVar("_Worker")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
Made = tuple[list[torch.Tensor | None], batch_norm.Seen]  # of a lane: gradients, and what batch norm saw


class Workers(Generic[_Worker]):
    def __init__(self, workers: Sequence[_Worker]) -> None:
        self.workers = workers
        self._own = threading.local()  # .worker: the thread's own
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Each worker has its share of the threads meanwhile, and this thread, which only waits for them, has one."""
        count, threads = len(self.workers), torch.get_num_threads()
        if count == 1:
            yield
            return
        unowned = list(self.workers)

        def begin() -> None:
            torch.set_num_threads(max(1, threads // count))
            self._own.worker = unowned.pop()

        torch.set_num_threads(1)  # threads of this one that wait for work would keep cores busy
        with ThreadPoolExecutor(count, initializer=begin) as self._pool:
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def map(self, work: Callable[[_Worker, _Task], _Result], tasks: Sequence[_Task]) -> list[_Result]:
        """`work(worker, task)` for each task, in their order; with several workers only inside of `at_work`."""
        if len(self.workers) == 1 or len(tasks) == 1:
            return [work(self.workers[0], task) for task in tasks]
        assert self._pool is not None, "outside of at_work"
        return list(self._pool.map(lambda task: work(self._own.worker, task), tasks))


def replica(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy on the same weights, with its own gradients, statistics of batch norm and random numbers for dropout."""
    twin = batch_norm.replica(network)
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            # mypy knows methods only, and torch calls what the instance has
            module.forward = partial(_dropout, share=module.p, generator=generator)  # type: ignore[method-assign]
    return twin


def take(twin: nn.Module) -> Made:
    """What a replica has made since the last call."""
    gradients = [parameter.grad for parameter in twin.parameters()]
    twin.zero_grad(set_to_none=True)
    return gradients, batch_norm.take(twin)


def gather(network: nn.Module, made: Sequence[Made]) -> None:
    """Add up what was made of a batch, in this order, in the network's own gradients and running statistics."""
    gradients, seen = zip(*made, strict=True)
    sums, *others = [[gradient for gradient in each if gradient is not None] for each in gradients]
    for other in others:
        torch._foreach_add_(sums, other)
    for parameter, gradient in zip(network.parameters(), gradients[0], strict=True):
        parameter.grad = gradient
    batch_norm.gather(network, seen)


def workers_for(network: nn.Module, size: int, shares: int, threads: int) -> int:
    """How many workers a CPU's threads make for batches of so many shares of images of `size`: none for a single share,
    and where the network draws random numbers that a worker cannot draw by itself, such as stochastic depth."""
    return min(threads, shares, MAX_PARTIAL_SUMS) if shares > 1 and not _draws_globally(network, size) else 0


@torch.no_grad()
def _draws_globally(network: nn.Module, size: int) -> bool:
    """Whether, apart from dropout layers, a forward pass moves torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        twin = replica(network, torch.Generator()).train()
        before = torch.get_rng_state()
        twin(torch.zeros(2, 3, size, size))
        return not torch.equal(before, torch.get_rng_state())


def _dropout(values: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Dropout with a random byte a value, eight of them a draw: much quicker than torch's, with shares to 1/256."""
    passed = round((1 - share) * 256)
    if passed == 256:
        return values
    words = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    mask = words.view(torch.uint8)[: values.numel()].view(values.shape) < passed
    return values * mask.to(values.dtype).mul_(256 / max(passed, 1))
