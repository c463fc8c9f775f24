"""A network and all that one training step needs. Nothing in a step waits for the device.

What a step draws (augmentation, mixtures, dropout) depends on the seed, the step's number and the process alone: a
training that goes on from a checkpoint, or does a step again, draws what it would have drawn.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from pipeline.artifacts import ModelCard
from pipeline.augmentation.augmenter import Augmenter
from pipeline.augmentation.mixup import Mixer
from pipeline.augmentation.policy import Policy
from pipeline.config import Train
from pipeline.networks.architectures import learning_rates
from pipeline.training import batch_norm, data_parallel
from pipeline.training.checkpointing import State
from pipeline.training.data_parallel import MAX_PARTIAL_SUMS, Workers, workers_for
from pipeline.training.device import Placement
from pipeline.training.distributed import ALONE, Distributed
from pipeline.training.ema import Ema
from pipeline.training.inputs import TrainingInputs
from pipeline.training.loss import Loss
from pipeline.training.optimizer import make_optimizer

SHARE = 32  # images of a CPU's batch that are drawn for, and normalized, together; they stay in a core's cache
NEVER = float(1 << 24)  # as the number of a step; float32 counts exactly up to here
# Over the steps of an epoch: sums, but for the largest norm (of the gradients before clipping) and the first bad step
TALLY = ("loss", "accuracy", "seen", "norm", "norm_max", "bad_step")


@dataclass(frozen=True)
class Worker:
    """`network`: the one that is trained, or a replica of it, with `generator` for its dropout; `forward` runs it."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    network: nn.Module
    generator: torch.Generator | None
    observer: nn.Module
    augment: Augmenter
    mix: Mixer

    def seed(self, augment: int, mix: int, dropout: int) -> None:
        self.augment.random.reseed(augment)
        self.mix.random.reseed(mix)
        _ = self.generator.manual_seed(dropout) if self.generator else torch.manual_seed(dropout)


