"""What a training's curves say, in words, and which key of params.yaml to turn.

The training curve is measured with augmentation, dropout, label smoothing and mixed labels on, the validation curve
without: the one may well lie below the other in a healthy run. So the gap between the two is never taken from the
curves, but from the kept network's accuracy on training images as they are (`Kept.train_accuracy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.config import Train

CURVE = 4  # epochs: fewer points are no curve
NOISE = 3.0  # standard errors: a dozen rules look at each run, so that two would raise false alarms
GAP = 0.10  # between training and validation accuracy; networks that generalize well on small images keep within 0.08
LEARNED = 0.75  # of the training images: what gets a quarter of them wrong has not fitted even what it was shown
CHANCE = 1.5  # times the accuracy of guessing, or this far of the way from it to 1: below both nothing was learned
ABOVE_CHANCE = 0.1
RISE = 0.15  # of the validation loss over its lowest; less is the jitter of a schedule
RISE_NATS = 0.05  # and absolutely: near zero every ratio is large
HELD = 0.01  # a validation accuracy within this of its best has held
PROGRESS = 0.02  # accuracy won at the very end: the learning rate is near zero by then, so a flat curve is the norm
DEAD = 0.5  # of a layer's units; some always die, and a layer twice as wide as it needs to be still learns
EXPLOSION = 10.0  # times the largest norm of the first epoch, when nothing was learned yet
VANISHED = 1e-4  # mean norm of the gradient; a network that learns is orders of magnitude above
CUT = 10.0  # times train.clip_gradient: then the clipping sets the size of nearly every step
JUMP = 0.3  # of the training loss from one epoch to the next; it falls, or flutters by a few percent
JUMP_NATS = 0.1
DROP = 0.05  # of the validation accuracy in the last third, where the learning rate of most schedules is low

# What follows from another finding is not told beside it: its remedy would lead astray
FOLLOWS = {
    "learning rate too high": ("underfitting", "rising validation loss", "still improving"),
    "exploding gradients": ("underfitting", "rising validation loss"),
    "vanishing gradients": ("underfitting",),
    "unstable validation": ("still improving",),
    "lagging statistics": ("unstable validation", "rising validation loss", "still improving"),
}


@dataclass(frozen=True)
class Finding:
    """`critical`: the network is not worth shipping. `warning`: it could be better. `note`: it may matter."""

    name: str
    severity: Literal["critical", "warning", "note"]
    says: str
    remedy: str


@dataclass(frozen=True)
class Kept:
    """The network of the best epoch: its accuracies on images of both splits as they are, without augmentation."""

    best_epoch: int
    train_accuracy: float
    val_accuracy: float
    val_images: int
    classes: int

    train_images: int

    @property
    def gap(self) -> float:
        return self.train_accuracy - self.val_accuracy

    @property
    def val_noise(self) -> float:
        """Standard error of the validation accuracy."""
        return _standard_error(self.val_accuracy, self.val_images)

    @property
    def train_noise(self) -> float:
        """Standard error of the training accuracy."""
        return _standard_error(self.train_accuracy, self.train_images)

    @property
    def change_noise(self) -> float:
        """Standard error, at most, of a difference between two epochs' validation accuracies."""
        return math.sqrt(2) * self.val_noise


def _standard_error(share: float, images: int) -> float:
    """Of an accuracy (Agresti and Coull 1998: also of few images that are all right)."""
    share = (share * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / (images + 4))


