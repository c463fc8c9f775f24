"""What the numbers of a training mean, in words, and which key of params.yaml to change.

The training curve is measured with augmentation, dropout, label smoothing and mixed labels on, the validation curve
without: the one may well lie below the other in a healthy run. So the gap between the two is never taken from the
curves, but from the network's accuracy on training images as they are (examination.py).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.config import Train

CURVE = 4  # epochs: fewer points are no curve
NOISE = 3.0  # standard errors: several rules look at each run, so that two would raise false alarms
GAP = 0.10  # between training and validation accuracy; networks that generalize well on small images keep within 0.08
LEARNED = 0.75  # of the training images: what gets a quarter of them wrong has not fitted even what it was shown
CHANCE = 1.5  # times the odds of guessing: below, nothing was learned
PROGRESS = 0.02  # accuracy won at the very end: the learning rate is near zero by then, so a flat curve is the norm
DEAD = 0.5  # of a layer's units; some always die, and a layer twice as wide as it needs to be still learns
JUMP = 0.3  # of the training loss from one epoch to the next, and in nats; it falls, or flutters by a few percent
SPIKE = 5.0  # largest gradient over the mean of its epoch: up to 3.9 in 33 healthy runs, 5 and more at too high a rate


@dataclass(frozen=True)
class Finding:
    """`critical`: the network is not worth shipping. `warning`: it could be better. `note`: it may matter."""

    name: str
    severity: Literal["critical", "warning", "note"]
    says: str
    remedy: str


def findings_of(history: pd.DataFrame, recipe: Train, examined: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with a training, the gravest first, by history.csv, which starts with the seed that ships, and
    examined.json."""
    curves = history[history["seed"] == history["seed"].iloc[0]]
    causes = [*_dead_units(recipe, examined), *_too_high(curves, recipe, examined)]
    effects = [*_accuracies(recipe, examined), *_too_short(curves, recipe, examined)]
    if causes:  # the remedies of these would lead astray
        effects = [finding for finding in effects if finding.name not in ("underfitting", "too short")]
    return sorted([*effects, *causes], key=lambda found: ("critical", "warning", "note").index(found.severity))


def in_words(findings: list[Finding]) -> list[str]:
    """A line per finding, for people and logs."""
    lines = [f"{found.severity}: {found.name}: {found.says} {found.remedy}" for found in findings]
    return lines or ["diagnosis: nothing found"]


def _accuracies(recipe: Train, examined: Mapping[str, Any]) -> Iterator[Finding]:
    right, val_right, guessing = examined["train_accuracy"], examined["val_accuracy"], 1 / examined["classes"]
    says = f"The network is right at {right:.1%} of the training images and {val_right:.1%} of the validation images"
    best = max(right, val_right)
    if best * (1 - guessing) < CHANCE * guessing * (1 - best):
        yield Finding(
            "nothing learned", "critical", f"{says}; guessing gives {guessing:.1%}.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}) tenfold, or raise it tenfold where the loss "
            "does not move at all; look at the labels.",
        )  # fmt: skip
    elif right - val_right > max(GAP, NOISE * _standard_error(val_right, examined["val_images"])):
        limit = f" (train.limit is {recipe.limit})" if recipe.limit else ""
        yield Finding(
            "overfitting", "warning", f"{says}, {100 * (right - val_right):.1f} points less.",
            f"Take more images{limit} or a stronger augment.policy, or raise train.weight_decay (it is "
            f"{recipe.weight_decay:g}) or train.label_smoothing (it is {recipe.label_smoothing:g}).",
        )  # fmt: skip
    elif right < LEARNED:
        yield Finding(
            "underfitting", "warning", f"{says}: it has not fitted even what it was shown.",
            f"Raise train.epochs (it is {recipe.epochs}), take a larger architecture or a weaker augment.policy, or "
            "lower train.weight_decay; or many labels are wrong (see the suspected ones).",
        )  # fmt: skip


def _dead_units(recipe: Train, examined: Mapping[str, Any]) -> Iterator[Finding]:
    worst = max(examined["silent_units"], key=lambda layer: layer["silent"] / layer["units"], default=None)
    if worst and worst["silent"] >= DEAD * worst["units"]:
        yield Finding(
            "dead units", "warning",
            f"{worst['silent']} of {worst['units']} units of layer {worst['layer']} are positive for none of the "
            f"{examined['train_images']} training images that were looked at.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}) or raise train.warmup, as large first steps "
            "kill units; or the layer is wider than it needs to be, and a higher prune.channels costs nothing.",
        )  # fmt: skip


def _too_high(curves: pd.DataFrame, recipe: Train, examined: Mapping[str, Any]) -> Iterator[Finding]:
    loss = curves["train_loss"].to_numpy()
    rise = np.diff(loss, prepend=loss[0])
    spike = (curves["gradient_norm_max"] / curves["gradient_norm"]).to_numpy()
    jumps = rise > JUMP * np.maximum(1, loss - rise)
    # Where all is learned, one hard image in a batch is a spike
    unsteady = jumps if examined["train_accuracy"] >= LEARNED else jumps | (spike > SPIKE)
    if len(curves) >= CURVE and unsteady.any():
        at = int(unsteady.argmax())
        says = f"the largest gradient was {spike[at]:.0f} times the mean of its epoch"
        if jumps[at]:
            says = f"training loss jumped from {loss[at - 1]:.4g} to {loss[at]:.4g}"
        clip = "train.clip_gradient limits the harm already" if recipe.clip_gradient else "set train.clip_gradient to 1"
        yield Finding(
            "learning rate too high", "warning",
            f"In epoch {at + 1}, at learning rate {curves['learning_rate'].iloc[at]:.2g}, {says}.",
            f"Lower train.learning_rate (it is {recipe.learning_rate:g}), or raise train.warmup; {clip}.",
        )  # fmt: skip


def _too_short(curves: pd.DataFrame, recipe: Train, examined: Mapping[str, Any]) -> Iterator[Finding]:
    # A schedule that falls to zero makes every curve rise towards its end: only the last epoch says something there
    epochs = 1 if recipe.schedule in ("one_cycle", "cosine") else max(2, len(curves) // 5)
    if len(curves) < CURVE or examined["best_epoch"] < len(curves):
        return
    start, end = curves["val_accuracy"].iloc[[-1 - epochs, -1]]
    # Both accuracies are measured, on the same images: their difference is sure to sqrt(2) standard errors at least
    if end - start > max(PROGRESS, math.sqrt(2) * _standard_error(examined["val_accuracy"], examined["val_images"])):
        yield Finding(
            "too short", "note",
            f"Validation accuracy still rose after epoch {len(curves) - epochs}, from {start:.1%} to {end:.1%}.",
            "Train longer: raise train.epochs or, where it ended the training, train.time_limit.",
        )  # fmt: skip


def _standard_error(share: float, images: int) -> float:
    """Of an accuracy (Agresti and Coull 1998: also of few images that are all right)."""
    share = (share * images + 2) / (images + 4)
    return math.sqrt(share * (1 - share) / (images + 4))
