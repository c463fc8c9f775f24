"""`augment`: what training needs to know of the training split: statistics, balance, policy, and a preview.

Nothing is stored augmented: augmentation happens on whole batches while training (see training/augmentation.py), and
stored augmented copies were measured to do harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from pipeline.artifacts import Dataset
from pipeline.config import Augment
from pipeline.evaluation.plots import augmentation_preview
from pipeline.training.augmentation import Augmenter, Policy, resolve

BLOCK = 4096
ORIGINALS, VERSIONS, MOST_CLASSES = 2, 8, 12


@dataclass(frozen=True)
class Augmented:
    """`mean`, `std`: per channel, 0-1 scale, training split only. `sample_index`: row, class and weight of each
    training image. `class_weights` [classes]: weights in the loss."""

    policy: Policy
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sample_index: pd.DataFrame
    class_weights: list[float]
    preview: Figure


def augment(dataset: Dataset, config: Augment) -> Augmented:
    policy = resolve(config.policy, config.overrides)
    rows = dataset.rows("train")
    mean, std = statistics(dataset.images_NHWC, rows)
    labels = dataset.labels[rows]
    # Rare classes weigh more, in proportion to how rare they are; the mean weight of an image stays 1
    rarity = len(rows) / (len(dataset.class_names) * np.bincount(labels, minlength=len(dataset.class_names)))
    drawn = rarity[labels] if config.balance == "sampler" else np.ones(len(rows))
    index = pd.DataFrame({"row": rows, "class": dataset.splits["class"].to_numpy()[rows], "weight": drawn})
    class_weights = rarity if config.balance == "loss_weights" else np.ones(len(dataset.class_names))
    preview = _preview(dataset, rows, policy, config)
    return Augmented(policy, mean, std, index, class_weights.tolist(), preview)


def statistics(images_NHWC: np.ndarray, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0-1 scale, in blocks: exact, from counts of the 256 levels."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = images_NHWC[rows[start : start + BLOCK]]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    variance = counts @ levels**2 / total - mean**2
    # A constant channel carries nothing; a floor keeps it from dividing by zero
    std = np.sqrt(np.maximum(variance, 1e-6))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def _preview(dataset: Dataset, rows: np.ndarray, policy: Policy, config: Augment) -> Figure:
    plain = Augmenter(policy, (0.0,) * 3, (1.0,) * 3, torch.device("cpu"), config.seed)
    groups = []
    for label, name in enumerate(dataset.class_names[:MOST_CLASSES]):
        originals = dataset.images_NHWC[rows[dataset.labels[rows] == label][:ORIGINALS]]
        repeated = torch.from_numpy(originals).repeat(VERSIONS // len(originals), 1, 1, 1)
        augmented = plain(repeated).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        missing = ORIGINALS - len(originals)
        groups.append((name, np.pad(originals, ((0, missing), (0, 0), (0, 0), (0, 0))), augmented))
    more = len(dataset.class_names) - MOST_CLASSES
    suffix = f" (the first {MOST_CLASSES} of {len(dataset.class_names)} classes)" if more > 0 else ""
    return augmentation_preview(groups, f"Augmentation policy: {config.policy}{suffix}")
