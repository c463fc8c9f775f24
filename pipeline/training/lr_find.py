"""The learning rate range test (Smith 2015, arXiv:1506.01186): one short training whose learning rate grows."""

import math
from itertools import count, islice

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.training.data_loading import DataLoader, batches_of
from pipeline.training.inputs import TrainingInputs
from pipeline.training.step import TrainingStep

LOWEST, HIGHEST = 1e-6, 10.0
MEMORY = 0.9  # of the moving average of the loss
DIVERGED = 3.0  # times the lowest loss so far
SAFE = 0.3  # share of the learning rate at which the loss is lowest, where a schedule may have its peak


def find_learning_rate(step: TrainingStep, loader: DataLoader, inputs: TrainingInputs, steps: int) -> pd.DataFrame:
    """A row per step, `learning_rate`, `loss`, `smooth`, until the loss blows up. The network is spoiled."""
    batches = islice((batch for epoch in count(1) for batch in batches_of(inputs, step.recipe, epoch)), steps)
    found: list[dict[str, float]] = []
    average, lowest = 0.0, math.inf
    step.train()
    with step.workers.at_work():
        for i, (images, labels) in enumerate(loader.batches(list(batches))):
            learning_rate = LOWEST * (HIGHEST / LOWEST) ** (i / (steps - 1))
            step.reset_tally()
            step.update(images, labels, learning_rate, i, len(labels))
            loss = step.read_tally()["loss"]
            if not math.isfinite(loss):
                break
            average = MEMORY * average + (1 - MEMORY) * loss
            smooth = average / (1 - MEMORY ** (i + 1))
            found.append({"learning_rate": learning_rate, "loss": loss, "smooth": smooth})
            lowest = min(lowest, smooth)
            if i > steps // 10 and smooth > DIVERGED * lowest:
                break
    return pd.DataFrame(found)


def suggested(found: pd.DataFrame) -> tuple[float, float]:
    """Where the loss falls fastest, and what to set: a share of where it is lowest. UserError when it never fell."""
    smooth = found["smooth"].to_numpy() if len(found) else np.zeros(1)
    lowest = int(smooth.argmin())
    if lowest < 3:
        raise UserError("the loss did not fall at any learning rate: look at the data and at the augmentation first")
    slope = np.gradient(smooth[: lowest + 1], np.log(found["learning_rate"].to_numpy()[: lowest + 1]))
    steepest = float(found["learning_rate"].iloc[int(slope.argmin())])
    return steepest, SAFE * float(found["learning_rate"].iloc[lowest])
