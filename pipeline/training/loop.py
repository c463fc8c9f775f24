"""The training loop: resident data, batched augmentation, one-cycle SGD, the best validation epoch kept."""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from pipeline.artifacts import ModelCard, expect_random_access
from pipeline.config import Train
from pipeline.training.augmentation import Augmenter
from pipeline.training.device import Placement, place
from pipeline.training.mixing import Mixer
from pipeline.training.objective import Objective
from pipeline.training.optimizer import one_cycle
from pipeline.training.policy import Policy


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
class Epoch:
    """One line of the history (`row`), and its cost, which stays out of DVC's outputs."""

    row: dict[str, float]
    seconds: float
    images_per_second: float


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
) -> Fitted:
    """Train in place. Raises ValueError when the loss stops being finite. Seeds torch's global generator."""
    torch.manual_seed(recipe.seed)
    placement = place(recipe, network, card.preprocessing.size, len(card.class_names))
    device = placement.device
    network.to(device).to(memory_format=torch.channels_last)
    images, labels = _resident(data, device)
    augment = Augmenter(policy, card.mean, card.std, device, recipe.seed + 1)
    plain = Augmenter(Policy(), card.mean, card.std, device, recipe.seed)
    mix = Mixer(policy, device, recipe.seed + 2)
    steps = math.ceil(len(data.rows) / recipe.batch_size)
    optimizer, schedule = one_cycle(network, recipe, steps)
    on_device = partial(torch.tensor, dtype=torch.float32, device=device)
    objective = Objective(on_device(data.class_weights), on_device(data.logit_offsets), recipe.label_smoothing)
    order = np.random.default_rng(recipe.seed)
    history: list[dict[str, float]] = []
    best, best_state, best_epoch = (-1.0, -math.inf), copy.deepcopy(network.state_dict()), 0
    for epoch in range(1, recipe.epochs + 1):
        start = time.perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        drawn = torch.from_numpy(_draw(data, order)).to(device)
        # Batch norm has no variance over a single image
        batches = [batch for batch in drawn.split(recipe.batch_size) if len(batch) > 1]
        network.train()
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        bar = tqdm(batches, f"epoch {epoch}/{recipe.epochs}", leave=False, disable=None)
        for batch in bar:
            targets = objective.targets(labels.index_select(0, batch))
            inputs, targets = mix(augment(images.index_select(0, batch)), targets)
            with placement.autocast():
                logits = network(inputs).float()
            loss = objective(logits, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_gradient:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_gradient)
            optimizer.step()
            schedule.step()
            # Sums stay on the device: no step waits for the host
            loss_sum += loss.detach() * len(batch)
            # Of a mixed image the larger part counts
            correct += (logits.detach().argmax(dim=1) == targets.argmax(dim=1)).sum()
        train_loss = float(loss_sum) / len(drawn)
        if not math.isfinite(train_loss):
            raise ValueError(
                f"the loss is {train_loss} in epoch {epoch} at learning rate {learning_rate:g}: "
                f"lower train.learning_rate, or set train.clip_gradient"
            )
        trained_seconds = time.perf_counter() - start
        val_loss, val_accuracy = _validate(network, placement, plain, images, labels, data.val_rows, recipe.batch_size)
        history.append({
            "epoch": epoch,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            "train_accuracy": float(correct) / len(drawn),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
        })  # fmt: skip
        if (val_accuracy, -val_loss) > best:
            best, best_state, best_epoch = (val_accuracy, -val_loss), copy.deepcopy(network.state_dict()), epoch
        on_epoch(Epoch(history[-1], time.perf_counter() - start, len(drawn) / trained_seconds))
    network.load_state_dict(best_state)
    return Fitted(network.cpu().eval(), pd.DataFrame(history), best_epoch, placement)


def say(epoch: Epoch) -> None:
    """A plain line per epoch, for people and logs."""
    row = epoch.row
    print(
        f"epoch {row['epoch']:3.0f}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.4f}  val accuracy {row['val_accuracy']:.4f}  "
        f"{epoch.images_per_second:,.0f} images/s",
        file=sys.stdout,
        flush=True,
    )


def _resident(data: TrainingData, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """On the CPU the mapped file itself, so that it may exceed memory; on a GPU the whole array moves over."""
    if device.type == "cpu":
        expect_random_access(data.images_NHWC)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nobody writes to it
        images = torch.from_numpy(data.images_NHWC)
    return images.to(device), torch.from_numpy(data.labels).to(device)


def _draw(data: TrainingData, order: np.random.Generator) -> np.ndarray:
    """The rows of one epoch: a permutation, or draws with replacement where rare classes come more often."""
    if data.draw_weights is None:
        return order.permutation(data.rows)
    chances = data.draw_weights / data.draw_weights.sum()
    return order.choice(data.rows, len(data.rows), p=chances)


@torch.inference_mode()
def _validate(
    network: nn.Module,
    placement: Placement,
    plain: Augmenter,
    images: torch.Tensor,
    labels: torch.Tensor,
    rows: np.ndarray,
    batch_size: int,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the validation rows, unaugmented."""
    network.eval()
    loss, correct = 0.0, 0
    for batch in torch.from_numpy(rows).to(placement.device).split(batch_size):
        target = labels.index_select(0, batch)
        with placement.autocast():
            logits = network(plain(images.index_select(0, batch))).float()
        loss += float(cross_entropy(logits, target, reduction="sum"))
        correct += int((logits.argmax(dim=1) == target).sum())
    return loss / len(rows), correct / len(rows)