def diagnose(history: pd.DataFrame, recipe: Train, kept: Kept, silent: pd.DataFrame) -> list[Finding]:
    """What is wrong with one training, the gravest first; nothing where it is healthy.

    `history`: of one seed, columns epoch, learning_rate, train_loss, train_accuracy, val_loss, val_accuracy,
    gradient_norm, gradient_norm_max (of the gradients before clipping; NaN where there are none).
    `silent`: of pipeline/diagnosis/activity.py, columns layer, units, silent.
    """
    found = list(_of_the_kept_network(history, recipe, kept, silent))
    if len(history) >= CURVE:
        rules = (_rising_loss, _still_improving, _jumping_loss, _unstable, _exploding, _vanishing, _cut_steps)
        found += chain.from_iterable(rule(history, recipe, kept) for rule in rules)
    explained = set(chain.from_iterable(FOLLOWS.get(finding.name, ()) for finding in found))
    told = [finding for finding in found if finding.name not in explained]
    return sorted(told, key=lambda finding: ("critical", "warning", "note").index(finding.severity))


def findings_of(history: pd.DataFrame, recipe: Train, examined: Mapping[str, Any]) -> list[Finding]:
    """`diagnose` from what `train` wrote: history.csv, which starts with the seed that ships, and examined.json."""
    shipped = history[history["seed"] == history["seed"].iloc[0]]
    silent = pd.DataFrame(examined["silent_units"], columns=["layer", "units", "silent"])  # of some networks no row
    return diagnose(shipped, recipe, Kept(**examined["kept"]), silent)


def in_words(findings: list[Finding]) -> list[str]:
    """A line per finding, for people and logs."""
    lines = [f"{found.severity}: {found.name}: {found.says} {found.remedy}" for found in findings]
    return lines or ["diagnosis: nothing found"]


def _of_the_kept_network(history: pd.DataFrame, recipe: Train, kept: Kept, silent: pd.DataFrame) -> Iterator[Finding]:
    guessing = 1 / kept.classes
    in_training = float(history["train_accuracy"].iloc[kept.best_epoch - 1])
    if in_training - kept.train_accuracy > max(GAP, NOISE * kept.train_noise):
        yield Finding(
            "lagging statistics", "critical",
            f"The network was right at {in_training:.1%} of the images while it was trained, and what is kept of it is "
            f"at {kept.train_accuracy:.1%} of them: it has learned, but batch norm's running statistics, or the moving "
            "average of the weights, lag behind.",
            f"Set train.ema to 0 (it is {recipe.ema:g}), lower train.learning_rate (it is {recipe.learning_rate:g}), "
            f"which moves the weights away, or raise train.batch_size (it is {recipe.batch_size}).",
        )  # fmt: skip
    elif max(kept.train_accuracy, kept.val_accuracy) < min(CHANCE * guessing, guessing + ABOVE_CHANCE * (1 - guessing)):
        yield Finding(
            "nothing learned", "critical",
            f"The network is right at {kept.train_accuracy:.1%} of the training images; guessing among "
            f"{kept.classes} classes gives {guessing:.1%}.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}) tenfold, or raise it tenfold where the loss "
            "does not move at all; look at the labels.",
        )  # fmt: skip
    elif kept.gap > max(GAP, NOISE * kept.val_noise):
        more = f"Raise train.limit (it is {recipe.limit}), take" if recipe.limit else "Take more images or"
        yield Finding(
            "overfitting", "warning",
            f"The network is right at {kept.train_accuracy:.1%} of the training images and at "
            f"{kept.val_accuracy:.1%} of the validation images, {_points(kept.gap)} less{_growth(history)}.",
            f"{more} a stronger augment.policy, or raise train.weight_decay (it is {recipe.weight_decay:g}) or "
            f"train.label_smoothing (it is {recipe.label_smoothing:g}).",
        )  # fmt: skip
    elif kept.train_accuracy < LEARNED:
        yield Finding(
            "underfitting", "warning",
            f"The network is right at only {kept.train_accuracy:.1%} of the training images themselves, and at "
            f"{kept.val_accuracy:.1%} of the validation images{_still_falling(history)}.",
            f"Raise train.epochs (it is {recipe.epochs}), take a larger architecture or a weaker augment.policy, or "
            "lower train.weight_decay; or many labels are wrong (see the suspected ones).",
        )  # fmt: skip
    yield from _dead_units(silent, recipe)


