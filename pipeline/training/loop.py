"""The training loop: epochs and steps, the best epoch by validation, checkpoints to go on from."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pynvml
import torch
from torch import nn
from tqdm import tqdm

from pipeline.artifacts import ImageRows, ModelCard
from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.evaluation.metrics import accuracy
from pipeline.networks.deployable import probabilities
from pipeline.training import batch_norm
from pipeline.training.checkpointing import Checkpoints, State
from pipeline.training.data_loading import DataLoader, batches_of, data_loader
from pipeline.training.device import Placement, place
from pipeline.training.distributed import ALONE, Distributed
from pipeline.training.inputs import TrainingInputs
from pipeline.training.schedule import share
from pipeline.training.signals import Interrupted, Stop, deferred_signals
from pipeline.training.step import NEVER, TrainingStep

ASK = 20  # steps of several processes between two questions whether to stop: each costs a wait for all
LOOK = 1.0  # seconds between two looks at the device's sums, for the bar and for losses that are not finite
POSITION = ("history", "best_state", "best_epoch", "done")  # what a checkpoint holds beside the state of the step
# Told after each epoch: its row of the history, and its cost, which stays out of DVC's outputs
OnEpoch = Callable[[dict[str, float], dict[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """`network` holds the weights of `best_epoch` (1-based); `history` has a row per epoch."""

    network: nn.Module
    history: pd.DataFrame
    best_epoch: int
    placement: Placement


def fit(
    network: nn.Module, card: ModelCard, inputs: TrainingInputs, recipe: Train,
    on_epoch: OnEpoch = lambda row, cost: None, checkpoints: Checkpoints | None = None, group: Distributed = ALONE,
) -> Fitted:  # fmt: skip
    """Train in place, from the checkpoint if there is one. Raises UserError when the loss stops being finite, and
    Interrupted, with the state in the checkpoint, when a signal asked for an end."""
    record = checkpoints.folder / "probe.json" if checkpoints and group.is_main else None
    # One process decides for all
    placement = group.broadcast(place(recipe, network, card.preprocessing.size, len(card.class_names), record))
    rows = np.concatenate([inputs.rows, inputs.val_rows])
    sharers = group.size if placement.device.type == "cpu" else 1
    try:
        step = TrainingStep(network, card, inputs, recipe, placement, group)
        loader = data_loader(inputs.images_NHWC, inputs.labels, rows, recipe.images, placement.device, sharers)
        training = _Training(step, inputs, loader, checkpoints)
        with deferred_signals() as stop, step.workers.at_work():
            training.run(stop, on_epoch)
    except torch.OutOfMemoryError as error:
        remedy = "set train.images to streamed, or lower train.micro_batch or ingest.image_size"
        raise UserError(f"the GPU has not enough memory ({str(error).split('.')[0]}): {remedy}") from error
    network.load_state_dict(training.best_state)
    return Fitted(network.cpu().eval(), pd.DataFrame(training.history), training.best_epoch, placement)


def metrics(fitted: Fitted, card: ModelCard, inputs: TrainingInputs) -> dict[str, Any]:
    """Facts of a fitted network; the validation accuracy is measured again in float32."""
    images = ImageRows(inputs.images_NHWC, inputs.val_rows)
    scores = probabilities(fitted.network, card, images, fitted.placement.device)
    return {
        "best_val_accuracy": accuracy(scores, inputs.labels[inputs.val_rows]),
        "train_accuracy_at_best": float(fitted.history["train_accuracy"].iloc[fitted.best_epoch - 1]),
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "parameters": sum(parameter.numel() for parameter in fitted.network.parameters()),
        "training_images": len(np.unique(inputs.rows)),
    }


def say(row: Mapping[str, float], cost: Mapping[str, float], left: float) -> None:
    """A plain line for an epoch; `left`: seconds to go, about."""
    minutes, seconds = divmod(round(left), 60)
    names = {"loss": "train_loss", "accuracy": "train_accuracy", "val loss": "val_loss", "val accuracy": "val_accuracy"}
    figures = "  ".join(f"{word} {row[name]:.4f}" for word, name in names.items())
    speed = f"{cost['images_per_second']:,.0f} images/s  {minutes}:{seconds:02d} to go"
    print(f"epoch {row['epoch']:3.0f}  {figures}  {speed}", flush=True)


class _Training:
    """Where a training stands."""

    def __init__(
        self, step: TrainingStep, inputs: TrainingInputs, loader: DataLoader, checkpoints: Checkpoints | None
    ) -> None:
        self.step, self.recipe, self.group = step, step.recipe, step.group
        self.inputs, self.loader, self.checkpoints = inputs, loader, checkpoints
        self.history: list[dict[str, float]] = []
        self.best_state: State = {}
        self.best_epoch = self.done = 0  # done: steps of the epoch that is going on
        self.now = 0.0  # seconds of training at the last step, where they count
        self.start = time.perf_counter()  # of the training, less the time between its attempts
        self.steps = len(batches_of(inputs, step.recipe, 1, step.group.size))
        if checkpoints and (state := checkpoints.load(self.recipe.seed)):
            step.load(state["step"])
            for name in POSITION:
                setattr(self, name, state[name])
            self.now = state["seconds"]
            self.start = time.perf_counter() - self.now
            if self.group.is_main:
                print(f"going on {self._where()}, from the checkpoint in {checkpoints.folder}", flush=True)

    def run(self, stop: Stop, on_epoch: OnEpoch) -> None:
        while self._should_continue():
            row, cost = self._epoch(len(self.history) + 1, stop)
            if self.group.is_main:
                limit = self.start + (60 * self.recipe.time_limit or math.inf)
                by_steps = (self.recipe.epochs - len(self.history)) * cost["epoch_seconds"]
                say(row, cost, min(by_steps, max(0.0, limit - time.perf_counter())))
                on_epoch(row, cost)
            self._pause(stop, self.done)
        self._save()  # the other seeds may still be killed

    def _should_continue(self) -> bool:
        if not self.history or self.done:  # one epoch in any case, and none is left half done
            return True
        self._sync_clock()
        patient = not self.recipe.patience or len(self.history) - self.best_epoch < self.recipe.patience
        return len(self.history) < self.recipe.epochs and self._share_of_time() < 1 and patient

    def _epoch(self, epoch: int, stop: Stop) -> tuple[dict[str, float], dict[str, float]]:
        """Its row of the history, and its cost."""
        step, start, waited = self.step, time.perf_counter(), self.loader.waited
        batches = batches_of(self.inputs, self.recipe, epoch, self.group.size)
        learning_rate = self._learning_rate(0)
        images = sum(len(batch) for batch in batches[self.done :])
        hidden = None if self.group.is_main else True  # None: shown on a terminal
        name, looked = f"epoch {epoch}/{self.recipe.epochs}", time.monotonic()
        with tqdm(total=images, desc=name, unit=" images", leave=False, disable=hidden) as bar:
            step.train()
            for pixels, labels in self.loader.batches([self._my_share(batch) for batch in batches[self.done :]]):
                self._sync_clock()
                number = (epoch - 1) * self.steps + self.done
                step.update(pixels, labels, self._learning_rate(self.done), number, len(batches[self.done]))
                self.done += 1
                bar.update(len(labels) * self.group.size)
                if step.device.type == "cpu" or time.monotonic() - looked > LOOK:
                    tally, looked = self._check_tally(), time.monotonic()
                    bar.set_postfix_str(f"loss {tally['loss']:.3f}, accuracy {tally['accuracy']:.3f}", False)
                self._pause(stop, number + 1)
                if self._share_of_time() >= 1:
                    break
        tally = self._check_tally(self.group)
        trained = time.perf_counter() - start
        val_loss, val_accuracy = self._validate(stop)
        row = {
            "epoch": epoch, "learning_rate": learning_rate,
            "train_loss": tally["loss"], "train_accuracy": tally["accuracy"],
            "val_loss": val_loss, "val_accuracy": val_accuracy,
            "gradient_norm": tally["norm"] / self.done, "gradient_norm_max": tally["norm_max"],
        }  # fmt: skip
        self.history.append(row)
        if row is max(self.history, key=lambda each: (each["val_accuracy"], -each["val_loss"])):
            self.best_state, self.best_epoch = copy.deepcopy(step.validated.state_dict()), epoch
        self.done = 0
        step.reset_tally()
        cost = {
            "epoch_seconds": time.perf_counter() - start,
            "images_per_second": images / trained,
            "data_wait_share": (self.loader.waited - waited) / trained,
        }
        if step.device.type == "cuda":
            cost["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
            torch.cuda.reset_peak_memory_stats()
            with suppress(RuntimeError, pynvml.NVMLError):  # parts of a GPU, and some containers, do not say
                cost["gpu_temperature_c"] = float(torch.cuda.temperature())
        return row, cost

    def _learning_rate(self, step: int) -> float:
        """By the steps or by the time, whichever is further."""
        progress = max((len(self.history) + step / self.steps) / self.recipe.epochs, self._share_of_time())
        val_losses = [row["val_loss"] for row in self.history]
        return self.recipe.learning_rate * share(self.recipe, min(1.0, progress), val_losses)

    def _sync_clock(self) -> None:
        """All processes go by one clock, or their learning rates would drift apart."""
        if self.recipe.time_limit:
            self.now = self.group.broadcast(time.perf_counter() - self.start)

    def _share_of_time(self) -> float:
        return self.now / (60 * self.recipe.time_limit) if self.recipe.time_limit else 0.0

    def _my_share(self, rows: np.ndarray) -> np.ndarray:
        """This process's share of them."""
        return np.array_split(rows, self.group.size)[self.group.rank]

    def _validate(self, stop: Stop) -> tuple[float, float]:
        """Mean cross-entropy and accuracy on the validation rows. Raises UserError when the loss is not finite."""
        step, size = self.step, self.recipe.batch_size
        some = np.random.default_rng(self.recipe.seed).permutation(self.inputs.rows)[: batch_norm.IMAGES]
        step.recompute_batch_norm(self.loader.batches(np.array_split(some, math.ceil(len(some) / size))))
        self.group.broadcast_buffers(step.validated)
        mine = self._my_share(self.inputs.val_rows)
        sums = torch.zeros(3, device=step.device)
        for pixels, labels in self.loader.batches([mine[i : i + size] for i in range(0, len(mine), size)]):
            sums += step.score(pixels, labels)
            if self.group.size == 1:  # processes may have different numbers of batches here
                self._pause(stop, self.done)
        loss, correct, count = self.group.all_reduce_sum(sums).tolist()
        if not math.isfinite(loss):
            raise self._not_finite(f"validation loss is not finite in epoch {len(self.history) + 1}")
        return loss / count, correct / count

    def _check_tally(self, group: Distributed = ALONE) -> dict[str, float]:
        """What the epoch has come to so far. Raises UserError when a loss was not finite."""
        tally = self.step.read_tally(group)
        if tally["bad_step"] < NEVER:
            epoch, step = divmod(int(tally["bad_step"]), self.steps)
            where = f"in epoch {epoch + 1}, step {step + 1} of {self.steps}"
            raise self._not_finite(f"loss is not finite {where}, at learning rate {self._learning_rate(step):.3g}")
        return tally

    def _not_finite(self, what: str) -> UserError:
        clip = "" if self.recipe.clip_gradient else ", or set train.clip_gradient to 1"
        remedy = f"lower train.learning_rate{clip}; `python -m pipeline lr-find MODEL` looks for a good one"
        return UserError(f"the {what}: {remedy}")

    def _pause(self, stop: Stop, number: int) -> None:
        """Between two steps, the next of which is `number`: a checkpoint if it is time, an end if a signal asked."""
        asked = stop.signal_number
        if self.group.size > 1:  # whoever stops alone leaves the others waiting for ever
            asked = self.group.all_reduce_max(asked, self.step.device) if number % ASK == 0 else 0
        if asked or (self.checkpoints and self.checkpoints.due()):
            self._save()
        if asked:
            raise Interrupted(asked, self._where())

    def _save(self) -> None:
        """Never a state whose loss was not finite."""
        if self.checkpoints and self.group.is_main:
            self._check_tally()
            state = {name: getattr(self, name) for name in POSITION}
            state |= {"step": self.step.state(), "seconds": time.perf_counter() - self.start}
            self.checkpoints.save(self.recipe.seed, state)

    def _where(self) -> str:
        return f"in epoch {len(self.history) + 1} of {self.recipe.epochs}, after step {self.done} of {self.steps}"
