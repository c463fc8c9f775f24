"""The learning rate as a function of how far the training is. Imports no torch, and remembers nothing.

`progress` runs from 0 to 1 over all of the training, so that a schedule ends well under a time limit too.
"""

import math
from collections.abc import Sequence

from pipeline.config import Train

# Of the one-cycle schedule, as torch's OneCycleLR has them: the first and the last share of the highest rate
FIRST, LAST = 1 / 25, 1 / 25 / 1e4


def share(recipe: Train, progress: float, val_losses: Sequence[float]) -> float:
    """What `train.learning_rate` is multiplied by. `val_losses`: of the epochs that are over (for plateau)."""
    warmup = recipe.warmup
    after_warmup = max(0.0, (progress - warmup) / (1 - warmup))
    if recipe.schedule == "one_cycle":  # Smith 2018, arXiv:1803.09820, with cosines
        return _between(FIRST, 1.0, progress / warmup) if progress < warmup else _between(1.0, LAST, after_warmup)
    climbed = min(1.0, (progress + 1e-3) / warmup) if warmup else 1.0
    if recipe.schedule == "cosine":
        return climbed * _between(1.0, 0.0, after_warmup)
    if recipe.schedule == "step":
        return climbed * recipe.factor ** int(progress * recipe.epochs / recipe.step_epochs + 1e-9)
    if recipe.schedule == "plateau":
        return climbed * recipe.factor ** _plateaus(val_losses, recipe.step_epochs)
    return climbed


def _between(start: float, end: float, way: float) -> float:
    """Along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def _plateaus(val_losses: Sequence[float], patience: int) -> int:
    """How many times `patience` epochs went by without a loss lower than all before."""
    lowest, waited, found = math.inf, 0, 0
    for loss in val_losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == patience:
            waited, found = 0, found + 1
    return found
