"""A network and all that one training step needs. Nothing in a step waits for the device.

What a step draws (augmentation, mixtures, dropout) depends on the seed, the step's number and the process alone: a
training that goes on from a checkpoint, or does a step again, draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.artifacts import ModelCard
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import Policy
from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.training.batch_norm import Collected, Seen, learning, observer
from pipeline.training.checkpointing import State
from pipeline.training.data_parallel import LANES, Crew, Made, workers_for
from pipeline.training.device import Placement
from pipeline.training.distributed import ALONE, Team
from pipeline.training.ema import Average
from pipeline.training.loss import Objective
from pipeline.training.optimizer import make_optimizer, set_learning_rate

SHARE = 32  # images of a CPU's batch that are drawn for, and normalized, together; they stay in a core's cache
NEVER = float(1 << 24)  # as the number of a step; float32 counts exactly up to here
FIELDS = ("loss", "correct", "seen", "norm", "norm_max", "steps", "bad_step")


_Item = TypeVar("_Item")
Share = tuple[int, torch.Tensor, torch.Tensor]  # its number in the batch, images, labels


@dataclass
class Tally:
    """Sums over the steps of an epoch, on the device; `norm`: of the gradients before clipping."""

    values: torch.Tensor

    @staticmethod
    def empty(device: torch.device) -> Tally:
        return Tally(torch.tensor([0.0] * (len(FIELDS) - 1) + [NEVER], device=device))

    def read(self, team: Team = ALONE) -> dict[str, float]:
        """Waits for the device. Of the whole team: sums, and the first of the bad steps."""
        sums = team.total(self.values[:3].clone())
        return dict(zip(FIELDS, [*sums.tolist(), *self.values[3:].tolist()], strict=True))


def _cut(items: Sequence[_Item], count: int) -> list[Sequence[_Item]]:
    """Into `count` runs of about the same length."""
    return [items[i * len(items) // count : (i + 1) * len(items) // count] for i in range(count)]


class Engine:
    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        weights: tuple[np.ndarray, np.ndarray],
        recipe: Train,
        policy: Policy,
        placement: Placement,
        rates: Mapping[str, float],
        team: Team = ALONE,
    ) -> None:
        """`weights`: of the classes, and offsets of their logits, in the training loss (see balance.py). `rates`: see
        `make_optimizer`."""
        device = placement.device
        self.recipe, self.placement, self.team = recipe, placement, team
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(network, recipe, rates)
        self.average = Average(network, recipe.ema) if recipe.ema else None
        self.wrapped = wrapped = team.wrap(network, device)
        on_cpu = device.type == "cpu"
        self.share = max(SHARE, recipe.micro_batch) if on_cpu else recipe.batch_size
        shares = math.ceil(recipe.batch_size / self.share) if on_cpu and team.size == 1 and not recipe.compile else 1
        workers = workers_for(network, card.preprocessing.size, shares, torch.get_num_threads())
        self.crew = Crew(wrapped, workers)
        self.forwards: list[Callable[[torch.Tensor], torch.Tensor]] = (
            [torch.compile(wrapped)] if recipe.compile else list(self.crew.networks)
        )
        self.augment = [Augmenter(policy, card.mean, card.std, device, recipe.seed) for _ in self.forwards]
        self.mix = [Mixer(policy, device, recipe.seed) for _ in self.forwards]
        self.plain = Augmenter(Policy(), card.mean, card.std, device, recipe.seed)
        on_device = partial(torch.tensor, dtype=torch.float32, device=device)
        even = bool((weights[0] == 1).all())
        self.objective = Objective(on_device(weights[0]), on_device(weights[1]), recipe.label_smoothing, even)
        self.learners = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.micro_batch = recipe.micro_batch or self.share
        self.tally = Tally.empty(device)

    @property
    def kept(self) -> nn.Module:
        """The network whose weights are validated and kept."""
        return self.average.network if self.average else self.network

    def at_work(self) -> AbstractContextManager[None]:
        """Steps and scores are made inside of it."""
        return self.crew.at_work()

    def step(
        self, images_NHWC: torch.Tensor, labels: torch.Tensor, learning_rate: float, number: int, batch: int
    ) -> None:
        """One update from this process's share of a batch; `batch`: its images in the whole team.

        `number` counts from 0 over all of the training.
        """
        set_learning_rate(self.optimizer, learning_rate)
        while True:
            try:
                loss, correct = self._backward(images_NHWC, labels, number, batch)
                break
            except torch.OutOfMemoryError as error:
                self._take_less(len(images_NHWC), error)
        clip = self.recipe.clip_gradient
        gradients = [p.grad for p in self.learners if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(self.learners, clip) if clip else nn.utils.get_total_norm(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.follow(self.network)
        with torch.no_grad():
            tally = self.tally.values
            tally[:3] += torch.stack([loss * len(labels), correct, loss.new_full((), len(labels))])
            tally[3] += norm
            tally[4] = torch.maximum(tally[4], norm)
            tally[5] += 1
            # The norm too: a gradient that is not finite spoils the weights before any loss shows it
            sound = torch.isfinite(loss) & torch.isfinite(norm)
            tally[6] = torch.where(sound, tally[6], tally[6].clamp(max=number))

    def _backward(
        self, images_NHWC: torch.Tensor, labels: torch.Tensor, number: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the mean loss over the whole batch; this process's mean loss, and how many it had right."""
        # As many in each process; no share of a single image either
        count = max(1, min(math.ceil(batch / self.team.size / self.share), len(labels) // 2))
        numbers = range(self.team.rank * count, (self.team.rank + 1) * count)
        shares = list(zip(numbers, images_NHWC.tensor_split(count), labels.tensor_split(count), strict=True))
        # DistributedDataParallel takes the mean over the processes
        work = partial(self._shares, number=number, divisor=batch / self.team.size)
        lanes = _cut(shares, min(count, LANES))
        made = list(chain.from_iterable(self.crew.each(work, _cut(lanes, min(len(self.forwards), len(lanes))))))
        loss, correct, weight = torch.stack([sums for sums, _ in made]).sum(dim=0).unbind()
        self.crew.gather([each for _, each in made])
        if not self.objective.even:
            gradients = [p.grad for p in self.learners if p.grad is not None]
            torch._foreach_mul_(gradients, batch / self.team.total(weight.clone()))
        return loss / weight, correct

    def _shares(
        self, worker: int, lanes: Sequence[Sequence[Share]], number: int, divisor: float
    ) -> list[tuple[torch.Tensor, Made]]:
        """What one worker makes of each of its lanes, in parts of at most `micro_batch` images: sums of loss, right
        ones and weight, and the rest. What a share draws depends on the seed, the step and the share alone."""
        made = []
        for lane in lanes:
            sums = torch.zeros(3, device=self.tally.values.device)
            for share, images_NHWC, labels in lane:
                seeds = np.random.SeedSequence([self.recipe.seed, number, share]).generate_state(3)
                self.augment[worker].reseed(int(seeds[0]))
                self.mix[worker].reseed(int(seeds[1]))
                self.crew.seed(worker, int(seeds[2]))
                targets = self.objective.targets(labels)
                inputs, targets = self.mix[worker](self.augment[worker](images_NHWC), targets)
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                parts = self._parts(len(labels))
                pairs = zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True)
                for i, (part, wanted) in enumerate(pairs):
                    with self.team.together(self.wrapped, last=share == lanes[-1][-1][0] and i == parts - 1):
                        with self.placement.autocast():
                            logits = self.forwards[worker](part).float()
                        loss = self.objective.total(logits, wanted)
                        (loss / divisor).backward()
                    # Of a mixed image the larger part counts
                    right = (logits.detach().argmax(dim=1) == wanted.argmax(dim=1)).sum()
                    sums += torch.stack([loss.detach(), right, self.objective.weight(wanted)])
            made.append((sums, self.crew.take(worker)))
        return made

    def _parts(self, images: int) -> int:
        """Into how many they are cut, none of them a single image, over which batch norm has no variance."""
        return max(1, min(math.ceil(images / self.micro_batch), images // 2))

    def _take_less(self, images: int, error: Exception) -> None:
        """Half as many images at once; the batch stays what it is. Raises UserError when nothing is left to halve."""
        taken = min(self.micro_batch, images)
        if self.team.size > 1:  # a step that is done again would meet the others' next one
            raise UserError(
                f"a GPU of the team has not enough memory for {taken} images: lower train.micro_batch"
            ) from error
        if taken <= 2:
            raise UserError(
                f"the GPU has not enough memory for {taken} images at once ({str(error).split('.')[0]}): lower "
                f"ingest.image_size, choose a smaller network, or set train.device to cpu"
            ) from None
        self.micro_batch = math.ceil(taken / 2)
        self.optimizer.zero_grad(set_to_none=True)
        self.crew.forget()
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        print(
            f"out of GPU memory with {taken} images at once: going on with {self.micro_batch} (train.micro_batch), "
            f"the batch stays {self.recipe.batch_size}; batch norm sees fewer images at once",
            flush=True,
        )

    def settle(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Compute the kept network's batch norm statistics anew from training images, unaugmented as those are that it
        will see."""
        if not learning(self.kept):
            return
        observers = [observer(self.kept) for _ in self.forwards]
        statistics = Collected(self.kept, observers)
        statistics.reset()
        seen: list[Seen] = []
        for images_NHWC, _ in batches:
            parts = images_NHWC.tensor_split(self._parts(len(images_NHWC)))
            work = partial(self._observe, observers=observers, statistics=statistics)
            seen += chain.from_iterable(self.crew.each(work, _cut(parts, min(len(observers), len(parts)))))
        statistics.gather(seen, anew=True)

    @torch.no_grad()
    def _observe(
        self, worker: int, parts: Sequence[torch.Tensor], observers: Sequence[nn.Module], statistics: Collected
    ) -> list[Seen]:
        seen = []
        for part in parts:
            with self.placement.autocast():
                observers[worker](self.plain(part))
            seen.append(statistics.take(worker))
        return seen

    def score(self, images_NHWC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of the kept network, unaugmented: sum of the cross-entropy, number right, number of images."""
        self.kept.eval()
        parts = list(zip(images_NHWC.split(self.micro_batch), labels.split(self.micro_batch), strict=True))
        tasks = _cut(parts, min(len(self.forwards), len(parts)))
        return torch.stack(list(chain.from_iterable(self.crew.each(self._score, tasks)))).sum(dim=0)

    @torch.no_grad()
    def _score(self, worker: int, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        sums = []
        for part, wanted in parts:
            with self.placement.autocast():
                logits = self.kept(self.plain(part)).float()
            loss = cross_entropy(logits, wanted, reduction="sum")
            sums.append(torch.stack([loss, (logits.argmax(dim=1) == wanted).sum(), torch.full_like(loss, len(wanted))]))
        return sums

    def state(self) -> State:
        """All that the next steps depend on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and {"network": self.average.network.state_dict(), "updates": self.average.updates},
            "tally": self.tally.values,
            "micro_batch": self.micro_batch,
        }

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.crew.refresh()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.network.load_state_dict(state["average"]["network"])
            self.average.updates = state["average"]["updates"]
        self.tally.values.copy_(state["tally"])
        self.micro_batch = state["micro_batch"]