def _dead_units(silent: pd.DataFrame, recipe: Train) -> Iterator[Finding]:
    dead = silent[silent["silent"] >= DEAD * silent["units"]]
    if len(dead):
        worst = dead.iloc[int((dead["silent"] / dead["units"]).argmax())]
        yield Finding(
            "dead units", "warning",
            f"{worst['silent']} of {worst['units']} units of layer {worst['layer']} are positive for none of the "
            f"training images that were looked at, and {silent['silent'].sum()} of {silent['units'].sum()} in all.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}) or raise train.warmup, as large first steps "
            "kill units; or the layer is wider than it needs to be, and a higher prune.channels costs nothing.",
        )  # fmt: skip


def _still_falling(history: pd.DataFrame) -> str:
    """How the training loss ended, where it ended in motion."""
    start, end = _end_of(history)["train_loss"].iloc[[0, -1]]
    epochs = len(_end_of(history)) - 1
    falling = len(history) >= CURVE and end < 0.95 * start
    return f"; its training loss still fell by {1 - end / start:.0%} in the last {_epochs(epochs)}" if falling else ""


def _growth(history: pd.DataFrame) -> str:
    """How much the gap between the curves grew over the second half: what they measure differs, its growth counts."""
    gap = history["train_accuracy"] - history["val_accuracy"]
    half = len(history) // 2
    grown = gap.iloc[-1] - gap.iloc[half - 1] if len(history) >= CURVE else 0.0
    return f"; the gap grew by {_points(grown)} since epoch {half}" if grown > HELD else ""


