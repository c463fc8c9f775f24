"""The training loop: epochs and steps, the best validation epoch kept, checkpoints to go on from."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.artifacts import ModelCard
from pipeline.augmentation.policy import Policy
from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.training import batch_norm
from pipeline.training.checkpointing import NOWHERE, State, Vault
from pipeline.training.data_loading import Feed, feed
from pipeline.training.device import Placement, place
from pipeline.training.distributed import ALONE, Team
from pipeline.training.progress import Epoch, Progress, device_health
from pipeline.training.schedule import share
from pipeline.training.signals import Interrupted, Stop, noticed
from pipeline.training.step import NEVER, Engine, Tally

ASK = 20  # steps of a team between two questions whether to stop: each costs a wait for all
LOOK = 1.0  # seconds between two looks at the device's sums, for the bar and for losses that are not finite


@dataclass(frozen=True)
class TrainingData:
    """What a fit may see: never the test split.

    `images_NHWC` are all images of the dataset (uint8, possibly mapped from disk); `rows` and `val_rows` select.
    `draw_weights` [len(rows)] or None: chances of being drawn. `class_weights`, `logit_offsets` [classes]: of the
    training loss (see balance.py).
    """

    images_NHWC: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    val_rows: np.ndarray
    class_weights: np.ndarray
    logit_offsets: np.ndarray
    draw_weights: np.ndarray | None


@dataclass(frozen=True)
class Fitted:
    """`network` holds the weights of `best_epoch` (1-based); `history` has a row per epoch."""

    network: nn.Module
    history: pd.DataFrame
    best_epoch: int
    placement: Placement


def fit(
    network: nn.Module,
    card: ModelCard,
    data: TrainingData,
    recipe: Train,
    policy: Policy,
    on_epoch: Callable[[Epoch], None],
    *,
    rates: Mapping[str, float] | None = None,
    vault: Vault = NOWHERE,
    team: Team = ALONE,
) -> Fitted:
    """Train in place, from the vault's state if there is one. `rates`: see optimizer.py. Seeds torch's generator.

    Raises UserError when the loss stops being finite, and Interrupted when a signal asked for an end: the state is
    then in the vault.
    """
    record = vault.folder / "probe.json" if vault.folder and team.leads else None
    # One process decides for all
    placement = team.told(place(recipe, network, card.preprocessing.size, len(card.class_names), record))
    state = vault.load()
    weights = (data.class_weights, data.logit_offsets)
    rows = np.concatenate([data.rows, data.val_rows])
    sharers = team.size if placement.device.type == "cpu" else 1
    try:
        engine = Engine(network, card, weights, recipe, policy, placement, rates or {}, team)
        source = feed(data.images_NHWC, data.labels, rows, recipe.images, placement.device, sharers)
        training = _Training(engine, data, source, vault, on_epoch)
        if state:
            training.load(state)
        with noticed() as stop, engine.at_work():
            training.run(stop)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU has not enough memory ({str(error).split('.')[0]}): set train.images to streamed, lower "
            f"train.micro_batch, or choose a smaller network"
        ) from error
    network.load_state_dict(training.best_state)
    return Fitted(network.cpu().eval(), pd.DataFrame(training.history), training.best_epoch, placement)


class _Training:
    """Where a training stands: what a checkpoint holds beside the engine's state."""

    def __init__(
        self, engine: Engine, data: TrainingData, source: Feed, vault: Vault, on_epoch: Callable[[Epoch], None]
    ) -> None:
        self.engine, self.recipe, self.team = engine, engine.recipe, engine.team
        self.data, self.source, self.vault, self.on_epoch = data, source, vault, on_epoch
        self.history: list[dict[str, float]] = []
        self.best_state: State = copy.deepcopy(engine.kept.state_dict())
        self.best_epoch = 0
        self.step = 0  # of the epoch that is going on
        self.seconds = 0.0  # of training, before this attempt
        self.now = 0.0  # seconds of training at the last step
        self.clock = time.perf_counter()
        self.steps = len(self._batches(1))
        self.complaint = ""  # about checkpoints

    def state(self) -> State:
        return {
            "engine": self.engine.state(),
            "history": self.history,
            "best_state": self.best_state,
            "best_epoch": self.best_epoch,
            "step": self.step,
            "seconds": self._elapsed(),
        }

    def load(self, state: State) -> None:
        self.engine.load(state["engine"])
        self.history, self.best_state = state["history"], state["best_state"]
        self.best_epoch, self.step = state["best_epoch"], state["step"]
        self.now = self.seconds = state["seconds"]
        if self.team.leads:
            print(f"going on {self._where()}, from the checkpoint in {self.vault.folder}", flush=True)

    def run(self, stop: Stop) -> None:
        self.clock = time.perf_counter()
        while self._goes_on():
            self._epoch(len(self.history) + 1, stop)
            self._pause(stop, self.step)
        self._save_if(True)  # the other seeds may still be killed

    def _goes_on(self) -> bool:
        if not self.history or self.step:  # one epoch in any case, and none is left half done
            return True
        self._tell_time()
        return len(self.history) < self.recipe.epochs and self._share_of_time() < 1 and not self._out_of_patience()

    def _epoch(self, epoch: int, stop: Stop) -> None:
        engine, start, waited = self.engine, time.perf_counter(), self.source.waited
        batches = self._batches(epoch)
        learning_rate = self._learning_rate(0)
        images = sum(len(batch) for batch in batches[self.step :])
        with Progress(epoch, self.recipe.epochs, images, self.team.leads) as bar:
            engine.crew.train()
            for inputs, labels in self.source.batches([self._mine(batch) for batch in batches[self.step :]]):
                self._tell_time()
                number = (epoch - 1) * self.steps + self.step
                engine.step(inputs, labels, self._learning_rate(self.step), number, len(batches[self.step]))
                self.step += 1
                if bar.moved(len(labels) * self.team.size) > LOOK or engine.placement.device.type == "cpu":
                    bar.show(self._look())
                self._pause(stop, number + 1)
                if self._share_of_time() >= 1:
                    break
        tally = self._look(self.team)
        trained = time.perf_counter() - start
        val_loss, val_accuracy = self._validate(stop)
        row = {
            "epoch": epoch,
            "learning_rate": learning_rate,
            "train_loss": tally["loss"] / tally["seen"],
            "train_accuracy": tally["correct"] / tally["seen"],
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "gradient_norm": tally["norm"] / tally["steps"],
            "gradient_norm_max": tally["norm_max"],
        }
        if self.best_epoch == 0 or (val_accuracy, -val_loss) > self._best():
            self.best_state, self.best_epoch = copy.deepcopy(engine.kept.state_dict()), epoch
        self.history.append(row)
        self.step, engine.tally = 0, Tally.empty(engine.placement.device)
        cost = {
            "epoch_seconds": time.perf_counter() - start,
            "images_per_second": images / trained,
            "data_wait_share": (self.source.waited - waited) / trained,
            **device_health(engine.placement.device),
        }
        self._save_if(self.vault.due())
        if self.team.leads:
            left = (self.recipe.epochs - epoch) * cost["epoch_seconds"]
            if self.recipe.time_limit:
                left = min(left, max(0.0, 60 * self.recipe.time_limit - self._elapsed()))
            self.on_epoch(Epoch(row, cost, left))

    def _learning_rate(self, step: int) -> float:
        """By the steps or by the time, whichever is further."""
        done = (len(self.history) + step / self.steps) / self.recipe.epochs
        val_losses = [row["val_loss"] for row in self.history]
        return self.recipe.learning_rate * share(self.recipe, min(1.0, max(done, self._share_of_time())), val_losses)

    def _tell_time(self) -> None:
        """A team goes by one clock, or its learning rates would drift apart."""
        if self.recipe.time_limit:
            self.now = self.team.told(self._elapsed())

    def _share_of_time(self) -> float:
        return self.now / (60 * self.recipe.time_limit) if self.recipe.time_limit else 0.0

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        return bool(patience) and len(self.history) - self.best_epoch >= patience

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.clock

    def _best(self) -> tuple[float, float]:
        row = self.history[self.best_epoch - 1]
        return row["val_accuracy"], -row["val_loss"]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch: a permutation, or draws with replacement where rare classes come more
        often; a function of the seed and the epoch alone. All batches are of one size, give or take an image: a small
        one at the end would move the weights, and batch norm, as far as the others do."""
        data, order = self.data, np.random.default_rng([self.recipe.seed, epoch])
        if data.draw_weights is None:
            drawn = order.permutation(data.rows)
        else:
            drawn = order.choice(data.rows, len(data.rows), p=data.draw_weights / data.draw_weights.sum())
        # Batch norm has no variance over a single image
        most = max(1, len(drawn) // (2 * self.team.size))
        return np.array_split(drawn, min(math.ceil(len(drawn) / self.recipe.batch_size), most))

    def _mine(self, rows: np.ndarray) -> np.ndarray:
        """This process's share of them."""
        return np.array_split(rows, self.team.size)[self.team.rank]

    def _validate(self, stop: Stop) -> tuple[float, float]:
        """Mean cross-entropy and accuracy on the validation rows. Raises UserError when the loss is not finite."""
        engine, team, size = self.engine, self.team, self.recipe.batch_size
        some = np.random.default_rng(self.recipe.seed).permutation(self.data.rows)[: batch_norm.IMAGES]
        engine.settle(self.source.batches(np.array_split(some, math.ceil(len(some) / size))))
        team.same_buffers(engine.kept)
        mine = self._mine(self.data.val_rows)
        sums = torch.zeros(3, device=engine.placement.device)
        for images, labels in self.source.batches([mine[i : i + size] for i in range(0, len(mine), size)]):
            sums += engine.score(images, labels)
            if team.size == 1:  # processes may have different numbers of batches here
                self._pause(stop, self.step)
        loss, correct, count = team.total(sums).tolist()
        assert count == len(self.data.val_rows)
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is not finite in epoch {len(self.history) + 1}: {self._remedy()}")
        return loss / count, correct / count

    def _look(self, team: Team = ALONE) -> dict[str, float]:
        """The sums so far. Raises UserError when a loss was not finite."""
        tally = self.engine.tally.read(team)
        if tally["bad_step"] < NEVER:
            at = int(tally["bad_step"])
            progress = at / self.steps / self.recipe.epochs
            rate = self.recipe.learning_rate * share(self.recipe, progress, [row["val_loss"] for row in self.history])
            raise UserError(
                f"the loss is not finite in epoch {at // self.steps + 1}, step {at % self.steps + 1} of {self.steps}, "
                f"at learning rate {rate:.3g}: {self._remedy()}"
            )
        return tally

    def _remedy(self) -> str:
        clip = "" if self.recipe.clip_gradient else ", or set train.clip_gradient to 1"
        return f"lower train.learning_rate{clip}; `python -m pipeline lr-find MODEL` looks for a good one"

    def _pause(self, stop: Stop, number: int) -> None:
        """Between two steps, the next of which is `number`: a checkpoint if it is time, an end if a signal asked."""
        asked = stop.signal_number
        if self.team.size > 1:
            asked = self.team.most(asked, self.engine.placement.device) if number % ASK == 0 else 0
        self._save_if(bool(asked) or self.vault.due())
        if asked:
            raise Interrupted(asked, self._where())

    def _save_if(self, wanted: bool) -> None:
        """Never a state whose loss was not finite."""
        if wanted and self.team.leads:
            self._look()
            complaint = self.vault.save(self.state())
            if complaint != self.complaint:
                self.complaint = complaint
                print(f"warning: {complaint or 'checkpoints are written again'}", file=sys.stderr, flush=True)

    def _where(self) -> str:
        return f"in epoch {len(self.history) + 1} of {self.recipe.epochs}, after step {self.step} of {self.steps}"