class TrainingStep:
    def __init__(
        self, network: nn.Module, card: ModelCard, inputs: TrainingInputs, recipe: Train, placement: Placement,
        group: Distributed = ALONE,
    ) -> None:  # fmt: skip
        self.device = device = placement.device
        self.recipe, self.placement, self.group = recipe, placement, group
        self.weighted = bool((inputs.class_weights != 1).any())
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(network, recipe, learning_rates(network, card.architecture, card.options))
        self.learning = [p for each in self.optimizer.param_groups for p in each["params"]]
        self.ema = Ema(network, recipe.ema) if recipe.ema else None
        self.wrapped = group.wrap(network, device)
        self.plain = Augmenter(Policy(), card.mean, card.std, device, recipe.seed)
        on_device = partial(torch.tensor, dtype=torch.float32, device=device)
        self.loss = Loss(on_device(inputs.class_weights), on_device(inputs.logit_offsets), recipe.label_smoothing)
        on_cpu = device.type == "cpu"
        self.share = max(SHARE, recipe.micro_batch) if on_cpu else recipe.batch_size
        self.micro_batch = recipe.micro_batch or self.share
        shares = math.ceil(recipe.batch_size / self.share) if on_cpu and group.size == 1 and not recipe.compile else 1
        count = workers_for(network, card.preprocessing.size, shares, torch.get_num_threads())
        self.replicated = count > 0
        workers = []
        for _ in range(max(1, count)):
            generator = torch.Generator() if self.replicated else None
            twin = data_parallel.replica(network, generator) if generator else self.wrapped
            forward, observer = torch.compile(twin) if recipe.compile else twin, batch_norm.observer(self.validated)
            augment = Augmenter(inputs.policy, card.mean, card.std, device, recipe.seed)
            mix = Mixer(inputs.policy, device, recipe.seed)
            workers.append(Worker(forward, twin, generator, observer, augment, mix))
        self.workers = Workers(workers)
        self.reset_tally()

    @property
    def validated(self) -> nn.Module:
        """The network whose weights are validated, and are the result."""
        return self.ema.module if self.ema else self.network

    def train(self) -> None:
        for worker in self.workers.workers:
            worker.network.train()

    def reset_tally(self) -> None:
        self.tally = torch.tensor([0.0] * (len(TALLY) - 1) + [NEVER], device=self.device)

    def read_tally(self, group: Distributed = ALONE) -> dict[str, float]:
        """Waits for the device. `loss` and `accuracy` are means over what the group has `seen`."""
        loss, correct, seen = group.all_reduce_sum(self.tally[:3].clone()).tolist()
        means = (loss / max(seen, 1), correct / max(seen, 1))  # nothing is seen between two epochs
        return dict(zip(TALLY, [*means, seen, *self.tally[3:].tolist()], strict=True))

    def update(
        self, images_NHWC: torch.Tensor, labels: torch.Tensor, learning_rate: float, number: int, batch: int
    ) -> None:
        """One update from this process's share of a batch, which has `batch` images in all processes; `number` counts
        the steps of the training from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        while True:
            try:
                loss, correct = self._backward(images_NHWC, labels, number, batch)
                break
            except torch.OutOfMemoryError as error:
                self._take_less(len(images_NHWC), error)
        norm = nn.utils.clip_grad_norm_(self.learning, self.recipe.clip_gradient or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update_parameters(self.network)
        with torch.no_grad():
            tally = self.tally
            tally[:4] += torch.stack([loss * len(labels), correct, loss.new_full((), len(labels)), norm])
            tally[4] = torch.maximum(tally[4], norm)
            # The norm too: a gradient that is not finite spoils the weights before any loss shows it
            sound = torch.isfinite(loss) & torch.isfinite(norm)
            tally[5] = torch.where(sound, tally[5], tally[5].clamp(max=number))

    def _backward(
        self, images_NHWC: torch.Tensor, labels: torch.Tensor, number: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the mean loss over the whole batch; this process's mean loss, and how many it had right."""
        # As many in each process; no share of a single image either
        count = max(1, min(math.ceil(batch / self.group.size / self.share), len(labels) // 2))
        numbers = range(self.group.rank * count, (self.group.rank + 1) * count)
        shares = list(zip(numbers, images_NHWC.tensor_split(count), labels.tensor_split(count), strict=True))
        lanes = min(count, MAX_PARTIAL_SUMS)
        cut = [shares[i * count // lanes : (i + 1) * count // lanes] for i in range(lanes)]
        # DistributedDataParallel takes the mean over the processes
        made = self.workers.map(partial(self._lane, number=number, divisor=batch / self.group.size), cut)
        loss, correct, weight = torch.stack([sums for sums, _ in made]).sum(dim=0).unbind()
        if self.replicated:
            data_parallel.gather(self.network, [each for _, each in made if each])
        if self.weighted:
            gradients = [p.grad for p in self.learning if p.grad is not None]
            torch._foreach_mul_(gradients, batch / self.group.all_reduce_sum(weight.clone()))
        return loss / weight, correct

    def _lane(
        self, worker: Worker, lane: Sequence[tuple[int, torch.Tensor, torch.Tensor]], number: int, divisor: float
    ) -> tuple[torch.Tensor, data_parallel.Made | None]:
        """Shares (number in the batch, images, labels) one after the other, in parts of at most `micro_batch` images:
        sums of loss, right ones and weight; and what a replica made."""
        sums = torch.zeros(3, device=self.device)
        for share, images_NHWC, labels in lane:
            worker.seed(*np.random.SeedSequence([self.recipe.seed, number, share]).generate_state(3).tolist())
            targets = one_hot(labels, len(self.loss.class_weights)).float()
            images, targets = worker.mix(worker.augment(images_NHWC), targets)
            images = images.contiguous(memory_format=torch.channels_last)
            count = self._parts(len(labels))
            parts = zip(range(count), images.tensor_split(count), targets.tensor_split(count), strict=True)
            for i, part, wanted in parts:
                last = share == lane[-1][0] and i == count - 1
                with nullcontext() if last else self.group.no_sync(self.wrapped):
                    with self.placement.autocast():
                        logits = worker.forward(part).float()
                    loss = self.loss.total(logits, wanted)
                    (loss / divisor).backward()
                # Of a mixed image the larger part counts
                right = (logits.detach().argmax(dim=1) == wanted.argmax(dim=1)).sum()
                sums += torch.stack([loss.detach(), right, self.loss.weight(wanted)])
        return sums, data_parallel.take(worker.network) if self.replicated else None

    def _parts(self, images: int) -> int:
        """Into how many they are cut, none of them a single image, over which batch norm has no variance."""
        return max(1, min(math.ceil(images / self.micro_batch), images // 2))

    def _take_less(self, images: int, error: torch.OutOfMemoryError) -> None:
        taken = min(self.micro_batch, images)
        if taken <= 2 or self.group.size > 1:  # a step that is done again would meet the others' next one
            raise error
        self.micro_batch = math.ceil(taken / 2)
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        how = f"the batch stays {self.recipe.batch_size}, going on with {self.micro_batch} (train.micro_batch)"
        print(f"out of GPU memory with {taken} images at once: {how}, in batch norm too", flush=True)

    def recompute_batch_norm(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Compute the validated network's batch norm statistics again, from training images without augmentation."""
        if not any(norm.training for norm in batch_norm.tracking_norms(self.workers.workers[0].observer)):
            return
        seen = [self.workers.map(self._observe, images.tensor_split(self._parts(len(images)))) for images, _ in batches]
        batch_norm.gather(self.validated, list(chain.from_iterable(seen)), reset=True)

    @torch.no_grad()
    def _observe(self, worker: Worker, part: torch.Tensor) -> batch_norm.Seen:
        with self.placement.autocast():
            worker.observer(self.plain(part))
        return batch_norm.take(worker.observer)

    def score(self, images_NHWC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of the validated network, unaugmented: sum of the cross-entropy, number right, number of images."""
        self.validated.eval()
        parts = list(zip(images_NHWC.split(self.micro_batch), labels.split(self.micro_batch), strict=True))
        return torch.stack(self.workers.map(self._score, parts)).sum(dim=0)

    @torch.no_grad()
    def _score(self, worker: Worker, part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images_NHWC, wanted = part
        with self.placement.autocast():
            logits = self.validated(self.plain(images_NHWC)).float()
        loss = cross_entropy(logits, wanted, reduction="sum")
        return torch.stack([loss, (logits.argmax(dim=1) == wanted).sum(), torch.full_like(loss, len(wanted))])

    def state(self) -> State:
        """All that the next steps depend on."""
        ema = {"ema": self.ema.state_dict()} if self.ema else {}
        own = {"tally": self.tally, "micro_batch": self.micro_batch}
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), **ema, **own}

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.tally.copy_(state["tally"])
        self.micro_batch = state["micro_batch"]