def _rising_loss(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    lowest, last = history["val_loss"].min(), history["val_loss"].iloc[-1]
    at = int(history["epoch"].iloc[history["val_loss"].argmin()])
    # Few images say less about a ratio of their losses
    if last - lowest < RISE_NATS or last < lowest * (1 + max(RISE, 2 / math.sqrt(kept.val_images))):
        return
    best, end = history["val_accuracy"].max(), history["val_accuracy"].iloc[-1]
    held = best - end < max(HELD, kept.change_noise)
    accuracy = f"accuracy held ({end:.1%} at the end)" if held else f"accuracy fell from {best:.1%} to {end:.1%}"
    meaning = "the network grows surer of its mistakes" if held else "the network learns its images by heart"
    yield Finding(
        "rising validation loss", "warning" if kept.best_epoch > at or not held else "note",
        f"Validation loss was lowest in epoch {at} ({lowest:.3f}) and ended at {last:.3f}, while "
        f"{accuracy}: {meaning}.",
        f"Raise train.label_smoothing (it is {recipe.label_smoothing:g}) or train.weight_decay "
        f"(it is {recipe.weight_decay:g}), or stop earlier by train.patience or fewer train.epochs.",
    )  # fmt: skip


def _still_improving(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    if kept.best_epoch < history["epoch"].iloc[-1]:
        return
    # A schedule that falls to zero makes every curve rise towards its end: only the last epoch says something there
    falls = recipe.schedule in ("one_cycle", "cosine")
    epochs = 1 if falls else len(_end_of(history)) - 1
    gain = history["val_accuracy"].iloc[-1] - history["val_accuracy"].iloc[-1 - epochs]
    if gain > max(PROGRESS, kept.change_noise):
        ended_early = len(history) < recipe.epochs and recipe.time_limit > 0
        key = f"train.time_limit (it is {recipe.time_limit:g} minutes)" if ended_early else "train.epochs"
        yield Finding(
            "still improving", "note",
            f"The last epoch ({len(history)}) is the best, and the last {_epochs(epochs)} still won "
            f"{_points(gain)} of validation accuracy.",
            f"Train longer: raise {key}.",
        )  # fmt: skip


def _jumping_loss(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    loss = history["train_loss"].to_numpy()
    rise = np.diff(loss)
    jumps = np.flatnonzero((rise > JUMP_NATS) & (rise > JUMP * np.abs(loss[:-1])))
    if len(jumps):
        first = jumps[0]
        rate = history["learning_rate"].iloc[first + 1]
        yield Finding(
            "learning rate too high", "warning",
            f"Training loss jumped from {loss[first]:.4g} to {loss[first + 1]:.4g} in epoch "
            f"{history['epoch'].iloc[first + 1]:.0f}, at learning rate {rate:.2g}.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}), or raise train.warmup; "
            f"{_clipping(recipe)}.",
        )  # fmt: skip


def _unstable(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    accuracy = history["val_accuracy"].to_numpy()
    falls = -np.diff(accuracy)
    late = falls[-max(2, len(falls) // 3) :]
    # The last one may be the start of a decline, which is another finding
    if late.max() > max(DROP, NOISE * kept.change_noise):
        worst = len(falls) - len(late) + int(late.argmax())
        yield Finding(
            "unstable validation", "warning",
            f"Validation accuracy fell from {accuracy[worst]:.1%} to {accuracy[worst + 1]:.1%} in epoch "
            f"{history['epoch'].iloc[worst + 1]:.0f}, late in the training: which epoch is kept is partly luck.",
            f"Set train.ema to 0.999, lower train.learning_rate (it is {recipe.learning_rate:g}), raise "
            f"train.batch_size (it is {recipe.batch_size}), or let train.schedule be one_cycle.",
        )  # fmt: skip


def _exploding(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    largest = history["gradient_norm_max"].to_numpy()
    bound = EXPLOSION * largest[0]
    if not (largest[1:] > bound).any():  # so that NaN, of fits without gradients, is no explosion
        return
    worst = int(np.nanargmax(largest))
    yield Finding(
        "exploding gradients", "note" if recipe.clip_gradient else "warning",
        f"The gradient's norm reached {largest[worst]:.3g} in epoch {history['epoch'].iloc[worst]:.0f}; in the first "
        f"epoch it was {largest[0]:.3g} at most, and the median of the epochs' means is "
        f"{history['gradient_norm'].median():.3g}.",
        f"Lower train.learning_rate (it is {recipe.learning_rate:g}); {_clipping(recipe)}.",
    )  # fmt: skip


def _vanishing(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    norm = history["gradient_norm"].median()
    # Where everything is learned, nothing is left to move for
    if norm < VANISHED and kept.train_accuracy < LEARNED:
        yield Finding(
            "vanishing gradients", "warning",
            f"The gradient's norm is {norm:.2g} (median of the epochs' means), though the network is right at only "
            f"{kept.train_accuracy:.1%} of the training images.",
            "Take an architecture with batch norm or shortcuts (models.NAME.architecture), or raise "
            f"train.learning_rate (it is {recipe.learning_rate:g}).",
        )  # fmt: skip


def _cut_steps(history: pd.DataFrame, recipe: Train, kept: Kept) -> Iterator[Finding]:
    norms = history["gradient_norm"]
    if recipe.clip_gradient and norms.median() > CUT * recipe.clip_gradient:
        yield Finding(
            "clipped steps", "note",
            f"The gradient's mean norm is {norms.median():.3g} (median of the epochs) and is clipped to "
            f"{recipe.clip_gradient:g}: the clipping, not the learning rate, sets the size of the steps.",
            f"Raise train.clip_gradient (it is {recipe.clip_gradient:g}) and lower train.learning_rate "
            f"(it is {recipe.learning_rate:g}) instead.",
        )  # fmt: skip


def _clipping(recipe: Train) -> str:
    """Whose turn it is, after the learning rate."""
    return "train.clip_gradient limits the harm already" if recipe.clip_gradient else "or set train.clip_gradient to 1"


def _end_of(history: pd.DataFrame) -> pd.DataFrame:
    """The last fifth of the epochs, two at least, and the one before them."""
    return history.tail(1 + max(2, len(history) // 5))


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else f"{count} epochs"
